//! The `kvmmu` command: explores the scenarios, explains counterexamples and replays them.
//!
//! Everything that the command does is here, so that tests can do it too; `main.rs` only calls
//! [`cli::command::main`]. The rooms: [`cli`], the command line; [`commands`], what each command
//! does; [`lab`], how scenarios are loaded, explored and judged, in [`lab::run`] above all; and
//! [`report`], how a counterexample is reported.
#![forbid(unsafe_code)]

/// Prints a line to standard error. If that is closed, only the line is lost.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}

pub mod cli;
pub mod commands;
pub mod lab;
pub mod report;
