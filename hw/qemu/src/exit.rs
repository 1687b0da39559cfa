//! Exit codes, and errors that name the next thing to try.
//!
//! The codes are those of the `kvmmu` command; this package does not depend on it.

use std::fmt;
use std::process::ExitCode;

/// What an exit code means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Exit {
    /// Everything was as expected.
    Expected = 0,
    /// Something was not: a page was lost, or a broken variant was not caught.
    Unexpected = 1,
    /// The command line or an input is wrong, or a program that is needed is not there.
    Usage = 2,
    /// A time limit was hit before a verdict.
    Bound = 3,
    /// Nothing was selected, or all that was selected had to be skipped.
    Nothing = 4,
    /// A program or a file is of another version than the one that is needed.
    Refused = 5,
    /// The tool itself is broken.
    Internal = 70,
    /// Ctrl-C.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// The next thing to try is broken into lines of this length.
const HELP_WIDTH: usize = 96;

/// Why something ended without a result. Prints as `error: ...` and, below it, `help: ...`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What is wrong; may have several lines.
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

    /// After Ctrl-C.
    pub fn interrupted() -> Failure {
        let help = "what had been started was ended and reaped";
        Failure::new(Exit::Interrupted, "interrupted", help)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        let mut column = 0;
        for (i, word) in self.help.split_whitespace().enumerate() {
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
