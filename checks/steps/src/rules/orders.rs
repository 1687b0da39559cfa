//! Orders of steps that the model calls reachable: how often a recording shows them. None is wrong;
//! they are where a guard is needed.

use core::fmt;

use super::{Findings, flush::Flush, retry::Retry};
use crate::event::What;
use crate::judge::Now;
use crate::step::Step;

/// An order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// An invalidation comes between the look-up of a page and the lock.
    InvalidatedLookUp,
    /// A fast fault's compare-and-exchange finds another value.
    FastFaultLoses,
    /// A fast fault gives W back between write protection and its flush.
    FastFaultBeforeFlush,
    /// A guest is entered between something that is taken away and its flush.
    EntryBeforeFlush,
}

impl Order {
    /// All of them.
    pub const ALL: [Order; 4] = [
        Order::InvalidatedLookUp,
        Order::FastFaultLoses,
        Order::FastFaultBeforeFlush,
        Order::EntryBeforeFlush,
    ];

    /// The built-in scenario that has it.
    pub fn scenario(self) -> &'static str {
        match self {
            Order::InvalidatedLookUp => "notifier-retry",
            Order::FastFaultLoses => "aba-direct",
            Order::FastFaultBeforeFlush | Order::EntryBeforeFlush => "stale-tlb-dirty-log",
        }
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Order::InvalidatedLookUp => "a page is invalidated between its look-up and mmu_lock",
            Order::FastFaultLoses => "a fast fault finds another value at its cmpxchg",
            Order::FastFaultBeforeFlush => "a fast fault gives W back before the flush",
            Order::EntryBeforeFlush => "a guest is entered before the flush",
        })
    }
}

/// An event happens. The rules have not seen it yet.
pub(super) fn see(now: &Now<'_>, flush: &Flush, retry: &Retry, findings: &mut Findings) {
    if retry.was_invalidated(now) {
        findings.seen(Order::InvalidatedLookUp);
    }
    match (now.stored, &now.event.what) {
        (Some(stored), _) if now.thread.lock().is_none() && !stored.spot.detached => {
            match stored.step {
                Step::Same => findings.seen(Order::FastFaultLoses),
                Step::Relax if flush.owes(stored.spot.gfn) => {
                    findings.seen(Order::FastFaultBeforeFlush);
                }
                _ => {}
            }
        }
        (None, What::Enter { root, .. }) if flush.owes_of(*root) => {
            findings.seen(Order::EntryBeforeFlush);
        }
        _ => {}
    }
}
