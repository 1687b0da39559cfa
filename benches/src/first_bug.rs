//! How many executions it takes to find a bug: every built-in variant that is expected to be
//! violated, several seeds each.

use kvmmu_scenarios::scenario::Expected;
use kvmmu_scenarios::{builtin, loader};
use kvmmu_sim::outcome::Verdict;
use kvmmu_sim::race::Race;
use kvmmu_sim::{Explorer, Limits};

/// After so many executions a bug counts as not found: few where it is only to be seen to work.
pub const EXECUTIONS_MAX: u64 = if cfg!(debug_assertions) { 300 } else { 10_000 };
/// How many seeds each variant is tried with; one there.
pub const SEEDS: u64 = if cfg!(debug_assertions) { 1 } else { 5 };

/// What came of a broken variant.
#[derive(Clone, Debug)]
pub struct First {
    /// Scenario and missing guards.
    pub name: String,
    /// For each seed how many executions it took, in order; `u64::MAX` if it was not found.
    pub executions: Vec<u64>,
}

impl First {
    /// The one in the middle.
    pub fn median(&self) -> u64 {
        self.executions[self.executions.len() / 2]
    }
}

/// Looks for the bug of each broken variant by samples of an explorer.
pub fn of_all(explorer: impl Fn() -> Box<dyn Explorer>) -> Vec<First> {
    let scenarios =
        builtin::FILES.iter().filter_map(|(file, text)| loader::load(file, text, 1).ok());
    let mut all = Vec::new();
    for scenario in scenarios {
        let broken = scenario.expects.iter().filter(|e| e.verdict == Expected::Violated);
        for expect in broken {
            let race = Race::new(scenario.clone(), expect.without);
            let mut executions: Vec<u64> = (0..SEEDS)
                .map(|seed| {
                    // No states are looked at: samples alone.
                    let (executions_max, states_max) = (EXECUTIONS_MAX, 0);
                    let limits = Limits { executions_max, states_max, seed, ..Limits::default() };
                    let outcome = explorer().explore(&race, &race.goal(), &limits, &|_| true);
                    match outcome.verdict {
                        Verdict::Violated(_) => outcome.stats.executions,
                        _ => u64::MAX,
                    }
                })
                .collect();
            executions.sort_unstable();
            let guards: Vec<&str> = expect.without.iter().map(|guard| guard.info().name).collect();
            let name = format!("{} without {}", scenario.name, guards.join(" + "));
            all.push(First { name, executions });
        }
    }
    all
}
