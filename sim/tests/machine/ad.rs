//! Programs made of closures, for tests.

use kvmmu_model::{Object, Tag};
use kvmmu_sim::graph::Graph;
use kvmmu_sim::naive::Naive;
use kvmmu_sim::outcome::{Found, Outcome, Stats, Verdict};
use kvmmu_sim::program::{Instance, Program, Story};
use kvmmu_sim::stateful::Stateful;
use kvmmu_sim::{Explorer, Goal, Limits, Sim};

pub(crate) type Body = Box<dyn Fn()>;

/// A program made of closures: one for each thread, and one for the stop phase.
pub(crate) struct Ad<F> {
    pub(crate) threads: usize,
    pub(crate) witnesses: Vec<Story>,
    pub(crate) lock_checks: bool,
    pub(crate) build: F,
}

pub(crate) struct AdInstance {
    pub(crate) bodies: Vec<Body>,
    pub(crate) stop: Body,
    pub(crate) choices: Box<dyn Fn(u64) -> u8>,
}

impl<F: Fn(&Sim) -> AdInstance + Sync> Program for Ad<F> {
    fn threads(&self) -> Vec<String> {
        (0..self.threads).map(|t| format!("t{t}")).collect()
    }
    fn witnesses(&self) -> Vec<Story> {
        self.witnesses.clone()
    }
    fn lock_checks(&self) -> bool {
        self.lock_checks
    }
    fn build(&self, platform: &Sim) -> Box<dyn Instance> {
        Box::new((self.build)(platform))
    }
}

impl Instance for AdInstance {
    fn run(&self, thread: usize) {
        (self.bodies[thread])();
    }
    fn stop(&self) {
        (self.stop)();
    }
    fn choices(&self, request: u64) -> u8 {
        (self.choices)(request)
    }
}

pub(crate) fn instance(bodies: Vec<Body>, stop: impl Fn() + 'static) -> AdInstance {
    AdInstance { bodies, stop: Box::new(stop), choices: Box::new(|_| 1) }
}

pub(crate) fn program<F: Fn(&Sim) -> AdInstance + Sync>(threads: usize, build: F) -> Ad<F> {
    Ad { threads, witnesses: Vec::new(), lock_checks: true, build }
}

pub(crate) fn var(i: usize) -> Tag {
    Tag::nth(Object::Var, i)
}

pub(crate) fn explore(program: &dyn Program, explorer: &mut dyn Explorer, goal: Goal) -> Outcome {
    explorer.explore(program, &goal, &Limits::default(), &|_: &Stats| true)
}

/// Explores by states, checks that naive agrees on them and that the keys are honest.
pub(crate) fn check(program: &dyn Program) -> Verdict {
    let mut stateful = Stateful { graph: Some(Graph::default()), ..Stateful::default() };
    let outcome = explore(program, &mut stateful, Goal::ANY);
    let graph = stateful.graph.expect("it was asked for");
    assert_eq!(graph.clashes, 0);
    let mut naive = Naive::default();
    let oracle = explore(program, &mut naive, Goal::ANY);
    assert_eq!(kind(&outcome.verdict), kind(&oracle.verdict));
    if outcome.verdict == Verdict::Holds {
        assert!(graph.keys().map(|k| k & !1).eq(naive.states.iter().map(|k| k & !1)));
        assert_eq!(outcome.seen, oracle.seen);
    }
    outcome.verdict
}

pub(crate) fn kind(verdict: &Verdict) -> Option<&'static str> {
    match verdict {
        Verdict::Violated(found) => Some(found.rule.name()),
        _ => None,
    }
}

pub(crate) fn found(verdict: Verdict) -> Found {
    match verdict {
        Verdict::Violated(found) => found,
        other => panic!("{other:?}"),
    }
}
