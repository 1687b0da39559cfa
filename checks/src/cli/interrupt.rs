//! Signals that ask to end: the first asks the searches to stop, so that what they found is
//! printed; the second ends the process.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag::{register, register_conditional_shutdown, register_usize};

use crate::cli::exit::{Exit, Failure};

/// Set by the first signal.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// The last signal; 0: there was none.
static SIGNAL: AtomicUsize = AtomicUsize::new(0);

#[cfg(unix)]
use signal_hook::consts::{SIGHUP, SIGXFSZ};

/// The signals that are caught, and how the command ends then.
const CAUGHT: &[(i32, Exit)] = &[
    (SIGINT, Exit::Interrupted),
    (SIGTERM, Exit::Terminated),
    #[cfg(unix)]
    (SIGHUP, Exit::HungUp),
];

/// Catches them from now on.
///
/// # Errors
///
/// When the system does not let us.
pub fn catch() -> Result<(), Failure> {
    for (signal, exit) in CAUGHT.iter().filter(|(signal, _)| !is_ignored(*signal)) {
        // In this order: the first signal finds the flag clear.
        register_conditional_shutdown(*signal, *exit as i32, &INTERRUPTED)
            .and_then(|_| register(*signal, &INTERRUPTED))
            .and_then(|_| register_usize(*signal, &SIGNAL, *signal as usize))
            .map_err(|error| Failure::internal(format!("cannot catch signal {signal}: {error}")))?;
    }
    Ok(())
}

/// A write beyond the size that the process may give a file (`ulimit -f`) is an error from now on,
/// like one to a full disk. The system would end the process there, with a file half written.
///
/// # Errors
///
/// When the system does not let us.
#[cfg(unix)]
pub fn outlive_full_files() -> Result<(), Failure> {
    // Caught by nobody who looks: that a signal has a handler is enough for the write to return.
    static GREW: AtomicBool = AtomicBool::new(false);
    register(SIGXFSZ, &GREW)
        .map(|_| ())
        .map_err(|error| Failure::internal(format!("cannot catch signal {SIGXFSZ}: {error}")))
}

/// Other systems have no such limit.
#[cfg(not(unix))]
pub fn outlive_full_files() -> Result<(), Failure> {
    Ok(())
}

/// True if this process was started with SIGHUP ignored, as `nohup` does.
#[cfg(target_os = "linux")]
fn is_ignored(signal: i32) -> bool {
    let status = procfs::process::Process::myself().and_then(|process| process.status());
    signal == SIGHUP && status.is_ok_and(|status| status.sigign >> (signal - 1) & 1 == 1)
}

/// Other systems are not asked.
#[cfg(not(target_os = "linux"))]
fn is_ignored(_: i32) -> bool {
    false
}

/// True after a signal.
pub fn interrupted() -> bool {
    // ORDERING: a flag of its own: nothing else is published with it.
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Asks the searches to stop, as a signal does: nobody will read what they find.
pub fn give_up() {
    // ORDERING: as above.
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// True after a signal, but not for [`give_up`].
pub fn signalled() -> bool {
    // ORDERING: as above.
    SIGNAL.load(Ordering::Relaxed) != 0
}

/// How a run that was interrupted ends.
pub fn exit() -> Exit {
    // ORDERING: as above.
    let signal = SIGNAL.load(Ordering::Relaxed);
    let caught = CAUGHT.iter().find(|(number, _)| *number as usize == signal);
    caught.map_or(Exit::Interrupted, |(_, exit)| *exit)
}
