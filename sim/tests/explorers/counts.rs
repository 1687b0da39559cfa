//! Goal: the explorers reach exactly what independent checkers reach (ENGINE.md's table).
//! Method: small programs with known numbers of traces, and the naive explorer as the oracle.

use kvmmu_sim::Actor;
use kvmmu_sim::graph::Graph;
use kvmmu_sim::mini::{FastFault, LastZero, Mini, Readers, Simulated, StoreBuffering};
use kvmmu_sim::minimise::minimise;
use kvmmu_sim::naive::Naive;
use kvmmu_sim::outcome::{Outcome, Reason, Stats, Verdict};
use kvmmu_sim::pct::Pct;
use kvmmu_sim::program::Program;
use kvmmu_sim::random::Random;
use kvmmu_sim::replay::replay;
use kvmmu_sim::rule::Rule;
use kvmmu_sim::schedule::{Move, Schedule};
use kvmmu_sim::stateful::Stateful;
use kvmmu_sim::{Auto, Engine, Explorer, Goal, Limits};

fn run(program: &dyn Program, explorer: &mut dyn Explorer) -> Outcome {
    explorer.explore(program, &Goal::ANY, &Limits::default(), &|_: &Stats| true)
}

fn naive<M: Mini>(mini: M) -> Naive
where
    M::On<kvmmu_sim::Sim>: 'static,
{
    let mut naive = Naive::default();
    let outcome = run(&Simulated(mini), &mut naive);
    assert_eq!(outcome.verdict, Verdict::Holds);
    naive
}

#[test]
fn lastzero_and_readers_have_their_closed_form_of_traces() {
    assert_eq!(naive(LastZero(2)).traces.len(), 5);
    assert_eq!(naive(LastZero(3)).traces.len(), 12);
    assert_eq!(naive(Readers(3)).traces.len(), 8);
    assert_eq!(naive(StoreBuffering(2)).traces.len(), 3);
    assert_eq!(naive(StoreBuffering(3)).traces.len(), 7);
}

#[test]
fn the_mini_fast_fault_has_as_many_traces_as_four_checkers_say() {
    for (writes, both, harvest, zap) in [(1, 18, 5, 6), (2, 58, 11, 8)] {
        let all = FastFault::new(1, writes);
        assert_eq!(naive(FastFault { zap: false, ..all }).traces.len(), harvest);
        assert_eq!(naive(FastFault { harvest: false, ..all }).traces.len(), zap);
        assert_eq!(naive(all).traces.len(), both);
    }
}

#[test]
fn stateful_reaches_exactly_the_states_that_naive_reaches() {
    fn compare<M: Mini + Copy>(mini: M)
    where
        M::On<kvmmu_sim::Sim>: 'static,
    {
        let oracle = naive(mini);
        let mut stateful = Stateful { graph: Some(Graph::default()), ..Stateful::default() };
        let outcome = run(&Simulated(mini), &mut stateful);
        assert_eq!(outcome.verdict, Verdict::Holds);
        let graph = stateful.graph.expect("it was asked for");
        assert!(graph.keys().map(|key| key & !1).eq(oracle.states.iter().map(|key| key & !1)));
        assert_eq!(graph.clashes, 0);
        assert_eq!(outcome.stats.states as usize, oracle.states.len());
        assert!(graph.quotient() <= graph.states());
    }
    compare(LastZero(4));
    compare(Readers(4));
    compare(FastFault::new(1, 1));
    compare(FastFault::new(1, 2));
}

#[test]
fn two_and_three_vcpus_have_so_many_states_on_every_run() {
    // (vCPUs, writes, states, transitions). A hand-written step machine has 17,440 and 64,005
    // states; checkpoints forget more.
    for (vcpus, writes, states, transitions) in
        [(2, 1, 1485, 3718), (2, 2, 8134, 21_291), (3, 1, 27_027, 91_454)]
    {
        let program = Simulated(FastFault::new(vcpus, writes));
        let outcome = run(&program, &mut Stateful::default());
        assert_eq!(outcome.verdict, Verdict::Holds);
        assert_eq!((outcome.stats.states, outcome.stats.transitions), (states, transitions));
        assert_eq!(run(&program, &mut Stateful::default()).stats, outcome.stats);
    }
    let mut stateful = Stateful { graph: Some(Graph::default()), ..Stateful::default() };
    run(&Simulated(FastFault::new(2, 1)), &mut stateful);
    let graph = stateful.graph.expect("it was asked for");
    assert_eq!((graph.states(), graph.quotient(), graph.clashes), (1485, 1106, 0));
}

#[test]
fn every_strategy_finds_the_lost_dirty_bit() {
    let broken = Simulated(FastFault { plain_store: true, ..FastFault::new(2, 1) });
    let explorers: [&mut dyn Explorer; 5] = [
        &mut Stateful::default(),
        &mut Stateful { switches_max: Some(4), ..Stateful::default() },
        &mut Random,
        &mut Pct::default(),
        &mut Auto::default(),
    ];
    for explorer in explorers {
        let outcome = run(&broken, explorer);
        let Verdict::Violated(found) = outcome.verdict else { panic!("{:?}", outcome.verdict) };
        assert_eq!((found.rule, found.story), (Rule::Own("lost-dirty"), true));
        let mut engine = Engine::new(&broken, Goal::ANY);
        let first = replay(&mut engine, &found.schedule).expect("it fits");
        let second = replay(&mut engine, &found.schedule).expect("it fits");
        assert_eq!(first, second);
        assert_eq!(first.violation.map(|v| v.rule), Some(Rule::Own("lost-dirty")));
        assert!(first.complete && !first.events.is_empty());
        let mut fresh = Engine::new(&broken, Goal::ANY);
        assert_eq!(replay(&mut fresh, &found.schedule).as_ref(), Ok(&second));
    }
}

#[test]
fn minimise_finds_the_fewest_switches_and_then_the_fewest_steps() {
    let broken = Simulated(FastFault { plain_store: true, ..FastFault::new(2, 1) });
    let outcome = run(&broken, &mut Random);
    let Verdict::Violated(found) = outcome.verdict else { panic!("{:?}", outcome.verdict) };
    let mut engine = Engine::new(&broken, Goal::ANY);
    let exact = minimise(&mut engine, &found.schedule, &Limits::default(), &|_| true);
    assert!(exact.exact);
    let switches = exact.schedule.context_switches() as u32;
    for bound in 0..=switches {
        let mut stateful = Stateful { switches_max: Some(bound), ..Stateful::default() };
        let violated = matches!(run(&broken, &mut stateful).verdict, Verdict::Violated(_));
        assert_eq!(violated, bound == switches);
    }
    assert_eq!(exact.cut, None);
    let few = Limits { states_max: 10, ..Limits::default() };
    let rough = minimise(&mut engine, &found.schedule, &few, &|_| true);
    assert!(!rough.exact && rough.schedule.context_switches() >= switches as usize);
    assert_eq!(rough.cut, Some(Reason::States));
    for schedule in [exact.schedule, rough.schedule] {
        let replay = replay(&mut engine, &schedule).expect("it fits");
        assert_eq!(replay.violation.map(|v| v.rule), Some(Rule::Own("lost-dirty")));
    }
}

#[test]
fn a_schedule_that_does_not_fit_names_the_step() {
    let mut engine = Engine::new(&Simulated(Readers(1)), Goal::ANY);
    let moves = [0, 0].map(|thread| Move { actor: Actor::Thread(thread), choice: 0 });
    let error = replay(&mut engine, &Schedule(moves.to_vec())).expect_err("one step is all it has");
    assert_eq!(error.to_string(), "step 2: move 0 is not possible; possible are: 1");
}
