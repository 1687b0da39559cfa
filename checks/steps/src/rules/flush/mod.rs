//! What was taken away may be in TLBs until they are flushed: who has to see to it, and until when.
//!
//! On x86 a debt is paid when no CPU is in a guest with what it had before: see `tlbs.rs`.
//!
//! On arm64 a debt goes through the steps of an invalidation (KVM's `__kvm_tlb_flush_vmid` and
//! `__kvm_tlb_flush_vmid_ipa`): the store is made visible (DSB ISHST), the TLB entries are dropped
//! (VMALLS12E1IS for both stages; or IPAS2E1IS for stage 2, DSB, then VMALLE1IS for what combines
//! both), and that is waited for (DSB ISH).

mod tlbs;

use super::{Findings, Rule};
use crate::event::{Arch, Barrier, Frame, Place, Tlbi, What};
use crate::judge::{Now, Stored};
use crate::layout::Entry;
use crate::step::Step;
use crate::threads::{OUTERMOST, Passed};
use tlbs::Tlbs;

/// How far a debt is paid.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Paid {
    /// The descriptor is stored.
    Stored,
    /// It is visible to the table walkers of all CPUs.
    Visible,
    /// Entries of stage 2 are being dropped.
    Stage2,
    /// They are.
    Stage2Done,
    /// Those of both stages are being dropped.
    All,
}

/// Something that was taken away.
#[derive(Clone, Debug)]
struct Debt {
    /// The event that took it away.
    number: u64,
    place: Place,
    step: Step,
    gfn: u64,
    frames: u64,
    root: Frame,
    /// All trees that it was taken from.
    roots: Vec<Frame>,
    /// What it mapped, or led to.
    page: Frame,
    thread: u32,
    /// The CPU whose barriers count.
    cpu: u8,
    paid: Paid,
}

/// What is owed.
#[derive(Debug, Default)]
pub(super) struct Flush {
    debts: Vec<Debt>,
    tlbs: Tlbs,
}

/// Calls after which nothing may be owed by their thread.
const OPERATIONS: &[&str] = &[
    "kvm_vm_ioctl",
    "kvm_handle_guest_abort",
    "kvm_unmap_gfn_range",
    "kvm_unmap_hva_range",
    "kvm_set_spte_gfn",
    "kvm_set_spte_hva",
    "kvm_arch_flush_shadow_memslot",
    "kvm_mmu_page_fault",
    "kvm_mmu_notifier_invalidate_range_start",
    "kvm_mmu_notifier_change_pte",
    "kvm_mmu_notifier_release",
    "kvm_mmu_load",
];

impl Flush {
    pub(super) fn see(&mut self, now: &Now<'_>, findings: &mut Findings) {
        match now.event.what {
            What::Store { .. } => {
                if let Some(stored) = now.stored.filter(|stored| !stored.spot.detached) {
                    self.make(now, &stored, findings);
                    self.owe(now, &stored);
                }
            }
            What::Barrier(barrier) => self.barrier(now.event.cpu, barrier, findings),
            What::Tlbi { op, operand, root, .. } => self.tlbi(now.event.cpu, op, operand, root),
            What::Enter { root, id, vcpu, flush, .. } if now.kernel.arch == Arch::X86 => {
                let was_due = self.tlbs.is_due(now.number, vcpu, root);
                let taken = self.tlbs.enter(now.number, (now.event.cpu, id), root, flush);
                entered(now, taken, was_due, findings);
            }
            What::Exit { .. } => self.tlbs.exit(now.event.cpu),
            What::Reuse { page } => self.reuse(now, page, findings),
            What::Stale { page, store, mapped } => {
                self.stale(now, (page, store, mapped), findings);
            }
            _ => {}
        }
        if now.passed == Some(Passed::Unlocked) {
            let ends = |debt: &Debt| debt.step != Step::WriteProtect;
            self.over(now, "mmu_lock is given back", ends, findings);
        }
        if let Some((name, ..)) = now.returned() {
            self.returned(now, name, findings);
        } else if now.call().is_some_and(|(name, _)| OUTERMOST.contains(&name)) {
            let what = "the operation before this one returns";
            self.over(now, what, |_| true, findings);
        }
        if let Some(("kvm_pgtable_stage2_destroy", [pgtable, ..])) = now.call()
            && let Some(root) = now.trees.named(pgtable)
        {
            // No CPU uses its VMID any more.
            self.debts.retain(|debt| debt.root != root);
        }
    }

    /// A flush of write protection is owed for a frame.
    pub(super) fn owes(&self, gfn: u64) -> bool {
        let of = |debt: &Debt| (debt.gfn..debt.gfn + debt.frames).contains(&gfn);
        self.debts.iter().any(|debt| debt.step == Step::WriteProtect && of(debt))
    }

    /// A flush is owed for a tree.
    pub(super) fn owes_of(&self, root: Frame) -> bool {
        self.debts.iter().any(|debt| debt.root == root || debt.roots.contains(&root))
    }

    /// Where something translates again.
    fn make(&self, now: &Now<'_>, stored: &Stored, findings: &mut Findings) {
        if now.kernel.arch != Arch::Arm64 || !matches!(stored.step, Step::Map | Step::Link) {
            return;
        }
        let unpaid = |debt: &&Debt| {
            debt.place == stored.place && matches!(debt.step, Step::Unmap | Step::Unlink)
        };
        match self.debts.iter().find(unpaid) {
            Some(debt) => {
                let what = format!(
                    "gfn {:#x} is mapped again, and TLBs may still have what was unmapped",
                    stored.spot.gfn
                );
                let wanted = format!("{}, before the store", debt.rest(now.kernel.arch));
                findings.broken(Rule::BreakBeforeMake, &[debt.number], now.number, (what, wanted));
            }
            None => findings.holds(Rule::BreakBeforeMake),
        }
    }

    fn owe(&mut self, now: &Now<'_>, stored: &Stored) {
        if !stored.step.takes_away() && stored.step != Step::Replace {
            return;
        }
        let page = match now.trees.layout.entry(stored.old, stored.spot.level) {
            Entry::Leaf(leaf) => leaf.page,
            Entry::Table(page) => page,
            Entry::Empty | Entry::Invalid => return,
        };
        self.debts.push(Debt {
            number: now.number,
            place: stored.place,
            step: stored.step,
            gfn: stored.spot.gfn,
            frames: stored.spot.frames,
            root: stored.spot.root,
            roots: now.trees.roots(stored.place.table),
            page,
            thread: now.event.thread,
            cpu: now.event.cpu,
            paid: Paid::Stored,
        });
    }

    fn barrier(&mut self, cpu: u8, barrier: Barrier, findings: &mut Findings) {
        let waits = match barrier {
            Barrier::DsbIsh => true,
            Barrier::DsbIshst => false,
            _ => return,
        };
        for debt in self.debts.iter_mut().filter(|debt| debt.cpu == cpu) {
            match debt.paid {
                Paid::Stored => debt.paid = Paid::Visible,
                Paid::Stage2 if waits => debt.paid = Paid::Stage2Done,
                _ => {}
            }
        }
        if waits {
            let done = |debt: &mut Debt| debt.cpu == cpu && debt.paid == Paid::All;
            for debt in self.debts.extract_if(.., done) {
                findings.holds(debt.rule());
            }
        }
    }

    fn tlbi(&mut self, cpu: u8, op: Tlbi, operand: u64, root: Frame) {
        for debt in self.debts.iter_mut().filter(|debt| debt.root == root || op == Tlbi::Alle1is) {
            let gfn = operand & 0xf_ffff_ffff;
            let names = (debt.gfn..debt.gfn + debt.frames).contains(&gfn);
            // The form for the last level leaves entries of walks: of no use for a table.
            let last = op == Tlbi::Ipas2le1is && debt.step == Step::Unlink;
            let paid = match (debt.paid, op) {
                (Paid::Stored, _) => continue,
                (_, Tlbi::Vmalls12e1is | Tlbi::Alle1is) => Paid::All,
                (Paid::Visible, Tlbi::Ipas2e1is | Tlbi::Ipas2le1is) if names && !last => {
                    Paid::Stage2
                }
                (Paid::Stage2Done, Tlbi::Vmalle1is) => Paid::All,
                _ => continue,
            };
            debt.paid = paid;
            // Who has issued it is who can wait for it.
            debt.cpu = cpu;
        }
    }

    fn returned(&mut self, now: &Now<'_>, name: &str, findings: &mut Findings) {
        if !OPERATIONS.contains(&name) {
            return;
        }
        // What is inside of another operation ends with that one.
        let outer = now
            .thread
            .calls()
            .iter()
            .any(|call| OPERATIONS.contains(&crate::functions::name(call.function)));
        if outer {
            return;
        }
        let what = format!("{name} returns");
        self.over(now, &what, |_| true, findings);
    }

    /// What a thread may owe no longer than until now.
    fn over(
        &mut self,
        now: &Now<'_>,
        what: &str,
        which: impl Fn(&Debt) -> bool,
        findings: &mut Findings,
    ) {
        let (thread, arch) = (now.event.thread, now.kernel.arch);
        let due = |debt: &mut Debt| debt.thread == thread && which(debt);
        for debt in self.debts.extract_if(.., due) {
            let Debt { number, ref roots, step, gfn, .. } = debt;
            let rule = debt.rule();
            let who = match arch {
                Arch::Arm64 => "TLBs".to_owned(),
                Arch::X86 => {
                    self.tlbs.due(number, roots);
                    match self.tlbs.inside(number, roots) {
                        Some(cpu) => format!("the TLB of CPU {cpu}, which is in the guest,"),
                        None => {
                            findings.holds(rule);
                            continue;
                        }
                    }
                }
            };
            let what = format!(
                "{what}, and {who} may still have what was taken away ({step} of gfn {gfn:#x})"
            );
            let wanted = format!("{}, before that", debt.rest(arch));
            findings.broken(rule, &[number], now.number, (what, wanted));
        }
    }

    fn reuse(&mut self, now: &Now<'_>, page: Frame, findings: &mut Findings) {
        let Some(table) = now.trees.table(page) else { return };
        let arch = now.kernel.arch;
        if arch == Arch::X86 && table.root == page {
            return self.reuse_root(now, page, findings);
        }
        let inside = |debt: &&Debt| {
            arch == Arch::Arm64 || self.tlbs.inside(debt.number, &debt.roots).is_some()
        };
        let of_page = |debt: &&Debt| debt.step == Step::Unlink && debt.page == page;
        let debt = self.debts.iter().filter(of_page).find(inside);
        let what = format!("the page {page}, of descriptors, is written by {}", now.site);
        match debt {
            Some(debt) => {
                let wanted = format!("{}, before it is given back", debt.rest(arch));
                let rule = Rule::FlushBeforeReuse;
                findings.broken(rule, &[debt.number], now.number, (what, wanted));
            }
            None if !table.detached => {
                let wanted = "it is unlinked first, and TLBs are flushed".to_owned();
                findings.broken(Rule::FlushBeforeReuse, &[], now.number, (what, wanted));
            }
            None => findings.holds(Rule::FlushBeforeReuse),
        }
    }

    /// Nothing leads to a root but nCR3: it may go when no CPU is in a guest that walks it.
    fn reuse_root(&mut self, now: &Now<'_>, root: Frame, findings: &mut Findings) {
        match self.tlbs.walks(root) {
            None => findings.holds(Rule::FlushBeforeReuse),
            Some(cpu) => {
                let what = format!(
                    "the root {root} is written by {}, and CPU {cpu} is in a guest that walks it",
                    now.site
                );
                let wanted = "KVM_REQ_MMU_RELOAD, and every vCPU out of the guest".to_owned();
                findings.broken(Rule::FlushBeforeReuse, &[], now.number, (what, wanted));
            }
        }
        for debt in &mut self.debts {
            debt.roots.retain(|of| *of != root);
        }
        self.tlbs.forget(root);
    }

    fn stale(
        &self,
        now: &Now<'_>,
        (page, store, mapped): (Frame, bool, bool),
        findings: &mut Findings,
    ) {
        let owed = |debt: &Debt| {
            let pages = debt.page.0..debt.page.0 + debt.frames;
            pages.contains(&page.0) && (!mapped || debt.step == Step::WriteProtect)
        };
        if self.debts.iter().any(owed) {
            findings.holds(Rule::NoStaleAccess);
            return;
        }
        let what = format!(
            "a guest {} page {page}, which {}",
            if store { "writes" } else { "reads" },
            if mapped { "no descriptor lets it write" } else { "no descriptor maps" }
        );
        let wanted = "a fault".to_owned();
        findings.broken(Rule::NoStaleAccess, &[], now.number, (what, wanted));
    }

    pub(super) fn end(&mut self, last: u64, arch: Arch, findings: &mut Findings) {
        for debt in self.debts.drain(..) {
            if arch == Arch::X86 && self.tlbs.inside(debt.number, &debt.roots).is_none() {
                continue;
            }
            let what = format!(
                "the recording ends, and TLBs may still have what was taken away ({} of gfn {:#x})",
                debt.step, debt.gfn
            );
            findings.broken(debt.rule(), &[debt.number], last, (what, debt.rest(arch)));
        }
    }
}

/// A CPU of x86 enters a guest, and may have what this event has taken away.
fn entered(now: &Now<'_>, taken: Option<u64>, was_due: bool, findings: &mut Findings) {
    let Some(taken) = taken else {
        if was_due {
            findings.holds(Rule::FlushBeforeEntry);
        }
        return;
    };
    let what = "the guest is entered, and the TLB may still have what was taken away".to_owned();
    let wanted = "tlb_ctl set, or another ASID: KVM_REQ_TLB_FLUSH was due".to_owned();
    findings.broken(Rule::FlushBeforeEntry, &[taken], now.number, (what, wanted));
}

impl Debt {
    /// The rule that says until when it must be paid.
    fn rule(&self) -> Rule {
        match self.step {
            Step::WriteProtect => Rule::FlushBeforeReturn,
            _ => Rule::FlushBeforeUnlock,
        }
    }

    /// What is missing.
    fn rest(&self, arch: Arch) -> String {
        if arch == Arch::X86 {
            return "kvm_flush_remote_tlbs: a request to each vCPU, and every one out of the guest"
                .to_owned();
        }
        match self.paid {
            Paid::Stored => {
                "DSB ISHST; TLBI VMALLS12E1IS (or IPAS2E1IS; DSB ISH; VMALLE1IS); DSB ISH"
            }
            Paid::Visible => "TLBI VMALLS12E1IS (or IPAS2E1IS; DSB ISH; VMALLE1IS); DSB ISH",
            Paid::Stage2 => "DSB ISH; TLBI VMALLE1IS; DSB ISH",
            Paid::Stage2Done => "TLBI VMALLE1IS; DSB ISH",
            Paid::All => "DSB ISH",
        }
        .to_owned()
    }
}
