//! loom and shuttle as machines for the scenarios: what the simulator finds, found by other
//! tools.
//!
//! Guarantee: a verdict does not depend on `kvmmu-sim`: this package does not use it. Both
//! machines run the same model and the same interpreter of scenarios on the atomics, mutexes and
//! condition variables of their tool, with the hardware of `kvmmu_scenarios::software_tlb`, and
//! nothing in them spins.
//!
//! * [`loom`] judges the C11 orderings of the *core* (fast fault, zap, age, harvest), exhaustively.
//!   The request, mode and IPI protocol is reduced to one mutex per CPU; see [`machine`].
//! * [`shuttle`] samples sequentially consistent interleavings of everything, at random or by PCT.
//!
//! Both check the use of locks against the rules that the simulator's machine has; see [`lockdep`].
//!
//! A run that is cut off is inconclusive, never "holds".
#![forbid(unsafe_code)]

pub mod lock;
pub mod lockdep;
pub mod loom;
pub mod machine;
pub mod primitives;
pub mod rcu;
pub mod rw_lock;
pub mod search;
pub mod shuttle;
pub mod word;

pub use search::EngineOutcome;

/// The memory model of [`loom`], as verdicts name it.
pub const LOOM_MODEL: &str = "C11 subset (loom)";
/// The memory model of [`shuttle`], as verdicts name it.
pub const SHUTTLE_MODEL: &str = "SC interleavings, sampled (shuttle)";
