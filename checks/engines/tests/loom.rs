//! Goal: the core is correct under C11 orderings, judged without `kvmmu-sim`, and its broken
//! variants are caught by the property and the story that the scenario files name. Method: every
//! `engines = { loom = ... }` is carried out by all executions, or all with so many preemptions as
//! [`Bounds::of`] says; a run that is cut off is a failure.
//!
//! A test program of its own: loom does not work in a process in which shuttle has run.

use kvmmu_engines::loom::{Bounds, Loom, check, check_program};
use kvmmu_engines::search::EngineOutcome;
use kvmmu_model::GuardSet;
use kvmmu_scenarios::scenario::{Engine, Expect};

mod engines;

type Tool = Loom;

#[test]
fn loom_says_what_the_scenario_files_expect_of_it() {
    let expected = |expect: &Expect| expect.loom != Engine::Skip;
    let failures = engines::run(expected, |scenario, expect| {
        let outcome = check(scenario, expect.without, Bounds::of(scenario, expect.without));
        let agrees = match &outcome {
            EngineOutcome::Holds { complete, unseen, .. } => {
                let vacuous = expect.without.is_empty() && !unseen.is_empty();
                expect.loom == Engine::Holds && *complete && !vacuous
            }
            EngineOutcome::Violated { property, story_matched, .. } => {
                expect.loom == Engine::Violated
                    && *story_matched
                    && expect.property.is_none_or(|p| p == *property)
            }
            EngineOutcome::Inconclusive { .. } => false,
        };
        (agrees, outcome.to_string())
    });
    assert!(failures.is_empty(), "loom disagrees:\n{}", failures.join("\n"));
}

#[test]
fn locks_are_checked_on_loom_unless_told_otherwise() {
    let bounds = Bounds { preemptions_max: Some(3), ..Bounds::default() };
    let surprises = engines::locks::surprises(|scenario, program| {
        check_program(scenario, GuardSet::EMPTY, bounds, 3, program)
    });
    assert!(surprises.is_empty(), "{}", surprises.join("\n"));
}

#[test]
fn the_locks_of_a_file_are_checked_on_loom() {
    for (lock_checks, expected) in [(true, "lock-cycle"), (false, "deadlock")] {
        let scenario = engines::locks::file_with_locks(lock_checks);
        let outcome = check(
            &scenario,
            GuardSet::EMPTY,
            Bounds { preemptions_max: Some(2), ..Bounds::default() },
        );
        let EngineOutcome::Violated { property, .. } = &outcome else { panic!("{outcome}") };
        assert_eq!(property.name(), expected, "{outcome}");
    }
}
