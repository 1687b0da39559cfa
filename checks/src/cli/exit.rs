//! The exit codes, and errors that name the next thing to try.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};

use serde::{Deserialize, Serialize};

use crate::cli::shown::shown_lines;

/// What the command's exit code means. A smaller code does not mean a milder case: see
/// [`Exit::worse`].
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(into = "u8", try_from = "u8")]
#[repr(u8)]
pub enum Exit {
    /// Every selected variant gave its expected verdict: the broken ones did fail.
    Expected = 0,
    /// A correct variant was violated, a broken one was not caught as it should have been, counts
    /// moved, `explain` has no counterexample, or `replay --exit-code` saw a violation.
    Unexpected = 1,
    /// The command line, a scenario file or a trace file is wrong, or an output cannot be written.
    Usage = 2,
    /// A bound was hit before a verdict.
    Inconclusive = 3,
    /// No scenario was selected.
    Nothing = 4,
    /// A replay diverged, or a schedule or trace was made by another version or for another
    /// scenario.
    Diverged = 5,
    /// The tool itself is broken.
    Internal = 70,
    /// The terminal was closed: SIGHUP.
    HungUp = 129,
    /// Ctrl-C, or SIGINT.
    Interrupted = 130,
    /// The reader of the output has closed the pipe: the code that other tools end with there.
    ReaderLeft = 141,
    /// SIGTERM.
    Terminated = 143,
}

impl Exit {
    /// Every code, in few words for the help text, and as README.md explains it. The only such
    /// list: the help text is made of it, and README's table is checked against it.
    pub const ALL: &'static [(Exit, &'static str, &'static str)] = &[
        (Exit::Expected, "as expected", "every verdict as expected: the broken variants did fail"),
        (
            Exit::Unexpected,
            "unexpected",
            "an unexpected verdict, a cycle of lock orders, counts that moved, `explain` has no \
             counterexample, or `replay --exit-code` saw a violation",
        ),
        (
            Exit::Usage,
            "bad usage or input",
            "bad usage, scenario or trace file, or an output that cannot be written",
        ),
        (
            Exit::Inconclusive,
            "no verdict",
            "no verdict: a bound was hit, or a guard is missing that is not judged under SC",
        ),
        (Exit::Nothing, "nothing selected", "nothing was selected"),
        (
            Exit::Diverged,
            "replay diverged or refused",
            "a replay diverged, or was made for another scenario or version",
        ),
        (Exit::Internal, "internal error", "kvmmu itself is broken: please report it"),
        (Exit::HungUp, "SIGHUP", "SIGHUP, as 130"),
        (Exit::Interrupted, "Ctrl-C", "Ctrl-C; what was found so far is printed"),
        (
            Exit::ReaderLeft,
            "pipe closed",
            "whoever read the output closed the pipe, as `head` does; what it did not read is lost",
        ),
        (Exit::Terminated, "SIGTERM", "SIGTERM, as 130"),
    ];

    /// The codes in few words, in lines of at most `width` characters.
    pub fn help(width: usize) -> String {
        let last = Exit::ALL.len() - 1;
        let code = |(i, (exit, few, _)): (usize, &(Exit, &str, &str))| {
            format!("{} {few}{}", *exit as u8, if i == last { "" } else { "," })
        };
        let (mut text, mut column) = ("Exit:".to_owned(), 5);
        for code in Exit::ALL.iter().enumerate().map(code) {
            if column + 1 + code.len() > width {
                text += "\n ";
                column = 1;
            }
            column += 1 + code.len();
            text = text + " " + &code;
        }
        text
    }

    /// Of two results of one run, the one that the run reports.
    #[must_use]
    pub fn worse(self, other: Exit) -> Exit {
        let rank = |exit| match exit {
            Exit::Expected => 0,
            Exit::Nothing => 1,
            Exit::Inconclusive => 2,
            Exit::Usage | Exit::ReaderLeft => 3,
            Exit::Diverged => 4,
            Exit::Unexpected => 5,
            Exit::Interrupted | Exit::Terminated | Exit::HungUp => 6,
            Exit::Internal => 7,
        };
        if rank(other) > rank(self) { other } else { self }
    }
}

impl From<Exit> for u8 {
    fn from(exit: Exit) -> u8 {
        exit as u8
    }
}

impl TryFrom<u8> for Exit {
    type Error = String;

    fn try_from(code: u8) -> Result<Exit, String> {
        let mut all = Exit::ALL.iter().map(|(exit, ..)| *exit);
        all.find(|exit| *exit as u8 == code).ok_or_else(|| format!("{code} is no exit code"))
    }
}

/// The next thing to try is broken into lines of this length.
const HELP_WIDTH: usize = 96;

/// Why a command ended without a result.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What is wrong; may have several lines. Empty: say nothing (the reader of a pipe has left).
    pub message: String,
    /// The next thing to try.
    pub help: String,
}

impl Failure {
    /// A failure with exit code `exit`.
    pub fn new(exit: Exit, message: impl Into<String>, help: impl Into<String>) -> Failure {
        Failure { exit, message: message.into(), help: help.into() }
    }

    /// Bad usage or input.
    pub fn usage(message: impl Into<String>, help: impl Into<String>) -> Failure {
        Failure::new(Exit::Usage, message, help)
    }

    /// An error of the tool itself.
    pub fn internal(message: impl Into<String>) -> Failure {
        let help = "this is a bug in kvmmu: please report it with the command line that led here";
        Failure::new(Exit::Internal, message, help)
    }
}

impl From<io::Error> for Failure {
    /// Of writing to standard output.
    fn from(error: io::Error) -> Failure {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Failure::new(Exit::ReaderLeft, "", "");
        }
        Failure::usage(
            format!("cannot write to standard output: {error}"),
            "make room or redirect the output to another place, then run the command again",
        )
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", shown_lines(&self.message))?;
        let mut column = 0;
        for (i, word) in shown_lines(&self.help).split_whitespace().enumerate() {
            // Words are never broken: commands must paste.
            if i == 0 {
                f.write_str("\n  help:")?;
                column = 7;
            } else if column + 1 + word.len() > HELP_WIDTH {
                f.write_str("\n       ")?;
                column = 7;
            }
            write!(f, " {word}")?;
            column += 1 + word.len();
        }
        Ok(())
    }
}

impl core::error::Error for Failure {}

thread_local! {
    /// Where this OS thread panicked last, until somebody asks.
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Keeps panics off the standard error stream: their message and place are part of the error that
/// they become.
pub fn watch_panics() {
    panic::set_hook(Box::new(note_panic));
}

/// Keeps the place of a panic for the error that it becomes.
pub fn note_panic(info: &PanicHookInfo<'_>) {
    let place = info.location().map(|place| format!("{}:{}", place.file(), place.line()));
    let _ = PLACE.try_with(|last| *last.borrow_mut() = place);
}

/// The words of a panic of this OS thread, and its place, if it is known.
pub fn panic_words(said: &str) -> String {
    match PLACE.take() {
        Some(place) => format!("internal error: {said} ({place})"),
        None => format!("internal error: {said}"),
    }
}

/// Runs `body`; a panic in it becomes an internal error.
///
/// # Errors
///
/// Those of `body`, and [`Exit::Internal`] after a panic.
pub fn guarded<T>(body: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    panic::catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| {
        let said = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| payload.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        Err(Failure::internal(panic_words(said)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_exit_70_with_its_message() {
        let failure = guarded::<()>(|| panic!("no such state")).unwrap_err();
        assert_eq!(failure.exit, Exit::Internal);
        assert!(failure.to_string().contains("no such state"));
        assert!(failure.to_string().contains("help:"));
    }

    #[test]
    fn a_panic_has_its_place() {
        watch_panics();
        let line = line!() + 1;
        let failure = guarded::<()>(|| panic!("no such state")).unwrap_err();
        let place = format!("(checks/src/cli/exit.rs:{line})");
        assert!(failure.message.ends_with(&place), "{failure}");
        assert!(failure.help.contains("please report it"), "{failure}");
        // A panic is reported once.
        assert!(!panic_words("").contains("exit.rs"));
    }

    #[test]
    fn unexpected_beats_inconclusive() {
        assert_eq!(Exit::Inconclusive.worse(Exit::Unexpected), Exit::Unexpected);
        assert_eq!(Exit::Unexpected.worse(Exit::Inconclusive), Exit::Unexpected);
        assert_eq!(Exit::Expected.worse(Exit::Inconclusive), Exit::Inconclusive);
    }
}
