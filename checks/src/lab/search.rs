//! How to search, and how far.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use kvmmu_sim::Cores;
use kvmmu_sim::memory::Memory;
use kvmmu_sim::pct::Pct;

/// How to search.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Strategy {
    /// A short seeded search, then an exhaustive one
    Auto,
    /// Source sets and sleep sets
    Dpor,
    /// Depth first over states
    Stateful,
    /// Random schedules
    Random,
    /// Random priorities that change at a few steps
    Pct,
    /// Every interleaving, without reduction
    Naive,
}

/// The most states of a search, and the most that minimising looks at before it settles for a
/// counterexample that is merely small, unless the command line says. A state costs more there.
const STATES_MAX: u64 = 50_000_000;
const MINIMISE_STATES_MAX: u64 = 2_000_000;

/// A search that has met more states is shared by threads that have nothing else to do. How many
/// states such a search meets in all depends on timing: no result says it.
pub const LARGE: u64 = 250_000;

/// How many ordered steps the bugs need that PCT looks for: executions take turns.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Depths(pub Pct);

impl FromStr for Depths {
    type Err = String;

    fn from_str(text: &str) -> Result<Depths, String> {
        let (least, most) = text.split_once('-').unwrap_or((text, text));
        let depth = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
            true => text.parse().ok().filter(|depth| (1..=DEPTH_MAX).contains(depth)),
            false => None,
        };
        match (depth(least), depth(most)) {
            (Some(depth), Some(depth_max)) if depth <= depth_max => {
                Ok(Depths(Pct { depth, depth_max }))
            }
            _ => Err(format!("not depths from 1 to {DEPTH_MAX}; try 3, or 2-5")),
        }
    }
}

impl fmt::Display for Depths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Pct { depth, depth_max } = self.0;
        write!(f, "{depth}-{depth_max}")
    }
}

/// The most ordered steps that PCT can be asked for.
const DEPTH_MAX: u32 = 100;

/// How to search and how far.
#[derive(Clone, Debug)]
pub struct Search {
    /// How.
    pub strategy: Strategy,
    /// The seed of all random choices.
    pub seed: u64,
    /// The longest time for one variant.
    pub time_max: Option<Duration>,
    /// The most states.
    pub states_max: u64,
    /// The most executions.
    pub executions_max: u64,
    /// The longest execution.
    pub steps_max: u32,
    /// The depths that PCT looks for.
    pub pct: Depths,
    /// The memory that all searches together may take.
    pub memory: Option<&'static Memory>,
    /// Threads that help with large searches.
    pub cores: Option<&'static Cores>,
}

/// The search of `kvmmu check` without options, in as much memory as it takes.
impl Default for Search {
    fn default() -> Search {
        Search {
            strategy: Strategy::Auto,
            seed: 1,
            time_max: None,
            states_max: STATES_MAX,
            executions_max: 1_000_000_000,
            steps_max: 5_000,
            pct: Depths::default(),
            memory: None,
            cores: None,
        }
    }
}

impl Search {
    /// True if the strategy samples.
    pub fn samples(&self) -> bool {
        matches!(self.strategy, Strategy::Random | Strategy::Pct)
    }

    /// How far minimising goes with what this search found.
    #[must_use]
    pub fn minimising(&self) -> Search {
        let states_max = match self.states_max {
            STATES_MAX => MINIMISE_STATES_MAX,
            asked => asked,
        };
        Search { states_max, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depths_are_one_number_or_two() {
        for (text, shown) in [("3", "3-3"), ("2-5", "2-5"), ("1-100", "1-100")] {
            assert_eq!(text.parse::<Depths>().map(|depths| depths.to_string()), Ok(shown.into()));
        }
        for text in ["", "0", "5-2", "3-", "-3", "1-101", "+3", "a"] {
            let error = text.parse::<Depths>().unwrap_err();
            assert!(error.contains("try 3, or 2-5"), "{text}: {error}");
        }
    }
}
