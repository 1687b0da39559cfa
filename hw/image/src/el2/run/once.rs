//! Running a scenario: its world on real tables, its threads on CPUs of their own.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use kvmmu_model::Tables;
use kvmmu_model::{Access, CpuId};
use kvmmu_scenarios::World;
use kvmmu_scenarios::machine::GuestAccess;
use kvmmu_scenarios::outcome::Outcome;
use kvmmu_scenarios::scenario::{Format, Scenario, ThreadKind, Witness};

use crate::el2::cpu::{smp, wait};
use crate::el2::machine::platform::{self, El2};
use crate::el2::machine::{access, watch};
use crate::el2::memory::{guest, stage2};
use crate::el2::record::random::Random;
use crate::el2::record::recorder::{self, Violation};
use crate::el2::record::story::{Force, Moment};

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
pub(crate) fn build(scenario: &Scenario) -> Arc<World<El2>> {
    guest::set_hardware_ad(scenario.spte == Format::Stage2Hd);
    watch::reset();
    platform::reset();
    stage2::reset();
    let mut world = World::new(&El2, scenario);
    world.record_harvests();
    stage2::attach(world.vm.mmu.root(CpuId(0)));
    // This CPU need not be one of those that work, but it flushes TLBs, too.
    guest::set_up_cpu();
    Arc::new(world)
}

/// Runs a scenario once. Where no story is forced the threads begin within a random span of one
/// another.
pub(crate) fn run_once(
    scenario: &Scenario,
    story: &[Moment],
    force: Force,
    random: &mut Random,
) -> Ran {
    let world = build(scenario);
    let threads = scenario.threads.len();
    let skew: Vec<u64> = (0..threads).map(|_| random.span(SKEW_MAX)).collect();
    let ready = AtomicUsize::new(0);
    watch::begin(&world, threads, story.to_vec(), force, random.next() >> 1);
    smp::parallel(threads, &|thread| {
        let kind = scenario.threads[thread].kind;
        if kind == ThreadKind::Vcpu {
            fill_tlb(CpuId(thread as u8));
        }
        // ORDERING: acq-rel: a barrier of all threads.
        ready.fetch_add(1, Ordering::AcqRel);
        wait::until("the other threads to begin", || ready.load(Ordering::Acquire) == threads);
        if story.is_empty() {
            (0..skew[thread]).for_each(|_| core::hint::spin_loop());
        }
        recorder::thread_begins(thread);
        world.run_thread(scenario, thread);
        recorder::thread_ends(thread);
    });
    let stopped_at = recorder::threads_ended(threads);
    world.run_stop(scenario);
    let outcome = world.outcome(scenario);
    let (violation, marks) = watch::end();
    Ran { violation, marks, stopped_at, outcome }
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
