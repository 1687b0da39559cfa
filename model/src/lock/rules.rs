//! Checks one acquisition against the table and the documented orders.
//!
//! The checks are made when a thread *asks* for a lock, not when it gets it: a wrong order is wrong
//! in runs that do not deadlock, too. What only several acquisitions together show (a cycle) is
//! found where they are collected.

use super::order::{self, Order};
use super::{Hold, LockClass, Mode};

/// What is wrong with an acquisition.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Breach {
    /// The thread has it already, and it cannot be had twice; or it waits for its own read section.
    Recursion(Hold),
    /// It may sleep, and a spinlock is held, or the thread is inside a read section of RCU.
    SleepsUnder(Hold),
    /// It may sleep, and interrupts are off.
    SleepsIrqsOff,
    /// The document has the opposite order. The order that says so; with the first and the
    /// last of a chain of them.
    Order(Hold, &'static Order),
    /// A lock is held inside which none is taken.
    InsideLeaf(Hold),
}

/// Holds an acquisition against the rules: the first that it breaks. `same` says which of the held
/// locks is the wanted one itself and not merely one of its class.
///
/// Two locks of one class are left to the deadlocks that exploration reaches.
pub fn check(
    held: impl Iterator<Item = (Hold, bool)> + Clone,
    irqs_off: bool,
    wanted: Hold,
) -> Option<Breach> {
    let others = || held.clone().map(|(hold, _)| hold);
    let mut mine = held.clone().filter(|(_, same)| *same);
    if let Some((hold, _)) = mine.find(|(hold, _)| excludes(*hold, wanted)) {
        return Some(Breach::Recursion(hold));
    }
    if wanted.may_sleep() {
        if let Some(hold) = others().find(|h| h.class.info().kind.forbids_sleep()) {
            return Some(Breach::SleepsUnder(hold));
        }
        if irqs_off {
            return Some(Breach::SleepsIrqsOff);
        }
    }
    for hold in others() {
        if let Some(order) = contradicted(hold, wanted) {
            return Some(Breach::Order(hold, order));
        }
    }
    others().find(|hold| hold.class.info().leaf && waits(wanted)).map(Breach::InsideLeaf)
}

/// True if a thread that holds the one can never get the other.
fn excludes(held: Hold, wanted: Hold) -> bool {
    match (held.mode, wanted.mode) {
        // Read sections of SRCU and RCU nest; readers of a read-write lock do not: a writer may
        // have come between.
        (Mode::Read, Mode::Read) => held.class.info().kind.has_readers(),
        _ => true,
    }
}

/// True if getting it may have to wait for somebody.
pub fn waits(wanted: Hold) -> bool {
    !(wanted.class.info().kind.has_sections() && wanted.mode == Mode::Read)
}

/// The documented order that wants `wanted` outside of `held`.
fn contradicted(held: Hold, wanted: Hold) -> Option<&'static Order> {
    if !waits(wanted) {
        return None;
    }
    let mut above = order::documented().filter(|o| o.outer.class == wanted.class);
    let direct = above.clone().find(|o| o.inner.class == held.class);
    direct.or_else(|| above.find(|o| outside(o.inner.class, held.class)))
}

/// True if the document's orders together put `outer` outside of `inner`.
pub fn outside(outer: LockClass, inner: LockClass) -> bool {
    // The document's orders have no cycle: the chain ends.
    order::documented().any(|o| {
        o.outer.class == outer && (o.inner.class == inner || outside(o.inner.class, inner))
    })
}
