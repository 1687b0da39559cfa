//! KVM_RUN for guests that run long: enter, run, repair what faults, until the guest is through.

use kvmmu_model::{Access, CpuId, FaultStatus, Mmu, RetPf};
use kvmmu_scenarios::World;

use super::mmu::RealMmu;
use super::platform::{self, El2};
use crate::el2::cpu::exit::{Exit as ExitCode, exit};
use crate::el2::cpu::{sysreg, tlbi};
use crate::el2::memory::guest::{Abort, Context, Exit};
use crate::el2::memory::stage2;

/// What a vCPU went through.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Faults {
    /// Faults that were repaired.
    pub(crate) fixed: u64,
    /// Faults by an entry that allowed the access by then.
    pub(crate) spurious: u64,
    /// Faults during an invalidation.
    pub(crate) retried: u64,
    /// Time from each exit by a fault to where the guest may be entered again, in cycles.
    pub(crate) cycles: u64,
    /// The same in ticks of the system counter.
    pub(crate) ticks: u64,
    /// The least of them, in cycles.
    pub(crate) least: Option<u64>,
}

/// The way that faults take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Path {
    /// `fast_page_fault` first.
    Fast,
    /// Straight to `mmu_lock`: faults are told to be of absent entries, and the world's format must
    /// be one that tracks no accesses.
    Locked,
}

impl Path {
    /// What figures call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Path::Fast => "fast",
            Path::Locked => "locked",
        }
    }
}

impl Faults {
    /// Adds another's.
    pub(crate) fn add(&mut self, other: Faults) {
        self.fixed += other.fixed;
        self.spurious += other.spurious;
        self.retried += other.retried;
        self.cycles += other.cycles;
        self.ticks += other.ticks;
        self.least = self.least.into_iter().chain(other.least).min();
    }
    /// All of them.
    pub(crate) fn all(self) -> u64 {
        self.fixed + self.spurious + self.retried
    }
}

/// Runs a guest on this CPU, which is `cpu`, until it is through.
pub(crate) fn run<A: RealMmu>(
    world: &World<El2<A>>,
    cpu: CpuId,
    guest: &mut Context,
    path: Path,
) -> Faults {
    let mut faults = Faults::default();
    let mut srcu = world.vm.vcpu_srcu_read_lock();
    loop {
        while !Mmu::vcpu_enter_guest(&world.vm, cpu, &mut srcu, tlbi::flush_local) {}
        platform::set_in_guest(cpu, true);
        let why = guest.run();
        let from = (sysreg::cycles(), sysreg::cntpct());
        platform::set_in_guest(cpu, false);
        Mmu::vcpu_leave_guest(&world.vm, cpu, &mut srcu);
        match why {
            Exit::Done => return faults,
            Exit::Abort(abort) => repair(world, cpu, abort, path, &mut faults),
            Exit::Other { esr, pc } => {
                exit(ExitCode::Internal, format_args!("a guest stopped at {pc:#x}: esr {esr:#x}"))
            }
        }
        let cycles = sysreg::cycles().wrapping_sub(from.0);
        faults.cycles += cycles;
        faults.least = faults.least.into_iter().chain([cycles]).min();
        faults.ticks += sysreg::cntpct().wrapping_sub(from.1);
    }
}

fn repair<A: RealMmu>(
    world: &World<El2<A>>,
    cpu: CpuId,
    abort: Abort,
    path: Path,
    faults: &mut Faults,
) {
    let access = match abort {
        Abort { write: true, .. } => Access::Write,
        Abort { fetch: true, .. } => Access::Fetch,
        _ => Access::Read,
    };
    let page = stage2::page_of(abort.ipa);
    let status = match path {
        Path::Fast => A::status(abort),
        Path::Locked => FaultStatus::present(false),
    };
    match Mmu::kvm_mmu_do_page_fault(&world.vm, cpu, page, access, status) {
        RetPf::Fixed => faults.fixed += 1,
        RetPf::Spurious => faults.spurious += 1,
        RetPf::Retry | RetPf::Invalid => faults.retried += 1,
        RetPf::RetryAfter(seq) => {
            faults.retried += 1;
            world.vm.wait_for_invalidation(seq);
        }
        other => exit(
            ExitCode::Internal,
            format_args!("a fault of cpu{} at {:#x} became {other:?}", cpu.0, abort.ipa),
        ),
    }
}
