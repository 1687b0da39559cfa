//! Goal: every guard is either necessary by itself, and a run shows what breaks without it, or
//! masked, and runs show that nothing breaks without it alone and what breaks without it and those
//! that mask it; or a fence, whose loss sequential consistency cannot show. Method: the
//! expectations of the built-in scenarios, carried out by sampling and then exhaustive search, and
//! judged as the command judges. Variants of many states are proved by the main job alone: `LARGE`
//! names their scenarios, and nothing else may be left out here.

use std::collections::BTreeMap;
use std::sync::Arc;

use kvmmu::lab::judge::{Judged, Word, judge};
use kvmmu::lab::load::builtin;
use kvmmu::lab::run::{Machine, Simulated};
use kvmmu::lab::search::Search;
use kvmmu::lab::search::Strategy;
use kvmmu::lab::variant::{Goal, Variant};
use kvmmu_model::{Guard, GuardSet, Release};
use kvmmu_scenarios::Scenario;
use kvmmu_scenarios::scenario::Expected;
use kvmmu_sim::outcome::{Stats, Verdict};

/// Scenarios some of whose variants are not carried out here: they have millions of states.
const LARGE: &[&str] = &[
    "aba-direct",
    "aba-indirect",
    "aba-indirect-pinned",
    "stale-walk-indirect",
    "unsync-owed-twice",
];
/// Samples before the exhaustive search.
const SAMPLES: u64 = 20_000;
/// How many states the exhaustive search may look at.
const STATES_MAX: u64 = 300_000;

fn search(strategy: Strategy, executions_max: u64) -> Search {
    Search { strategy, states_max: STATES_MAX, executions_max, ..Search::default() }
}

/// Verdicts of the variants that were asked for.
struct Proofs {
    scenarios: Vec<Arc<Scenario>>,
    known: BTreeMap<(String, GuardSet), Word>,
}

impl Proofs {
    fn new() -> Proofs {
        let scenarios = builtin(1).expect("built-in files load");
        Proofs { scenarios, known: BTreeMap::new() }
    }

    /// The variants with an expectation for a set that has this guard.
    fn variants(&self, guard: Guard) -> Vec<Variant> {
        let of = |scenario: &Arc<Scenario>| {
            let sets = scenario.expects.iter().map(|e| e.without).filter(|w| w.contains(guard));
            sets.map(|without| Variant::of(scenario, None, without)).collect::<Vec<_>>()
        };
        self.scenarios.iter().flat_map(of).collect()
    }

    /// What a run says of a variant.
    fn word(&mut self, variant: &Variant) -> Word {
        let key = (variant.scenario.name.clone(), variant.without);
        *self.known.entry(key).or_insert_with(|| {
            let run = |search: &Search| -> Judged {
                let goal = variant.goal();
                let outcome = Simulated.explore(variant, &goal, search, &|_: &Stats| true);
                judge(variant, search, &outcome.expect("no internal error"))
            };
            let name = variant.name();
            if expects(variant) == Some(Expected::Violated) {
                let sampled = run(&search(Strategy::Pct, SAMPLES));
                if sampled.word != Word::Bound {
                    println!("{} {name}: {}", sampled.word.text(), sampled.text);
                    return sampled.word;
                }
            }
            let judged = run(&search(Strategy::Auto, u64::MAX));
            println!("{} {name}: {}", judged.word.text(), judged.text);
            judged.word
        })
    }

    /// Carries a variant out. False: it is too large.
    fn prove(&mut self, variant: &Variant) -> bool {
        let expected = match expects(variant) {
            Some(Expected::Violated) => Word::Caught,
            _ => Word::Holds,
        };
        let word = self.word(variant);
        let name = variant.name();
        if word == Word::Bound {
            assert!(LARGE.contains(&variant.scenario.name.as_str()), "{name}: too large");
            return false;
        }
        assert_eq!(word, expected, "{name}");
        true
    }
}

fn expects(variant: &Variant) -> Option<Expected> {
    variant.expect.as_ref().map(|e| e.verdict)
}

fn is_alone(variant: &Variant) -> bool {
    variant.without.iter().count() == 1
}

#[test]
fn a_guard_that_is_not_masked_is_necessary_alone() {
    let mut proofs = Proofs::new();
    let judged = Guard::ALL.iter().filter(|g| g.is_judged_under_sc());
    for guard in judged.filter(|g| g.info().masked.is_none()) {
        let mut variants = proofs.variants(*guard);
        variants.retain(|v| is_alone(v) && expects(v) == Some(Expected::Violated));
        // Large ones last: one proof is enough.
        variants.sort_by_key(|v| LARGE.contains(&v.scenario.name.as_str()));
        let name = guard.info().name;
        assert!(!variants.is_empty(), "no scenario fails without {name}");
        let proved = variants.iter().filter(|v| proofs.prove(v)).count();
        assert!(proved > 0, "{name}: only scenarios that are too large here fail without it");
    }
}

#[test]
fn a_masked_guard_breaks_nothing_alone_and_something_with_what_masks_it() {
    let mut proofs = Proofs::new();
    for guard in Guard::ALL {
        let Some(masked) = guard.info().masked else { continue };
        let name = guard.info().name;
        let variants = proofs.variants(*guard);
        let (alone, together): (Vec<_>, Vec<_>) = variants.iter().partition(|v| is_alone(v));
        assert!(!alone.is_empty(), "no scenario says what happens without {name}");
        for variant in alone {
            assert_eq!(expects(variant), Some(Expected::Holds), "{}", variant.name());
            proofs.prove(variant);
        }
        // Who says that a pair fails has to show it, and a guard that masks is in the pair.
        let promised = masked.because.contains("the pair fails");
        let by = Guard::by_name(masked.by);
        let pairs: Vec<_> = together
            .into_iter()
            .filter(|v| expects(v) == Some(Expected::Violated))
            .filter(|v| by.is_none_or(|by| v.without.contains(by)))
            .collect();
        assert!(!promised || !pairs.is_empty(), "{name}: no pair fails");
        assert!(!promised || by.is_some(), "{name}: a pair with which guard?");
        let proved = pairs.iter().filter(|v| proofs.prove(v)).count();
        assert!(proved == pairs.len() || pairs.iter().any(|v| is_large(v)), "{name}");
    }
}

/// True if some step asks for the guard, of those that samples come to.
fn is_asked(variant: &Variant, guard: Guard) -> bool {
    let random = search(Strategy::Random, SAMPLES);
    let outcome = Simulated.explore(variant, &Goal::default(), &random, &|_| true);
    outcome.expect("no internal error").seen.asked.contains(guard)
}

fn is_large(variant: &Variant) -> bool {
    LARGE.contains(&variant.scenario.name.as_str())
}

#[test]
fn no_set_that_fails_is_larger_than_it_must_be() {
    let mut proofs = Proofs::new();
    for guard in Guard::ALL {
        for variant in proofs.variants(*guard) {
            // What a release lacks is not chosen for what fails without it.
            let release = Release::that_lacks(variant.without).is_some();
            if release || is_alone(&variant) || expects(&variant) != Some(Expected::Violated) {
                continue;
            }
            // The same scenario holds without this one alone: the set needs the others.
            let alone = Variant::of(&variant.scenario, None, GuardSet::EMPTY.with(*guard));
            let (name, set) = (guard.info().name, variant.name());
            match expects(&alone) {
                Some(Expected::Holds) => {
                    proofs.prove(&alone);
                }
                // It fails, but never so: what the others protect keeps it from that.
                Some(Expected::Violated) => {
                    let (found, story) = (alone.goal(), variant.goal());
                    assert_ne!(found, story, "{set}: and without {name} alone?");
                    let outcome = Simulated.explore(&alone, &story, &Search::default(), &|_| true);
                    let verdict = outcome.expect("no internal error").verdict;
                    assert_eq!(verdict, Verdict::Holds, "{set}: and without {name} alone?");
                }
                // Where the others are there, nobody comes to what it protects.
                None => assert!(!is_asked(&alone, *guard), "{set}: and without {name} alone?"),
            }
        }
    }
}

/// Goal: no guard is exempt from evidence that could have some. Method: every small scenario
/// without each guard that is declared to be shown by weaker models alone: under sequential
/// consistency the search is the same, state by state, and it is judged as no verdict.
#[test]
fn a_guard_that_is_not_judged_under_sc_changes_nothing_there() {
    let search = Search { strategy: Strategy::Stateful, states_max: 5_000, ..Search::default() };
    let exempt: Vec<Guard> =
        Guard::ALL.iter().copied().filter(|g| !g.is_judged_under_sc()).collect();
    let mut reached = GuardSet::EMPTY;
    for scenario in builtin(1).expect("built-in files load") {
        let explore = |without| {
            let variant = Variant::of(&scenario, None, without);
            let outcome = Simulated.explore(&variant, &Goal::default(), &search, &|_| true);
            let outcome = outcome.expect("no internal error");
            (judge(&variant, &search, &outcome), outcome.seen)
        };
        let (with, all) = explore(GuardSet::EMPTY);
        if !with.complete {
            continue;
        }
        for guard in &exempt {
            let (name, guard_name) = (&scenario.name, guard.info().name);
            assert!(guard.info().masked.is_none(), "{guard_name}: nothing shows what masks it");
            let (without, seen) = explore(GuardSet::EMPTY.with(*guard));
            assert_eq!(without.stats, with.stats, "{name} without {guard_name}");
            assert_eq!(without.word, Word::Unjudged, "{name} without {guard_name}");
            assert_eq!(seen.marks, all.marks, "{name} without {guard_name}");
            if seen.asked.contains(*guard) {
                reached = reached.with(*guard);
            }
        }
    }
    assert_eq!(reached, exempt.into_iter().collect(), "some guard was asked for by no run");
}
