//! The EL2 image: the model's locking protocol on real stage-2 tables.
//!
//! One arm64 `Image` that boots at EL2, on QEMU's `virt` and on an RK3588 board: it makes tables
//! whose descriptors are the model's SPTEs, runs tiny guests on several CPUs, and compares what
//! they wrote with what was copied. `cargo hw` builds and runs it; `hw/README.md` says how to boot
//! it on a board.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(any(test, target_os = "none"))]
mod args;
#[cfg(target_os = "none")]
mod el2;

/// On a system with an operating system there is nothing to do.
#[cfg(not(target_os = "none"))]
fn main() -> std::process::ExitCode {
    eprintln!("error: this program is for bare metal\n  help: `cargo hw` builds it and runs it");
    std::process::ExitCode::from(2)
}
