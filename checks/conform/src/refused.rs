//! Why a trace, or another recording of a real kernel, is not judged.

use core::fmt;

/// What is wrong with a trace that is not judged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// It cannot be read, is no whole trace, or contradicts itself.
    Bad,
    /// It is of another version of the format, or of a kernel that the model does not know.
    Foreign,
}

/// A trace that is not judged, and the next thing to try.
#[derive(Clone, Debug)]
pub struct Refused {
    /// What kind of fault it has.
    pub kind: Kind,
    /// The fault, with the place in the file where there is one.
    pub message: String,
    /// The next thing to try.
    pub help: String,
}

impl Refused {
    /// A trace that is bad.
    pub fn bad(message: impl Into<String>, help: impl Into<String>) -> Refused {
        Refused { kind: Kind::Bad, message: message.into(), help: help.into() }
    }

    /// A trace that is foreign.
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
