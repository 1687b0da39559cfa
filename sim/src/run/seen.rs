//! What an engine has seen in all its executions: marks, witnesses and lock orders.

use kvmmu_model::GuardSet;
use kvmmu_scenarios::lockdep::LockOrders;

use super::engine::Engine;
use crate::record::outcome::Seen;

impl Engine {
    /// What was seen since the engine was made or [`Engine::forget_seen`] was called.
    pub fn seen(&self) -> Seen {
        self.machine.seen()
    }

    /// The removed guards that some step asked for.
    pub(crate) fn missed(&self) -> GuardSet {
        let without = self.machine.without.get();
        self.seen().asked.iter().filter(|guard| without.contains(*guard)).collect()
    }

    /// A cycle of lock orders that the last step closed, where that does not end an execution.
    #[inline(always)]
    pub(crate) fn take_cycle(&mut self) -> Option<String> {
        self.machine.locks.take_cycle()
    }

    /// The locks that were asked for since the engine was made, and what was held then.
    pub fn lock_orders(&self) -> LockOrders {
        self.machine.locks.orders()
    }

    /// Forgets what was seen of locks.
    pub(crate) fn forget_locks(&mut self) {
        self.machine.locks.forget();
    }

    /// True if a cycle of lock orders is known that is not reported yet.
    pub(crate) fn has_untold_cycle(&self) -> bool {
        self.machine.locks.has_untold_cycle()
    }

    /// The witnesses that were seen are watched no more. They remain seen, and how far another
    /// execution is on the way to one makes no states differ.
    pub(crate) fn settle_witnesses(&mut self) {
        self.settle(self.seen().witnesses);
    }

    /// How many stories are watched: of witnesses and of the goal.
    pub(crate) fn stories(&self) -> usize {
        self.machine.automata.borrow().len()
    }

    /// How many moments of a story have passed in this execution.
    pub(crate) fn passed(&self, story: usize) -> u64 {
        let progress = self.machine.automata.borrow()[story].progress;
        progress.map_or(0, |(cell, _)| self.machine.arena.get(cell))
    }

    /// True if an execution is to be found that passes the story: a witness that was not seen, or
    /// that of the goal.
    pub(crate) fn is_wanted(&self, story: usize) -> bool {
        let witness = self.machine.automata.borrow()[story].witness;
        witness.is_none_or(|witness| self.seen().witnesses >> witness & 1 == 0)
    }

    /// Forgets what was seen after the first state, but for witnesses that are watched no more.
    pub fn forget_seen(&mut self) {
        self.machine.seen_marks.set(self.initial_seen.marks);
        self.machine.seen_witnesses.set(self.initial_seen.witnesses);
        self.machine.seen_asked.set(self.initial_seen.asked);
    }
}
