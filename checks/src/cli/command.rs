//! From the words of the command line to an exit code.

use std::ffi::OsString;
use std::io::{self, Write};

use anstream::ColorChoice;
use clap::Parser;

use crate::cli::args::{Cli, Color, Command, with_default_command};
use crate::cli::exit::{Exit, Failure, guarded, watch_panics};
use crate::cli::interrupt;
use crate::commands::check;
use crate::commands::conform;
use crate::commands::explain;
use crate::commands::guards;
use crate::commands::list;
use crate::commands::locks;
use crate::commands::merge;
use crate::commands::outcomes;
use crate::commands::replay;
use crate::commands::steps;

/// Runs the command line `arguments`, the first of which is the program.
pub fn main(arguments: Vec<OsString>) -> Exit {
    watch_panics();
    if let Err(failure) = interrupt::outlive_full_files() {
        return report(&failure);
    }
    let cli = match Cli::try_parse_from(with_default_command(arguments)) {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to standard output, and what is wrong with the words to standard error.
            return match (error.print(), error.exit_code()) {
                (Ok(()), 0) => Exit::Expected,
                (Err(error), 0) => report(&error.into()),
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
        Err(failure) => report(&failure),
    }
}

/// Standard output is closed.
pub fn closed() -> Exit {
    let failure = Failure::usage(
        "cannot write to standard output: it is closed",
        "redirect it to a file, or to /dev/null if only the exit code matters",
    );
    report(&failure)
}

/// Says what is wrong; gives the exit code.
fn report(failure: &Failure) -> Exit {
    if !failure.message.is_empty() {
        let _ = writeln!(anstream::stderr(), "{failure}");
    }
    // After a signal the terminal or the reader may have closed: that is no error of its own.
    match failure.exit {
        Exit::Usage | Exit::ReaderLeft if interrupt::signalled() => interrupt::exit(),
        exit => exit,
    }
}

/// Standard output. Once it cannot be written, searches end.
struct Watched<W>(W);

impl<W> Watched<W> {
    fn watch<T>(&mut self, write: impl FnOnce(&mut W) -> io::Result<T>) -> io::Result<T> {
        write(&mut self.0).inspect_err(|error| {
            if error.kind() != io::ErrorKind::Interrupted {
                interrupt::give_up();
            }
        })
    }
}

impl<W: Write> Write for Watched<W> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.watch(|to| to.write(text))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.watch(Write::flush)
    }
}

/// Runs one command.
fn dispatch(cli: &Cli) -> Result<Exit, Failure> {
    let mut out = Watched(anstream::AutoStream::auto(io::stdout()));
    let exit = match &cli.command {
        Command::Check(args) => check::run(args, &cli.common, &mut out),
        Command::Merge(args) => merge::run(args, &mut out),
        Command::List(args) => list::run(args, &mut out),
        Command::Guards(args) => guards::run(args, &mut out),
        Command::Conform(args) => conform::run(args, &cli.common, &mut out),
        Command::Steps(args) => steps::run(args, &mut out),
        Command::Explain(args) => explain::run(args, &cli.common, &mut out),
        Command::Locks(args) => locks::run(args, &cli.common, &mut out),
        Command::Outcomes(args) => outcomes::run(args, &cli.common, &mut out),
        Command::Replay(args) => replay::run(args, &mut out),
    }?;
    out.flush()?;
    Ok(exit)
}
