//! What an engine has learned over all executions, so that another one can go on.

use serde::{Deserialize, Serialize};

use super::engine::Engine;
use crate::machine::lockdep::LocksSeen;
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
        m.locks.recall(&learned.locks) && m.number(learned.touched, &learned.numbers)
    }
}
