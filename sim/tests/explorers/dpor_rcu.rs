//! Goal: dpor and stateful see what naive sees where programs use RCU, and that keeps what it
//! promises. Method: random small programs, with lock checks off so that threads may wait for
//! themselves; observers that know who reads.

use kvmmu_model::{LockClass, Object, Ordering::SeqCst, Platform, Rcu, Tag, Word};
use kvmmu_sim::program::{Instance, Program};
use kvmmu_sim::rule::Rule;
use kvmmu_sim::{Goal, Sim, SimCell, SimRcu, SimWord};
use proptest::prelude::*;

use super::dpor_locks::compare;
use super::random::{self, Kind, NOTHING};

const WORDS: usize = 2;
const THREADS: usize = 4;
/// How many callbacks a thread calls at most: all of them together fill the queue.
const CALLS: usize = 2;

#[derive(Clone, Debug)]
enum Op {
    Load(usize),
    Store(usize, u64),
    /// Does the second operation if the word holds the value.
    If(usize, u64, Box<Op>),
    /// Is in a read section.
    Section(Box<Op>),
    Synchronize,
    Call,
    /// Waits for a callback and runs it: writes the word.
    Run(usize),
    Both(Box<Op>, Box<Op>),
}

#[derive(Clone, Debug)]
struct Random {
    threads: Vec<Vec<Op>>,
    /// A thread more runs callbacks until the last of the others has closed the domain.
    drained: bool,
    /// Observers look who reads. Without them the explorers are alone with the callbacks.
    watched: bool,
}

/// What observers know.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Seen {
    /// How many sections each thread has begun.
    begun: [u8; THREADS],
    /// A bit for each thread that is in one.
    open: u8,
    /// The same when each callback was called.
    at_call: [[([u8; THREADS], u8); CALLS]; THREADS],
    /// How many callbacks of each thread were taken.
    taken: [u8; THREADS],
}

struct Built {
    program: Random,
    sim: Sim,
    words: Vec<SimWord>,
    /// How many threads may still call.
    callers: SimCell<usize>,
    rcu: SimRcu,
    seen: SimCell<Seen>,
}

impl Program for Random {
    fn threads(&self) -> Vec<String> {
        (0..self.threads.len() + usize::from(self.drained)).map(|t| format!("t{t}")).collect()
    }
    fn lock_checks(&self) -> bool {
        false
    }
    fn build(&self, sim: &Sim) -> Box<dyn Instance> {
        Box::new(Built {
            program: self.clone(),
            sim: *sim,
            words: (0..WORDS).map(|i| sim.word(Tag::nth(Object::Var, i), 0)).collect(),
            callers: sim.cell(self.threads.len()),
            rcu: sim.rcu(LockClass::VarRcu.one()),
            seen: sim.cell(Seen::default()),
        })
    }
}

impl Instance for Built {
    fn run(&self, thread: usize) {
        let Some(ops) = self.program.threads.get(thread) else {
            while self.take() {}
            return;
        };
        let mut calls = 0;
        for op in ops {
            self.op(thread, op, false, &mut calls);
        }
        if self.program.drained {
            let left = self.callers.with(|callers| {
                *callers -= 1;
                *callers
            });
            self.sim.observe(&left);
            if left == 0 {
                self.rcu.close();
            }
        }
    }
    fn stop(&self) {
        if self.program.drained && self.rcu.wait_ripe().is_some() {
            self.sim.violate(Rule::Own("drained"), String::new);
        }
    }
}

impl Built {
    /// Carries out an operation of a thread that has called so many callbacks.
    fn op(&self, t: usize, op: &Op, inside: bool, calls: &mut usize) {
        let w = &self.words;
        match op {
            Op::Load(i) => drop(w[*i].load(SeqCst)),
            Op::Store(i, v) => w[*i].store(*v, SeqCst),
            Op::If(i, v, then) => {
                if w[*i].load(SeqCst) == *v {
                    self.op(t, then, inside, calls);
                }
            }
            Op::Section(inner) => {
                let _section = self.rcu.read_lock();
                if !inside {
                    self.observe(|seen| {
                        seen.begun[t] += 1;
                        seen.open |= 1 << t;
                    });
                }
                self.op(t, inner, true, calls);
                if !inside {
                    self.observe(|seen| seen.open &= !(1 << t));
                }
            }
            Op::Synchronize => self.rcu.synchronize(),
            Op::Call if *calls == CALLS => {}
            Op::Call => {
                self.rcu.call((t * CALLS + *calls) as u64);
                self.observe(|seen| seen.at_call[t][*calls] = (seen.begun, seen.open));
                *calls += 1;
            }
            Op::Run(word) => {
                self.take();
                w[*word].store(1, SeqCst);
            }
            Op::Both(first, second) => {
                self.op(t, first, inside, calls);
                self.op(t, second, inside, calls);
            }
        }
    }

    fn observe(&self, f: impl FnOnce(&mut Seen)) {
        if self.program.watched {
            self.seen.with(f);
        }
    }

    /// Takes a callback; false: there are no more.
    fn take(&self) -> bool {
        let Some(callback) = self.rcu.wait_ripe() else { return false };
        let (t, call) = (callback as usize / CALLS, callback as usize % CALLS);
        self.observe(|seen| {
            let (begun, open) = seen.at_call[t][call];
            let still = |t: usize| (open & seen.open) >> t & 1 == 1 && begun[t] == seen.begun[t];
            if (0..THREADS).any(still) {
                self.sim.violate(Rule::Own("grace-period"), || format!("{callback}: {seen:?}"));
            }
            if usize::from(seen.taken[t]) != call {
                self.sim.violate(Rule::Own("order"), || format!("{callback}: {seen:?}"));
            }
            seen.taken[t] += 1;
        });
        true
    }
}

fn op(depth: u32) -> BoxedStrategy<Op> {
    let (word, v) = (|| 0..WORDS, || 0..2u64);
    let simple = prop_oneof![
        1 => word().prop_map(Op::Load),
        2 => (word(), v()).prop_map(|(i, v)| Op::Store(i, v)),
        1 => Just(Op::Synchronize),
        4 => Just(Op::Call),
        2 => word().prop_map(Op::Run),
    ];
    if depth == 0 {
        return simple.boxed();
    }
    let inner = || op(depth - 1).prop_map(Box::new);
    prop_oneof![
        4 => simple,
        1 => (word(), v(), inner()).prop_map(|(i, v, op)| Op::If(i, v, op)),
        5 => inner().prop_map(Op::Section),
        2 => (inner(), inner()).prop_map(|(a, b)| Op::Both(a, b)),
    ]
    .boxed()
}

fn program() -> impl Strategy<Value = Random> {
    let free = prop_oneof![
        3 => prop::collection::vec(1..=3usize, 2),
        3 => prop::collection::vec(1..=2usize, 3),
        1 => prop::collection::vec(1..=1usize, 4),
    ];
    let drained = prop_oneof![
        3 => prop::collection::vec(1..=2usize, 2),
        1 => prop::collection::vec(1..=1usize, 3),
    ];
    let threads = |sizes, drained| (random::threads(sizes, op(2)), Just(drained));
    let threads = prop_oneof![threads(free.boxed(), false), threads(drained.boxed(), true)];
    (threads, any::<bool>()).prop_map(|((threads, drained), watched)| Random {
        threads,
        drained,
        watched,
    })
}

/// Programs for other tests.
pub(super) fn kind() -> Kind {
    Kind::new("RCU callbacks", Goal::of(NOTHING), program())
}

proptest! {
    #![proptest_config(random::config())]

    #[test]
    fn explorers_agree_on_rcu(
        program in program(),
        adds_commute in any::<bool>(),
        lowest in any::<bool>(),
    ) {
        compare(&program, adds_commute, lowest)?;
    }
}
