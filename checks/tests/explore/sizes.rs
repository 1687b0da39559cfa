//! Goal: what a built-in scenario says of its variants it says at sizes 2 and 3 too. Method: the
//! search of `check`, cut at a number of states: not to get through is no failure, to see anything
//! else than what is expected is one. `.ci/run sizes` does the same and goes further.

use kvmmu::lab::judge::{Word, judge};
use kvmmu::lab::load::builtin;
use kvmmu::lab::run::{Machine, Simulated};
use kvmmu::lab::search::Search;
use kvmmu::lab::variant::Variant;
use kvmmu_sim::outcome::Stats;

/// How far a variant is explored: far enough for most of them.
const STATES_MAX: u64 = 20_000;

/// What `check --size SIZE` says of the built-in variants that is not as expected.
fn surprises(size: u8) -> Vec<String> {
    let search = Search { states_max: STATES_MAX, ..Search::default() };
    let scenarios = builtin(size).expect("built-in files load");
    let variants: Vec<Variant> = scenarios
        .iter()
        .flat_map(|s| s.expects.iter().map(|e| Variant::of(s, None, e.without)))
        .collect();
    assert!(variants.len() > scenarios.len(), "most have a variant that fails");
    let mut surprises = Vec::new();
    for variant in &variants {
        let outcome = Simulated
            .explore(variant, &variant.goal(), &search, &|_: &Stats| true)
            .unwrap_or_else(|failure| panic!("{}: {failure}", variant.name()));
        let judged = judge(variant, &search, &outcome);
        if !matches!(judged.word, Word::Holds | Word::Caught | Word::Bound) {
            surprises.push(format!("{}: {}", variant.name(), judged.text));
        }
    }
    surprises
}

#[test]
fn built_in_scenarios_are_as_expected_at_size_two() {
    assert_eq!(surprises(2), [""; 0]);
}

#[test]
fn built_in_scenarios_are_as_expected_at_size_three() {
    assert_eq!(surprises(3), [""; 0]);
}
