//! A simulated machine for the KVM MMU model, and the explorers of its interleavings.
//!
//! [`program::Program`] says what runs; [`platform::Sim`] is the machine that it runs on;
//! [`engine::Engine`] takes it step by step; an [`explore::Explorer`] decides which steps to take.
//!
//! The rooms, each of which needs only those before it:
//!
//! - `record`: goals, stories, schedules, events, outcomes. Plain data.
//! - `machine`: shared words, locks, interrupts, threads, and what an access to them does.
//! - `run`: the program, the engine that steps it, and replaying a schedule.
//! - [`explore`]: the strategies, and what they share.
//! - `scenario`: a scenario as a program, the exact hardware under it, and its outcomes.
//! - `programs`: small programs, needing no strategy, that strategies are tested and measured with.
//!
//! Modules that other packages use are re-exported here, so that their paths do not name the rooms.

pub mod explore;

mod machine;
mod programs;
mod record;
mod run;
mod scenario;

pub use explore::sample::{pct, random, rng};
pub use explore::{classes, dpor, graph, keep, minimise, naive, stateful, trace_hash};
pub use machine::{footprint, memory, pending, platform, snapshot};
pub use programs::mini;
pub use record::{actor, event, goal, names, outcome, rule, schedule};
pub use run::{engine, program, replay};
pub use scenario::{Walkers, outcomes, race};

pub use actor::Actor;
pub use engine::Engine;
pub use explore::{Auto, Cores, Explorer, Limits, Progress};
pub use goal::Goal;
pub use machine::cell::SimCell;
pub use machine::lock::{SimGuard, SimLock};
pub use machine::platform::{Shadow, Sim, Stage2};
pub use machine::rcu::SimRcu;
pub use machine::rw_lock::SimRwLock;
pub use machine::srcu::SimSrcu;
pub use machine::word::SimWord;
pub use machine::{ACTORS_MAX, MemoryModel, THREADS_MAX};
