//! What the tests that draw random programs share: the settings, how many operations the threads of
//! a program have, and the comparison of strategies.

use std::collections::BTreeSet;

use kvmmu_scenarios::Property;
use kvmmu_scenarios::lockdep::Nesting;
use kvmmu_sim::dpor::{Dpor, Order, Record};
use kvmmu_sim::explore::clause::Clause;
use kvmmu_sim::naive::Naive;
use kvmmu_sim::outcome::{Outcome, Seen, Stats, Verdict};
use kvmmu_sim::program::Program;
use kvmmu_sim::rule::Rule;
use kvmmu_sim::stateful::Stateful;
use kvmmu_sim::{Explorer, Goal, Limits};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{RngSeed, TestRunner};

use super::{dpor_locks, dpor_random, dpor_rcu, persistent};

/// No rule is called so: whatever is violated, everything is explored.
pub(crate) const NOTHING: Rule = Rule::Own("no-such-rule");

/// The same programs in every run, 256 of each kind, unless the environment says otherwise
/// (`PROPTEST_RNG_SEED` and `PROPTEST_CASES`).
pub(crate) fn config() -> ProptestConfig {
    let from_environment = ProptestConfig::default();
    let rng_seed = match from_environment.rng_seed {
        RngSeed::Random => RngSeed::Fixed(2),
        fixed => fixed,
    };
    ProptestConfig {
        rng_seed,
        failure_persistence: None,
        max_global_rejects: 100_000,
        ..from_environment
    }
}

/// A program that can be printed.
pub(crate) trait Drawn: Program + std::fmt::Debug {}

impl<P: Program + std::fmt::Debug> Drawn for P {}

/// Random programs of a kind, and a goal with which everything is explored.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) goal: Goal,
    programs: BoxedStrategy<Box<dyn Drawn>>,
}

impl Kind {
    pub(crate) fn new<P: Drawn + 'static>(
        name: &'static str,
        goal: Goal,
        programs: impl Strategy<Value = P> + 'static,
    ) -> Kind {
        let programs = programs.prop_map(|program| Box::new(program) as Box<dyn Drawn>).boxed();
        Kind { name, goal, programs }
    }

    /// Programs of the kind, without end; the same ones each time, as [`config`] has it.
    pub(crate) fn draw(&self) -> impl Iterator<Item = Box<dyn Drawn>> {
        let mut runner = TestRunner::new(config());
        core::iter::from_fn(move || self.programs.new_tree(&mut runner).ok())
            .map(|tree| tree.current())
    }
}

/// All kinds.
pub(crate) fn kinds() -> Vec<Kind> {
    let [compound, violations] = dpor_random::kinds();
    let [locks, orders] = dpor_locks::kinds();
    let [laps, many] = persistent::kinds();
    vec![compound, violations, locks, orders, dpor_rcu::kind(), laps, many]
}

/// So many programs of each kind, with their numbers: the first ones of all kinds, the second ones.
pub(crate) fn in_turn(
    kinds: &[Kind],
    programs: usize,
) -> impl Iterator<Item = (usize, &Kind, Box<dyn Drawn>)> {
    let mut drawn: Vec<_> = kinds.iter().map(|kind| (kind, kind.draw())).collect();
    (0..programs * kinds.len()).map(move |i| {
        let (at, of) = (i / drawn.len(), i % drawn.len());
        let (kind, programs) = &mut drawn[of];
        (at, *kind, programs.next().expect("there is no end of them"))
    })
}

/// The operations of threads, of which there are as many as `sizes` says, and so many of each.
pub(crate) fn threads<Op: std::fmt::Debug + 'static>(
    sizes: impl Strategy<Value = Vec<usize>>,
    op: impl Strategy<Value = Op> + Clone + 'static,
) -> impl Strategy<Value = Vec<Vec<Op>>> {
    sizes.prop_flat_map(move |sizes| {
        sizes.into_iter().map(|n| vec(op.clone(), n)).collect::<Vec<_>>()
    })
}

pub(crate) fn explore(program: &dyn Program, goal: &Goal, explorer: &mut dyn Explorer) -> Outcome {
    // Enough for most programs; the others would take naive too long.
    let limits = Limits { executions_max: 20_000, ..Limits::default() };
    explorer.explore(program, goal, &limits, &|_: &Stats| true)
}

/// What was violated beside the goal, by rule and story.
pub(crate) fn others(outcome: &Outcome) -> Vec<(Rule, bool)> {
    let mut all: Vec<_> = outcome.others.iter().map(|f| (f.rule, f.story)).collect();
    all.sort_unstable();
    all
}

/// The same without cycles of lock orders, which follow from the orders: one that is closed by what
/// is wrong by itself, too, is not reported, and which acquisition closes it depends on what was
/// explored first.
fn violations(outcome: &Outcome) -> Vec<(Rule, bool)> {
    let cycle = Rule::Property(Property::LockCycle);
    others(outcome).into_iter().filter(|(rule, _)| *rule != cycle).collect()
}

/// The orders in which locks were taken.
pub(crate) fn nestings(outcome: &Outcome) -> Vec<Nesting> {
    outcome.locks.nestings().map(|(nesting, _)| nesting).collect()
}

/// What naive, dpor and few states found, which agree on verdicts and violations.
pub(crate) struct Agreed {
    pub(crate) naive: Naive,
    pub(crate) by_naive: Outcome,
    pub(crate) record: Record,
    pub(crate) by_dpor: Outcome,
    pub(crate) reduced: Outcome,
}

/// Explores everything twice. Programs that naive does not finish are left out.
pub(crate) fn agree(
    program: &dyn Program,
    goal: &Goal,
    adds_commute: bool,
    lowest: bool,
) -> Result<Agreed, TestCaseError> {
    let mut naive = Naive::default();
    naive.adds_commute = adds_commute;
    let by_naive = explore(program, goal, &mut naive);
    prop_assume!(by_naive.verdict == Verdict::Holds);
    let reduced = reduced_agrees(program, goal)?;
    prop_assert_eq!(violations(&reduced), violations(&by_naive));
    prop_assert_eq!(&reduced.seen, &by_naive.seen);
    let order = if lowest { Order::LowestFirst } else { Order::HighestFirst };
    let mut dpor = Dpor { order, adds_commute, record: Some(Record::default()) };
    let by_dpor = explore(program, goal, &mut dpor);
    let record = dpor.record.expect("it was asked for");
    prop_assert_eq!(&by_dpor.verdict, &by_naive.verdict);
    prop_assert_eq!(violations(&by_dpor), violations(&by_naive));
    prop_assert_eq!(record.traces.len() as u64, by_dpor.stats.executions, "a trace twice");
    Ok(Agreed { naive, by_naive, record, by_dpor, reduced })
}

/// What an exploration of all that a program can do has to find.
#[derive(Debug, PartialEq)]
pub(crate) struct Found {
    verdict: Verdict,
    violations: Vec<(Rule, bool)>,
    seen: Seen,
    /// The keys of the shared state at the ends of executions.
    finals: Option<BTreeSet<u128>>,
    lock_orders: Vec<Nesting>,
}

/// What `outcome` has found, and where executions ended.
pub(crate) fn found(outcome: &Outcome, finals: Option<BTreeSet<u128>>) -> Found {
    Found {
        verdict: outcome.verdict.clone(),
        violations: violations(outcome),
        seen: outcome.seen.clone(),
        finals,
        lock_orders: nestings(outcome),
    }
}

/// What exploring by states finds: all of them, or few and all clauses but one.
pub(crate) fn by_states(
    program: &dyn Program,
    goal: &Goal,
    reduced: bool,
    removed: Option<Clause>,
) -> (Found, Outcome) {
    let finals = Some(BTreeSet::new());
    let mut stateful = Stateful { reduced, removed, finals, ..Stateful::default() };
    let outcome = explore(program, goal, &mut stateful);
    (found(&outcome, stateful.finals), outcome)
}

/// Explores everything by states, all of them and as few as are enough: the same verdict,
/// violations, ends, witnesses and lock orders. Returns what the reduced search found.
pub(crate) fn reduced_agrees(program: &dyn Program, goal: &Goal) -> Result<Outcome, TestCaseError> {
    let [full, reduced] = [false, true].map(|reduced| by_states(program, goal, reduced, None));
    prop_assume!(!matches!(full.0.verdict, Verdict::Inconclusive(_)));
    prop_assert_eq!(&reduced.0, &full.0);
    prop_assert!(reduced.1.stats.states <= full.1.stats.states);
    Ok(reduced.1)
}
