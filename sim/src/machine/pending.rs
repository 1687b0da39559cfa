//! What a suspended thread will do when it is resumed.

use core::panic::Location;

use kvmmu_model::Until;
use serde::{Deserialize, Serialize};

/// What kind of step it is.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Kind {
    /// Nothing: the thread has ended.
    Done,
    /// Reads a word.
    Load,
    /// Writes a word.
    Store,
    /// Reads and writes a word.
    Rmw,
    /// Adds to a word.
    Add,
    /// Takes lock number `arg`, once it is free.
    Acquire,
    /// Waits until the word equals `arg`.
    WaitIs,
    /// Waits until the word differs from `arg`.
    WaitNot,
    /// Waits until a bit of `arg` is clear.
    WaitNotAll,
    /// Waits until no bit of `arg` is set.
    WaitClear,
    /// Waits until the word is not 0. There are as many outcomes as it has bits.
    WaitAny,
    /// A guest access: `arg` is the request, of which the instance knows the outcomes.
    Access,
    /// Waits until a retry could fare differently.
    WaitChange,
    /// Invalidates TLBs, or completes invalidations: `arg` says which.
    Tlb,
}

/// The pending operation of a thread.
#[derive(Clone, Copy, Debug)]
pub struct Pending {
    /// What kind of step it is.
    pub kind: Kind,
    /// The location; [`Pending::NOWHERE`] if the kind has none.
    pub loc: u16,
    /// The cell that decides whether it is enabled.
    pub(crate) cell: u16,
    /// An operand, see [`Kind`].
    pub arg: u64,
    /// Where in the source.
    pub site: &'static Location<'static>,
}

impl Pending {
    /// The location of an operation that has none.
    pub const NOWHERE: u16 = u16::MAX;

    pub(crate) const fn wait(until: Until) -> (Kind, u64) {
        match until {
            Until::Is(v) => (Kind::WaitIs, v),
            Until::Not(v) => (Kind::WaitNot, v),
            Until::NotAll(v) => (Kind::WaitNotAll, v),
            Until::Clear(v) => (Kind::WaitClear, v),
        }
    }

    /// True if it may never be enabled.
    pub fn may_block(&self) -> bool {
        matches!(
            self.kind,
            Kind::Acquire
                | Kind::WaitIs
                | Kind::WaitNot
                | Kind::WaitNotAll
                | Kind::WaitClear
                | Kind::WaitAny
                | Kind::WaitChange
        )
    }
}
