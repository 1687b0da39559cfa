//! Running a scenario: its world on real tables, its threads on CPUs of their own.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use kvmmu_model::Tables;
use kvmmu_model::{Access, CpuId};
use kvmmu_scenarios::machine::{GuestAccess, Machine};
use kvmmu_scenarios::outcome::Outcome;
use kvmmu_scenarios::scenario::{Arch, Scenario, ThreadKind, Witness};
use kvmmu_scenarios::{Property, World};

use crate::el2::cpu::{smp, wait};
use crate::el2::machine::mmu::{RealMmu, Shadow, Stage2};
use crate::el2::machine::platform::{self, El2};
use crate::el2::machine::{access, watch};
use crate::el2::memory::{guest, stage2};
use crate::el2::record::random::Random;
use crate::el2::record::recorder::{self, Violation};
use crate::el2::record::story::{Moment, Plan};

/// How a run ended.
#[derive(Clone, Debug)]
pub(crate) struct Ran {
    /// The first property that was violated.
    pub(crate) violation: Option<Violation>,
    /// The marks that were passed, in order.
    pub(crate) marks: Vec<Moment>,
    /// Where a forced story stopped, if it did not come to its end.
    pub(crate) stopped_at: Option<usize>,
    /// The final values.
    pub(crate) outcome: Outcome,
}

/// The longest span between the beginnings of two threads, in spins: a power of two.
const SKEW_MAX: u32 = 17;

/// Makes the world of a scenario, alone on the machine.
pub(crate) fn build<A: RealMmu>(scenario: &Scenario) -> Arc<World<El2<A>>> {
    guest::set_keeps(A::keeps(scenario));
    watch::reset();
    platform::reset();
    stage2::reset();
    let mut world: World<El2<A>> = World::new(&El2::NEW, scenario);
    // Tables are made and freed without mmu_lock, too: they are counted when all is over.
    world.watched &= !(1 << Property::TableRefcount as u32);
    world.record_harvests();
    stage2::attach(world.vm.mmu.root(CpuId(0)));
    // This CPU need not be one of those that work, but it flushes TLBs, too.
    guest::set_up_cpu();
    Arc::new(world)
}

/// Runs a scenario once, on the MMU of its architecture. Where no story is forced the threads begin
/// within a random span of one another.
pub(crate) fn run_once(scenario: &Scenario, plan: Plan, random: &mut Random) -> Ran {
    match scenario.profile.arch() {
        Arch::X86 => run_on::<Shadow>(scenario, plan, random),
        Arch::Arm64 => run_on::<Stage2>(scenario, plan, random),
    }
}

fn run_on<A: RealMmu>(scenario: &Scenario, plan: Plan, random: &mut Random) -> Ran {
    let is_free = plan.moments.is_empty();
    let world = build::<A>(scenario);
    let threads = scenario.threads.len();
    let skew: Vec<u64> = (0..threads).map(|_| random.span(SKEW_MAX)).collect();
    let ready = AtomicUsize::new(0);
    watch::begin(&world, threads, plan, random.next() >> 1);
    smp::parallel(threads, &|thread| {
        let kind = scenario.threads[thread].kind;
        if kind == ThreadKind::Vcpu {
            fill_tlb(CpuId(thread as u8));
        }
        // ORDERING: acq-rel: a barrier of all threads.
        ready.fetch_add(1, Ordering::AcqRel);
        wait::until("the other threads to begin", || ready.load(Ordering::Acquire) == threads);
        if is_free {
            (0..skew[thread]).for_each(|_| core::hint::spin_loop());
        }
        recorder::thread_begins(thread);
        world.run_thread(scenario, thread);
        recorder::thread_ends(thread);
    });
    let stopped_at = recorder::threads_ended(threads);
    world.run_stop(scenario);
    check_counts(&world, scenario);
    let outcome = world.outcome(scenario);
    let (violation, marks) = watch::end();
    Ran { violation, marks, stopped_at, outcome }
}

/// What a page of a table is counted is how many of its entries are valid.
fn check_counts<A: RealMmu>(world: &World<El2<A>>, scenario: &Scenario) {
    if !scenario.always.contains(&Property::TableRefcount) {
        return;
    }
    let l = world.vm.kvm.mmu_lock.lock();
    if let Some((table, count, valid)) = world.vm.mmu.miscounted(&l.mmu, |word| world.m.peek(word))
    {
        recorder::violate(
            Property::TableRefcount,
            format_args!(
                "table{} has {valid} valid entries, and its page is counted {count} times",
                table.0
            ),
        );
    }
}

/// Has this CPU fill its TLB with what the scenario says that it holds: by an access that changes
/// nothing.
fn fill_tlb(cpu: CpuId) {
    for preload in recorder::preloads(cpu) {
        let access = if preload.write { Access::Write } else { Access::Read };
        let access = GuestAccess { page: preload.page, access, byte: (cpu.0, 0) };
        let _ = access::access_by_guest(access);
    }
}

/// The moments of a witness, if each says whose it is.
pub(crate) fn story(witness: &Witness) -> Option<Vec<Moment>> {
    let moment =
        |m: &kvmmu_scenarios::Moment| Some(Moment { thread: usize::from(m.thread?), mark: m.mark });
    witness.story.0.iter().map(moment).collect()
}

/// True if a run passed a witness.
pub(crate) fn was_seen(witness: &Witness, marks: &[Moment]) -> bool {
    witness.story.is_told_by(marks.iter().map(|passed| (passed.mark, passed.thread as u8)))
}
