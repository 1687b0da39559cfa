//! A simulated machine for the KVM MMU model, and the explorers of its interleavings.
//!
//! [`program::Program`] says what runs; [`platform::Sim`] is the machine that it runs on;
//! [`engine::Engine`] takes it step by step; an [`explore::Explorer`] decides which steps to take.

pub mod dpor;
pub mod engine;
pub mod event;
pub mod explore;
pub mod footprint;
pub mod goal;
pub mod graph;
pub mod memory;
pub mod mini;
pub mod minimise;
pub mod naive;
pub mod names;
pub mod outcome;
pub mod outcomes;
pub mod pct;
pub mod pending;
pub mod platform;
pub mod program;
pub mod race;
pub mod random;
pub mod replay;
pub mod rng;
pub mod schedule;
pub mod snapshot;
pub mod stateful;
pub mod trace_hash;

mod arena;
mod attempt;
mod automata;
mod cell;
mod coroutine;
mod costs;
mod cycles;
mod hardware;
mod hash;
mod irq;
mod lock;
mod lockdep;
mod machine;
mod notice;
mod rw_lock;
mod sample;
mod search;
mod srcu;
mod thread;
mod tracer;
mod visited;
mod word;

pub use cell::SimCell;
pub use engine::Engine;
pub use explore::{Auto, Explorer, Limits};
pub use goal::Goal;
pub use lock::{SimGuard, SimLock};
pub use platform::Sim;
pub use rw_lock::SimRwLock;
pub use srcu::SimSrcu;
pub use word::SimWord;

/// The most threads that a program may have.
pub const THREADS_MAX: usize = 16;

/// The memory model of the simulated machine. Every verdict names it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum MemoryModel {
    /// Sequential consistency: a store is visible at once, to everyone.
    #[default]
    Sc,
}
