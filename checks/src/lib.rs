//! The `kvmmu` command: explores the scenarios, explains counterexamples and replays them.
//!
//! Everything that the command does is here, so that tests can do it too; `main.rs` only calls
//! [`command::main`]. The one place that knows how scenarios are loaded and explored is [`run`].
#![forbid(unsafe_code)]

/// Prints a line to standard error. If that is gone, so is the line: nothing else is lost.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}

pub mod args;
pub mod bounds;
#[cfg(feature = "engines")]
pub mod by_engine;
pub mod check;
pub mod command;
pub mod conform;
pub mod counts;
#[cfg(feature = "engines")]
pub mod engines;
pub mod exit;
pub mod explain;
pub mod files;
pub mod guards;
pub mod input;
pub mod interrupt;
pub mod judge;
pub mod list;
pub mod locks;
pub mod memory;
pub mod outcomes;
pub mod output;
pub mod pool;
pub mod progress;
pub mod replay;
pub mod report;
pub mod run;
pub mod select;
pub mod shown;
pub mod trace;
pub mod variant;
