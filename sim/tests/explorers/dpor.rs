//! Goal: dpor explores every Mazurkiewicz trace exactly once (ENGINE.md's table). Method: small
//! programs whose numbers of traces independent checkers agree on. `dpor_random.rs` has the
//! comparison with naive on random programs.

use kvmmu_sim::dpor::{Dpor, Order, Record};
use kvmmu_sim::mini::{FastFault, LastZero, Mini, Readers, Simulated, StoreBuffering};
use kvmmu_sim::outcome::{Outcome, Stats, Verdict};
use kvmmu_sim::replay::replay;
use kvmmu_sim::rule::Rule;
use kvmmu_sim::{Engine, Explorer, Goal, Limits, Sim};

fn run<M: Mini>(mini: M, dpor: &mut Dpor) -> Outcome
where
    M::On<Sim>: 'static,
{
    dpor.explore(&Simulated(mini), &Goal::ANY, &Limits::default(), &|_: &Stats| true)
}

/// Complete executions and, lowest thread first, cut ones, of a program that holds.
#[track_caller]
fn count<M: Mini + Copy>(mini: M, adds_commute: bool) -> (u64, u64)
where
    M::On<Sim>: 'static,
{
    let [highest, lowest] = [Order::HighestFirst, Order::LowestFirst].map(|order| {
        let mut dpor = Dpor { order, adds_commute, record: Some(Record::default()) };
        let outcome = run(mini, &mut dpor);
        assert_eq!(outcome.verdict, Verdict::Holds);
        let record = dpor.record.expect("it was asked for");
        assert_eq!(record.traces.len() as u64, outcome.stats.executions, "no trace twice");
        (record, outcome.stats)
    });
    assert_eq!(highest.0, lowest.0, "the order makes no difference but in what is cut");
    (lowest.1.executions, lowest.1.blocked)
}

#[test]
fn lastzero_and_readers_have_their_closed_form_of_traces() {
    assert_eq!(count(LastZero(3), false).0, 12);
    assert_eq!(count(LastZero(5), false), (64, 15));
    assert_eq!(count(LastZero(10), false).0, 3328);
    for n in 1..=10 {
        assert_eq!(count(Readers(n), false).0, 1 << n);
    }
    assert_eq!(count(StoreBuffering(2), false).0, 3);
    assert_eq!(count(StoreBuffering(3), false).0, 7);
}

#[test]
fn the_mini_fast_fault_has_as_many_traces_as_four_checkers_say() {
    for (writes, both, harvest, zap) in [(1, 18, 5, 6), (2, 58, 11, 8)] {
        let all = FastFault::new(1, writes);
        assert_eq!(count(FastFault { zap: false, ..all }, false).0, harvest);
        assert_eq!(count(FastFault { harvest: false, ..all }, false).0, zap);
        assert_eq!(count(all, false).0, both);
    }
    // The checkers count 1342 traces where two vCPUs that have written count in two orders. Neither
    // sees what it adds to, so that it is one.
    assert_eq!(count(FastFault::new(2, 1), false), (1094, 0));
}

#[test]
fn two_vcpus_with_two_writes_each_have_164294_traces() {
    let outcome = run(FastFault::new(2, 2), &mut Dpor::default());
    let stats = outcome.stats;
    assert_eq!((outcome.verdict, stats.executions, stats.blocked), (Verdict::Holds, 164_294, 247));
}

#[test]
fn the_lost_dirty_bit_is_found_and_replays() {
    for (vcpus, writes) in [(2, 1), (2, 2)] {
        let broken = FastFault { plain_store: true, ..FastFault::new(vcpus, writes) };
        let outcome = run(broken, &mut Dpor::default());
        assert_eq!(run(broken, &mut Dpor::default()).stats, outcome.stats);
        let Verdict::Violated(found) = outcome.verdict else { panic!("{:?}", outcome.verdict) };
        assert_eq!((found.rule, found.story), (Rule::Own("lost-dirty"), true));
        let mut engine = Engine::new(&Simulated(broken), Goal::ANY);
        let first = replay(&mut engine, &found.schedule).expect("it fits");
        assert_eq!(first.violation.as_ref().map(|v| v.rule), Some(Rule::Own("lost-dirty")));
        assert_eq!(Ok(first), replay(&mut engine, &found.schedule));
    }
}
