//! Samples one program by several workers, each with an engine of its own.
//!
//! Guarantee: but for the clock and interruptions, the outcome is a function of program, goal,
//! limits and seed, not of the number of workers. What is drawn in an execution depends on its
//! number alone, and results are merged in the order of these numbers. One thing depends on the
//! executions before: whether the locks that one takes close a cycle of lock orders, and whether a
//! violation is the first of its kind. So a worker looks at each execution as if it were the first.
//! The engine that merges takes over what is known already, and makes an execution again, after all
//! that come before it, if it violates something or takes locks in an order that is new.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use kvmmu_scenarios::lockdep::LockOrders;

use super::{Pick, Sampling, executions};
use crate::explore::explorer::{Limits, Progress};
use crate::record::goal::Goal;
use crate::record::outcome::{Outcome, Seen, Stats, Verdict};
use crate::run::engine::Engine;
use crate::run::program::Program;

/// Makes the strategy of each execution.
pub(crate) trait Strategy: Sync {
    /// That of execution `run`. `longest` is how long the longest of the first ones was.
    fn pick(&self, run: u64, longest: usize) -> Box<dyn Pick>;
}

/// So many executions are made before workers start, to know how long they are.
const FIRST: u64 = 16;

/// How long to wait for a result between two looks at the clock.
const WAIT: Duration = Duration::from_millis(50);

/// What the worker says of an execution.
struct Run {
    /// It violates nothing, and nothing kept it from its end but its length.
    plain: bool,
    steps: u32,
    cut: bool,
    seen: Seen,
    locks: LockOrders,
}

/// Runs executions until the goal is met or a limit is hit.
pub(crate) fn sample(
    program: &dyn Program,
    goal: &Goal,
    limits: &Limits,
    progress: Progress<'_>,
    strategy: &dyn Strategy,
) -> Outcome {
    let mut engine = Engine::new(program, goal.clone());
    let mut merge = Merge {
        sampling: Sampling::new(&mut engine, limits, progress),
        strategy,
        longest: 1,
        next: 0,
        waiting: BTreeMap::new(),
        known: LockOrders::default(),
    };
    let max = executions(limits);
    let mut verdict = None;
    while merge.next < max.min(FIRST) && verdict.is_none() {
        verdict = merge.again();
        merge.longest = merge.longest.max(merge.sampling.path.len());
    }
    if limits.workers > 1 && merge.next < max && verdict.is_none() {
        verdict = by_workers(program, goal, limits, &mut merge, max);
    }
    while merge.next < max && verdict.is_none() {
        verdict = merge.again();
    }
    merge.sampling.outcome(verdict)
}

/// Has workers make the executions up to `max`, and merges what they say. Where the system gives no
/// thread, some executions are left.
fn by_workers(
    program: &dyn Program,
    goal: &Goal,
    limits: &Limits,
    merge: &mut Merge<'_, '_>,
    max: u64,
) -> Option<Verdict> {
    merge.known = merge.sampling.engine.lock_orders();
    let (next, stop) = (AtomicU64::new(merge.next), AtomicBool::new(false));
    let (strategy, longest) = (merge.strategy, merge.longest);
    let (send, receive) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..limits.workers {
            let (send, next, stop) = (send.clone(), &next, &stop);
            let work = move || {
                let limits = Limits { time_max: None, memory: None, ..*limits };
                // ORDERING: says to end, and publishes nothing.
                let go_on = |_: &Stats| !stop.load(Ordering::Relaxed);
                let mut engine = Engine::new(program, goal.clone());
                let mut sampling = Sampling::new(&mut engine, &limits, &go_on);
                // ORDERING: a number, with which nothing else is published.
                let runs = core::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed));
                for run in runs.take_while(|run| *run < max && go_on(&Stats::default())) {
                    let made = look(&mut sampling, &mut *strategy.pick(run, longest));
                    if send.send((run, made)).is_err() {
                        break;
                    }
                }
            };
            if thread::Builder::new().spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        drop(send);
        let verdict = merge.all(&receive);
        // ORDERING: says to end, and publishes nothing.
        stop.store(true, Ordering::Relaxed);
        verdict
    })
}

/// Makes an execution as if it were the first.
fn look(sampling: &mut Sampling<'_, '_>, pick: &mut dyn Pick) -> Run {
    sampling.engine.forget_seen();
    sampling.engine.forget_locks();
    sampling.cut = false;
    let settled = sampling.run(pick).is_some();
    let found = sampling.search.forget_others() || sampling.engine.cycle.take().is_some();
    Run {
        plain: !settled && !found,
        steps: sampling.path.len() as u32,
        cut: sampling.cut,
        seen: sampling.engine.seen(),
        locks: sampling.engine.lock_orders(),
    }
}

/// The executions so far, all of them before `next`.
struct Merge<'e, 'p> {
    sampling: Sampling<'e, 'p>,
    strategy: &'e dyn Strategy,
    longest: usize,
    next: u64,
    /// What workers said of later ones.
    waiting: BTreeMap<u64, Run>,
    /// What is known of locks.
    known: LockOrders,
}

impl Merge<'_, '_> {
    /// Makes the next execution.
    fn again(&mut self) -> Option<Verdict> {
        let mut pick = self.strategy.pick(self.next, self.longest);
        self.next += 1;
        self.sampling.run(&mut *pick)
    }

    /// Merges until the workers have ended or the verdict is there.
    fn all(&mut self, receive: &Receiver<(u64, Run)>) -> Option<Verdict> {
        loop {
            match receive.recv_timeout(WAIT) {
                Ok((run, made)) => {
                    if let Some(verdict) = self.add(run, made) {
                        return Some(verdict);
                    }
                    if let Some(reason) = self.sampling.search.tick(|| 0) {
                        return Some(Verdict::Inconclusive(reason));
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(reason) = self.sampling.search.look(0) {
                        return Some(Verdict::Inconclusive(reason));
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    /// A worker made an execution: merges what follows all that is merged.
    fn add(&mut self, run: u64, made: Run) -> Option<Verdict> {
        self.waiting.insert(run, made);
        while let Some(made) = self.waiting.remove(&self.next) {
            if made.plain && self.knows(&made.locks) {
                self.next += 1;
                self.sampling.count(made.steps);
                self.sampling.cut |= made.cut;
                self.sampling.search.add_elsewhere(made.steps.into(), &made.seen, &made.locks);
                continue;
            }
            let verdict = self.again();
            if verdict.is_some() {
                return verdict;
            }
            self.known = self.sampling.engine.lock_orders();
        }
        None
    }

    /// True if these locks are no news.
    fn knows(&self, locks: &LockOrders) -> bool {
        let known = |(nesting, _)| self.known.times(nesting) > 0;
        !self.sampling.engine.has_untold_cycle() && locks.nestings().all(known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explore::sample::random::Seed;
    use crate::programs::mini::{FastFault, Simulated};
    use crate::record::rule::Rule;

    const RUNS: u64 = 100;

    /// What is said if results arrive in this order.
    fn merged(goal: &Goal, arrivals: impl Iterator<Item = u64>) -> String {
        let program = Simulated(FastFault { plain_store: true, ..FastFault::new(2, 1) });
        let (limits, strategy) = (Limits::default(), Seed(3));
        let [mut one, mut other] = [0; 2].map(|_| Engine::new(&program, goal.clone()));
        let mut worker = Sampling::new(&mut one, &limits, &|_| true);
        let sampling = Sampling::new(&mut other, &limits, &|_| true);
        let known = sampling.engine.lock_orders();
        let waiting = BTreeMap::new();
        let mut merge =
            Merge { sampling, strategy: &strategy, longest: 1, next: 0, waiting, known };
        let mut verdict = None;
        for run in arrivals {
            let made = look(&mut worker, &mut *strategy.pick(run, 1));
            verdict = verdict.or_else(|| merge.add(run, made));
        }
        format!("{:?}", merge.sampling.outcome(verdict))
    }

    #[test]
    fn the_order_in_which_workers_end_makes_no_difference() {
        for goal in [Goal::ANY, Goal::of(Rule::Own("no-such-rule"))] {
            let in_order = merged(&goal, 0..RUNS);
            assert_eq!(in_order.contains("Violated"), goal == Goal::ANY, "{in_order}");
            assert_eq!(merged(&goal, (0..RUNS).rev()), in_order);
            assert_eq!(merged(&goal, (0..RUNS).map(|run| run ^ 5 & 3)), in_order);
        }
    }
}
