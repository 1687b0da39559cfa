//! Goal: the whole protocol, requests and IPIs included, is exercised without `kvmmu-sim`. Method:
//! every `engines = { shuttle = ... }` is carried out by seeded samples, by PCT and uniformly at
//! random. A correct variant is violated by neither, and between them they see every witness; a
//! broken one is caught by one of them, by the property and the story that its file names. A run
//! that is cut off is a failure.
//!
//! A test program of its own: loom does not work in a process in which shuttle has run.

use kvmmu_engines::search::EngineOutcome;
use kvmmu_engines::shuttle::{Shuttle, Strategy, check, check_program};
use kvmmu_model::GuardSet;
use kvmmu_scenarios::scenario::{Engine, Expect};

mod engines;

type Tool = Shuttle;

/// Samples of a variant that holds, for each strategy.
const RUNS_HOLD: u64 = 4_000;
/// Samples of a variant that is broken, at most.
const RUNS_FIND: u64 = 40_000;
const SEED: u64 = 1;

#[test]
fn shuttle_says_what_the_scenario_files_expect_of_it() {
    let expected = |expect: &Expect| expect.shuttle != Engine::Skip;
    let failures = engines::run(expected, |scenario, expect| {
        let finds = expect.shuttle == Engine::Violated;
        let runs = if finds { RUNS_FIND } else { RUNS_HOLD };
        let sample = |strategy| check(scenario, expect.without, strategy, runs, SEED);
        // PCT first: what it finds need not be searched for at random.
        let mut outcome = sample(Strategy::Pct);
        if !matches!(outcome, EngineOutcome::Violated { story_matched: true, .. }) {
            outcome = outcome.and(sample(Strategy::Random));
        }
        let agrees = match &outcome {
            EngineOutcome::Holds { unseen, .. } => {
                let vacuous = expect.without.is_empty() && !unseen.is_empty();
                !finds && !vacuous
            }
            EngineOutcome::Violated { property, story_matched, .. } => {
                finds && *story_matched && expect.property.is_none_or(|p| p == *property)
            }
            EngineOutcome::Inconclusive { .. } => false,
        };
        (agrees, outcome.to_string())
    });
    assert!(failures.is_empty(), "shuttle disagrees:\n{}", failures.join("\n"));
}

#[test]
fn locks_are_checked_on_shuttle_unless_told_otherwise() {
    let surprises = engines::locks::surprises(|scenario, program| {
        check_program(scenario, GuardSet::EMPTY, Strategy::Random, (2_000, SEED), None, program)
    });
    assert!(surprises.is_empty(), "{}", surprises.join("\n"));
}

#[test]
fn the_locks_of_a_file_are_checked_on_shuttle() {
    for (lock_checks, expected) in [(true, "lock-cycle"), (false, "deadlock")] {
        let scenario = engines::locks::file_with_locks(lock_checks);
        let outcome = check(&scenario, GuardSet::EMPTY, Strategy::Random, 2_000, SEED);
        let EngineOutcome::Violated { property, .. } = &outcome else { panic!("{outcome}") };
        assert_eq!(property.name(), expected, "{outcome}");
    }
}
