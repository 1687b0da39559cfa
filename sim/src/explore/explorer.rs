//! One interface to every strategy.

use std::time::Duration;

use super::keep::Keep;
use super::shared::Cores;
use crate::machine::memory::Memory;
use crate::record::goal::Goal;
use crate::record::outcome::{Outcome, Stats};
use crate::run::program::Program;

/// Called from time to time, by any worker of a search; if it returns false, the search ends there.
pub type Progress<'a> = &'a (dyn Fn(&Stats) -> bool + Sync);

/// A strategy: which executions of a program to look at, and in which order.
///
/// It makes its engines itself. An engine cannot go from one thread to another, and neither can its
/// snapshots, which hold addresses of stacks; a program can, and so can schedules.
pub trait Explorer {
    /// Looks at executions until the goal is met, none is left or a limit is hit.
    ///
    /// # Panics
    /// As [`crate::Engine::new`] does.
    fn explore(
        &mut self,
        program: &dyn Program,
        goal: &Goal,
        limits: &Limits,
        progress: Progress<'_>,
    ) -> Outcome;

    /// [`Explorer::explore`] that is saved in `keep` and goes on from there, to the same outcome.
    /// Strategies that cannot be saved begin again: all but `auto` and `stateful`.
    ///
    /// # Panics
    /// As [`crate::Engine::new`] does.
    fn explore_kept(
        &mut self,
        program: &dyn Program,
        goal: &Goal,
        limits: &Limits,
        progress: Progress<'_>,
        keep: &mut dyn Keep,
    ) -> Outcome {
        let _ = keep;
        self.explore(program, goal, limits, progress)
    }
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
    /// How many engines may work at the same time, each on a thread of its own. No outcome depends
    /// on it, but for the clock. `random` and `pct` make use of it; each other strategy takes one.
    pub workers: usize,
    /// Threads that help `auto` and `stateful` with a search that has become large.
    pub cores: Option<&'static Cores>,
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
            workers: 1,
            cores: None,
        }
    }
}
