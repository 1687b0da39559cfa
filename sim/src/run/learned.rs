//! What an engine has learned over all executions, so that another one can go on.

use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use super::engine::Engine;
use crate::machine::lockdep::LocksSeen;
use crate::machine::numbers::Numbers;
use crate::record::outcome::{Found, Seen};

/// All that later steps depend on, or results, and that no snapshot has.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) struct Learned {
    /// The numbers of locations in footprints.
    touched: u16,
    numbers: Vec<u16>,
    seen: Seen,
    locks: LocksSeen,
    cycle: Option<Found>,
}

impl Engine {
    /// The witnesses that are not watched.
    pub(crate) fn settled_witnesses(&self) -> u64 {
        self.initial_seen.witnesses
    }

    /// Does not watch these witnesses any more.
    pub(crate) fn settle(&mut self, witnesses: u64) {
        self.initial_seen.witnesses |= witnesses;
        self.machine.stop_watching(witnesses);
    }

    /// The numbers of its locations.
    pub(crate) fn numbers(&self) -> Numbers {
        Numbers::of(self.machine)
    }

    /// Takes numbers of locations from `shared` from now on.
    pub(crate) fn share_numbers(&self, shared: &Arc<Mutex<Numbers>>) {
        self.machine.share_numbers(shared);
    }

    /// What it has learned.
    pub(crate) fn learned(&self) -> Learned {
        let (touched, numbers) = self.machine.numbering();
        let (seen, locks) = (self.seen(), self.machine.locks.seen());
        Learned { touched, numbers, seen, locks, cycle: self.cycle.clone() }
    }

    /// Has learned this and nothing else. False: another program's engine has.
    pub(crate) fn recall(&mut self, learned: &Learned) -> bool {
        let m = self.machine;
        m.seen_marks.set(learned.seen.marks);
        m.seen_witnesses.set(learned.seen.witnesses);
        m.seen_asked.set(learned.seen.asked);
        self.cycle.clone_from(&learned.cycle);
        m.shared_numbers.take();
        m.locks.recall(&learned.locks) && m.number(learned.touched, &learned.numbers)
    }
}
