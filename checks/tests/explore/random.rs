//! Goal: on scenarios that nobody wrote, dpor and stateful see what naive sees. Method: what the
//! tests of random scenarios share: the three explorers on each of them.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt::Debug;

use kvmmu_model::Guard;
use kvmmu_scenarios::Property;
use kvmmu_scenarios::loader;
use kvmmu_sim::dpor::{Dpor, Record};
use kvmmu_sim::graph::Graph;
use kvmmu_sim::naive::Naive;
use kvmmu_sim::outcome::{Outcome, Reason, Stats, Verdict};
use kvmmu_sim::race::Race;
use kvmmu_sim::rule::Rule;
use kvmmu_sim::stateful::Stateful;
use kvmmu_sim::{Explorer, Goal, Limits};
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestError, TestRunner};

/// How many interleavings naive may take, and how many executions dpor.
const EXECUTIONS_MAX: u64 = 8_000;
/// How many states a scenario may have: naive is far from finishing the larger ones.
const STATES_MAX: u64 = 5_000;

/// A scenario that nobody wrote.
pub(crate) trait Random: Debug {
    /// Its file.
    fn text(&self) -> String;
    /// The guards that it lacks.
    fn without(&self) -> &[Guard];

    fn race(&self) -> Race {
        let text = self.text();
        let scenario = loader::load("random.toml", &text, 1);
        let scenario = scenario.unwrap_or_else(|error| panic!("{error}\n{text}"));
        Race::new(scenario, self.without().iter().copied().collect())
    }
}

/// How many scenarios all three explorers have to finish, how many more dpor and stateful, and how
/// many of them all have to violate something.
#[derive(Clone, Copy)]
pub(crate) struct AtLeast {
    pub(crate) naive: u32,
    pub(crate) dpor: u32,
    pub(crate) broken: u32,
}

/// So many scenarios: on each of them dpor and stateful see what naive sees.
pub(crate) fn compare_all<C: Random>(
    cases: u32,
    strategy: &impl Strategy<Value = C>,
    at_least: AtLeast,
) {
    let (with, without, broken, states) = (Cell::new(0), Cell::new(0), Cell::new(0), Cell::new(0));
    let add = |counter: &Cell<u32>, n: u64| counter.set(counter.get() + n as u32);
    let result = TestRunner::new(config(cases)).run(strategy, |case| {
        let (compared, outcome) = compared(&case.race())?;
        add(&with, u64::from(compared == Compared::WithNaive));
        add(&without, u64::from(compared == Compared::WithoutNaive));
        add(&broken, u64::from(!outcome.others.is_empty()));
        add(&states, outcome.stats.states);
        Ok(())
    });
    if let Err(error) = result {
        let TestError::Fail(reason, case) = error else { panic!("{error}") };
        let guards: Vec<&str> = case.without().iter().map(|g| g.info().name).collect();
        panic!("{reason}\nwithout {guards:?}:\n{}", case.text());
    }
    let (with, without, broken) = (with.get(), without.get(), broken.get());
    println!("{with} of {cases} with naive, {without} more with dpor and stateful");
    println!("{broken} violate something; {} states in all", states.get());
    assert!(with >= at_least.naive, "{with}");
    assert!(without >= at_least.dpor, "{without}");
    assert!(broken >= at_least.broken, "{broken}");
}

/// Never found, so that everything is explored.
const NOTHING: Goal = Goal::of(Rule::Own("no-such-rule"));

fn explore(race: &Race, explorer: &mut dyn Explorer, limits: &Limits) -> Outcome {
    explorer.explore(race, &NOTHING, limits, &|_: &Stats| true)
}

/// What was violated.
pub(crate) fn violated(outcome: &Outcome) -> BTreeSet<Rule> {
    outcome.others.iter().map(|found| found.rule).collect()
}

/// What became of a case.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Compared {
    /// All three explorers finished.
    WithNaive,
    /// dpor and stateful did.
    WithoutNaive,
    /// It has too many states, or dpor did not finish.
    No,
}

/// What stateful saw of a scenario, and whether the others saw the same.
fn compared(race: &Race) -> Result<(Compared, Outcome), TestCaseError> {
    let bounded = Limits { executions_max: EXECUTIONS_MAX, steps_max: 1_000, ..Limits::default() };
    let few = Limits { states_max: STATES_MAX, ..Limits::default() };
    let quick = explore(race, &mut Stateful::default(), &few);
    if quick.verdict == Verdict::Inconclusive(Reason::States) {
        return Ok((Compared::No, quick));
    }
    let mut stateful = Stateful { graph: Some(Graph::default()), ..Stateful::default() };
    let by_state = explore(race, &mut stateful, &Limits::default());
    let graph = stateful.graph.expect("it was asked for");
    prop_assert_eq!(&by_state.verdict, &Verdict::Holds);
    prop_assert_eq!(graph.clashes, 0, "{:?}", graph.first_clash);
    let keys: BTreeSet<u128> = graph.keys().map(|key| key & !1).collect();
    let broken = violated(&by_state);

    let mut naive = Naive::default();
    let by_hand = explore(race, &mut naive, &bounded);
    let states: BTreeSet<u128> = naive.states.iter().map(|key| key & !1).collect();
    let finished = by_hand.verdict == Verdict::Holds;
    if finished {
        prop_assert_eq!(&by_hand.seen, &by_state.seen);
        prop_assert_eq!(violated(&by_hand), broken.clone());
        prop_assert_eq!(states, keys);
    } else {
        let cut = [Reason::Executions, Reason::Steps].map(Verdict::Inconclusive);
        prop_assert!(cut.contains(&by_hand.verdict), "{:?}", by_hand.verdict);
        prop_assert!(violated(&by_hand).is_subset(&broken));
        prop_assert!(states.is_subset(&keys));
    }

    let mut dpor = Dpor { record: Some(Record::default()), ..Dpor::default() };
    let by_trace = explore(race, &mut dpor, &bounded);
    let record = dpor.record.expect("it was asked for");
    if by_trace.verdict != Verdict::Holds {
        prop_assert!(!finished, "dpor needs more executions than naive");
        return Ok((Compared::No, by_state));
    }
    prop_assert_eq!(&by_trace.seen, &by_state.seen);
    prop_assert_eq!(violated(&by_trace), broken.clone());
    prop_assert_eq!(record.traces.len() as u64, by_trace.stats.executions, "a trace twice");
    if !finished {
        return Ok((Compared::WithoutNaive, by_state));
    }
    prop_assert!(record.traces.is_subset(&naive.traces));
    prop_assert!(record.finals.is_subset(&naive.finals));
    // A violation in mid-execution ends it, and dpor need not see every place where it does.
    let at_end = [Property::Migration.into(), Rule::DEADLOCK, Rule::LIVELOCK];
    if broken.iter().all(|rule| at_end.contains(rule)) {
        prop_assert_eq!(record.traces, naive.traces);
        prop_assert_eq!(record.finals, naive.finals);
    }
    Ok((Compared::WithNaive, by_state))
}

/// The same scenarios in every run, unless the environment says otherwise (`PROPTEST_RNG_SEED`).
fn config(cases: u32) -> ProptestConfig {
    let environment = ProptestConfig::default();
    let rng_seed = match environment.rng_seed {
        RngSeed::Random => RngSeed::Fixed(1),
        fixed => fixed,
    };
    ProptestConfig { rng_seed, failure_persistence: None, cases, ..environment }
}

/// What stateful saw of one scenario.
pub(crate) fn compare(race: &Race) -> Outcome {
    compared(race).unwrap_or_else(|error| panic!("{error}")).1
}
