//! Recordings as files: what they are made of.
//!
//! A first line `kvmmu-steps 1`, a second one with the header as JSON; then records, each the two
//! bytes of its length and so many bytes of [postcard](https://postcard.jamesmunns.com); then two
//! bytes of zeros, the number of events (8 bytes) and the CRC-32 of all that is before (4 bytes).
//! Numbers are little-endian. What is named by its number (functions, instructions) is named by a
//! record before it.
//!
//! Guarantee: a file that was cut short or changed is not judged.

mod read;
mod write;

use serde::{Deserialize, Serialize};

use crate::event::{Arch, Event, Site};

pub use read::{Events, Reader};
pub use write::Writer;

/// The version of the format.
pub const VERSION: u32 = 1;
/// What the first line begins with.
const MAGIC: &str = "kvmmu-steps";
/// The end, after the records: no length, the number of events, the checksum.
const END: usize = 2 + 8 + 4;

/// How it was recorded.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Header {
    /// The architecture of the machine.
    pub arch: Arch,
    /// How many CPUs it has.
    pub cpus: u32,
    /// CPUs took turns by a count of instructions: one is 2 to this power nanoseconds. Another
    /// number gives another interleaving; the same number the same recording.
    pub schedule: Option<u8>,
    /// The order of events is the order in which things happened. If not, CPUs ran at a time.
    pub exact: bool,
    /// The guest's accesses were held against the descriptors.
    pub guest: bool,
}

/// A record of a file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Record {
    /// The next instruction.
    Site(Site),
    /// The next event.
    Event(Event),
}

#[cfg(test)]
mod tests;
