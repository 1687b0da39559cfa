//! `cargo live-qemu`: kvmmu-live as `/init` of real kernels, in QEMU.
//!
//! The guarantee: one command, one table, one exit code, within a time limit for each boot. A
//! kernel that cannot be had is skipped and says why; a boot that fails for reasons of its own (a
//! hang, a line cut off) is tried once more and counted; nothing is left running.

mod args;
mod boot;
mod broken;
mod build;
mod hold;
mod initramfs;
mod kernels;
mod modes;
mod packages;
mod qemu10;
mod steps;
mod subject;
mod table;
mod watch;

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use kvmmu_qemu::{Exit, Failure, interrupt};

use args::Args;
use boot::{Booted, boot};
use kernels::KERNELS;
use modes::Mode;
use table::{Row, Table};

fn main() -> ExitCode {
    let args = Args::parse();
    let exit = run(&args).unwrap_or_else(|failure| {
        eprintln!("{failure}");
        failure.exit
    });
    exit.into()
}

fn run(args: &Args) -> Result<Exit, Failure> {
    interrupt::catch()?;
    if let Some(directory) = &args.steps {
        return steps::run(args, directory);
    }
    let begin = Instant::now();
    let selected: Vec<_> = KERNELS
        .iter()
        .map(|kernel| (kernel, args.modes_of(kernel)))
        .filter(|(_, modes)| !modes.is_empty())
        .collect();
    if selected.is_empty() {
        return Err(args.nothing_selected());
    }
    args.prepare_outputs()?;
    let mut table = Table::default();
    // One machine at a time: what runs beside another on few cores is slower than both in turn.
    for (kernel, modes) in selected {
        match boot(kernel, &modes, args) {
            Ok(booted) => take(&mut table, kernel, &modes, booted),
            Err(failure) if failure.exit == Exit::Interrupted => return Err(failure),
            Err(failure) if failure.exit == Exit::Internal => return Err(failure),
            Err(failure) => {
                let row = if skips(&failure) { Row::skipped } else { Row::cut_off };
                table.rows.extend(modes.iter().map(|mode| row(kernel, mode, &failure)));
            }
        }
    }
    table.print(begin.elapsed());
    Ok(table.exit())
}

/// True if a kernel is left out for this, and the others go on.
fn skips(failure: &Failure) -> bool {
    matches!(failure.exit, Exit::Usage | Exit::Nothing | Exit::Refused)
}

fn take(table: &mut Table, kernel: &kernels::Kernel, modes: &[&Mode], booted: Booted) {
    table.repeated += booted.repeated;
    for (i, mode) in modes.iter().enumerate() {
        table.rows.push(Row::new(kernel, mode, &booted, i));
    }
}
