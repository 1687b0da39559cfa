//! The `kvmmu` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(kvmmu::command::main(std::env::args_os().collect()) as u8)
}
