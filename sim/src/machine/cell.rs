//! Oracle cells: state that scenarios and properties keep, without steps.

use core::fmt;

use kvmmu_model::{Guarded, Tag};

use super::arena::Slot;
use super::hash::blob_part;
use super::lock::blob;
use super::state::Machine;

/// A shared value that is accessed without a step. It is part of the state. A thread that reads it
/// is not taken to have seen the value: if its future depends on it, see [`crate::Sim::observe`].
pub struct SimCell<T> {
    machine: &'static Machine,
    slot: Slot<T>,
    loc: u16,
    hash_cell: u16,
}

impl<T> Clone for SimCell<T> {
    fn clone(&self) -> SimCell<T> {
        *self
    }
}
impl<T> Copy for SimCell<T> {}

impl<T: Guarded> SimCell<T> {
    pub(crate) fn new(machine: &'static Machine, tag: Tag, init: T) -> SimCell<T> {
        let (hash_cell, slot, loc) = blob(machine, tag, init);
        SimCell { machine, slot, loc, hash_cell }
    }

    /// The value.
    #[inline]
    pub fn get(&self) -> T {
        self.machine.did_read(self.loc, self.machine.arena.get(self.hash_cell));
        self.machine.arena.read(self.slot)
    }

    /// Looks at the value: not even an access.
    pub(crate) fn glance<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        self.machine.arena.with(self.slot, |value| look(value))
    }

    /// The number of its location.
    pub(crate) fn location(&self) -> u16 {
        self.loc
    }

    /// Replaces the value.
    #[inline]
    pub fn set(&self, value: T) {
        if self.machine.arena.with(self.slot, |old| *old == value) {
            return;
        }
        self.machine.arena.write(self.slot, value);
        self.machine.replace_hash(self.loc, self.hash_cell, blob_part(self.loc, &value));
    }

    /// For updates that commute and on which no thread's next step depends, such as a reference
    /// count: retries neither take it for a change nor wait for one.
    pub fn commute(&self, change: impl FnOnce(&mut T)) {
        let log = self.machine.thread().attempt.pause();
        self.with(change);
        self.machine.thread().attempt.resume(log);
    }

    /// Changes the value.
    #[inline]
    pub fn with<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let mut value = self.get();
        let result = change(&mut value);
        self.set(value);
        result
    }
}

impl<T: Guarded> fmt::Debug for SimCell<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.machine.arena.read(self.slot), f)
    }
}
