//! `kvmmu conform`: what a real kernel did, checked against what the model says it may do.
//!
//! Nothing here knows scenarios or the simulator: a verdict on a kernel depends on neither.
//!
//! Guarantee: exit 0 only if there is something to judge and every event of the trace is explained:
//! recomputed by the model's own functions where they decide, and with a place in some order of the
//! model's steps; rules that the trace does not allow to apply are named. Mechanism:
//! [`mod@file`] reads, [`agree`] and [`ranges`] refuse what contradicts itself, [`checker`] looks
//! at each event and sorts them by SPTE, [`history`] runs an automaton over each SPTE, [`report`]
//! prints. docs/conformance.md says what that means and what it does not.
#![forbid(unsafe_code)]

pub mod agree;
pub mod checker;
pub mod event;
pub mod file;
pub mod gaps;
pub mod history;
pub mod kernel;
pub mod line;
pub mod offset;
pub mod pages;
pub mod place;
pub mod ranges;
pub mod refused;
pub mod report;
pub mod rules;
pub mod threads;
pub mod walk;
pub mod windows;

use refused::Refused;
use report::Report;

/// Checks a trace that is called `name`. `all`: the report lists all that is not explained.
///
/// # Errors
///
/// Traces whose addresses make no sense.
pub fn judge(name: &str, recording: &file::Recording, all: bool) -> Result<Report, Refused> {
    let checked = checker::check(recording).map_err(|message| {
        let help = "record it with 'no_hash_pointers' on the kernel's command line, or from the \
                    raw trace buffers";
        Refused::bad(format!("{name}: {message}"), help)
    })?;
    Ok(Report::of(name, recording, &checked, all))
}
