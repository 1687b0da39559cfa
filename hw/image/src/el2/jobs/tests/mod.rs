//! Deterministic tests with two CPUs: what each step of the protocol does on real tables, and what
//! is lost without it. What must be lost is lost in one of a few tries, what must not never.

mod aba;
mod stale;

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use kvmmu_model::x86::mmu::walk::hardware_walk;
use kvmmu_model::{Access, CpuId, Gfn, Mark, Spte, SpteLoc, Tables, Word};
use kvmmu_scenarios::World;
use kvmmu_scenarios::machine::GuestAccess;
use kvmmu_scenarios::scenario::Format;

use super::own::migrating;
use crate::el2::cpu::smp;
use crate::el2::machine::mmu::Shadow;
use crate::el2::machine::platform::El2;
use crate::el2::machine::vcpu::{self, Path};
use crate::el2::machine::{access, watch};
use crate::el2::memory::guest::{Abort, Context, Exit, Program};
use crate::el2::memory::{frames, stage2};
use crate::el2::record::story::{Force, Moment, Plan};
use crate::el2::run::once;
use crate::el2::run::report::Report;

/// The vCPU of the tests, which is a CPU of its own.
pub(super) const VCPU: CpuId = CpuId(1);

/// Runs all of them.
pub(crate) fn run(report: &mut Report) {
    if smp::workers() < 2 {
        report.unexpected(format!("tests: 2 CPUs are needed, and there are {}", smp::workers()));
        return;
    }
    permission_fault(report);
    access_flag_fault(report);
    stale::same_core(report);
    stale::cross_core(report);
    hardware_dirty(report);
    aba::run(report);
}

/// The SPTE of a page, which must have a table.
pub(super) fn spte(world: &World<El2>, page: u64) -> Spte {
    read_spte(world, place(world, page))
}

fn read_spte(world: &World<El2>, loc: SpteLoc) -> Spte {
    // ORDERING: acquire: who sees a link sees the child.
    Spte(world.vm.mmu.sptep(loc).load(Acquire))
}

/// The place of that SPTE.
pub(super) fn place(world: &World<El2>, page: u64) -> SpteLoc {
    let read = |loc| read_spte(world, loc);
    let (at, _) = hardware_walk(world.vm.mmu.format(), world.vm.mmu.root(VCPU), page, read);
    at.loc
}

/// Runs `body` on the CPU of the vCPU, alone.
pub(super) fn on_vcpu(body: &(dyn Fn() + Sync)) {
    smp::parallel(2, &|i| {
        if i == usize::from(VCPU.0) {
            body();
        }
    });
}

/// A guest that makes one access; which one.
fn one_access(access: Access, page: u64, value: u8) -> Context {
    let program = if access == Access::Write { Program::Store } else { Program::Load };
    let (address, name) = (stage2::ipa(page), stage2::name_ipa(page));
    Context::new(program, [address, u64::from(value), name, 0, 0, 0, 0, 0])
}

/// The fault of one access, without anybody who repairs it.
fn fault_of(access: Access, page: u64) -> Option<Abort> {
    match one_access(access, page, 0).run() {
        Exit::Abort(abort) => Some(abort),
        _ => None,
    }
}

/// A fault as reports have it.
fn said(fault: Option<Abort>) -> String {
    fault.map_or(String::from("no fault"), |abort| format!("{abort}"))
}

/// What a recorded body passed.
fn recorded(world: &Arc<World<El2>>, body: &(dyn Fn() + Sync)) -> alloc::vec::Vec<Mark> {
    watch::begin(world, 2, Plan::free(Force::Nothing), 1);
    on_vcpu(body);
    watch::end().1.into_iter().map(|moment: Moment| moment.mark).collect()
}

/// A store to a read-only descriptor is repaired by one compare-and-exchange.
fn permission_fault(report: &mut Report) {
    let world = once::build::<Shadow>(&migrating());
    let fault = spin::Mutex::new(None);
    on_vcpu(&|| *fault.lock() = fault_of(Access::Write, 0));
    let raw = fault.lock().is_some_and(|a| {
        a.status == 0x0f && a.write && a.ipa == stage2::ipa(0) && a.is_permission()
    });
    report.check(
        raw,
        format!("permission-fault: a store to a read-only page: {}", said(*fault.lock())),
    );
    let marks = recorded(&world, &|| {
        vcpu::run(&world, VCPU, &mut one_access(Access::Write, 0, 0x5a), Path::Fast);
    });
    let fast = marks.contains(&Mark::FastFaultWritable) && !marks.contains(&Mark::SlowFault);
    let written = frames::page_word(0, 0).load(Relaxed) == 0x5a;
    let allowed = world.vm.mmu.format().is_writable(spte(&world, 0));
    report.check(
        fast && written && allowed && marks.contains(&Mark::MarkDirty),
        format!(
            "permission-fault: fast_page_fault's cmpxchg made {:?} writable without mmu_lock, the \
             store landed, gfn0 is in the log",
            spte(&world, 0)
        ),
    );
}

/// Aging takes AF away; the fault that follows gives it back without `mmu_lock`.
fn access_flag_fault(report: &mut Report) {
    let world = once::build::<Shadow>(&migrating());
    let young = world.vm.clear_flush_young(Gfn(1));
    let fault = spin::Mutex::new(None);
    on_vcpu(&|| *fault.lock() = fault_of(Access::Read, 1));
    let raw = fault.lock().is_some_and(|a| a.status == 0x0b && !a.write && a.is_access_flag());
    report.check(young && raw, format!("access-flag: a load after aging: {}", said(*fault.lock())));
    let tracked = spte(&world, 1);
    let marks = recorded(&world, &|| {
        vcpu::run(&world, VCPU, &mut one_access(Access::Read, 1, 0), Path::Fast);
    });
    let fast = marks.contains(&Mark::AccessTrackRestored) && !marks.contains(&Mark::SlowFault);
    report.check(
        fast && world.vm.mmu.format().is_access_track(tracked),
        format!("access-flag: {tracked:?} -> {:?} without mmu_lock", spte(&world, 1)),
    );
}

/// Hardware sets AF and the dirty state by itself; a harvest takes both DBM and S2AP[1] away.
fn hardware_dirty(report: &mut Report) {
    if !smp::has_hardware_ad() {
        report.note(String::from("hardware-dirty: skipped: this core keeps no dirty state"));
        return;
    }
    let mut scenario = migrating();
    scenario.spte = Format::Stage2Hd;
    for entry in &mut scenario.map {
        (entry.writable, entry.accessed, entry.dirty) = (true, false, false);
    }
    let world = once::build::<Shadow>(&scenario);
    let format = world.vm.mmu.format();
    let before = spte(&world, 2);
    let fault = spin::Mutex::new(None);
    on_vcpu(&|| *fault.lock() = fault_of(Access::Write, 2));
    let after = spte(&world, 2);
    let set = format.is_accessed(after) && format.is_dirty(after) && !format.is_dirty(before);
    report.check(
        fault.lock().is_none() && set,
        format!("hardware-dirty: a store by {before:?} (AF 0, DBM 1) did not fault: {after:?}"),
    );
    let harvested = world.vm.kvm_vm_ioctl_get_dirty_log(0);
    let cleaned = spte(&world, 2);
    on_vcpu(&|| *fault.lock() = fault_of(Access::Write, 2));
    report.check(
        harvested >> 2 & 1 == 1 && fault.lock().is_some_and(Abort::is_permission),
        format!("hardware-dirty: after the harvest {cleaned:?} faults: the next store is logged"),
    );
}

/// One guest access by the vCPU, by hand: what `GuestAccess` stands for.
pub(super) fn store_by_guest(page: u64, value: u8) -> bool {
    let access = GuestAccess { page, access: Access::Write, byte: (0, value) };
    access::access_by_guest(access).is_ok()
}

/// Reads what a guest wrote.
pub(super) fn content(page: usize) -> u64 {
    // ORDERING: acquire: what the guest did before is seen.
    frames::page_word(page, 0).load(Acquire)
}

/// Tells a counting guest to stop, or to go on.
pub(super) fn set_stop(stop: bool) {
    // ORDERING: release: what was looked at before is not seen later.
    stage2::control().store(u64::from(stop), Release);
}
