//! Ctrl-C: the first asks the searches to stop, the second ends the process.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::exit::{Exit, Failure};

/// Set by the first Ctrl-C.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Catches Ctrl-C from now on.
///
/// # Errors
///
/// When the system does not let us.
pub fn catch() -> Result<(), Failure> {
    ctrlc::set_handler(|| {
        // A flag of its own: nothing else is published with it.
        if INTERRUPTED.swap(true, Ordering::Relaxed) {
            std::process::exit(Exit::Interrupted as i32);
        }
    })
    .map_err(|error| Failure::internal(format!("cannot catch Ctrl-C: {error}")))
}

/// True after Ctrl-C.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}
