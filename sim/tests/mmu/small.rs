//! Small scenarios, and what the simulator says of them.

use kvmmu_model::{Guard, GuardSet};
use kvmmu_scenarios::{Scenario, loader};
use kvmmu_sim::outcome::Outcome;
use kvmmu_sim::race::Race;
use kvmmu_sim::stateful::Stateful;
use kvmmu_sim::{Explorer, Goal, Limits};

/// The scenario with this paging, these SPTEs, and these tables of the file.
pub(crate) fn scenario(paging: &str, spte: &str, tables: &str) -> Scenario {
    let head = "title = \"t\"\nsource = \"s\"\nabout = \"a\"";
    let text = format!("{head}\npaging = \"{paging}\"\nspte = \"{spte}\"\n{tables}");
    loader::load("small.toml", &text, 1).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

/// Explores every interleaving, without some guards.
pub(crate) fn explore(scenario: Scenario, without: &[Guard]) -> Outcome {
    let without = without.iter().copied().collect::<GuardSet>();
    let limits = Limits { states_max: 2_000_000, ..Limits::default() };
    Stateful::default().explore(&Race::new(scenario, without), &Goal::ANY, &limits, &|_| true)
}
