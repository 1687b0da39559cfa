//! The `kvmmu` command.
#![cfg_attr(
    target_os = "linux",
    expect(unsafe_code, reason = "only what runs before Rust's runtime sees a closed descriptor")
)]

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

/// True if standard output was closed when the process began. Rust's runtime opens `/dev/null` in
/// its place, so that whatever is written there is lost without an error.
static CLOSED: AtomicBool = AtomicBool::new(false);

#[cfg(target_os = "linux")]
extern "C" fn look() {
    let closed = rustix::io::fcntl_getfd(rustix::stdio::stdout()).is_err();
    // ORDERING: there is one thread yet.
    CLOSED.store(closed, Ordering::Relaxed);
}

// SAFETY: the section holds pointers to functions of this type, which the C library calls before
// `main`. This one makes a system call and stores a flag: it needs nothing of Rust's runtime.
#[cfg(target_os = "linux")]
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;

fn main() -> ExitCode {
    // ORDERING: it was stored before there were threads.
    let exit = match CLOSED.load(Ordering::Relaxed) {
        true => kvmmu::cli::command::closed(),
        false => kvmmu::cli::command::main(std::env::args_os().collect()),
    };
    ExitCode::from(exit as u8)
}
