//! One interface to every strategy.

use std::time::Duration;

use crate::machine::memory::Memory;
use crate::record::outcome::{Outcome, Stats};
use crate::run::engine::Engine;

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
