//! `kvmmu check --engine loom|shuttle` in a build that has neither.

use std::io::Write;

use crate::cli::args::{CheckArgs, Engine};
use crate::cli::exit::{Exit, Failure};
use crate::commands::plan::Plan;

/// Refuses an engine that this build does not have.
///
/// # Errors
///
/// loom and shuttle.
pub fn refuse_foreign(args: &CheckArgs) -> Result<(), Failure> {
    let name = match args.engine {
        Engine::Sim => return Ok(()),
        Engine::Loom => "loom",
        Engine::Shuttle => "shuttle",
    };
    let what = args.select.join(" ");
    let command = format!("cargo run --release --features engines -- check {what} --engine {name}");
    Err(Failure::usage(
        format!("this build of kvmmu does not have the engine {name}"),
        format!("build it with '{}'", command.replace("  ", " ")),
    ))
}

/// Explores nothing: [`refuse_foreign`] comes first.
///
/// # Errors
///
/// As [`refuse_foreign`].
pub fn run(
    args: &CheckArgs,
    _plan: &Plan<'_>,
    _interrupted: &dyn Fn() -> bool,
    _to: &mut dyn Write,
) -> Result<Exit, Failure> {
    refuse_foreign(args).map(|()| Exit::Expected)
}
