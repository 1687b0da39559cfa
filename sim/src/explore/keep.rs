//! Where a search is saved, so that another process can go on with it.
//!
//! A search is a function of program, goal and limits, so that it makes no difference when it was
//! saved: who goes on with it comes to the same states, numbers and verdict. A saved search can be
//! read by the program that saved it and by no other version of it; to see to that, and that what
//! is read is what was written, is up to the [`Keep`].

use core::fmt;
use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::record::outcome::Reason;

/// Where a search is saved.
pub trait Keep {
    /// The search to go on with. Asked once, before the first step; `None`: it begins. If what is
    /// given is not this search, it ends with an internal error.
    fn saved(&mut self) -> Option<Box<dyn Read>>;

    /// True if several engines may share the search. It is not saved from then on.
    fn may_be_shared(&self) -> bool {
        false
    }

    /// Asked from time to time, and with `end` where the search ends for this reason and could go
    /// on from there: true if it shall be saved now.
    fn is_due(&mut self, end: Option<Reason>) -> bool;

    /// Saves the search that `write` writes. That fails with the errors of what it writes to.
    fn save(&mut self, write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>);
}

/// Why something cannot be read again.
#[derive(Debug)]
pub(crate) struct Unusable(String);

impl Unusable {
    pub(crate) fn new(why: &str) -> Unusable {
        Unusable(why.to_owned())
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Writes the parts of a search, one after the other.
pub(crate) struct Writing<'w>(pub(crate) &'w mut dyn Write);

impl Writing<'_> {
    pub(crate) fn put<T: Serialize + ?Sized>(&mut self, part: &T) -> io::Result<()> {
        postcard::to_io(part, &mut *self.0).map(drop).map_err(io::Error::other)
    }
}

/// The longest text in a search, in bytes.
const TEXT_MAX: usize = 1 << 20;

/// Reads what [`Writing`] wrote, in the same order.
pub(crate) struct Reading<'r> {
    from: &'r mut dyn Read,
    text: Vec<u8>,
}

impl<'r> Reading<'r> {
    pub(crate) fn new(from: &'r mut dyn Read) -> Reading<'r> {
        Reading { from, text: vec![0; TEXT_MAX] }
    }

    pub(crate) fn get<T: DeserializeOwned>(&mut self) -> Result<T, Unusable> {
        let read = postcard::from_io((&mut *self.from, &mut self.text));
        read.map(|(part, _)| part).map_err(|error| Unusable(error.to_string()))
    }
}
