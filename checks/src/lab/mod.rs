//! The laboratory: which scenarios, without which guards, how they are run, and what that means.
//!
//! [`select`] and [`load`] make a [`variant`], [`run`] explores or replays it as a [`search`] says,
//! and [`judge`] compares what was found with what is expected. No file here imports a command or a
//! report.

#[cfg(feature = "engines")]
pub mod by_engine;
pub mod judge;
pub mod kept;
pub mod known;
pub mod layout;
pub mod load;
pub mod memory;
pub mod orders;
pub mod pool;
pub mod replayed;
pub mod run;
pub mod search;
pub mod select;
pub mod shard;
pub mod together;
pub mod variant;
