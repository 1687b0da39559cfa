//! What every explorer does with what it finds.

use std::io;
use std::time::Instant;

use kvmmu_scenarios::Property;
use kvmmu_scenarios::lockdep::LockOrders;

use super::explorer::{Limits, Progress};
use super::keep::{Reading, Unusable, Writing};
use crate::machine::memory::Account;
use crate::record::goal::{Goal, Violation};
use crate::record::outcome::{Found, Outcome, Reason, Seen, Stats, Verdict};
use crate::record::rule::Rule;
use crate::record::schedule::{Move, Schedule};
use crate::run::engine::Engine;
use crate::run::learned::Learned;

/// How many ticks there are between two looks at the clock, and where a search is to be shared from
/// the start, which is for tests.
const TICKS: u32 = 4096;
const TICKS_SHARED: u32 = 8;

/// An exploration that runs.
pub(crate) struct Search<'a> {
    limits: Limits,
    progress: Progress<'a>,
    started: Instant,
    ticks: u32,
    ticks_max: u32,
    steps_before: u64,
    others: Vec<Found>,
    /// What the search takes, but for tables that have accounts of their own.
    account: Account,
    pub(crate) stats: Stats,
    /// What other engines saw, and the steps that they took.
    elsewhere: (u64, Seen, LockOrders),
}

impl<'a> Search<'a> {
    pub(crate) fn new(engine: &mut Engine, limits: &Limits, progress: Progress<'a>) -> Search<'a> {
        engine.set_tracing(false);
        engine.forget_seen();
        Search {
            limits: *limits,
            progress,
            started: Instant::now(),
            ticks: 0,
            ticks_max: if limits.cores.is_some_and(|c| c.from() == 0) {
                TICKS_SHARED
            } else {
                TICKS
            },
            steps_before: engine.steps_taken(),
            others: Vec::new(),
            account: Account::new(limits.memory),
            stats: Stats::default(),
            elsewhere: Default::default(),
        }
    }

    /// True just after a look.
    #[inline(always)]
    pub(crate) fn has_looked(&self) -> bool {
        self.ticks == 0
    }

    /// How many steps were taken, here and elsewhere.
    fn steps(&self, engine: &Engine) -> u64 {
        engine.steps_taken() - self.steps_before + self.elsewhere.0
    }

    /// Writes what was found so far, and what it took.
    pub(crate) fn write(&self, engine: &Engine, to: &mut Writing<'_>) -> io::Result<()> {
        to.put(&(&self.stats, &self.others, self.steps(engine)))?;
        to.put(&engine.learned())
    }

    /// Reads what [`Search::write`] wrote, and returns what the engine had learned.
    pub(crate) fn read(&mut self, from: &mut Reading<'_>) -> Result<Learned, Unusable> {
        (self.stats, self.others, self.elsewhere.0) = from.get()?;
        from.get()
    }

    /// Steps so far are none of this search's.
    pub(crate) fn forget_steps(&mut self, engine: &Engine) {
        self.steps_before = engine.steps_taken();
    }

    /// An account of the memory that the search may take.
    pub(crate) fn account(&self) -> Account {
        self.account.another()
    }

    /// Called often: the reason to end here, if there is one. `bytes` says what the search takes.
    #[inline(always)]
    pub(crate) fn tick(&mut self, bytes: impl FnOnce() -> usize) -> Option<Reason> {
        self.ticks += 1;
        if self.ticks < self.ticks_max {
            return None;
        }
        self.ticks = 0;
        self.look(bytes())
    }

    /// [`Search::tick`], now.
    #[cold]
    pub(crate) fn look(&mut self, bytes: usize) -> Option<Reason> {
        if !self.account.hold(bytes) {
            return Some(Reason::Memory);
        }
        if self.limits.time_max.is_some_and(|max| self.started.elapsed() >= max) {
            return Some(Reason::Time);
        }
        (!(self.progress)(&self.stats)).then_some(Reason::Interrupted)
    }

    /// A violation was met at the end of `path`: the verdict, if that settles it.
    pub(crate) fn judge(
        &mut self,
        goal: &Goal,
        violation: Violation,
        path: impl FnOnce() -> Vec<Move>,
    ) -> Option<Verdict> {
        let Violation { rule, detail, story } = violation;
        let wanted = story && goal.rule.is_none_or(|wanted| wanted == rule);
        let internal = rule == Rule::InternalError;
        let known = |found: &Found| found.rule == rule && found.story == story;
        if !wanted && self.others.iter().any(known) {
            return None;
        }
        let found = Found { rule, detail, schedule: Schedule(path()), story };
        if internal {
            self.others.push(found);
            return Some(Verdict::Inconclusive(Reason::InternalError));
        }
        if wanted {
            return Some(Verdict::Violated(found));
        }
        self.others.push(found);
        None
    }

    /// After each step: keeps a cycle of lock orders that it closed, where that is not looked for.
    #[inline(always)]
    pub(crate) fn note_cycle(engine: &mut Engine, path: impl FnOnce() -> Vec<Move>) {
        if let Some(detail) = engine.take_cycle() {
            let rule = Property::LockCycle.into();
            let found = Found { rule, detail, schedule: Schedule(path()), story: false };
            engine.cycle.get_or_insert(found);
        }
    }

    /// Another engine looked at an execution.
    pub(crate) fn add_elsewhere(&mut self, steps: u64, seen: &Seen, locks: &LockOrders) {
        self.elsewhere.0 += steps;
        self.elsewhere.1.merge(seen);
        self.elsewhere.2.merge(locks);
    }

    /// The search cannot begin.
    pub(crate) fn refuse(&mut self, error: Found) {
        self.others.push(error);
    }

    /// True if nothing was violated so far.
    pub(crate) fn has_found_nothing(&self, engine: &Engine) -> bool {
        self.others.is_empty() && engine.cycle.is_none()
    }

    /// Forgets the violations that were not looked for. True if there were any.
    pub(crate) fn forget_others(&mut self) -> bool {
        let any = !self.others.is_empty();
        self.others.clear();
        any
    }

    /// The result.
    pub(crate) fn outcome(mut self, engine: &Engine, verdict: Verdict) -> Outcome {
        self.others.extend(engine.cycle.clone());
        let (_, other, others) = &self.elsewhere;
        self.stats.steps = self.steps(engine);
        let (mut seen, mut locks) = (engine.seen(), engine.lock_orders());
        seen.merge(other);
        locks.merge(others);
        Outcome { verdict, others: self.others, seen, locks, stats: self.stats }
    }
}
