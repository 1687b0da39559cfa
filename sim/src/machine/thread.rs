//! What the machine knows of one thread besides its stack.

use core::cell::Cell;
use core::panic::Location;

use super::attempt::{Attempt, Entry, Header};
use super::hash::Chain;
use super::pending::{Kind, Pending};

/// The state of a thread.
#[derive(Debug)]
pub(crate) struct Thread {
    pub(crate) pending: Cell<Pending>,
    /// What it has seen: all that its future depends on, besides the shared state.
    pub(crate) seen: Cell<Chain>,
    /// What it had seen when the running call began; a checkpoint goes back to it.
    pub(crate) frame: Cell<Chain>,
    /// What the thread adds to the key of the state.
    pub(crate) part: Cell<u128>,
    /// Locks that it holds and whose data it may have changed since it took them, by number.
    pub(crate) dirty: Cell<u64>,
    /// What it holds: see [`super::lockdep`].
    pub(crate) held: Cell<u64>,
    pub(crate) attempt: Attempt,
}

/// A thread in a snapshot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ThreadImage {
    pending: Pending,
    seen: Chain,
    frame: Chain,
    part: u128,
    dirty: u64,
    held: u64,
    attempt: Header,
}

impl Thread {
    #[track_caller]
    pub(crate) fn new() -> Thread {
        let site = Location::caller();
        let idle = Pending { kind: Kind::Done, loc: Pending::NOWHERE, cell: 0, arg: 0, site };
        Thread {
            pending: Cell::new(idle),
            seen: Cell::new(Chain::EMPTY),
            frame: Cell::new(Chain::EMPTY),
            part: Cell::new(0),
            dirty: Cell::new(0),
            held: Cell::new(0),
            attempt: Attempt::new(),
        }
    }

    /// Back to a thread that has seen nothing.
    pub(crate) fn clear(&self) {
        self.pending.set(Pending { kind: Kind::Done, ..self.pending.get() });
        self.seen.set(Chain::EMPTY);
        self.frame.set(Chain::EMPTY);
        self.part.set(0);
        self.dirty.set(0);
        self.held.set(0);
        self.attempt.restart(false);
    }

    /// The thread saw a value.
    #[inline(always)]
    pub(crate) fn note(&self, value: u64) {
        self.seen.set(self.seen.get().then(value));
    }

    /// Computes [`Thread::part`] after a step of thread `index`.
    #[inline(always)]
    pub(crate) fn settle(&self, index: u8) {
        // The pending operation follows from what was seen, but hashes of two places in the program
        // may agree: sites of `#[track_caller]` functions are those of their callers.
        let Pending { kind, loc, arg, .. } = self.pending.get();
        let seen = match kind {
            Kind::Done => self.seen.get(),
            _ => self.seen.get().then(arg ^ (u64::from(loc) << 48 | (kind as u64) << 40)),
        };
        self.part.set(seen.part(index) ^ self.attempt.key().rotate_left(index as u32));
    }

    pub(crate) fn save(&self, entries: &mut Vec<Entry>) -> ThreadImage {
        ThreadImage {
            pending: self.pending.get(),
            seen: self.seen.get(),
            frame: self.frame.get(),
            part: self.part.get(),
            dirty: self.dirty.get(),
            held: self.held.get(),
            attempt: self.attempt.save(entries),
        }
    }

    pub(crate) fn load(&self, image: &ThreadImage, entries: &[Entry]) {
        self.pending.set(image.pending);
        self.seen.set(image.seen);
        self.frame.set(image.frame);
        self.part.set(image.part);
        self.dirty.set(image.dirty);
        self.held.set(image.held);
        self.attempt.load(&image.attempt, entries);
    }
}
