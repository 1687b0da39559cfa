//! shuttle: samples of the sequentially consistent interleavings of everything.

use std::mem::ManuallyDrop;
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use kvmmu_model::{GuardSet, Ordering};
use kvmmu_scenarios::Scenario;
use shuttle::scheduler::{PctScheduler, RandomScheduler, Schedule, Scheduler, Task, TaskId};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};

use crate::machine::{EngineMachine, execute};
use crate::primitives::primitives;
use crate::search::{EngineOutcome, Search, quietly};

/// shuttle's primitives.
#[derive(Clone, Copy, Debug)]
pub struct Shuttle;

primitives!(Shuttle, shuttle, core_only: false, thread: usize::from(shuttle::current::me()));

/// The machine on shuttle.
pub type ShuttleMachine = EngineMachine<Shuttle>;

/// How interleavings are chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Strategy {
    /// Each step uniformly.
    Random,
    /// Priorities with [`PCT_DEPTH`] - 1 changes.
    Pct,
}

/// The depth of PCT: bugs that as many constraints on the order of steps bring about are likely
/// found.
pub const PCT_DEPTH: usize = 5;

/// The most steps of an execution: far above any that makes progress.
const STEPS_MAX: usize = 20_000;

/// Samples a variant `runs` times, up to the first violation of what is expected.
pub fn check(
    scenario: &Scenario,
    without: GuardSet,
    strategy: Strategy,
    runs: u64,
    seed: u64,
) -> EngineOutcome {
    check_within(scenario, without, strategy, (runs, seed), None)
}

/// The same with a longest time.
///
/// # Panics
/// Never: panics of an execution end in the outcome.
pub fn check_within(
    scenario: &Scenario,
    without: GuardSet,
    strategy: Strategy,
    runs: (u64, u64),
    time_max: Option<Duration>,
) -> EngineOutcome {
    check_program(scenario, without, strategy, runs, time_max, execute::<Shuttle>)
}

/// Samples something else: what `execute`, by [`crate::machine::perform`], runs. The scenario says
/// what is looked for.
///
/// # Panics
/// Never: panics of an execution end in the outcome.
pub fn check_program(
    scenario: &Scenario,
    without: GuardSet,
    strategy: Strategy,
    (runs, seed): (u64, u64),
    time_max: Option<Duration>,
    execute: fn(&Arc<Search>),
) -> EngineOutcome {
    let deadline = time_max.map(|time| Instant::now() + time);
    let search = Arc::new(Search::new(scenario, without, u64::MAX, deadline));
    let exhausted = std::thread::scope(|scope| {
        let search = &search;
        scope
            .spawn(move || explore(search, strategy, (runs, seed), execute))
            .join()
            .expect("panics are caught")
    });
    search.outcome(exhausted, false, None)
}

/// True if all the runs were made.
fn explore(
    search: &Arc<Search>,
    strategy: Strategy,
    (runs, seed): (u64, u64),
    execute: fn(&Arc<Search>),
) -> bool {
    take_over_panic_hook();
    let runs = runs as usize;
    let inner: Box<dyn Scheduler + Send> = match strategy {
        Strategy::Random => Box::new(RandomScheduler::new_from_seed(seed, runs)),
        Strategy::Pct => Box::new(PctScheduler::new_from_seed(seed, PCT_DEPTH, runs)),
    };
    let scheduler = Stoppable { inner: ManuallyDrop::new(inner), search: Arc::clone(search) };
    let shared = Arc::clone(search);
    let panicked = quietly(|| {
        Runner::new(scheduler, config()).run(move || execute(&shared));
    });
    if let Some(payload) = &panicked {
        search.panicked(payload.as_ref());
    }
    panicked.is_none()
}

fn config() -> Config {
    let mut config = Config::new();
    config.stack_size = 0x2_0000;
    config.failure_persistence = FailurePersistence::None;
    // A silent cut would look like a verdict.
    config.max_steps = MaxSteps::FailAfter(STEPS_MAX);
    config.max_time = None;
    config.silence_warnings = true;
    config
}

/// shuttle puts its own panic hook before ours when it first runs. This lets it do so early.
fn take_over_panic_hook() {
    static FIRST_RUN: Once = Once::new();
    FIRST_RUN.call_once(|| {
        Runner::new(RandomScheduler::new_from_seed(0, 1), config()).run(|| {});
    });
}

/// A scheduler that ends when the search does.
struct Stoppable {
    /// Never dropped: a random one would print a seed then, as if the search had failed.
    inner: ManuallyDrop<Box<dyn Scheduler + Send>>,
    search: Arc<Search>,
}

impl Scheduler for Stoppable {
    fn new_execution(&mut self) -> Option<Schedule> {
        let schedule = self.inner.new_execution()?;
        self.search.begin().then_some(schedule)
    }
    fn next_task(
        &mut self,
        runnable: &[&Task],
        current: Option<TaskId>,
        is_yielding: bool,
    ) -> Option<TaskId> {
        self.inner.next_task(runnable, current, is_yielding)
    }
    fn next_u64(&mut self) -> u64 {
        self.inner.next_u64()
    }
}
