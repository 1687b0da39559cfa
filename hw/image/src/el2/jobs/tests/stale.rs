//! Stale TLB entries: a CPU goes on writing by what it has cached of a descriptor, unless it is
//! told in the way that reaches *combined* entries of both stages.

use alloc::format;
use core::sync::atomic::Ordering::Relaxed;

use kvmmu_model::{Gfn, Tables, Word};

use super::super::own::migrating;
use super::{VCPU, content, on_vcpu, place, set_stop, spte, store_by_guest};
use crate::args::Tlbi;
use crate::el2::cpu::{smp, sysreg, tlbi, wait};
use crate::el2::machine::mmu::Shadow;
use crate::el2::machine::vcpu::{self, Path};
use crate::el2::memory::guest::{Context, Program};
use crate::el2::memory::stage2;
use crate::el2::run::once;
use crate::el2::run::report::Report;

/// The page that is written.
const PAGE: u64 = 0;
/// How far the counter gets before the harvest.
const WARM: u64 = 1000;
/// How many more stores there are after it, however long a busy host makes them take.
const AFTER: u64 = 1000;

/// What a flush of each kind must mean. On hardware, entries need not be combined, and the second
/// may be enough there; QEMU's are, as those of many cores.
const KINDS: [(Tlbi, bool, &str); 4] = [
    (Tlbi::None, true, "no TLBI"),
    (Tlbi::Ipa, true, "IPAS2E1IS alone"),
    (Tlbi::Page, false, "IPAS2E1IS; DSB; VMALLE1IS; DSB; ISB (Linux, one page)"),
    (Tlbi::Vm, false, "VMALLS12E1IS; DSB; ISB (Linux, the VM)"),
];

/// How often something is tried that must lose a store: a CPU may drop a translation whenever it
/// likes, and QEMU does so now and then. What must lose nothing must do so the first time.
const TRIES: usize = 10;

/// Tries something until it has lost a store, or once if it must not.
fn tried<T>(must_lose: bool, is_lost: impl Fn(&T) -> bool, mut attempt: impl FnMut() -> T) -> T {
    for _ in 1..if must_lose { TRIES } else { 1 } {
        let tried = attempt();
        if is_lost(&tried) {
            return tried;
        }
    }
    attempt()
}

/// A CPU write-protects a descriptor that it has in its own TLB, and its guest stores again.
pub(super) fn same_core(report: &mut Report) {
    for (kind, lost, name) in KINDS {
        let went_through = tried(lost, |through| *through == Some(true), || second_store(kind));
        let what = match went_through {
            Some(true) => "the store went through the old W: gfn0 is lost",
            Some(false) => "the store faulted: gfn0 is not lost",
            None => "the first store faulted",
        };
        let what = format!("stale-tlb, same core: {name}: write-protected; {what}");
        match went_through {
            Some(through) => report.check_lost(through, lost, what),
            None => report.unexpected(what),
        }
    }
}

/// Whether the second store went through; `None`: the first one did not.
fn second_store(kind: Tlbi) -> Option<bool> {
    let world = once::build::<Shadow>(&migrating());
    let went_through = spin::Mutex::new(None);
    on_vcpu(&|| {
        let format = world.vm.mmu.format();
        let word = world.vm.mmu.sptep(place(&world, PAGE));
        // ORDERING: relaxed: this CPU alone is concerned; barriers follow.
        word.store(spte(&world, PAGE).with(format.writable_mask).0, Relaxed);
        tlbi::flush_by(Tlbi::Vm, stage2::all_pages());
        if store_by_guest(PAGE, 1) {
            // ORDERING: relaxed: as above.
            word.fetch_and(!format.write_protect_mask, Relaxed);
            sysreg::dsb();
            tlbi::flush_by(kind, core::iter::once(Gfn(PAGE)));
            *went_through.lock() = Some(store_by_guest(PAGE, 2));
        }
    });
    went_through.into_inner()
}

/// What a harvest beside a guest that stores came to.
struct Harvested {
    /// It named the page.
    named: bool,
    /// How far the guest had counted when the page was copied last.
    copy: u64,
    /// How far it has counted in the end.
    end: u64,
}

/// A guest stores without ever exiting while another CPU harvests the dirty log: the model's
/// GET_DIRTY_LOG, with a flush of this kind.
pub(super) fn cross_core(report: &mut Report) {
    for (kind, lost, name) in KINDS {
        let harvested = tried(lost, |h: &Harvested| h.copy != h.end, || harvest(kind));
        let Harvested { named, copy, end } = harvested;
        let what = if copy == end {
            format!("the next store faulted and was logged: gfn0 is not lost, at {end}")
        } else {
            format!(
                "stores by vcpu{} went through the old W ({copy} -> {end}) and no harvest names \
                 gfn0: it is lost",
                VCPU.0
            )
        };
        let what = format!("stale-tlb, other core: {name}: GET_DIRTY_LOG, gfn0 copied; {what}");
        if named {
            report.check_lost(copy != end, lost, what);
        } else {
            report.unexpected(format!("{what}; the harvest did not name gfn0"));
        }
    }
}

/// Harvests beside a guest, and once more when it is out.
fn harvest(kind: Tlbi) -> Harvested {
    let world = once::build::<Shadow>(&migrating());
    let kind_before = tlbi::set_kind(kind);
    let seen = spin::Mutex::new((0, 0));
    smp::parallel(2, &|i| {
        if i == usize::from(VCPU.0) {
            let x = [stage2::ipa(PAGE), 0, stage2::CONTROL_IPA, 0, 0, 0, 0, 0];
            vcpu::run(&world, VCPU, &mut Context::new(Program::Count, x), Path::Fast);
            return;
        }
        wait::until("the guest to store", || content(PAGE as usize) >= WARM);
        let harvested = world.vm.kvm_vm_ioctl_get_dirty_log(0);
        let copy = content(PAGE as usize);
        wait::until("the guest to go on", || content(PAGE as usize) >= copy + AFTER);
        set_stop(true);
        *seen.lock() = (harvested, copy);
    });
    let (harvested, first_copy) = seen.into_inner();
    // Every vCPU is out: what is left is harvested and copied.
    let last = world.vm.kvm_vm_ioctl_get_dirty_log(0);
    let end = content(PAGE as usize);
    tlbi::set_kind(kind_before);
    Harvested { named: harvested & 1 == 1, copy: if last & 1 == 1 { end } else { first_copy }, end }
}
