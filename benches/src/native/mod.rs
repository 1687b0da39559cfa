//! The native machine: the protocol on real threads, real atomics and a real lock.
//!
//! It is a benchmark and a stress, not a detector: a run here shows what one CPU did, never what
//! every interleaving does. What it must not do is to take away races that the kernel has, or to
//! add waits that the kernel does not have. So:
//!
//! * A word is one atomic, with the orderings that the model asks for ([`word`]).
//! * `mmu_lock` is a fair spinlock, what may sleep sleeps, SRCU never makes readers wait
//!   ([`lock`]).
//! * A CPU is a thread. Interrupts off is a *pinned epoch* of `crossbeam-epoch`; an IPI that waits
//!   waits for a grace period of these ([`section`]). The memory of a freed page table is used
//!   again after one more ([`reclaim`]).
//! * Guards are constant `true` and marks are nothing ([`kind::Dense`], [`kind::Apart`]), except
//!   in the stress, which can take guards away and counts what it saw ([`kind::Watched`]).

pub mod kind;
pub mod lock;
pub mod machine;
pub mod rcu;
pub mod reclaim;
pub mod section;
pub mod stress;
pub mod word;

pub use kind::{Apart, Dense, Kind, Watched};
pub use machine::Native;
