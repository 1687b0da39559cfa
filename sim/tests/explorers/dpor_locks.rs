//! Goal: dpor and stateful see what naive sees where programs use read-write locks and SRCU, and
//! these keep what they promise. Method: random small programs, with lock checks off so that orders
//! may be wrong and threads may wait for themselves; observers who know who is inside.

use kvmmu_model::{
    Lock, LockClass, Object, Ordering::SeqCst, Platform, RwLock, Srcu, Tag, Until, Word,
};
use kvmmu_sim::Actor;
use kvmmu_sim::dpor::Dpor;
use kvmmu_sim::graph::Graph;
use kvmmu_sim::outcome::Verdict;
use kvmmu_sim::program::{Instance, Program};
use kvmmu_sim::rule::Rule;
use kvmmu_sim::schedule::Move;
use kvmmu_sim::stateful::Stateful;
use kvmmu_sim::{Engine, Explorer, Goal, Sim, SimCell, SimLock, SimRwLock, SimSrcu, SimWord};
use proptest::prelude::*;

use super::random::{self, Agreed, Kind, NOTHING, agree, explore, nestings, others};

const WORDS: usize = 2;
const LOCKS: usize = 2;
const SRCUS: usize = 2;

#[derive(Clone, Debug)]
enum Op {
    Load(usize),
    Store(usize, u64),
    Add(usize),
    FetchAdd(usize),
    WaitNot(usize, u64),
    /// Does the second operation if the word holds the value.
    If(usize, u64, Box<Op>),
    /// Holds a mutex around the second operation.
    Locked(usize, Box<Op>),
    /// Has a read-write lock for reading.
    Read(usize, Box<Op>),
    /// Has it alone.
    Write(usize, Box<Op>),
    /// Has it for reading, and does the second operation if its data is the value.
    See(usize, u8, Box<Op>),
    /// Has it alone, and changes its data before and after the second operation.
    Change(usize, Box<Op>),
    /// Is in a read section.
    Section(usize, Box<Op>),
    Synchronize(usize),
    Both(Box<Op>, Box<Op>),
}

#[derive(Clone, Debug)]
struct Random {
    threads: Vec<Vec<Op>>,
    /// Observers look who is inside. Without them the explorers are alone with the locks.
    watched: bool,
    /// The use of locks is checked, so that their orders are seen.
    checked: bool,
}

/// Who has a read-write lock, a bit for each thread.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Owners {
    readers: u8,
    writers: u8,
}

/// The outermost read sections of an SRCU.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Sections {
    /// How many each thread has begun.
    begun: [u8; 4],
    /// A bit for each thread that is in one.
    open: u8,
}

struct Built {
    program: Random,
    sim: Sim,
    words: Vec<SimWord>,
    locks: Vec<SimLock<()>>,
    rw_locks: Vec<SimRwLock<u8>>,
    srcus: Vec<SimSrcu>,
    owners: Vec<SimCell<Owners>>,
    sections: Vec<SimCell<Sections>>,
}

impl Program for Random {
    fn threads(&self) -> Vec<String> {
        (0..self.threads.len()).map(|t| format!("t{t}")).collect()
    }
    fn lock_checks(&self) -> bool {
        self.checked
    }
    fn build(&self, sim: &Sim) -> Box<dyn Instance> {
        Box::new(Built {
            program: self.clone(),
            sim: *sim,
            words: (0..WORDS).map(|i| sim.word(Tag::nth(Object::Var, i), 0)).collect(),
            locks: (0..LOCKS).map(|i| sim.lock(LockClass::VarLock.nth(i), ())).collect(),
            rw_locks: (0..LOCKS).map(|i| sim.rw_lock(LockClass::VarRwLock.nth(i), 0)).collect(),
            srcus: (0..SRCUS).map(|i| sim.srcu(LockClass::VarSrcu.nth(i))).collect(),
            owners: (0..LOCKS).map(|_| sim.cell(Owners::default())).collect(),
            sections: (0..SRCUS).map(|_| sim.cell(Sections::default())).collect(),
        })
    }
}

impl Instance for Built {
    fn run(&self, thread: usize) {
        for op in &self.program.threads[thread] {
            self.op(thread, op, Owners::default(), 0);
        }
    }
}

impl Built {
    /// Carries out an operation of a thread that has the read-write locks `mine` and is in the read
    /// sections `inside`, a bit each.
    fn op(&self, t: usize, op: &Op, mine: Owners, inside: u8) {
        let (w, me) = (&self.words, 1 << t);
        match op {
            Op::Load(i) => drop(w[*i].load(SeqCst)),
            Op::Store(i, v) => w[*i].store(*v, SeqCst),
            Op::Add(i) => w[*i].add(1, SeqCst),
            Op::FetchAdd(i) => drop(w[*i].fetch_add(1, SeqCst)),
            Op::WaitNot(i, v) => drop(w[*i].wait_until(Until::Not(*v))),
            Op::If(i, v, then) => {
                if w[*i].load(SeqCst) == *v {
                    self.op(t, then, mine, inside);
                }
            }
            Op::Locked(l, inner) => {
                let _guard = self.locks[*l].lock();
                self.op(t, inner, mine, inside);
            }
            // A reader that reads again gives the lock back at the end of the inner section, which
            // observers would take amiss.
            Op::Read(l, inner) if self.program.watched && mine.readers >> l & 1 == 1 => {
                self.op(t, inner, mine, inside);
            }
            Op::Read(l, inner) => {
                let _guard = self.rw_locks[*l].read();
                self.change_owners(*l, |o| o.readers |= me);
                let mine = Owners { readers: mine.readers | 1 << l, ..mine };
                self.op(t, inner, mine, inside);
                self.change_owners(*l, |o| o.readers &= !me);
            }
            Op::Write(l, inner) => {
                let _guard = self.rw_locks[*l].write();
                self.change_owners(*l, |o| o.writers |= me);
                let mine = Owners { writers: mine.writers | 1 << l, ..mine };
                self.op(t, inner, mine, inside);
                self.change_owners(*l, |o| o.writers &= !me);
            }
            Op::See(l, _, inner) if self.program.watched && mine.readers >> l & 1 == 1 => {
                self.op(t, inner, mine, inside);
            }
            Op::See(l, value, inner) => {
                let guard = self.rw_locks[*l].read();
                self.change_owners(*l, |o| o.readers |= me);
                if *guard == *value {
                    let mine = Owners { readers: mine.readers | 1 << l, ..mine };
                    self.op(t, inner, mine, inside);
                }
                self.change_owners(*l, |o| o.readers &= !me);
            }
            Op::Change(l, inner) => {
                let mut guard = self.rw_locks[*l].write();
                self.change_owners(*l, |o| o.writers |= me);
                *guard = 9;
                let mine = Owners { writers: mine.writers | 1 << l, ..mine };
                self.op(t, inner, mine, inside);
                *guard = t as u8;
                self.change_owners(*l, |o| o.writers &= !me);
            }
            Op::Section(s, inner) => {
                let _section = self.srcus[*s].read_lock();
                let outermost = inside >> s & 1 == 0;
                if outermost {
                    self.change_sections(*s, |sections| {
                        sections.begun[t] += 1;
                        sections.open |= me;
                    });
                }
                self.op(t, inner, mine, inside | 1 << s);
                if outermost {
                    self.change_sections(*s, |sections| sections.open &= !me);
                }
            }
            Op::Synchronize(s) => self.synchronize(*s),
            Op::Both(first, second) => {
                self.op(t, first, mine, inside);
                self.op(t, second, mine, inside);
            }
        }
    }

    fn change_owners(&self, lock: usize, f: impl FnOnce(&mut Owners)) {
        if !self.program.watched {
            return;
        }
        let owners = self.owners[lock].with(|owners| {
            f(owners);
            *owners
        });
        let alone = owners.writers.count_ones() + u32::from(owners.readers != 0) <= 1;
        if !alone {
            self.sim.violate(Rule::Own("exclusion"), || format!("{owners:?}"));
        }
    }

    fn change_sections(&self, srcu: usize, f: impl FnOnce(&mut Sections)) {
        if self.program.watched {
            self.sections[srcu].with(f);
        }
    }

    fn synchronize(&self, srcu: usize) {
        if !self.program.watched {
            return self.srcus[srcu].synchronize();
        }
        let before = self.sections[srcu].get();
        self.sim.observe(&before);
        self.srcus[srcu].synchronize();
        let after = self.sections[srcu].get();
        let still = |t: &usize| {
            let open = (before.open & after.open) >> t & 1 == 1;
            open && before.begun[*t] == after.begun[*t]
        };
        if (0..4).any(|t| still(&t)) {
            self.sim.violate(Rule::Own("grace-period"), || format!("{before:?}, {after:?}"));
        }
    }
}

fn word() -> impl Strategy<Value = usize> {
    0..WORDS
}

fn op(depth: u32) -> BoxedStrategy<Op> {
    let v = || 0..2u64;
    let simple = prop_oneof![
        2 => word().prop_map(Op::Load),
        3 => (word(), v()).prop_map(|(i, v)| Op::Store(i, v)),
        1 => word().prop_map(Op::Add),
        1 => word().prop_map(Op::FetchAdd),
        1 => (word(), v()).prop_map(|(i, v)| Op::WaitNot(i, v)),
        4 => (0..SRCUS).prop_map(Op::Synchronize),
    ];
    if depth == 0 {
        return simple.boxed();
    }
    let inner = || op(depth - 1).prop_map(Box::new);
    prop_oneof![
        4 => simple,
        1 => (word(), v(), inner()).prop_map(|(i, v, op)| Op::If(i, v, op)),
        2 => (0..LOCKS, inner()).prop_map(|(l, op)| Op::Locked(l, op)),
        4 => (0..LOCKS, inner()).prop_map(|(l, op)| Op::Read(l, op)),
        4 => (0..LOCKS, inner()).prop_map(|(l, op)| Op::Write(l, op)),
        2 => (0..LOCKS, 0..3u8, inner()).prop_map(|(l, v, op)| Op::See(l, v, op)),
        2 => (0..LOCKS, inner()).prop_map(|(l, op)| Op::Change(l, op)),
        5 => (0..SRCUS, inner()).prop_map(|(s, op)| Op::Section(s, op)),
        1 => (inner(), inner()).prop_map(|(a, b)| Op::Both(a, b)),
    ]
    .boxed()
}

fn program() -> impl Strategy<Value = Random> {
    let sizes = prop_oneof![
        3 => prop::collection::vec(1..=3usize, 2),
        4 => prop::collection::vec(1..=2usize, 3),
        1 => prop::collection::vec(1..=1usize, 4),
    ];
    let threads = random::threads(sizes, op(2));
    (threads, any::<bool>()).prop_map(|(threads, watched)| Random {
        threads,
        watched,
        checked: false,
    })
}

/// Programs whose use of locks is checked.
fn checked() -> impl Strategy<Value = Random> {
    program().prop_map(|program| Random { checked: true, ..program })
}

/// Programs for other tests.
pub(super) fn kinds() -> [Kind; 2] {
    [
        Kind::new("read-write locks and SRCU", Goal::of(NOTHING), program()),
        Kind::new("lock orders", Goal::of(NOTHING), checked()),
    ]
}

pub(super) fn compare(
    program: &dyn Program,
    adds_commute: bool,
    lowest: bool,
) -> Result<(), TestCaseError> {
    let nothing = Goal::of(NOTHING);
    let Agreed { naive, by_naive, record, .. } = agree(program, &nothing, adds_commute, lowest)?;
    let found = others(&by_naive);
    let deadlocks = found == [(Rule::DEADLOCK, true)];
    prop_assert!(found.is_empty() || deadlocks, "{:?}", by_naive.others);
    prop_assert_eq!(record.traces, naive.traces);
    prop_assert_eq!(record.finals, naive.finals);
    prop_assert_eq!(record.violations > 0, naive.violations > 0);

    let mut stateful = Stateful { graph: Some(Graph::default()), ..Stateful::default() };
    let outcome = explore(program, &nothing, &mut stateful);
    let graph = stateful.graph.expect("it was asked for");
    prop_assert_eq!(&outcome.verdict, &Verdict::Holds);
    prop_assert_eq!(others(&outcome), found);
    prop_assert_eq!(graph.clashes, 0, "{:?}", graph.first_clash);
    // One bit of the keys is the search's own.
    let keys: Vec<u128> = graph.keys().map(|key| key & !1).collect();
    let states: Vec<u128> = naive.states.iter().map(|key| key & !1).collect();
    prop_assert_eq!(keys, states);

    let deadlock = explore(program, &Goal::of(Rule::DEADLOCK), &mut Dpor::default()).verdict;
    prop_assert_eq!(matches!(deadlock, Verdict::Violated(_)), deadlocks);
    Ok(())
}

/// Takes steps of these threads, one after the other, and returns who can go on.
fn step(engine: &mut Engine, threads: &[u8]) -> Vec<usize> {
    for &thread in threads {
        assert!(engine.is_enabled(Actor::Thread(thread)), "thread {thread} cannot go on");
        engine.step(Move { actor: Actor::Thread(thread), choice: 0 });
    }
    (0..engine.threads()).filter(|t| engine.is_enabled(Actor::Thread(*t as u8))).collect()
}

fn inside(op: fn(usize, Box<Op>) -> Op) -> Vec<Op> {
    vec![op(0, Box::new(Op::Load(0)))]
}

#[test]
fn a_grace_period_waits_for_the_readers_before_it_and_for_no_others() {
    let threads = vec![inside(Op::Section), vec![Op::Synchronize(0)], inside(Op::Section)];
    let mut engine = Engine::new(&Random { threads, watched: true, checked: false }, Goal::ANY);
    assert_eq!(step(&mut engine, &[0, 1]), [0, 2]);
    assert_eq!(step(&mut engine, &[2]), [0, 2]);
    assert_eq!(step(&mut engine, &[0]), [1, 2], "the second reader is still inside");
    assert_eq!(step(&mut engine, &[1]), [2]);
}

#[test]
fn a_reader_waits_behind_a_writer_that_waits() {
    let threads = vec![inside(Op::Read), inside(Op::Write), inside(Op::Read)];
    let mut engine = Engine::new(&Random { threads, watched: true, checked: false }, Goal::ANY);
    assert_eq!(step(&mut engine, &[0]), [0, 1, 2]);
    assert_eq!(step(&mut engine, &[1]), [0]);
    assert_eq!(step(&mut engine, &[0]), [1]);
    assert_eq!(step(&mut engine, &[1]), [1]);
    assert_eq!(step(&mut engine, &[1]), [2]);
    engine.reset();
    assert_eq!(step(&mut engine, &[0, 2]), [0, 1, 2], "readers share");
}

#[test]
fn a_reader_that_reads_again_can_wait_for_ever() {
    let again = Op::Read(0, Box::new(Op::Read(0, Box::new(Op::Load(0)))));
    let program =
        Random { threads: vec![vec![again], inside(Op::Write)], watched: false, checked: false };
    for explorer in [&mut Dpor::default() as &mut dyn Explorer, &mut Stateful::default()] {
        let verdict = explore(&program, &Goal::of(Rule::DEADLOCK), explorer).verdict;
        assert!(matches!(verdict, Verdict::Violated(_)), "{verdict:?}");
    }
    compare(&program, false, false).expect("naive agrees");
}

proptest! {
    #![proptest_config(random::config())]

    #[test]
    fn explorers_agree_on_read_write_locks_and_srcu(
        program in program(),
        adds_commute in any::<bool>(),
        lowest in any::<bool>(),
    ) {
        compare(&program, adds_commute, lowest)?;
    }
    // What is wrong with an acquisition ends an execution, and the orders of all are compared.
    #[test]
    fn explorers_agree_on_lock_orders(program in checked(), lowest in any::<bool>()) {
        let Agreed { by_naive, by_dpor, reduced, .. } =
            agree(&program, &Goal::of(NOTHING), false, lowest)?;
        prop_assert_eq!(nestings(&by_dpor), nestings(&by_naive));
        prop_assert_eq!(nestings(&reduced), nestings(&by_naive));
    }
}
