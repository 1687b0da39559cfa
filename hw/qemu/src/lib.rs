//! Runs QEMU, or any other child, so that nothing is ever left behind.
//!
//! The guarantee: [`Launch::run`] returns within its time limit (and the moment that a kill takes),
//! whatever the child does, and when it has returned the child and all that the child started are
//! dead and reaped. Ctrl-C is one of the ways out of it. A child that outlives us all the same (we
//! were killed by SIGKILL) is killed by the kernel.
//!
//! The mechanism: the child is the leader of a process group of its own; two threads read its
//! outputs in pieces and the caller's thread waits for pieces, for the child's end, for the limit
//! and for Ctrl-C; one kill goes to the group.
//!
//! ```no_run
//! use std::time::Duration;
//! use kvmmu_qemu::{End, Launch, Said, Step, program};
//!
//! # fn main() -> Result<(), kvmmu_qemu::Failure> {
//! kvmmu_qemu::interrupt::catch()?;
//! let qemu = program::QEMU_AARCH64.find()?;
//! let mut command = qemu.command();
//! command.args(["-M", "virt", "-nographic", "-kernel", "Image"]);
//! let end = Launch::new(command, Duration::from_secs(60)).run(|said| match said {
//!     // U-Boot asks: an unfinished line.
//!     Said::Prompt("=> ") => Step::Send(b"booti 0x42000000 - 0x40000000\n".to_vec()),
//!     Said::Line(line) if line.starts_with("VERDICT ") => Step::End(line.ends_with("ok")),
//!     _ => Step::Go,
//! })?;
//! let ok = matches!(end, End::Verdict(true));
//! # Ok(()) }
//! ```

pub mod exit;
pub mod interrupt;
pub mod launch;
pub mod lines;
pub mod program;

pub use exit::{Exit, Failure};
pub use launch::{End, Launch, Said, Step};
pub use program::{Program, Version};
