//! From the words of the command line to an exit code.

use std::ffi::OsString;
use std::io::Write;
use std::panic;

use anstream::ColorChoice;
use clap::Parser;

use crate::args::{Cli, Color, Command, with_default_command};
use crate::exit::{Exit, Failure, guarded};
use crate::{check, conform, explain, guards, interrupt, list, locks, outcomes, replay};

/// Runs the command line `arguments`, the first of which is the program.
pub fn main(arguments: Vec<OsString>) -> Exit {
    // The message of a panic is part of the error that it becomes.
    panic::set_hook(Box::new(|_| {}));
    let cli = match Cli::try_parse_from(with_default_command(arguments)) {
        Ok(cli) => cli,
        Err(error) => {
            let printed = error.print();
            return match error.exit_code() {
                0 if printed.is_ok() => Exit::Expected,
                _ => Exit::Usage,
            };
        }
    };
    match cli.common.color {
        Color::Auto => ColorChoice::Auto,
        Color::Always => ColorChoice::Always,
        Color::Never => ColorChoice::Never,
    }
    .write_global();
    match guarded(|| dispatch(&cli)) {
        Ok(exit) => exit,
        Err(failure) => {
            if !failure.message.is_empty() {
                let _ = writeln!(anstream::stderr(), "{failure}");
            }
            // After a signal the terminal or the reader may be gone: that is no error of its own.
            match failure.exit {
                Exit::Usage if interrupt::interrupted() => interrupt::exit(),
                exit => exit,
            }
        }
    }
}

/// Runs one command.
fn dispatch(cli: &Cli) -> Result<Exit, Failure> {
    let mut out = anstream::AutoStream::auto(std::io::stdout());
    let exit = match &cli.command {
        Command::Check(args) => check::run(args, &cli.common, &mut out),
        Command::List(args) => list::run(args, &mut out),
        Command::Guards(args) => guards::run(args, &mut out),
        Command::Conform(args) => conform::run(args, &cli.common, &mut out),
        Command::Explain(args) => explain::run(args, &cli.common, &mut out),
        Command::Locks(args) => locks::run(args, &cli.common, &mut out),
        Command::Outcomes(args) => outcomes::run(args, &cli.common, &mut out),
        Command::Replay(args) => replay::run(args, &mut out),
    }?;
    out.flush()?;
    Ok(exit)
}
