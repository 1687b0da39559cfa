//! `kvmmu-live`: a command, or `/init`.

use std::process::ExitCode;

use clap::Parser;
use kvmmu_live::cli::Cli;
use kvmmu_live::report::Report;
use kvmmu_live::{command, init};

fn main() -> ExitCode {
    if std::process::id() == 1 {
        init::main(std::env::args().skip(1));
    }
    let cli = Cli::parse();
    let exit = command::run(&cli).unwrap_or_else(|failure| {
        Report { format: cli.common.format }.failure(&failure);
        failure.exit
    });
    exit.into()
}
