//! Goal: a violation that was found replays, to the last byte. Method: a thousand different
//! violations from random search (uniform and PCT, seeds 1 and up), spread over all broken variants
//! of the built-in scenarios, each replayed twice: on a machine of its own, and on one that has run
//! others before. A variant that no sample breaks contributes what exhaustive search finds.

use std::collections::BTreeSet;
use std::sync::Arc;

use kvmmu::lab::load::builtin;
use kvmmu::lab::replayed::Replayed;
use kvmmu::lab::run::{Machine, Simulated};
use kvmmu::lab::search::Search;
use kvmmu::lab::search::Strategy;
use kvmmu::lab::variant::{Goal, Variant};
use kvmmu::report::trace;
use kvmmu_scenarios::scenario::{Expect, Expected};
use kvmmu_scenarios::{Property, Scenario};
use kvmmu_sim::Engine;
use kvmmu_sim::event::What;
use kvmmu_sim::outcome::{Found, Stats, Verdict};
use kvmmu_sim::race::Race;
use kvmmu_sim::replay::replay;
use kvmmu_sim::rule::Rule;
use kvmmu_sim::schedule::Schedule;

/// How many violations.
const VIOLATIONS: usize = 1_000;
/// How many executions a search may take.
const EXECUTIONS_MAX: u64 = 200;
/// How many the first searches may take, which are to find something in every variant.
const EXECUTIONS_MAX_FIRST: u64 = 50_000;
/// How many variants may need exhaustive search.
const EXHAUSTIVE_MAX: usize = 4;

/// The violation that a search finds, if it does.
fn search(variant: &Variant, strategy: Strategy, seed: u64, executions_max: u64) -> Option<Found> {
    let states_max = u64::MAX;
    let search = Search { strategy, seed, states_max, executions_max, ..Search::default() };
    let goal = Goal { story: None, ..variant.goal() };
    let outcome = Simulated.explore(variant, &goal, &search, &|_: &Stats| true);
    match outcome.expect("no internal error").verdict {
        Verdict::Violated(found) => Some(found),
        _ => None,
    }
}

/// Property and detail of the last violation among the events.
fn violation(replayed: &Replayed) -> Option<(Rule, &str)> {
    replayed.events.iter().rev().find_map(|event| match &event.what {
        What::Violation { rule, detail } => Some((*rule, detail.as_str())),
        _ => None,
    })
}

/// Replays `found` twice and compares.
#[track_caller]
fn check(variant: &Variant, found: &Found, used: &mut Engine) {
    let name = variant.name();
    let fresh = Simulated.replay(variant, &found.schedule).expect("no internal error");
    assert_eq!(fresh.stuck, None, "{name}");
    let expected = Some((found.rule, found.detail.as_str()));
    assert_eq!(violation(&fresh), expected, "{name}");
    let again = replay(used, &found.schedule).expect("the schedule fits");
    assert!(again.complete, "{name}: the schedule ends before the violation");
    let reached = again.violation.expect("it violates something again");
    assert_eq!((reached.rule, &reached.detail), (found.rule, &found.detail), "{name}");
    let again = Replayed { events: again.events, names: again.names, ..Replayed::default() };
    let schedule = variant.stamp(&found.schedule).to_string();
    let [first, second] = [fresh, again].map(|r| trace::text(variant, &schedule, &r));
    assert!(first.lines().count() > 3, "{name}: an empty trace");
    assert_eq!(first, second, "{name}: {schedule}");
}

/// The broken variants: those that are expected to be violated, by one execution. A cycle of lock
/// orders is made of several; `lockdep/main.rs` replays one for each of its nestings. That of a
/// livelock has no end: see below.
fn broken(scenario: &Arc<Scenario>) -> Vec<Variant> {
    let endless = [Some(Property::LockCycle), Some(Property::Livelock)];
    let ends = |e: &&Expect| e.verdict == Expected::Violated && !endless.contains(&e.property);
    scenario.expects.iter().filter(ends).map(|e| Variant::of(scenario, None, e.without)).collect()
}

/// The violations that were replayed.
struct Replays {
    variants: Vec<Variant>,
    /// A machine for each variant, used again and again.
    used: Vec<Engine>,
    known: BTreeSet<(usize, Schedule)>,
}

impl Replays {
    fn new() -> Replays {
        let scenarios = builtin(1).expect("built-in files load");
        let variants: Vec<Variant> = scenarios.iter().flat_map(broken).collect();
        let race = |v: &Variant| Race::new(v.scenario.as_ref().clone(), v.without);
        let engine = |v: &Variant| Engine::new(&race(v), kvmmu_sim::Goal::ANY);
        Replays { used: variants.iter().map(engine).collect(), variants, known: BTreeSet::new() }
    }

    /// Replays a violation of the `i`-th variant, unless it was found before.
    fn add(&mut self, i: usize, found: &Found) {
        if self.known.insert((i, found.schedule.clone())) {
            check(&self.variants[i], found, &mut self.used[i]);
        }
    }

    /// One violation of every variant. Returns for how many of them no sample was enough.
    fn one_of_each(&mut self) -> usize {
        let mut exhaustive = 0;
        for i in 0..self.variants.len() {
            let sample = |s| search(&self.variants[i], s, 1, EXECUTIONS_MAX_FIRST);
            let found = sample(Strategy::Pct).or_else(|| sample(Strategy::Random));
            let found = found.or_else(|| {
                exhaustive += 1;
                search(&self.variants[i], Strategy::Stateful, 1, u64::MAX)
            });
            let name = self.variants[i].name();
            self.add(i, &found.unwrap_or_else(|| panic!("{name} is expected to be violated")));
        }
        exhaustive
    }
}

#[test]
fn a_thousand_violations_replay_byte_for_byte() {
    let mut replays = Replays::new();
    let exhaustive = replays.one_of_each();
    let mut seed = 0;
    while replays.known.len() < VIOLATIONS {
        seed += 1;
        assert!(seed < 1_000, "only {} violations", replays.known.len());
        for strategy in [Strategy::Random, Strategy::Pct] {
            for i in 0..replays.variants.len() {
                let found = search(&replays.variants[i], strategy, seed, EXECUTIONS_MAX);
                found.iter().for_each(|found| replays.add(i, found));
            }
        }
    }
    for (i, variant) in replays.variants.iter().enumerate() {
        let count = replays.known.iter().filter(|(of, _)| *of == i).count();
        println!("{count:4} {}", variant.name());
    }
    println!("{} violations, seeds 1 to {seed}, {exhaustive} exhaustive", replays.known.len());
    assert!(exhaustive <= EXHAUSTIVE_MAX, "sampling misses {exhaustive} variants");
}

/// Goal: the schedule of a livelock shows that it goes round. Method: its replay ends in a state
/// that it has been in before, with a part of the schedule between.
#[test]
fn a_livelock_replays_to_a_state_that_it_was_in_before() {
    let scenarios = builtin(1).expect("built-in files load");
    let mut seen = 0;
    for scenario in &scenarios {
        for expect in scenario.expects.iter().filter(|e| e.property == Some(Property::Livelock)) {
            let variant = Variant::of(scenario, None, expect.without);
            let found = search(&variant, Strategy::Stateful, 1, u64::MAX).expect("it is violated");
            let replayed = Simulated.replay(&variant, &found.schedule).expect("no internal error");
            assert_eq!(replayed.stuck, None, "{}", variant.name());
            let lap = replayed.lap.expect("it goes round");
            assert!(lap < found.schedule.0.len(), "{}", variant.name());
            seen += 1;
        }
    }
    assert!(seen > 0, "no scenario expects a livelock");
}
