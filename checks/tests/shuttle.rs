//! Goal: the whole protocol, requests and IPIs included, is exercised without `kvmmu-sim`. Method:
//! every `engines = { shuttle = ... }` is carried out by seeded samples, by PCT and uniformly at
//! random. A correct variant is violated by neither, and between them they see every witness; a
//! broken one is caught by one of them, by the property and the story that its file names. A run
//! that is cut off is a failure.

use kvmmu_scenarios::scenario::{Engine, Expect};

use machines::search::EngineOutcome;
use machines::shuttle::{Strategy, check};

/// The machines, without loom: the two tools do not go into one process.
#[expect(dead_code, unreachable_pub, reason = "it is a part of the kvmmu library")]
#[path = "../src/machines"]
mod machines {
    pub mod machine;
    pub mod primitives;
    pub mod search;
    pub mod shuttle;
    pub mod word;
}

mod engines;

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
