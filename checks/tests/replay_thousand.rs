//! Goal: a violation that was found replays, to the last byte. Method: a thousand different
//! violations from random search, spread over all broken variants of the built-in scenarios, each
//! replayed twice: on a machine of its own, and on one that has run whatever came before it.

use std::collections::BTreeSet;
use std::sync::Arc;

use kvmmu::args::Strategy;
use kvmmu::run::{Machine, Replayed, Search, Simulated, builtin};
use kvmmu::trace;
use kvmmu::variant::{Goal, Variant};
use kvmmu_scenarios::Scenario;
use kvmmu_scenarios::scenario::Expected;
use kvmmu_sim::Engine;
use kvmmu_sim::event::What;
use kvmmu_sim::outcome::{Found, Stats, Verdict};
use kvmmu_sim::race::Race;
use kvmmu_sim::replay::replay;

/// How many violations.
const VIOLATIONS: usize = 1_000;
/// How many executions a search may take.
const EXECUTIONS_MAX: u64 = 200;

/// The violation that a seeded random search finds, if it does.
fn search(variant: &Variant, seed: u64) -> Option<Found> {
    let search = Search {
        strategy: Strategy::Random,
        seed,
        time_max: None,
        states_max: u64::MAX,
        executions_max: EXECUTIONS_MAX,
        steps_max: 5_000,
    };
    let goal = Goal { story: None, ..variant.goal() };
    let outcome = Simulated.explore(variant, &goal, &search, &mut |_: &Stats| true);
    match outcome.expect("no internal error").verdict {
        Verdict::Violated(found) => Some(found),
        _ => None,
    }
}

/// Property and detail of the last violation among the events.
fn violation(replayed: &Replayed) -> Option<(&'static str, &str)> {
    replayed.events.iter().rev().find_map(|event| match &event.what {
        What::Violation { property, detail } => Some((*property, detail.as_str())),
        _ => None,
    })
}

/// Replays `found` twice and compares.
#[track_caller]
fn check(variant: &Variant, found: &Found, used: &mut Engine) {
    let name = variant.name();
    let fresh = Simulated.replay(variant, &found.schedule).expect("no internal error");
    assert_eq!(fresh.stuck, None, "{name}");
    let expected = Some((found.property, found.detail.as_str()));
    assert_eq!(violation(&fresh), expected, "{name}");
    let again = replay(used, &found.schedule).expect("the schedule fits");
    assert!(again.complete, "{name}: the schedule ends before the violation");
    let reached = again.violation.expect("it violates something again");
    assert_eq!((reached.property, &reached.detail), (found.property, &found.detail), "{name}");
    let again = Replayed { events: again.events, stuck: None };
    let schedule = variant.stamp(&found.schedule).to_string();
    let [first, second] = [fresh, again].map(|r| trace::text(variant, &schedule, &r));
    assert!(first.lines().count() > 3, "{name}: an empty trace");
    assert_eq!(first, second, "{name}: {schedule}");
}

/// The broken variants: those that are expected to be violated.
fn broken(scenario: &Arc<Scenario>) -> Vec<Variant> {
    let expects = scenario.expects.iter().filter(|e| e.verdict == Expected::Violated);
    expects.map(|e| Variant::of(scenario, None, e.without)).collect()
}

#[test]
fn a_thousand_violations_replay_byte_for_byte() {
    let scenarios = builtin(1).expect("built-in files load");
    let variants: Vec<Variant> = scenarios.iter().flat_map(broken).collect();
    let race = |v: &Variant| Race::new(v.scenario.as_ref().clone(), v.without);
    let engine = |v: &Variant| Engine::new(&race(v), kvmmu_sim::Goal::ANY);
    let mut used: Vec<Engine> = variants.iter().map(engine).collect();
    let mut known = BTreeSet::new();
    let mut counts = vec![0; variants.len()];
    let mut seed = 0;
    while known.len() < VIOLATIONS {
        seed += 1;
        assert!(seed < 1_000, "only {} violations", known.len());
        for (i, variant) in variants.iter().enumerate() {
            let Some(found) = search(variant, seed) else { continue };
            // One that was found before is no other violation.
            if known.len() < VIOLATIONS && known.insert((i, found.schedule.clone())) {
                check(variant, &found, &mut used[i]);
                counts[i] += 1;
            }
        }
    }
    for (variant, count) in variants.iter().zip(&counts) {
        println!("{count:4} {}", variant.name());
    }
    let missing = counts.iter().filter(|c| **c == 0).count();
    println!("{} violations, seeds 1 to {seed}, {missing} variants without", known.len());
    assert_eq!(missing, 0);
}
