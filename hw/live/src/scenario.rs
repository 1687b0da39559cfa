//! Scenario files on a live KVM.

use kvmmu_qemu::{Exit, Failure};

use crate::cli::{Common, RunArgs};
use crate::report::Report;

/// Runs scenarios.
///
/// # Errors
///
/// When one cannot be loaded or does not fit.
pub fn run(_: &RunArgs, _: &Common, _: Report) -> Result<Exit, Failure> {
    Err(Failure::usage("not yet", ""))
}
