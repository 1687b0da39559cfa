//! Scenario files. Knobs: the strategy, the guard that is missing (if any), the size.

use std::sync::Arc;

use kvmmu::lab::run::{Machine, Simulated};
use kvmmu::lab::variant::{Goal, Variant};
use kvmmu_model::{Guard, GuardSet};
use kvmmu_scenarios::loader;
use kvmmu_sim::event::What;
use kvmmu_sim::outcome::Verdict;

use super::{no_internal_error, search};
use crate::input::Knobs;

/// The guard that a knob takes away.
pub(super) fn without(knob: u8) -> GuardSet {
    let guard = usize::from(knob).checked_sub(1).and_then(|i| Guard::ALL.get(i));
    guard.map_or(GuardSet::EMPTY, |guard| GuardSet::EMPTY.with(*guard))
}

pub(super) fn run([strategy, guard, size, _]: Knobs, text: &[u8]) {
    let text = String::from_utf8_lossy(text);
    let scenario = match loader::load("fuzz.toml", &text, 1 + size % 3) {
        Ok(scenario) => Arc::new(scenario),
        Err(error) => {
            assert!(!error.to_string().is_empty(), "a refusal without a word");
            return;
        }
    };
    let variant = Variant::of(&scenario, Some("fuzz.toml"), without(guard));
    let explored = Simulated.explore(&variant, &Goal::default(), search(strategy), &|_| true);
    let Some(outcome) = no_internal_error(explored) else { return };
    let Verdict::Violated(found) = &outcome.verdict else { return };
    let replayed = no_internal_error(Simulated.replay(&variant, &found.schedule));
    let Some(replayed) = replayed else { panic!("a violation found is not replayed") };
    assert!(replayed.stuck.is_none(), "a replay is stuck: {:?}", replayed.stuck);
    let violates = |what: &What| matches!(what, What::Violation { .. });
    assert!(replayed.events.iter().any(|e| violates(&e.what)), "a replay does not violate");
}
