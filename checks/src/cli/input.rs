//! Files that the command reads: as far as files of their kind go, and no further.
//!
//! Guarantee: whatever a path leads to, be it a device without an end, no more is held of it than
//! its limit says. Scenario files have a limit of their own (`kvmmu_scenarios::loader`), and so
//! have recordings, which are read line by line ([`kvmmu_conform::file`]).

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use crate::lab::memory::size_text;

/// How far files of one kind go, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// The largest file.
    pub file: u64,
    /// Its longest line. What is no text at all is found out early.
    pub line: u64,
}

/// Why a file was not read.
#[derive(Debug)]
pub enum Unread {
    /// The system's reason.
    System(io::Error),
    /// Too much is in it: what to put behind its name to say so.
    Large(String),
}

/// Everything in the file at `path`, which is within `limit`.
///
/// # Errors
///
/// Those of the system, and a file beyond the limit.
pub fn read(path: &Path, limit: Limit) -> Result<Vec<u8>, Unread> {
    let file = File::open(path).map_err(Unread::System)?;
    // One byte more distinguishes what is too large from what fits.
    read_from(BufReader::new(file).take(limit.file + 1), limit)
}

/// Everything in `from`.
fn read_from(mut from: impl BufRead, limit: Limit) -> Result<Vec<u8>, Unread> {
    let mut bytes = Vec::new();
    let mut number = 0_u64;
    loop {
        number += 1;
        let mut line = from.by_ref().take(limit.line + 1);
        let read = line.read_until(b'\n', &mut bytes).map_err(Unread::System)?;
        if read == 0 {
            return Ok(bytes);
        }
        if bytes.len() as u64 > limit.file {
            return Err(Unread::Large(format!(": larger than {}", size_text(limit.file))));
        }
        if read as u64 > limit.line {
            let longest = size_text(limit.line);
            return Err(Unread::Large(format!(":{number}: a line longer than {longest}")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Limit = Limit { file: 12, line: 5 };

    fn refused(text: &str) -> String {
        match read_from(text.as_bytes(), LIMIT) {
            Err(Unread::Large(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_within_its_limit_is_read_as_it_is() {
        for text in ["", "\n", "abcde", "abcd\nabcd\nab", "\n\n\n\n\n\n\n\n\n\n\n\n"] {
            assert_eq!(read_from(text.as_bytes(), LIMIT).expect("it fits"), text.as_bytes());
        }
    }

    #[test]
    fn a_file_or_line_with_one_byte_too_much_is_refused() {
        assert_eq!(refused("ab\nabcdef"), ":2: a line longer than 5 bytes");
        assert_eq!(refused("abcde\n"), ":1: a line longer than 5 bytes");
        assert_eq!(refused("abc\nabc\nabc\na"), ": larger than 12 bytes");
    }
}
