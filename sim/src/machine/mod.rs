//! The simulated machine: words, locks, interrupts, memory that was freed, and threads whose stacks
//! can be saved and brought back. [`platform::Sim`] is the handle that programs have of it;
//! `state` is the machine itself.
//!
//! Its parts know each other: a word notes what it did with the machine that it belongs to.

pub mod footprint;
pub mod memory;
pub mod pending;
pub mod platform;
pub mod snapshot;

pub(crate) mod cell;
pub(crate) mod coroutine;
pub(crate) mod hash;
pub(crate) mod instance;
pub(crate) mod irq;
pub(crate) mod lock;
pub(crate) mod lockdep;
pub(crate) mod notice;
pub(crate) mod numbers;
pub(crate) mod rcu;
pub(crate) mod rw_lock;
pub(crate) mod srcu;
pub(crate) mod state;
pub(crate) mod word;

mod arena;
mod attempt;
mod thread;
mod tracer;
mod unread;

/// The most threads that a program may have.
pub const THREADS_MAX: usize = 16;

/// The most actors that a program may have: their indices are below it. Today threads are all.
pub const ACTORS_MAX: usize = THREADS_MAX;

/// The memory model of the simulated machine. Every verdict names it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum MemoryModel {
    /// Sequential consistency: a store is visible at once, to everyone.
    #[default]
    Sc,
}
