//! What the tests that draw random programs share: the settings, how many operations the threads of
//! a program have, and the comparison of strategies.

use std::collections::BTreeSet;

use kvmmu_sim::dpor::{Dpor, Order, Record};
use kvmmu_sim::naive::Naive;
use kvmmu_sim::outcome::{Outcome, Stats, Verdict};
use kvmmu_sim::program::Program;
use kvmmu_sim::rule::Rule;
use kvmmu_sim::stateful::Stateful;
use kvmmu_sim::{Explorer, Goal, Limits};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// No rule is called so: whatever is violated, everything is explored.
pub(crate) const NOTHING: Rule = Rule::Own("no-such-rule");

/// The same programs in every run, unless the environment says otherwise (`PROPTEST_RNG_SEED`).
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

/// What naive and dpor found, which agree on verdicts and violations.
pub(crate) struct Agreed {
    pub(crate) naive: Naive,
    pub(crate) by_naive: Outcome,
    pub(crate) record: Record,
    pub(crate) by_dpor: Outcome,
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
    prop_assert_eq!(others(&reduced), others(&by_naive));
    prop_assert_eq!(&reduced.seen, &by_naive.seen);
    let order = if lowest { Order::LowestFirst } else { Order::HighestFirst };
    let mut dpor = Dpor { order, adds_commute, record: Some(Record::default()) };
    let by_dpor = explore(program, goal, &mut dpor);
    let record = dpor.record.expect("it was asked for");
    prop_assert_eq!(&by_dpor.verdict, &by_naive.verdict);
    prop_assert_eq!(others(&by_dpor), others(&by_naive));
    prop_assert_eq!(record.traces.len() as u64, by_dpor.stats.executions, "a trace twice");
    Ok(Agreed { naive, by_naive, record, by_dpor })
}

/// Explores everything by states, all of them and as few as are enough: the same verdict,
/// violations, ends, witnesses and lock orders. Returns what the reduced search found.
pub(crate) fn reduced_agrees(program: &dyn Program, goal: &Goal) -> Result<Outcome, TestCaseError> {
    let [full, reduced] = [false, true].map(|reduced| {
        let finals = Some(BTreeSet::new());
        let mut stateful = Stateful { reduced, finals, ..Stateful::default() };
        let outcome = explore(program, goal, &mut stateful);
        (outcome, stateful.finals)
    });
    prop_assume!(!matches!(full.0.verdict, Verdict::Inconclusive(_)));
    prop_assert_eq!(&reduced.0.verdict, &full.0.verdict);
    prop_assert_eq!(others(&reduced.0), others(&full.0));
    prop_assert_eq!(&reduced.0.seen, &full.0.seen);
    prop_assert_eq!(&reduced.1, &full.1, "ends of executions");
    let orders = |outcome: &Outcome| -> Vec<_> {
        outcome.locks.nestings().map(|(nesting, _)| nesting).collect()
    };
    prop_assert_eq!(orders(&reduced.0), orders(&full.0));
    prop_assert!(reduced.0.stats.states <= full.0.stats.states);
    Ok(reduced.0)
}
