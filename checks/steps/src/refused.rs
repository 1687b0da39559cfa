//! Why a recording is not judged.

use core::fmt;

/// What is wrong with a recording that is not judged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// It cannot be read, is no whole recording, or contradicts itself.
    Bad,
    /// It is of another version of the format, or of a kernel whose rules are not known.
    Foreign,
}

/// A recording that is not judged, and the next thing to try.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// What kind of fault it has.
    pub kind: Kind,
    /// The fault, with the place in the file where there is one.
    pub message: String,
    /// The next thing to try.
    pub help: String,
}

impl Refused {
    /// One that is bad.
    pub fn bad(message: impl Into<String>, help: impl Into<String>) -> Refused {
        Refused { kind: Kind::Bad, message: message.into(), help: help.into() }
    }

    /// One that is foreign.
    pub fn foreign(message: impl Into<String>, help: impl Into<String>) -> Refused {
        Refused { kind: Kind::Foreign, message: message.into(), help: help.into() }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl core::error::Error for Refused {}
