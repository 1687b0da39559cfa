//! The commands, one for each file or folder, and what several of them share.
//!
//! [`plan`] and [`counts`] belong to `check`, with whatever engine it runs, and [`merge`] puts what
//! its shards printed together.

pub mod check;
pub mod conform;
pub mod counts;
#[cfg_attr(not(feature = "engines"), path = "no_engines.rs")]
pub mod engines;
pub mod explain;
pub mod guards;
pub mod list;
pub mod locks;
pub mod merge;
pub mod outcomes;
pub mod plan;
pub mod replay;
pub mod steps;
