//! Walkers of the stage-2 tables of arm64, and TLBs as views, by address.
//!
//! As for shadow pages, a TLB is the set of what a CPU *may* have cached while it ran guest code.
//! It is kept by address, because an invalidation by address has to drop what no descriptor leads
//! to any more. What it holds is in `tlb.rs`. A walk may go through a table that it has cached the
//! descriptor of; an entry that combines both stages may be made from a cached one of stage 2, with
//! no look at memory. Hardware sets AF (`VTCR_EL2.HA`), by a walk of its own accord, too, so that a
//! leaf without it may be cached. What gives a translation fault is not; what denies a store is,
//! and may go on denying.
//!
//! A `TLBI` posts an invalidation: what it drops may be used until a `DSB` of its thread is
//! complete. What a CPU caches after it stays.
//!
//! With `early-completion` a store may be done by what was dropped: one, before the guest is left
//! and before a second invalidation that drops it is complete.
//!
//! Where there are VMIDs a CPU has a TLB for each: what it caches is under the VMID that it runs
//! with, whichever VM's tables it walks.

mod tlb;

use kvmmu_model::arm64::pgtable::{
    KVM_PTE, KvmPte, LAST_LEVEL, PT_PAGES, PTRS_PER_PGD, PTRS_PER_PTE, START_LEVEL,
};
use kvmmu_model::arm64::{Dsb, TlbiScope, VMID_BITS_MAX};
use kvmmu_model::transition::hardware_update;
use kvmmu_model::virt::VCPUS;
use kvmmu_model::{
    Access, CpuId, FaultStatus, Gfn, Mark, Mmu, Object, Pfn, Platform, SpId, Spte, SpteLoc,
    Stage2Mmu, Tables, Tag, Vmid,
};
use kvmmu_scenarios::host_mm::PFNS;
use kvmmu_scenarios::machine::{AccessResult, GuestAccess, Machine};
use kvmmu_scenarios::{Property, Scenario, World};

use super::few::Few;
use super::hardware::{Walkers, touch};
use super::posted::Posted;
use crate::machine::cell::SimCell;
use crate::machine::platform::{Sim, Stage2};
use crate::machine::word::SimWord;
use tlb::{Leaves, Tlb, View, frames_of, root_index};

type Arm64 = World<Sim<Stage2>>;

/// VMIDs at most, 0 included.
const VMIDS: usize = 1 << VMID_BITS_MAX;

/// The TLBs of all CPUs, by CPU and VMID.
#[derive(Debug)]
pub struct Tlbs {
    /// A store that an entry has translated may be done after the invalidation of that.
    early_completion: bool,
    cpus: [[Option<SimCell<Tlb>>; VMIDS]; VCPUS],
}

impl Tlbs {
    fn of(&self, cpu: CpuId, vmid: Vmid) -> &SimCell<Tlb> {
        self.cpus[usize::from(cpu.0)][usize::from(vmid.0)].as_ref().expect("VMIDs are counted")
    }

    fn all(&self) -> impl Iterator<Item = (CpuId, Vmid, &SimCell<Tlb>)> {
        self.cpus.iter().zip(0..).flat_map(|(of_cpu, cpu)| {
            let of_cpu = of_cpu.iter().zip(0..);
            of_cpu.filter_map(move |(tlb, vmid)| Some((CpuId(cpu), Vmid(vmid), tlb.as_ref()?)))
        })
    }
}

/// The TLB that a vCPU uses, while it runs, and the root that it walks from.
fn loaded(w: &Arm64, vcpu: CpuId) -> (&SimCell<Tlb>, SpId) {
    let mmu = &w.vm.mmu;
    let vmid = mmu.vmids.as_ref().map_or(Vmid(0), |vmids| vmids.vttbr_of(vcpu));
    (w.hardware.of(mmu.cpu_of(vcpu), vmid), mmu.root(vcpu))
}

/// One way an access may be translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// By a walk, which ends at this entry.
    Walk(SpteLoc),
    /// By a cached leaf.
    Cached(Pfn),
    /// By one that was dropped: a store that had been translated before.
    Late(Pfn),
    /// Not at all: a cached leaf of this level denies it.
    Denied(u8),
}

/// The walk of the tables as they are, one by each other table, each page, a denial by each level.
const WAYS_MAX: usize = 1 + PT_PAGES + PFNS + 2;

/// All the ways an access may be translated; the first is the walk of the tables as they are.
struct Ways {
    list: [Way; WAYS_MAX],
    len: usize,
}

impl Ways {
    fn push(&mut self, way: Way) {
        self.list[self.len] = way;
        self.len += 1;
    }

    fn of(w: &Arm64, cpu: CpuId, gfn: Gfn, access: Access) -> Ways {
        let (tlb, pgd) = loaded(w, cpu);
        let tlb = tlb.get();
        let view = tlb.usable();
        let root = SpteLoc { sp: pgd, index: root_index(gfn) as u8 };
        let below = |table| SpteLoc { sp: table, index: (gfn.0 % PTRS_PER_PTE as u64) as u8 };
        let top = pte(w, root);
        let linked = top.is_table(START_LEVEL).then(|| top.follow());
        let walk = linked.map_or(root, below);
        let mut ways = Ways { list: [Way::Walk(walk); WAYS_MAX], len: 1 };
        let others = view.walk(root_index(gfn)).iter().map(|table| SpId(table as u8));
        for table in others.filter(|table| Some(*table) != linked) {
            ways.push(Way::Walk(below(table)));
        }
        // What does just what the walk does is no other way.
        let same = leaf(w, walk).filter(|leaf| leaf.allows(access) && leaf.pte.is_young());
        let (pages, blocks) = view.leaves(gfn);
        let write = access == Access::Write;
        let pages_of = |leaves: Leaves| if write { leaves.write } else { leaves.read };
        let offset = gfn.0 % PTRS_PER_PTE as u64;
        let of_blocks = pages_of(blocks)
            .iter()
            .fold(Few::NONE, |all, first| all.with(Few::one(first + offset)));
        let cached = pages_of(pages).with(of_blocks);
        let differs = |pfn: &Pfn| same.is_none_or(|leaf| leaf.pfn(gfn) != *pfn);
        for pfn in cached.iter().map(Pfn).filter(differs) {
            ways.push(Way::Cached(pfn));
        }
        let late = if write { tlb.late(gfn) } else { Few::NONE };
        for pfn in late.without(cached).iter().map(Pfn).filter(differs) {
            ways.push(Way::Late(pfn));
        }
        let level_of = |leaves: Leaves, level| (leaves.denies != Few::NONE).then_some(level);
        let denied = [level_of(pages, LAST_LEVEL), level_of(blocks, START_LEVEL)];
        let by_walk = leaf(w, walk).filter(|leaf| !leaf.allows(access)).map(|leaf| leaf.level);
        for level in denied.into_iter().flatten().filter(|level| write && by_walk != Some(*level)) {
            ways.push(Way::Denied(level));
        }
        ways
    }
}

/// A leaf that a walk ends at.
#[derive(Clone, Copy)]
struct Leaf {
    pte: KvmPte,
    level: u8,
}

impl Leaf {
    fn allows(self, access: Access) -> bool {
        access != Access::Write || self.pte.is_writable()
    }
    fn pfn(self, gfn: Gfn) -> Pfn {
        let offset = if self.level == LAST_LEVEL { 0 } else { gfn.0 % PTRS_PER_PTE as u64 };
        Pfn(self.pte.pfn().0 + offset)
    }
    /// What a CPU may cache of it. Of one without AF, too: hardware may have set that by a walk of
    /// its own accord. In memory it is left as it is then, where only ageing asks for it.
    fn cacheable(self) -> Leaves {
        Leaves::one(self.pte.pfn().0, self.pte.is_writable())
    }
}

fn pte(w: &Arm64, loc: SpteLoc) -> KvmPte {
    KvmPte(w.vm.mmu.ptep(loc).peek())
}

fn leaf(w: &Arm64, loc: SpteLoc) -> Option<Leaf> {
    let (pte, level) = (pte(w, loc), w.vm.mmu.level_of(loc.sp));
    pte.is_leaf(level).then_some(Leaf { pte, level })
}

/// A CPU that runs guest code may cache all that the tables give, those too that it has cached the
/// descriptors of; and what it has of stage 2 it may combine with stage 1.
fn refill(w: &Arm64, cpu: CpuId, tlb: &mut Tlb) {
    let Some(pgd) = tlb.running else { return };
    let mut memory = View::default();
    for root in 0..PTRS_PER_PGD {
        let loc = SpteLoc { sp: pgd, index: root as u8 };
        let top = pte(w, loc);
        if top.is_table(START_LEVEL) {
            memory.set_walk(root, Few::one(u64::from(top.follow().0)));
        }
        if let Some(block) = leaf(w, loc) {
            memory.stage2.set_block(root, block.cacheable());
        }
    }
    tlb.add(&memory);
    tlb.derive(|view| made_of(w, view));
    let view = tlb.usable();
    let tables = (0..PTRS_PER_PGD).flat_map(|root| view.walk(root).iter());
    for table in tables.map(|table| SpId(table as u8)) {
        check_walked(w, cpu, SpteLoc { sp: table, index: 0 });
    }
}

/// What a CPU may make of what it has cached.
fn made_of(w: &Arm64, view: &View) -> View {
    let mut made = View::default();
    for root in 0..PTRS_PER_PGD {
        for table in view.walk(root).iter() {
            for (index, frame) in frames_of(root).enumerate() {
                let loc = SpteLoc { sp: SpId(table as u8), index: index as u8 };
                if let Some(page) = leaf(w, loc) {
                    made.stage2.add_page(frame, page.cacheable());
                }
            }
        }
    }
    made.combined = view.stage2;
    let walked = made.stage2;
    made.combined.add(&walked);
    made
}

/// What CPUs have cached by the VMID that VM 0 has now.
fn tlbs_of_vm0(w: &Arm64) -> impl Iterator<Item = (CpuId, &SimCell<Tlb>)> {
    let vmid = w.vm.mmu.vmids.as_ref().map_or(Vmid(0), |vmids| vmids.of_vm0(SimWord::peek));
    w.hardware.all().filter(move |(_, of, _)| *of == vmid).map(|(cpu, _, tlb)| (cpu, tlb))
}

/// A CPU walks, or may walk by itself, through the table that the entry is in.
fn check_walked(w: &Arm64, cpu: CpuId, loc: SpteLoc) {
    if !w.vm.mmu.is_in_use(&(), loc, SimWord::peek) {
        Machine::violate(
            &w.m,
            Property::UseAfterFree,
            format_args!("vcpu{} walks a table that was freed", cpu.0),
        );
    }
}

/// VM 1, all of whose frames are mapped for good, was denied an access by what another VM has.
fn check_denied(w: &Arm64, cpu: CpuId) {
    if w.is_of_other_vm(cpu) {
        Machine::violate(
            &w.m,
            Property::VmIsolation,
            format_args!("vcpu{} of VM 1 is denied an access by an entry of VM 0", cpu.0),
        );
    }
}

/// The guest has reached a page behind the last of the host: a block was mapped where none may be.
fn check_exists(w: &Arm64, pfn: Pfn) {
    if w.watches(Property::PfnSafety) {
        Machine::violate(
            &w.m,
            Property::PfnSafety,
            format_args!("the guest reaches pfn{}, which the host does not have", pfn.0),
        );
    }
}

/// The walk ended at this entry: what it gives, with AF set, or a fault.
fn use_entry(w: &Arm64, cpu: CpuId, loc: SpteLoc, access: GuestAccess) -> Result<Pfn, FaultStatus> {
    check_walked(w, cpu, loc);
    let Some(leaf) = leaf(w, loc) else { return Err(FaultStatus::present(false)) };
    let spte = Spte(leaf.pte.0);
    let Some(new) = hardware_update(&KVM_PTE, spte, access.access) else {
        return Err(FaultStatus { present: true, level: leaf.level });
    };
    if new != spte {
        w.m.hardware_write(w.vm.mmu.ptep(loc), new.0);
        w.hardware_updated(cpu, access.page, spte, new);
    }
    Ok(leaf.pfn(Gfn(access.page)))
}

/// The first frame that the entries of a table translate, by a descriptor in memory or cached.
fn roots_of(w: &Arm64, table: SpId) -> impl Iterator<Item = usize> {
    let cached = tlbs_of_vm0(w).fold([Few::NONE; PTRS_PER_PGD], |mut all, (_, tlb)| {
        let view = tlb.get().usable();
        all.iter_mut().enumerate().for_each(|(root, all)| *all = all.with(view.walk(root)));
        all
    });
    (0..PTRS_PER_PGD).filter(move |root| {
        let loc = SpteLoc { sp: Stage2Mmu::<Sim<Stage2>>::PGD, index: *root as u8 };
        let top = pte(w, loc);
        let linked = top.is_table(START_LEVEL) && top.follow() == table;
        linked || cached[*root].contains(u64::from(table.0))
    })
}

/// A descriptor has become valid: no CPU may have another translation of the same frames.
#[track_caller]
fn check_break_before_make(w: &Arm64, loc: SpteLoc) {
    let (new, level) = (pte(w, loc), w.vm.mmu.level_of(loc.sp));
    if !new.is_valid() || !w.watches(Property::Bbm) {
        return;
    }
    let conflict = |view: &View| {
        let any = |frames: core::ops::Range<usize>, differs: &dyn Fn(Leaves, Leaves) -> bool| {
            frames.into_iter().map(|frame| Gfn(frame as u64)).find(|gfn| {
                let (pages, blocks) = view.leaves(*gfn);
                differs(pages, blocks)
            })
        };
        let root = usize::from(loc.index);
        let other = |table: u64| view.walk(root).without(Few::one(table)) != Few::NONE;
        if level == LAST_LEVEL {
            let frame = |root| frames_of(root).start + usize::from(loc.index);
            return roots_of(w, loc.sp).find_map(|root| {
                any(frame(root)..frame(root) + 1, &|pages, blocks| {
                    pages.differs(new.pfn().0) || !blocks.is_empty()
                })
            });
        }
        let first = Gfn(frames_of(root).start as u64);
        if new.is_table(level) {
            let blocks = any(frames_of(root), &|_, blocks| !blocks.is_empty());
            return blocks.or(other(u64::from(new.follow().0)).then_some(first));
        }
        let walks = view.walk(root) != Few::NONE;
        let leaves =
            any(frames_of(root), &|pages, blocks| !pages.is_empty() || blocks.differs(new.pfn().0));
        leaves.or(walks.then_some(first))
    };
    for (cpu, tlb) in tlbs_of_vm0(w) {
        if let Some(gfn) = conflict(&tlb.get().usable()) {
            Machine::violate(
                &w.m,
                Property::Bbm,
                format_args!(
                    "a descriptor of gfn{} becomes valid, and vcpu{} may have another one cached",
                    gfn.0, cpu.0
                ),
            );
        }
    }
}

impl Walkers for Stage2 {
    type Mmu = Stage2Mmu<Sim<Stage2>>;
    type Tlbs = Tlbs;
    const RENAMES: Object = Object::Spte;

    fn tlbs(sim: &Sim<Stage2>, scenario: &Scenario) -> Tlbs {
        let space = scenario.vmid.as_ref().map_or(1, |vmid| usize::from(vmid.space()));
        let cpus = core::array::from_fn(|cpu| {
            let exists = |vmid| cpu < scenario.vcpus() && vmid < space;
            core::array::from_fn(|vmid| exists(vmid).then(|| sim.cell(Tlb::default())))
        });
        Tlbs { early_completion: scenario.early_completion, cpus }
    }

    fn ways(w: &Arm64, cpu: CpuId, page: u64, access: Access) -> u8 {
        Ways::of(w, cpu, Gfn(page), access).len as u8
    }

    /// In a frame of its own, as for shadow pages.
    #[inline(never)]
    fn carry_out(w: &Arm64, cpu: CpuId, access: GuestAccess, choice: u8) -> AccessResult {
        let ways = Ways::of(w, cpu, Gfn(access.page), access.access);
        let result = match ways.list[usize::from(choice)] {
            Way::Walk(loc) => use_entry(w, cpu, loc, access),
            Way::Cached(pfn) => Ok(pfn),
            Way::Late(pfn) => {
                loaded(w, cpu).0.with(Tlb::forget_late);
                Ok(pfn)
            }
            Way::Denied(level) => {
                w.m.note(|| format!("guest: vcpu{} is denied the store by its TLB", cpu.0));
                w.m.mark(Mark::StaleTranslation);
                Err(FaultStatus { present: true, level })
            }
        };
        let result = match result {
            Ok(pfn) if pfn.0 >= PFNS as u64 => {
                check_exists(w, pfn);
                AccessResult::Done
            }
            Ok(pfn) => {
                touch(w, cpu, access, pfn, choice > 0);
                AccessResult::Done
            }
            Err(status) => {
                check_denied(w, cpu);
                AccessResult::Fault(status)
            }
        };
        w.m.observe(&result);
        result
    }

    fn for_each_writable_in_tlb(_w: &Arm64, _cpu: CpuId, _each: impl FnMut(Pfn)) {
        // Guests have no tables here that somebody shadows.
    }

    fn guest_entered(w: &Arm64, cpu: CpuId) {
        let (tlb, pgd) = loaded(w, cpu);
        tlb.with(|tlb| {
            tlb.running = Some(pgd);
            refill(w, cpu, tlb);
        });
    }

    fn guest_left(w: &Arm64, cpu: CpuId) {
        loaded(w, cpu).0.with(Tlb::leave);
    }

    fn spte_written(w: &Arm64, tag: Tag, _new: u64) {
        check_break_before_make(w, SpteLoc { sp: SpId(tag.index[0]), index: tag.index[1] });
        for (cpu, _, tlb) in w.hardware.all() {
            tlb.with(|tlb| refill(w, cpu, tlb));
        }
    }

    fn flush(w: &Arm64, cpu: CpuId) {
        let of_cpu = w.hardware.all().filter(|(of, ..)| *of == w.vm.mmu.cpu_of(cpu));
        of_cpu.for_each(|(.., tlb)| tlb.with(Tlb::flush));
    }

    fn flush_page(w: &Arm64, cpu: CpuId, _page: u64) {
        Self::flush(w, cpu);
    }

    fn preload(w: &Arm64, cpu: CpuId, _page: u64, _loc: SpteLoc, _spte: Spte) {
        // A vCPU of VM 0 has run there, with the VMID that this has.
        let vmid = w.vm.mmu.vmids.as_ref().map_or(Vmid(0), |vmids| vmids.of_vm0(SimWord::peek));
        w.hardware.of(cpu, vmid).with(|tlb| {
            let pgd = Stage2Mmu::<Sim<Stage2>>::PGD;
            let running = tlb.running.replace(pgd);
            refill(w, cpu, tlb);
            tlb.running = running;
        });
    }

    fn tlbi(w: &Arm64, scope: TlbiScope) {
        let thread = w.m.thread();
        let reached =
            w.hardware.all().filter(|(cpu, vmid, _)| scope.reaches(*cpu) && scope.is_of(*vmid));
        for (cpu, _, tlb) in reached {
            tlb.with(|tlb| {
                tlb.post(scope.what, thread, scope.on);
                refill(w, cpu, tlb);
            });
        }
    }

    fn dsb(w: &Arm64, dsb: Dsb) {
        let posted = Posted::completed(w.m.thread(), dsb);
        let early = w.hardware.early_completion;
        w.hardware.all().for_each(|(.., tlb)| tlb.with(|tlb| tlb.complete(posted, early)));
    }

    fn unread(w: &Arm64, _flushes: bool, forget: &mut dyn FnMut(u16)) {
        // Who makes a descriptor valid looks at all.
        // Where vCPUs move, another may come to the CPU.
        let forgets = !w.watches(Property::Bbm) && w.vm.mmu.vmids.is_none();
        let all = w.hardware.all().filter(|_| forgets);
        // It was said that the vCPU does not run again.
        let ended = all.filter(|(cpu, ..)| !w.vm.vcpu(*cpu).requests.glance().1);
        let idle = ended.filter(|(.., tlb)| tlb.glance(|tlb| tlb.running.is_none()));
        idle.for_each(|(.., tlb)| forget(tlb.location()));
    }

    fn table_names(w: &Arm64, _scenario: &Scenario) -> Vec<(Tag, String)> {
        let mut names = Vec::new();
        for table in (0..PT_PAGES as u8).map(SpId) {
            let header = w.vm.mmu.header(table, SimWord::peek);
            for index in 0..PTRS_PER_PTE {
                let name = match header.level() {
                    0 => format!("table{}[{index}]", table.0),
                    1 => format!("pte[gfn{}]", header.gfn().0 + index as u64),
                    _ => format!("pgd[{index}]"),
                };
                names.push((Tag::at(Object::Spte, usize::from(table.0), index), name));
            }
        }
        names
    }
}
