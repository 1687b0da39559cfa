//! Goal: the set of outcomes is that of all executions, neither more nor less. Method: different
//! searches against each other, and the set against what a property says of the same scenario.

use std::collections::BTreeSet;

use kvmmu_model::GuardSet;
use kvmmu_scenarios::outcome::Outcome;
use kvmmu_scenarios::scenario::ThreadKind;
use kvmmu_scenarios::{Property, Scenario, builtin, loader};
use kvmmu_sim::dpor::Dpor;
use kvmmu_sim::memory::Memory;
use kvmmu_sim::naive::Naive;
use kvmmu_sim::outcome::{Reason, Verdict};
use kvmmu_sim::outcomes::{Collected, collect};
use kvmmu_sim::race::Race;
use kvmmu_sim::random::Random;
use kvmmu_sim::rule::Rule;
use kvmmu_sim::stateful::Stateful;
use kvmmu_sim::{Explorer, Goal, Limits};

/// Scenarios with more states are left to the command.
const STATES_MAX: u64 = 30_000;

fn limits() -> Limits {
    Limits { states_max: STATES_MAX, ..Limits::default() }
}

fn search(scenario: &Scenario, without: GuardSet, explorer: &mut dyn Explorer) -> Collected {
    collect(scenario, without, explorer, &limits(), &|_| true)
}

/// Every variant of every built-in scenario.
fn variants() -> impl Iterator<Item = (Scenario, GuardSet)> {
    let load =
        |(file, text): &(&str, &str)| loader::load(file, text, 1).unwrap_or_else(|e| panic!("{e}"));
    builtin::FILES.iter().map(load).flat_map(|scenario| {
        let sets: Vec<GuardSet> = scenario.expects.iter().map(|e| e.without).collect();
        sets.into_iter().map(move |without| (scenario.clone(), without))
    })
}

fn set(collected: &Collected) -> BTreeSet<&Outcome> {
    collected.outcomes.keys().collect()
}

/// Goal: a search over states sees each outcome that a search over executions sees. Method: both,
/// on each variant that is small enough; random executions must stay inside.
#[test]
fn searches_over_states_and_over_executions_find_the_same_outcomes() {
    let (mut compared, mut several) = (0, 0);
    for (scenario, without) in variants() {
        let states = search(&scenario, without, &mut Stateful::default());
        if states.verdict != Verdict::Holds {
            continue;
        }
        let name = format!("{} without {without:?}", scenario.name);
        let bounds = Limits { executions_max: 20_000, ..Limits::default() };
        let executions = collect(&scenario, without, &mut Dpor::default(), &bounds, &|_| true);
        if executions.verdict == Verdict::Holds {
            assert_eq!(set(&executions), set(&states), "{name}");
            compared += 1;
            several += u32::from(states.outcomes.len() > 1);
        } else {
            assert!(set(&executions).is_subset(&set(&states)), "{name}");
        }
        let some = Limits { executions_max: 200, ..Limits::default() };
        let drawn = collect(&scenario, without, &mut Random, &some, &|_| true);
        assert!(set(&drawn).is_subset(&set(&states)), "{name}");
    }
    println!("{compared} compared with dpor, {several} of them with several outcomes");
    assert!(compared >= 50 && several >= 20, "{compared}, {several}");
}

/// True if that is what the scenario expects of the variant.
fn livelocks(scenario: &Scenario, without: GuardSet) -> bool {
    let of_variant = scenario.expects.iter().find(|expect| expect.without == without);
    of_variant.is_some_and(|expect| expect.property == Some(Property::Livelock))
}

/// Goal: the same against a search that has no reduction and no notion of a state to merge.
#[test]
fn every_interleaving_of_the_smallest_scenarios_gives_no_other_outcome() {
    let mut compared = 0;
    for (scenario, without) in variants() {
        let states = search(&scenario, without, &mut Stateful::default());
        if states.verdict != Verdict::Holds || states.stats.states > 1_000 {
            continue;
        }
        let bounds = Limits { executions_max: 20_000, ..Limits::default() };
        // A livelock has an execution without end.
        let ends = !livelocks(&scenario, without);
        let bounds = if ends { bounds } else { Limits { steps_max: 1_000, ..bounds } };
        let all = collect(&scenario, without, &mut Naive::default(), &bounds, &|_| true);
        assert!(set(&all).is_subset(&set(&states)), "{}", scenario.name);
        if all.verdict == Verdict::Holds {
            assert_eq!(set(&all), set(&states), "{} without {without:?}", scenario.name);
            compared += 1;
        }
    }
    assert!(compared >= 3, "{compared}");
}

/// Goal: outcomes say of a migration what its property says, found another way. Method: where the
/// property is violated, some outcome has a copy that differs from its frame, and only there.
#[test]
fn a_copy_differs_where_the_migration_property_is_violated() {
    let (mut lossless, mut lossy) = (0, 0);
    let logged = |s: &Scenario| s.slots.iter().any(|slot| slot.log) && s.guest_tables.is_empty();
    for (scenario, without) in variants().filter(|(s, _)| logged(s)) {
        let states = search(&scenario, without, &mut Stateful::default());
        let copies = scenario.at_stop.len();
        if states.verdict != Verdict::Holds || copies == 0 {
            continue;
        }
        // Of a slot that is not logged there is no copy.
        let lost = |o: &Outcome| o.frames().iter().any(|f| f.copy.is_some_and(|c| c != f.content));
        let differs = states.outcomes.keys().any(lost);
        let watching = Scenario { always: vec![Property::Migration], ..scenario.clone() };
        let found = Stateful::default().explore(
            &Race::new(watching, without),
            &Goal::of(Property::Migration.into()),
            &limits(),
            &|_| true,
        );
        let violated = matches!(found.verdict, Verdict::Violated(_));
        assert_eq!(differs, violated, "{} without {without:?}", scenario.name);
        (lossless, lossy) = (lossless + u32::from(!violated), lossy + u32::from(violated));
    }
    println!("{lossless} lose nothing, {lossy} do");
    assert!(lossless >= 5 && lossy >= 5, "{lossless}, {lossy}");
}

/// Goal: recording costs nothing where there is nothing to record, and only what it must where
/// there is. Method: states with and without it.
#[test]
fn a_scenario_without_harvests_has_no_more_states() {
    let mut seen = 0;
    for (scenario, without) in variants() {
        let bare = Scenario {
            always: Vec::new(),
            sometimes: Vec::new(),
            lock_checks: false,
            ..scenario.clone()
        };
        let collected = search(&scenario, without, &mut Stateful::default());
        let plain = Stateful::default().explore(
            &Race::new(bare, without),
            &Goal::of(Rule::Own("nothing")),
            &limits(),
            &|_| true,
        );
        let user = |s: &Scenario| s.threads.iter().any(|t| t.kind == ThreadKind::User);
        if plain.verdict == Verdict::Holds && !user(&scenario) {
            assert_eq!(collected.stats, plain.stats, "{} without {without:?}", scenario.name);
            seen += 1;
        }
    }
    assert!(seen >= 20, "{seen}");
}

/// Goal: a search that was cut says so. Method: bounds of each kind.
#[test]
fn a_search_that_was_cut_is_not_complete() {
    let (scenario, without) =
        variants().find(|(s, _)| s.name == "mark-dirty-order").expect("it is built in");
    for (limits, reason) in [
        (Limits { states_max: 100, ..Limits::default() }, Reason::States),
        (Limits { executions_max: 1, ..Limits::default() }, Reason::Executions),
        (Limits { steps_max: 5, ..Limits::default() }, Reason::Steps),
    ] {
        let mut stateful = Stateful::default();
        let cut = collect(&scenario, without, &mut stateful, &limits, &|_| true);
        assert_eq!(cut.verdict, Verdict::Inconclusive(reason));
    }
    // The first few thousand states are free.
    static LITTLE: Memory = Memory::new(1 << 17);
    let limits = Limits { memory: Some(&LITTLE), ..Limits::default() };
    let (large, whole) = variants().find(|(s, _)| s.name == "aba-direct").expect("it is built in");
    let cut = collect(&large, whole, &mut Stateful::default(), &limits, &|_| true);
    assert_eq!(cut.verdict, Verdict::Inconclusive(Reason::Memory));
    assert_eq!(LITTLE.taken(), 0, "it was not given back");
    let drawn = search(&scenario, without, &mut Random);
    assert!(matches!(drawn.verdict, Verdict::Inconclusive(_)));
}

/// Goal: executions that end in a deadlock have no outcome, and it is said that there were some.
#[test]
fn executions_that_do_not_end_are_told() {
    let (scenario, without) = variants()
        .find(|(s, without)| s.name == "lock-xen" && !without.is_empty())
        .expect("it is built in");
    let collected = search(&scenario, without, &mut Stateful::default());
    assert_eq!(collected.verdict, Verdict::Holds);
    assert_eq!(collected.broken.iter().map(|f| f.rule.name()).collect::<Vec<_>>(), ["deadlock"]);
}
