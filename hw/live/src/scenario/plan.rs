//! Which scenarios fit a live KVM, and what their programs become.
//!
//! A user program cannot do everything that a scenario may ask for. What fits:
//!
//! | operation | what is done |
//! |---|---|
//! | `read`, `write` | one byte of machine code's load or store |
//! | `get-dirty-log`, `copy-harvested`, `copy-slot` | the ioctl; eight bytes of each page |
//! | `fetch-dirty-log`, `clear-dirty-log` | the ioctls of a VM with manual protect |
//! | `start-dirty-log`, `start-dirty-log-set`, `stop-dirty-log` | flags of a memory region |
//! | `create-memslot`, `delete-memslot` | regions; an access without one leaves by MMIO |
//! | `swap-out` | MADV_DONTNEED of a page of shared memory: unmapped, contents kept |
//! | `split-huge` | the same, of a page of a huge one: all of it is unmapped |
//! | `swap-in` | user space touches the page |
//! | `madvise-pageout` | MADV_PAGEOUT |
//! | `shrink` | /proc/sys/vm/drop_caches: the kernel calls all shrinkers, KVM's among them |
//!
//! On arm64 these are the scenarios of its own MMU, in the version of the kernel that runs; one of
//! x86 that is named runs, too, and is compared with the MMU of x86 on stage 2.

use std::fmt::Debug;

use kvmmu_model::{CpuId, Gfn};
use kvmmu_scenarios::ops::{Address, HostOp, Op, UserOp, VcpuOp};
use kvmmu_scenarios::outcome::token;
use kvmmu_scenarios::program::{OffVcpu, OnVcpu, Program, Step as Part, Steps};
use kvmmu_scenarios::scenario::{Arch, Paging, Scenario, Slot};

use super::places::Places;
use crate::guest::Step;
use crate::vm::DirtyLog;

/// The byte of a page that no vCPU of a scenario stores to: preparing uses it.
const SPARE_BYTE: u32 = 7;
/// Where swapping is impossible.
const PROBLEM_AGE: &str =
    "no system call ages a page through the mmu notifier on this kind of kernel";

/// What the threads of a scenario do here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Plan {
    /// The guests' programs, by vCPU.
    pub(super) guests: Vec<Vec<Step>>,
    /// The other threads: index in the scenario, operations.
    pub(super) others: Vec<(u8, Vec<Action>)>,
    /// The stop phase.
    pub(super) at_stop: Vec<Action>,
    /// Where its frames are.
    pub(super) places: Places,
    /// Stores that map what blocks map at first, while nothing is logged.
    pub(super) blocks: Vec<Step>,
    /// Stores that give each frame that is mapped at first its SPTE.
    pub(super) map: Vec<Step>,
    /// Stores that make those writable that are so at first.
    pub(super) map_writable: Vec<Step>,
    /// What the VM has to have for its dirty logs.
    pub(super) log: DirtyLog,
}

/// An operation of user space, here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Action {
    /// KVM_GET_DIRTY_LOG of a slot, by index.
    GetDirtyLog(u8),
    /// KVM_GET_DIRTY_LOG of a VM with manual protect.
    FetchDirtyLog(u8),
    /// KVM_CLEAR_DIRTY_LOG of what was fetched.
    ClearDirtyLog(u8),
    /// The log of a slot begins, or ends.
    SetDirtyLog(u8, bool),
    /// A slot is created, or deleted.
    SetMemslot(u8, bool),
    /// Copy what was harvested.
    CopyHarvested,
    /// Copy all of a slot.
    CopySlot(u8),
    /// Forgets them.
    DropHarvested,
    /// MADV_DONTNEED.
    SwapOut(Gfn),
    /// MADV_PAGEOUT.
    PageOut(Gfn),
    /// A load.
    SwapIn(Gfn),
    /// Call the shrinkers.
    Shrink,
}

impl Plan {
    /// The plan of a scenario.
    ///
    /// # Errors
    ///
    /// What in it does not fit, and why.
    pub(super) fn new(scenario: &Scenario) -> Result<Plan, String> {
        if scenario.vmid.is_some() {
            return Err("which VMIDs there are the kernel decides".to_owned());
        }
        if scenario.paging != Paging::Direct || !scenario.guest_tables.is_empty() {
            return Err("it has guest page tables".to_owned());
        }
        if !scenario.huge.is_empty() && scenario.profile.arch() == Arch::X86 {
            return Err("its host has huge pages".to_owned());
        }
        if !scenario.hugetlb.is_empty() {
            return Err("it has a VMA of hugetlbfs: 'kvmmu-live vma-size' is about that".to_owned());
        }
        let places = Places::of(scenario);
        if let Some(slot) = scenario.slots.iter().find(|s| !places.has_slot(s.base, s.pages)) {
            return Err(format!("the slot of gfn{} ends inside a huge page", slot.base.0));
        }
        if let Some(backing) = scenario.backing.iter().find(|b| !b.writable) {
            return Err(format!("gfn{} is read-only in the host from the start", backing.gfn.0));
        }
        let mut plan = Plan {
            guests: Vec::new(),
            others: Vec::new(),
            at_stop: actions(&scenario.at_stop)?,
            places,
            blocks: Vec::new(),
            map: Vec::new(),
            map_writable: Vec::new(),
            log: log(scenario),
        };
        for (index, thread) in (0..).zip(&scenario.threads) {
            match &thread.run {
                Program::Vcpu(run) => {
                    plan.guests.push(guest(index, &thread.name, run, places)?);
                }
                Program::Other(run) => plan.others.push((index, actions(run)?)),
            }
        }
        if plan.guests.is_empty() {
            return Err("it has no vCPU".to_owned());
        }
        plan.map(scenario)?;
        Ok(plan)
    }

    fn map(&mut self, scenario: &Scenario) -> Result<(), String> {
        let is_logged = |gfn: Gfn| {
            let has = |slot: &&Slot| (slot.base.0..).take(slot.pages.into()).any(|g| g == gfn.0);
            scenario.slots.iter().find(has).is_some_and(|slot| slot.log)
        };
        for spte in &scenario.map {
            let Address::Gfn(gfn) = spte.address else {
                return Err("it maps guest-virtual pages".to_owned());
            };
            let arm64 = scenario.profile.arch() == Arch::Arm64;
            if arm64 && !spte.writable && !is_logged(gfn) {
                return Err(format!(
                    "gfn{} is mapped read-only, and no log makes it so: its slot has none",
                    gfn.0
                ));
            }
            if spte.tracked {
                return Err(format!(
                    "gfn{} is access-tracked from the start: that takes EPT without A/D bits",
                    gfn.0
                ));
            }
            if !arm64 && (!spte.host_writable || !spte.mmu_writable) {
                return Err(format!("gfn{} cannot become writable", gfn.0));
            }
            let page = page(gfn, self.places);
            let step = Step::Write { page, offset: SPARE_BYTE, value: 0 };
            if spte.large {
                self.blocks.push(step);
                continue;
            }
            self.map.push(step);
            // Without a log the store has done it, and another one would map a block.
            if spte.writable && (is_logged(gfn) || !self.places.huge) {
                self.map_writable.push(step);
            }
        }
        Ok(())
    }
}

/// Which dirty logs the operations of a scenario need: for the whole VM manual protect or not.
fn log(scenario: &Scenario) -> DirtyLog {
    let has =
        |is: fn(UserOp) -> bool| scenario.ops().any(|op| matches!(op, Op::User(op) if is(op)));
    if has(|op| matches!(op, UserOp::StartDirtyLogSet(_))) {
        DirtyLog::InitiallySet
    } else if has(|op| matches!(op, UserOp::FetchDirtyLog(_) | UserOp::ClearDirtyLog(_))) {
        DirtyLog::Clear
    } else {
        DirtyLog::Get
    }
}

/// The program of a vCPU.
fn guest(cpu: u8, name: &str, run: &Steps<OnVcpu>, places: Places) -> Result<Vec<Step>, String> {
    let only = |no: &dyn Debug| format!("{name}: a guest here only loads and stores, no {no:?}");
    let step = |(index, part): (usize, &Part<OnVcpu>)| match part {
        Part::One(OnVcpu::Vcpu(op)) => match *op {
            VcpuOp::Write(Address::Gfn(gfn)) => {
                let page = page(gfn, places);
                Ok(Step::Write { page, offset: own_byte(cpu), value: token(index) })
            }
            VcpuOp::Read(Address::Gfn(gfn)) => Ok(Step::Read { page: page(gfn, places) }),
            VcpuOp::Prefault(_) => Err("asynchronous page faults cannot be asked for".to_owned()),
            other => Err(only(&other)),
        },
        Part::One(OnVcpu::Lock(op)) => Err(only(op)),
        Part::OneOf(ops) => Err(only(&format_args!("OneOf({})", ops.len()))),
    };
    run.0.iter().enumerate().map(step).collect()
}

/// The operations of another thread.
fn actions(run: &Steps<OffVcpu>) -> Result<Vec<Action>, String> {
    let none = |no: &dyn Debug| format!("a user program here has no {no:?}");
    let action = |part: &Part<OffVcpu>| match part {
        Part::One(OffVcpu::Host(op)) => match *op {
            HostOp::SwapOut(gfn) | HostOp::SplitHuge(gfn) => Ok(Action::SwapOut(gfn)),
            HostOp::SwapIn(gfn) => Ok(Action::SwapIn(gfn)),
            HostOp::Shrink => Ok(Action::Shrink),
            HostOp::Age(_) | HostOp::ClearYoung(_) => Err(PROBLEM_AGE.to_owned()),
            HostOp::KsmMerge(..) | HostOp::CowBreak(_) => {
                Err("when the kernel merges pages, and which, cannot be said".to_owned())
            }
            HostOp::ChangePte(..) => {
                Err("no system call moves a mapping without start and end".to_owned())
            }
            other => Err(none(&other)),
        },
        Part::One(OffVcpu::User(op)) => match *op {
            UserOp::GetDirtyLog(slot) => Ok(Action::GetDirtyLog(slot.0)),
            UserOp::FetchDirtyLog(slot) => Ok(Action::FetchDirtyLog(slot.0)),
            UserOp::ClearDirtyLog(slot) => Ok(Action::ClearDirtyLog(slot.0)),
            UserOp::StartDirtyLog(slot) | UserOp::StartDirtyLogSet(slot) => {
                Ok(Action::SetDirtyLog(slot.0, true))
            }
            UserOp::StopDirtyLog(slot) => Ok(Action::SetDirtyLog(slot.0, false)),
            UserOp::CreateMemslot(slot) => Ok(Action::SetMemslot(slot.0, true)),
            UserOp::DeleteMemslot(slot) => Ok(Action::SetMemslot(slot.0, false)),
            UserOp::RecreateMemslot(_) => {
                Err("no vCPU is kept out of KVM_RUN while a memslot is made again".to_owned())
            }
            UserOp::CopyHarvested => Ok(Action::CopyHarvested),
            UserOp::CopySlot(slot) => Ok(Action::CopySlot(slot.0)),
            UserOp::DropHarvested => Ok(Action::DropHarvested),
            UserOp::MadvisePageout(gfn) => Ok(Action::PageOut(gfn)),
            other => Err(none(&other)),
        },
        Part::One(OffVcpu::Lock(op)) => Err(none(op)),
        Part::OneOf(ops) => Err(none(&format_args!("OneOf({})", ops.len()))),
    };
    run.0.iter().map(action).collect()
}

/// The data page of a frame.
fn page(gfn: Gfn, places: Places) -> u32 {
    u32::try_from(places.page(gfn)).unwrap_or(u32::MAX)
}

/// The byte of a page that a vCPU stores to.
fn own_byte(cpu: u8) -> u32 {
    kvmmu_scenarios::machine::own_byte(CpuId(cpu)).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvmmu_scenarios::{builtin, loader};

    fn plan(name: &str) -> Result<Plan, String> {
        let file = format!("{name}.toml");
        let (_, text) = builtin::FILES.iter().find(|(known, _)| *known == file).unwrap();
        Plan::new(&loader::load(&file, text, 1).unwrap())
    }

    #[test]
    fn what_fits_and_what_does_not() {
        for name in [
            "aba-direct",
            "canary",
            "dirty-word",
            "hardware-dirty-vs-zap",
            "initially-set",
            "lockless-walk-vs-free",
            "log-begins",
            "log-begins-again",
            "lost-dirty-clear",
            "manual-protect",
            "mark-dirty-order",
            "memslot-between",
            "memslot-flush",
            "mmio-memslot",
            "notifier-retry",
            "s2-log-begins",
            "s2-log-block",
            "s2-log-mark",
            "s2-merge-bbm",
            "s2-merge-stale-page",
            "s2-split-denied",
            "s2-split-lost-page",
            "s2-split-stale-block",
            "s2-memslot",
            "s2-relax",
            "s2-retry",
            "s2-table-free",
            "s2-unmap",
            "stale-tlb-dirty-log",
        ] {
            plan(name).unwrap_or_else(|why| panic!("{name}: {why}"));
        }
        for (name, why) in [
            ("aba-indirect", "guest page tables"),
            ("access-track-read", "ages a page"),
            ("access-track-vs-zap", "access-tracked"),
            ("change-pte", "read-only"),
            ("harvest-after-age", "ages a page"),
            ("hypercall-page-log", ""),
            ("lost-dirty-update", "asynchronous"),
            ("lock-avic-window", ""),
            ("memslot-again", "kept out of KVM_RUN"),
            ("s2-host-readonly", "read-only in the host"),
            ("s2-vma-size", "hugetlbfs"),
            ("s2-unlinked-rcu", "user program here has no"),
            ("s2-teardown", "user program here has no"),
            ("vmid-one-vm", "VMIDs"),
        ] {
            let said = plan(name).unwrap_err();
            assert!(said.contains(why), "{name}: {said}");
        }
    }

    #[test]
    fn a_vm_has_manual_protect_where_a_scenario_needs_it() {
        for (name, log) in [
            ("log-begins", DirtyLog::Get),
            ("manual-protect", DirtyLog::Clear),
            ("initially-set", DirtyLog::InitiallySet),
        ] {
            assert_eq!(plan(name).unwrap().log, log, "{name}");
        }
    }

    #[test]
    fn stores_are_those_of_the_outcome() {
        let plan = plan("stale-tlb-dirty-log").unwrap();
        let write = |value| Step::Write { page: 0, offset: 0, value };
        assert_eq!(plan.guests, [[write(1), write(2)]]);
        assert_eq!(plan.map_writable.len(), 1);
        assert_eq!(plan.others[0].1, [Action::GetDirtyLog(0), Action::CopyHarvested]);
    }
}
