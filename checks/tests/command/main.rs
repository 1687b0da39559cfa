//! Goal: the `kvmmu` command says what it should, in the form that it should. Method: its parts on
//! a run and a machine made by hand, and the command itself on bad input.

mod check;
mod cli;
mod common;
mod conform;
#[path = "../told/docutils.rs"]
mod docutils;
mod ends;
#[cfg(feature = "engines")]
mod engines;
mod explain;
mod files;
#[cfg(target_os = "linux")]
mod inputs;
mod locks;
mod merge;
mod outcomes;
#[cfg(unix)]
mod outputs;
mod report;
mod resume;
mod steps;
/// Traces made by hand.
#[expect(dead_code, reason = "kvmmu-conform's tests have more use for it")]
#[path = "../../conform/tests/conform/common.rs"]
mod traces;
