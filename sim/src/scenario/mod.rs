//! Scenarios as programs: their threads on the simulated machine, its TLBs and page-table walkers,
//! and collecting the outcomes of all executions.

pub mod outcomes;
pub mod race;

mod few;
mod hardware;
mod names;
mod posted;
mod shadow;
mod stage2;

pub use hardware::Walkers;
