//! Ctrl-C, SIGTERM and SIGHUP: a run that is under way ends with [`End::Interrupted`].
//!
//! [`End::Interrupted`]: crate::End::Interrupted

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::exit::Failure;

/// Set by the first signal.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Catches the signals from now on. To call it again does nothing.
///
/// # Errors
///
/// When the system does not let us, or something else in this process catches them already.
pub fn catch() -> Result<(), Failure> {
    static CAUGHT: OnceLock<Result<(), Failure>> = OnceLock::new();
    CAUGHT
        .get_or_init(|| {
            // ORDERING: Relaxed. A flag of its own: nothing else is published with it.
            ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed))
                .map_err(|error| Failure::internal(format!("cannot catch Ctrl-C: {error}")))
        })
        .clone()
}

/// True after a signal.
pub fn interrupted() -> bool {
    // ORDERING: Relaxed, as above: a signal that is seen a poll later is seen in time.
    INTERRUPTED.load(Ordering::Relaxed)
}
