//! Goal: a search that several engines share finds what one engine finds. Method: random programs
//! of all kinds and scenarios, shared from the first states on; how far each engine comes is up to
//! the system, so that each run tries other orders.

use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::SeqCst;
use core::time::Duration;
use std::collections::BTreeSet;
use std::thread::sleep;

use kvmmu_model::{GuardSet, Lock, LockClass, Object, Platform, RwLock, Tag, Word};
use kvmmu_scenarios::{Property, builtin, loader};
use kvmmu_sim::outcome::{Reason, Stats, Verdict};
use kvmmu_sim::program::{Instance, Program};
use kvmmu_sim::race::Race;
use kvmmu_sim::rule::Rule;
use kvmmu_sim::stateful::Stateful;
use kvmmu_sim::{Cores, Explorer, Goal, Limits, Sim, SimLock, SimRwLock, SimWord};

use super::random::{Found, NOTHING, config, found, in_turn, kinds, others};

/// What was found, violations with cycles of lock orders, and how many states were looked at.
type Explored = (Found, Vec<(Rule, bool)>, u64);

/// Explores by states, alone or with so many helpers from the start.
fn explore(program: &dyn Program, goal: &Goal, reduced: bool, helpers: usize) -> Explored {
    explore_up_to(program, goal, reduced, helpers, Limits::default().steps_max)
}

/// [`explore`], and executions have so many steps at most.
fn explore_up_to(
    program: &dyn Program,
    goal: &Goal,
    reduced: bool,
    helpers: usize,
    steps_max: u32,
) -> Explored {
    let cores: &'static Cores = Box::leak(Box::new(Cores::new(helpers, 0)));
    let limits = Limits { cores: (helpers > 0).then_some(cores), steps_max, ..Limits::default() };
    let finals = Some(BTreeSet::new());
    let mut stateful = Stateful { reduced, finals, ..Stateful::default() };
    let go_on = |_: &Stats| {
        std::thread::yield_now();
        true
    };
    let outcome = stateful.explore(program, goal, &limits, &go_on);
    (found(&outcome, stateful.finals), others(&outcome), outcome.stats.states)
}

#[test]
fn random_programs_together() {
    let (kinds, mut shared) = (kinds(), 0);
    for (at, kind, program) in in_turn(&kinds, config().cases as usize / 4) {
        for reduced in [false, true] {
            let (alone, wrong, states) = explore(&*program, &kind.goal, reduced, 0);
            if states < 100 {
                continue;
            }
            let (together, by_them, by_all) = explore(&*program, &kind.goal, reduced, 1 + at % 3);
            assert_eq!((together, by_them), (alone, wrong), "{}: {program:?}", kind.name);
            shared += u32::from(by_all != states);
        }
    }
    assert!(shared > 20, "{shared} of them were shared");
}

/// What is behind a step too many was looked at by nobody, whoever came there.
#[test]
fn executions_that_grow_too_long_for_one_are_too_long_for_all() {
    let (kinds, mut cut) = (kinds(), 0);
    for (at, kind, program) in in_turn(&kinds, config().cases as usize / 4) {
        for steps_max in [8, 12, 16] {
            let by = |helpers| explore_up_to(&*program, &kind.goal, true, helpers, steps_max);
            let (alone, _, states) = by(0);
            if states >= 50 {
                assert_eq!(by(1 + at % 3).0, alone, "{}, {steps_max}: {program:?}", kind.name);
                cut += 1;
            }
        }
    }
    assert!(cut > 100, "{cut}");
}

#[test]
fn scenarios_together() {
    let few = Limits { states_max: 50_000, ..Limits::default() };
    let (mut compared, mut shared) = (0, 0);
    for (file, text) in builtin::FILES {
        let scenario = loader::load(file, text, 1).expect("built-in files load");
        let variants = scenario.expects.iter().map(|e| e.without);
        for without in variants.chain([GuardSet::EMPTY]) {
            let race = Race::new(scenario.clone(), without);
            // Whatever is violated, everything is explored.
            let goal = Goal { rule: Some(Rule::Own("no-such-rule")), ..race.goal() };
            let mut stateful = Stateful { reduced: true, ..Stateful::default() };
            let outcome = stateful.explore(&race, &goal, &few, &|_: &Stats| true);
            if outcome.verdict != Verdict::Holds || outcome.stats.states < 1000 {
                continue;
            }
            let (alone, wrong, states) = explore(&race, &goal, true, 0);
            let (together, by_them, by_all) = explore(&race, &goal, true, 2);
            assert_eq!((together, by_them), (alone, wrong), "{file} {without:?}");
            compared += 1;
            shared += u32::from(by_all != states);
        }
    }
    assert!(compared > 20 && shared > 5, "{compared} variants, {shared} of them shared");
}

/// Two threads race for a word, and count. Who has won takes two locks, each in another order; the
/// second thread only if it has counted before the other, which a search comes to last. So no
/// execution has both orders.
#[derive(Debug)]
struct OneOrderEach;

struct Built {
    won: SimWord,
    count: SimWord,
    mutex: SimLock<()>,
    rw_lock: SimRwLock<u8>,
}

impl Program for OneOrderEach {
    fn threads(&self) -> Vec<String> {
        ["one", "other"].map(String::from).to_vec()
    }
    fn build(&self, sim: &Sim) -> Box<dyn Instance> {
        Box::new(Built {
            won: sim.word(Tag::nth(Object::Var, 0), 0),
            count: sim.word(Tag::nth(Object::Var, 1), 0),
            mutex: sim.lock(LockClass::VarLock.nth(0), ()),
            rw_lock: sim.rw_lock(LockClass::VarRwLock.nth(0), 0),
        })
    }
}

impl Instance for Built {
    fn run(&self, thread: usize) {
        let won = self.won.compare_exchange(0, 1, SeqCst, SeqCst).is_ok();
        let mut last = 0;
        for _ in 0..COUNTS {
            last = self.count.fetch_add(1, SeqCst);
        }
        if won && thread == 0 {
            let _outer = self.mutex.lock();
            let _inner = self.rw_lock.write();
        } else if won && last == COUNTS - 1 {
            let _outer = self.rw_lock.write();
            let _inner = self.mutex.lock();
        }
    }
}

const COUNTS: u64 = 8;

/// The first engine has seen one order, and waits while another one explores what is left.
#[test]
fn a_cycle_of_locks_of_which_each_engine_saw_a_part_is_found() {
    let goal = Goal::of(NOTHING);
    let cycle = Rule::Property(Property::LockCycle);
    let alone = Stateful::default().explore(&OneOrderEach, &goal, &Limits::default(), &|_| true);
    assert_eq!(others(&alone), [(cycle, false)]);
    // It is past the first order then, and not at the second one.
    let from = alone.stats.states / 4 * 3;
    let limits =
        Limits { cores: Some(Box::leak(Box::new(Cores::new(1, from)))), ..Limits::default() };
    let waited = AtomicBool::new(false);
    let wait = |stats: &Stats| {
        // Below that nobody helps; the next time somebody does.
        if stats.states > from + 5000 && !waited.swap(true, SeqCst) {
            sleep(Duration::from_secs(1));
        }
        true
    };
    let together = Stateful::default().explore(&OneOrderEach, &goal, &limits, &wait);
    assert!(waited.into_inner());
    assert_eq!(others(&together), [(cycle, false)]);
}

/// One thread comes to a state by a long path or by a short one, and has the same way to go from
/// there. Another engine may have gone it before the first one is at the end of the long path.
#[derive(Debug)]
struct TwoPaths;

struct OneWord {
    sim: Sim,
    word: SimWord,
}

/// The long path, the short one, what is left from where they meet, and the bound.
const LONG: u64 = 20_000;
const SHORT: u64 = 2;
const REST: u64 = 12_000;
const BOUND: u32 = 28_000;

impl Program for TwoPaths {
    fn threads(&self) -> Vec<String> {
        vec!["one".to_owned()]
    }
    fn build(&self, sim: &Sim) -> Box<dyn Instance> {
        Box::new(OneWord { sim: *sim, word: sim.word(Tag::nth(Object::Var, 0), 0) })
    }
}

impl Instance for OneWord {
    fn run(&self, _: usize) {
        let steps = if self.sim.access(0) == 0 { LONG } else { SHORT };
        for step in 1..=steps {
            self.word.store(step, SeqCst);
        }
        self.word.store(0, SeqCst);
        self.sim.checkpoint(());
        for step in 1..=REST {
            self.word.store(step, SeqCst);
        }
    }
    fn choices(&self, _: u64) -> u8 {
        2
    }
}

/// Alone, the first engine would have gone the long path to its end, and been cut off there.
#[test]
fn a_path_that_is_too_long_for_one_is_too_long_for_all() {
    let goal = Goal::of(NOTHING);
    let limits = Limits { steps_max: BOUND, ..Limits::default() };
    let alone = Stateful::default().explore(&TwoPaths, &goal, &limits, &|_| true);
    assert_eq!(alone.verdict, Verdict::Inconclusive(Reason::Steps));
    let from = LONG / 2;
    let cores: &'static Cores = Box::leak(Box::new(Cores::new(1, from)));
    let limits = Limits { cores: Some(cores), ..limits };
    let waited = AtomicBool::new(false);
    let wait = |stats: &Stats| {
        // Below that nobody helps; the next time somebody does.
        if stats.states > from + 5000 && !waited.swap(true, SeqCst) {
            sleep(Duration::from_secs(1));
        }
        true
    };
    let together = Stateful::default().explore(&TwoPaths, &goal, &limits, &wait);
    assert!(waited.into_inner());
    assert_eq!(together.verdict, alone.verdict);
}
