//! Goal: exploring few threads of a state finds what exploring all of them finds.
//! Method: random programs that go round for ever, wait, and have many threads, each explored by
//! all states and by few; those of the other tests are, too (`random::agree`). Where one clause of
//! the argument alone matters there is a program for it. And every built-in variant, with its goal
//! and with none, up to a number of states: `KVMMU_STATES_MAX` has another, and 20 million takes
//! all of them.

use std::collections::BTreeSet;

use kvmmu_model::{
    GuardSet, Lock, LockClass, Object, Ordering::SeqCst, Platform, Tag, Until, Word,
};
use kvmmu_scenarios::{builtin, loader};
use kvmmu_sim::graph::Graph;
use kvmmu_sim::outcome::{Outcome, Reason, Verdict};
use kvmmu_sim::program::{Instance, Program};
use kvmmu_sim::race::Race;
use kvmmu_sim::rule::Rule;
use kvmmu_sim::stateful::Stateful;
use kvmmu_sim::{Explorer, Goal, Limits, Sim, SimLock, SimWord};
use proptest::prelude::*;

use super::random::{self, Kind, NOTHING, others, reduced_agrees};

/// The most states of a variant that is compared.
const STATES_MAX: u64 = 30_000;

const WORDS: usize = 3;

#[derive(Clone, Debug)]
pub(super) enum Op {
    Load(usize),
    Store(usize, u64),
    Add(usize),
    /// Adds, up to 3.
    AddFew(usize),
    Locked(Box<Op>),
    WaitIs(usize, u64),
    /// Reads the word until it holds the value, for ever if need be.
    Spin(usize, u64),
    /// Goes round until the first word holds the value; writes the second one in each lap.
    Toggle(usize, u64, usize),
    /// A violation, if the word holds the value.
    Forbid(usize, u64),
}

#[derive(Clone, Debug)]
pub(super) struct Laps {
    pub(super) threads: Vec<Vec<Op>>,
}

struct Built {
    threads: Vec<Vec<Op>>,
    sim: Sim,
    words: Vec<SimWord>,
    lock: SimLock<u64>,
}

impl Program for Laps {
    fn lock_checks(&self) -> bool {
        false
    }
    fn threads(&self) -> Vec<String> {
        (0..self.threads.len()).map(|t| format!("t{t}")).collect()
    }
    fn build(&self, sim: &Sim) -> Box<dyn Instance> {
        Box::new(Built {
            threads: self.threads.clone(),
            sim: *sim,
            words: (0..WORDS).map(|i| sim.word(Tag::nth(Object::Var, i), 0)).collect(),
            lock: sim.lock(LockClass::VarLock.one(), 0),
        })
    }
}

impl Instance for Built {
    fn run(&self, thread: usize) {
        for (i, op) in self.threads[thread].iter().enumerate() {
            self.sim.checkpoint(i);
            self.op(i, op);
        }
    }
    fn stop(&self) {
        if self.words[0].load(SeqCst) == 2 {
            self.sim.violate(Rule::Own("at-stop"), || "word 0 holds 2".to_string());
        }
    }
    fn choices(&self, _request: u64) -> u8 {
        1
    }
}

impl Built {
    /// The `at`-th operation of a thread: what is left to do is a part of the state in each lap.
    fn op(&self, at: usize, op: &Op) {
        let w = &self.words;
        match op {
            Op::Load(i) => {
                w[*i].load(SeqCst);
            }
            Op::Store(i, v) => w[*i].store(*v, SeqCst),
            Op::Add(i) => {
                w[*i].fetch_add(1, SeqCst);
            }
            Op::AddFew(i) => {
                let old = w[*i].load(SeqCst);
                if old < 3 {
                    let _ = w[*i].compare_exchange(old, old + 1, SeqCst, SeqCst);
                }
            }
            Op::Locked(inner) => {
                let mut data = self.lock.lock();
                *data = (*data + 1) % 3;
                self.op(at, inner);
            }
            Op::WaitIs(i, v) => {
                w[*i].wait_until(Until::Is(*v));
            }
            Op::Spin(i, v) => loop {
                self.sim.checkpoint(at);
                if w[*i].load(SeqCst) == *v {
                    break;
                }
            },
            Op::Toggle(i, v, j) => loop {
                self.sim.checkpoint(at);
                if w[*i].load(SeqCst) == *v {
                    break;
                }
                let old = w[*j].load(SeqCst);
                w[*j].store(1 - old.min(1), SeqCst);
            },
            Op::Forbid(i, v) => {
                if w[*i].load(SeqCst) == *v {
                    self.sim.violate(Rule::Own("forbidden"), || format!("word {i} holds {v}"));
                }
            }
        }
    }
}

fn op() -> impl Strategy<Value = Op> + Clone {
    let (w, v) = (|| 0..WORDS, || 0..3u64);
    let simple = prop_oneof![
        2 => w().prop_map(Op::Load),
        4 => (w(), v()).prop_map(|(i, v)| Op::Store(i, v)),
        2 => w().prop_map(Op::Add),
        2 => w().prop_map(Op::AddFew),
        2 => (w(), v()).prop_map(|(i, v)| Op::WaitIs(i, v)),
        3 => (w(), v()).prop_map(|(i, v)| Op::Spin(i, v)),
        2 => (w(), v(), w()).prop_map(|(i, v, j)| Op::Toggle(i, v, j)),
        1 => (w(), v()).prop_map(|(i, v)| Op::Forbid(i, v)),
    ]
    .boxed();
    prop_oneof![
        5 => simple.clone(),
        1 => simple.prop_map(|op| Op::Locked(Box::new(op))),
    ]
    .boxed()
}

/// Threads of so many operations.
fn laps(sizes: impl Strategy<Value = Vec<usize>>) -> impl Strategy<Value = Laps> {
    random::threads(sizes, op()).prop_map(|threads| Laps { threads })
}

/// Threads of which each set has a future of its own.
fn few_threads() -> impl Strategy<Value = Laps> {
    laps(prop_oneof![
        2 => prop::collection::vec(1..=4usize, 2),
        3 => prop::collection::vec(1..=3usize, 3),
        1 => prop::collection::vec(1..=2usize, 4),
    ])
}

/// More threads than that.
fn many_threads() -> impl Strategy<Value = Laps> {
    laps(prop_oneof![
        3 => prop::collection::vec(1..=2usize, 5),
        1 => prop::collection::vec(1..=1usize, 6),
    ])
}

/// Programs for other tests.
pub(super) fn kinds() -> [Kind; 2] {
    [
        Kind::new("laps", Goal::of(NOTHING), few_threads()),
        Kind::new("laps of many threads", Goal::of(NOTHING), many_threads()),
    ]
}

/// Explores everything, and checks that the keys are honest.
fn compare(program: &Laps) -> Result<Vec<Rule>, TestCaseError> {
    let mut recording = Stateful { graph: Some(Graph::default()), ..Stateful::default() };
    random::explore(program, &Goal::of(NOTHING), &mut recording);
    let graph = recording.graph.expect("it was asked for");
    prop_assert_eq!(graph.clashes, 0, "{:?}", graph.first_clash);
    let outcome = reduced_agrees(program, &Goal::of(NOTHING))?;
    Ok(others(&outcome).into_iter().map(|(rule, _)| rule).collect())
}

/// Threads that are in each other's way nowhere: a state for each step, and no more.
#[test]
fn of_threads_that_share_nothing_one_order_is_explored() {
    let program = Laps { threads: (0..3).map(|i| vec![Op::Store(i, 1), Op::Load(i)]).collect() };
    let outcome = reduced_agrees(&program, &Goal::of(NOTHING)).expect("they agree");
    assert_eq!(outcome.stats.states, 1 + 3 * 2);
}

/// What a blocked thread waits for is a part of its future: else the step that ends the wait seems
/// to commute with it.
#[test]
fn a_step_that_ends_a_wait_is_not_alone() {
    for threads in [
        vec![vec![Op::WaitIs(0, 1)], vec![Op::Store(0, 1)], vec![Op::Store(0, 0)]],
        vec![vec![Op::WaitIs(1, 1), Op::Store(0, 1)], vec![Op::Add(1), Op::Add(1)]],
    ] {
        assert_eq!(compare(&Laps { threads }).expect("they agree"), [Rule::DEADLOCK]);
    }
}

/// A violation ends an execution: what others could have done before it is explored there.
#[test]
fn others_go_on_before_a_violation() {
    let threads = vec![vec![Op::Forbid(0, 0)], vec![Op::Store(1, 1), Op::Forbid(1, 1)]];
    compare(&Laps { threads }).expect("they agree");
    let threads = vec![vec![Op::Forbid(0, 0)], vec![Op::WaitIs(1, 1)]];
    compare(&Laps { threads }).expect("they agree");
}

/// A thread that goes round for ever must not keep the others from being explored.
#[test]
fn a_lap_is_left() {
    let spinning = vec![vec![Op::Spin(0, 1)], vec![Op::Store(1, 1), Op::Store(1, 2)]];
    assert_eq!(compare(&Laps { threads: spinning }).expect("they agree"), [Rule::LIVELOCK]);
    let toggling = vec![vec![Op::Toggle(0, 1, 1)], vec![Op::Store(1, 2), Op::Forbid(1, 2)]];
    let rules = compare(&Laps { threads: toggling }).expect("they agree");
    assert!(rules.contains(&Rule::LIVELOCK) && rules.contains(&Rule::Own("forbidden")));
}

#[test]
fn on_every_variant_few_states_find_what_all_find() {
    let most = std::env::var("KVMMU_STATES_MAX").ok().and_then(|n| n.parse().ok());
    let limits = Limits { states_max: most.unwrap_or(STATES_MAX), ..Limits::default() };
    let (mut compared, mut left_out) = (0, 0);
    for (file, text) in builtin::FILES {
        let scenario = loader::load(file, text, 1).expect("built-in files load");
        let correct = [GuardSet::EMPTY].into_iter();
        let variants: BTreeSet<_> =
            correct.chain(scenario.expects.iter().map(|e| e.without)).collect();
        for without in variants {
            let race = Race::new(scenario.clone(), without);
            let everything = Goal { rule: Some(NOTHING), ..race.goal() };
            for goal in [race.goal(), everything] {
                let [full, reduced] = [false, true].map(|reduced| {
                    let mut stateful = Stateful { reduced, ..Stateful::default() };
                    stateful.explore(&race, &goal, &limits, &|_| true)
                });
                let at = format!("{file} without {without:?}, {:?}", goal.rule);
                match (&full.verdict, &reduced.verdict) {
                    (Verdict::Inconclusive(Reason::States), _) => {
                        left_out += 1;
                        continue;
                    }
                    (Verdict::Violated(one), Verdict::Violated(other)) => {
                        assert_eq!((one.rule, one.story), (other.rule, other.story), "{at}");
                    }
                    (one, other) => {
                        assert_eq!(one, other, "{at}");
                        assert_eq!(full.seen, reduced.seen, "{at}");
                        assert_eq!(others(&full), others(&reduced), "{at}");
                        let orders = |o: &Outcome| -> Vec<_> {
                            o.locks.nestings().map(|(nesting, _)| nesting).collect()
                        };
                        assert_eq!(orders(&full), orders(&reduced), "{at}");
                    }
                }
                compared += 1;
            }
        }
    }
    println!("{compared} compared, {left_out} left out");
    assert!(compared > 200 && (most.is_none() || left_out == 0), "{compared}, {left_out}");
}

proptest! {
    #![proptest_config(random::config())]

    #[test]
    fn laps_waits_and_violations(program in few_threads()) {
        compare(&program)?;
    }

    #[test]
    fn laps_of_many_threads(program in many_threads()) {
        compare(&program)?;
    }
}
