//! loom: every C11 execution of the core, within loom's own limits.
//!
//! What loom is not asked: the request, mode and IPI protocol, TLBs, and the barriers that belong
//! to them (see [`machine`](crate::machine)). What loom itself leaves out: load buffering, more
//! than seven stores of a location, and the difference between sequentially consistent and
//! acquire-release accesses.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvmmu_model::{GuardSet, Ordering};
use kvmmu_scenarios::Scenario;
use kvmmu_scenarios::scenario::{Expect, Expected};

use crate::machine::{EngineMachine, execute};
use crate::primitives::primitives;
use crate::search::{EngineOutcome, Search, StopSearch, quietly};

/// loom's primitives.
#[derive(Clone, Copy, Debug)]
pub struct Loom;

primitives!(Loom, loom, core_only: true, thread: thread_number());

/// The machine on loom.
pub type LoomMachine = EngineMachine<Loom>;

/// loom's primitives, and nothing is left out: for small programs of the request, mode and IPI
/// protocol. Of a scenario loom would not come to an end with it.
#[derive(Clone, Copy, Debug)]
pub struct LoomWithRequests;

primitives!(LoomWithRequests, loom, core_only: false, thread: thread_number());

/// How far a search goes.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The most preemptions in an execution; `None`: any number. loom prunes by what conflicts, and
    /// with a bound it may prune an execution within the bound, so that this is the weaker promise.
    pub preemptions_max: Option<usize>,
    /// The most branches of an execution.
    pub branches_max: usize,
    /// The most executions.
    pub executions_max: u64,
    /// The longest time.
    pub time_max: Option<Duration>,
}

/// Scenarios of which loom cannot finish all executions in seconds: the most preemptions with which
/// it can, and with which it looks for a violation that is expected. Every other scenario is
/// explored without a bound. Measured on 2 cores; a bound is part of the verdict.
const PREEMPTIONS_MAX: &[(&str, usize, usize)] = &[
    ("aba-direct", 2, 2),
    ("aba-indirect", 2, 3),
    ("access-track-read", 3, 3),
    ("access-track-write", 4, 4),
    ("age-vs-fast-fault", 4, 4),
    ("change-pte", 6, 6),
    ("host-writable", 5, 5),
    ("host-writable-v6.1", 5, 5),
    ("lost-dirty-clear", 5, 5),
    ("lost-dirty-update", 2, 2),
    ("notifier-retry", 5, 5),
    ("second-table", 7, 7),
    ("stale-walk-indirect", 2, 2),
];

impl Bounds {
    /// The bounds within which loom finishes this variant of a built-in scenario at its default
    /// size.
    pub fn of(scenario: &Scenario, without: GuardSet) -> Bounds {
        let broken = |e: &Expect| e.without == without && e.verdict == Expected::Violated;
        let broken = scenario.expects.iter().any(broken);
        let bound = PREEMPTIONS_MAX.iter().find(|(name, ..)| *name == scenario.name);
        let preemptions_max = bound.map(|&(_, holds, finds)| if broken { finds } else { holds });
        Bounds { preemptions_max, ..Bounds::default() }
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            preemptions_max: None,
            branches_max: 5_000,
            executions_max: u64::MAX,
            time_max: None,
        }
    }
}

/// Explores a variant: all of its executions, up to the first violation of what is expected.
///
/// # Panics
/// Never: panics of an execution end in the outcome.
pub fn check(scenario: &Scenario, without: GuardSet, bounds: Bounds) -> EngineOutcome {
    let threads = scenario.threads.len();
    check_program(scenario, without, bounds, threads, execute::<Loom>)
}

/// Explores something else: what `execute`, by [`crate::machine::perform`], runs on so many
/// threads. The scenario says what is looked for.
///
/// # Panics
/// Never: panics of an execution end in the outcome.
pub fn check_program(
    scenario: &Scenario,
    without: GuardSet,
    bounds: Bounds,
    threads: usize,
    execute: fn(&Arc<Search>),
) -> EngineOutcome {
    let threads = threads + 1;
    if threads > loom::MAX_THREADS {
        let reason = format!("loom runs at most {} threads", loom::MAX_THREADS - 1);
        return EngineOutcome::Inconclusive { reason, executions: 0 };
    }
    let deadline = bounds.time_max.map(|time| Instant::now() + time);
    let search = Arc::new(Search::new(scenario, without, bounds.executions_max, deadline));
    // A thread of its own: loom keeps its state there.
    let exhausted = std::thread::scope(|scope| {
        let search = &search;
        scope
            .spawn(move || explore(search, bounds, threads, execute))
            .join()
            .expect("panics are caught")
    });
    let bound = bounds.preemptions_max.map(|n| format!("preemptions <= {n}"));
    search.outcome(exhausted, true, bound)
}

/// True if loom came to the end by itself.
fn explore(
    search: &Arc<Search>,
    bounds: Bounds,
    threads: usize,
    execute: fn(&Arc<Search>),
) -> bool {
    loop {
        let mut builder = loom::model::Builder::new();
        builder.max_threads = threads;
        builder.max_branches = bounds.branches_max;
        builder.preemption_bound = bounds.preemptions_max;
        builder.max_permutations = None;
        builder.max_duration = None;
        builder.checkpoint_file = None;
        builder.log = false;
        let shared = Arc::clone(search);
        let panicked = quietly(|| {
            builder.check(move || {
                if shared.is_stale() || !shared.begin() {
                    std::panic::panic_any(StopSearch);
                }
                execute(&shared);
            });
        });
        if let Some(payload) = &panicked {
            search.panicked(payload.as_ref());
        }
        if !search.restart() {
            return panicked.is_none();
        }
    }
}

/// loom's number of the running thread. Its `ThreadId` shows it to a hasher only.
fn thread_number() -> usize {
    struct Last(u64);
    impl Hasher for Last {
        fn finish(&self) -> u64 {
            self.0
        }
        fn write(&mut self, _: &[u8]) {}
        fn write_usize(&mut self, value: usize) {
            self.0 = value as u64;
        }
    }
    let mut last = Last(0);
    loom::thread::current().id().hash(&mut last);
    last.finish() as usize
}
