//! One interface to every strategy.

use std::time::Duration;

use crate::engine::Engine;
use crate::memory::Memory;
use crate::outcome::{Outcome, Reason, Stats, Verdict};
use crate::random::Random;
use crate::stateful::Stateful;

/// A strategy: which executions of a program to look at, and in which order.
pub trait Explorer {
    /// Looks at executions until the engine's goal is met, none is left or a limit is hit.
    /// `progress` is called from time to time; if it returns false, the exploration ends there.
    fn explore(
        &mut self,
        engine: &mut Engine,
        limits: &Limits,
        progress: &mut dyn FnMut(&Stats) -> bool,
    ) -> Outcome;
}

/// Where an exploration ends at the latest. Hitting a limit makes it inconclusive.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The longest execution, in steps.
    pub steps_max: u32,
    /// The most states.
    pub states_max: u64,
    /// The most executions.
    pub executions_max: u64,
    /// The longest time. Its effect differs from run to run.
    pub time_max: Option<Duration>,
    /// The memory that this search and others at the same time may take. What is left for this one
    /// depends on them.
    pub memory: Option<&'static Memory>,
    /// Seeds the strategies that draw lots.
    pub seed: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            steps_max: 100_000,
            states_max: 50_000_000,
            executions_max: u64::MAX,
            time_max: None,
            memory: None,
            seed: 0,
        }
    }
}

/// A short seeded search, which finds most bugs at once; if one property is looked for, a search of
/// executions with few context switches, which finds most of the rest and tells short stories; and
/// then the exhaustive search.
#[derive(Clone, Debug)]
pub struct Auto {
    /// How many random executions there are first.
    pub executions: u64,
    /// The most context switches in the second search.
    pub switches_max: u32,
    /// The most states for each number of context switches.
    pub switches_states_max: u64,
    /// What follows them.
    pub then: Stateful,
}

impl Default for Auto {
    fn default() -> Auto {
        Auto {
            executions: 500,
            switches_max: 4,
            switches_states_max: 2_000_000,
            then: Stateful::default(),
        }
    }
}

/// True if nothing more is to be done: the verdict is there, or somebody or the clock said stop.
fn is_final(verdict: &Verdict) -> bool {
    use Reason::{InternalError, Interrupted, Time};
    matches!(
        verdict,
        Verdict::Violated(_) | Verdict::Inconclusive(Interrupted | Time | InternalError)
    )
}

impl Explorer for Auto {
    fn explore(
        &mut self,
        engine: &mut Engine,
        limits: &Limits,
        progress: &mut dyn FnMut(&Stats) -> bool,
    ) -> Outcome {
        let executions_max = self.executions.min(limits.executions_max);
        let short = Limits { executions_max, ..*limits };
        let outcome = Random.explore(engine, &short, progress);
        if is_final(&outcome.verdict) {
            return outcome;
        }
        let few = Limits { states_max: self.switches_states_max.min(limits.states_max), ..*limits };
        for switches in 1..=self.switches_max {
            if engine.goal().property.is_none() {
                break;
            }
            let mut search = Stateful { switches_max: Some(switches), ..Stateful::default() };
            let outcome = search.explore(engine, &few, progress);
            if is_final(&outcome.verdict) {
                return outcome;
            }
            if matches!(outcome.verdict, Verdict::Inconclusive(Reason::States | Reason::Memory)) {
                break;
            }
        }
        self.then.explore(engine, limits, progress)
    }
}
