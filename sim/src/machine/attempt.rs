//! What a thread read and wrote since its current attempt began, so that a retry which changed
//! nothing can wait until it could fare differently instead of spinning.

use core::cell::Cell;

use super::footprint::Locs;
use super::hash::Chain;

/// How many locations an attempt may touch; one that touches more never waits.
pub(crate) const ENTRIES_MAX: usize = 64;

/// A location that the attempt touched.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Entry {
    /// What it held before the attempt first wrote it.
    first: u64,
    /// What the attempt last saw there or wrote there.
    last: u64,
    loc: u16,
    written: bool,
}

impl Entry {
    fn part(&self) -> u128 {
        let first = if self.written { self.first } else { self.last };
        Chain::EMPTY.then(self.loc as u64).then(self.last).then(first).part(0)
    }
}

/// The log of an attempt.
#[derive(Debug)]
pub(crate) struct Attempt {
    active: Cell<bool>,
    overflow: Cell<bool>,
    len: Cell<u8>,
    /// Locations that may be in the log: a filter before the search.
    mask: Cell<Locs>,
    /// Xor of the entries' hashes: the log is part of the state.
    key: Cell<u128>,
    entries: Box<[Cell<Entry>; ENTRIES_MAX]>,
}

/// The header of a log, for snapshots.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    active: bool,
    overflow: bool,
    len: u8,
    mask: Locs,
    key: u128,
}

impl Attempt {
    pub(crate) fn new() -> Attempt {
        Attempt {
            active: Cell::new(false),
            overflow: Cell::new(false),
            len: Cell::new(0),
            mask: Cell::new(Locs::NONE),
            key: Cell::new(0),
            entries: Box::new(
                [const { Cell::new(Entry { first: 0, last: 0, loc: 0, written: false }) }; _],
            ),
        }
    }

    /// Starts an empty log, or stops logging.
    pub(crate) fn restart(&self, active: bool) {
        self.active.set(active);
        self.overflow.set(false);
        self.len.set(0);
        self.mask.set(Locs::NONE);
        self.key.set(if active { Chain::EMPTY.part(1) } else { 0 });
    }

    /// True while something is logged.
    #[inline(always)]
    pub(crate) fn is_active(&self) -> bool {
        self.active.get()
    }

    /// Stops logging for a moment; [`Attempt::resume`] goes on as it was.
    pub(crate) fn pause(&self) -> bool {
        self.active.replace(false)
    }

    /// Goes on after [`Attempt::pause`].
    pub(crate) fn resume(&self, active: bool) {
        self.active.set(active);
    }

    /// What the log adds to the state's key.
    #[inline(always)]
    pub(crate) fn key(&self) -> u128 {
        self.key.get()
    }

    /// The locations of the log.
    pub(crate) fn mask(&self) -> Locs {
        self.mask.get()
    }

    /// Notes a read of a location, which has this number in footprints.
    #[inline(always)]
    pub(crate) fn read(&self, loc: u16, bit: u8, value: u64) {
        if self.active.get() {
            self.note(loc, bit, None, value);
        }
    }

    /// Notes a write.
    #[inline(always)]
    pub(crate) fn write(&self, loc: u16, bit: u8, old: u64, new: u64) {
        if self.active.get() {
            self.note(loc, bit, Some(old), new);
        }
    }

    /// From now on nothing is logged and the next wait does not wait.
    fn give_up(&self) {
        self.overflow.set(true);
        self.len.set(0);
        self.mask.set(Locs::NONE);
        self.key.set(Chain::EMPTY.part(2));
    }

    fn note(&self, loc: u16, bit: u8, old: Option<u64>, value: u64) {
        if self.overflow.get() {
            return;
        }
        let len = self.len.get() as usize;
        let bit = Locs::of(bit);
        let known = match (self.mask.get() & bit).is_empty() {
            true => None,
            false => self.entries[..len].iter().find(|e| e.get().loc == loc),
        };
        let Some(place) = known.or_else(|| self.entries.get(len)) else {
            return self.give_up();
        };
        if known.is_some_and(|e| e.get().last != old.unwrap_or(value)) {
            // Somebody else changed it during the attempt: another attempt may do something else.
            return self.give_up();
        }
        let entry = match known {
            Some(place) => {
                let mut entry = place.get();
                self.key.set(self.key.get() ^ entry.part());
                if let (Some(old), false) = (old, entry.written) {
                    entry = Entry { first: old, written: true, ..entry };
                }
                Entry { last: value, ..entry }
            }
            None => {
                self.len.set(len as u8 + 1);
                self.mask.set(self.mask.get() | bit);
                Entry { first: old.unwrap_or(0), last: value, loc, written: old.is_some() }
            }
        };
        place.set(entry);
        self.key.set(self.key.get() ^ entry.part());
    }

    /// True if another attempt would do what this one did: no net change. `now` says what a
    /// location holds.
    pub(crate) fn futile(&self, now: impl Fn(u16) -> u64) -> bool {
        let same = |e: Entry| now(e.loc) == e.last && (!e.written || e.first == e.last);
        self.active.get()
            && !self.overflow.get()
            && self.entries[..self.len.get() as usize].iter().all(|e| same(e.get()))
    }

    pub(crate) fn save(&self, entries: &mut Vec<Entry>) -> Header {
        let len = self.len.get();
        entries.extend(self.entries[..len as usize].iter().map(Cell::get));
        Header {
            active: self.active.get(),
            overflow: self.overflow.get(),
            len,
            mask: self.mask.get(),
            key: self.key.get(),
        }
    }

    pub(crate) fn load(&self, header: &Header, entries: &[Entry]) {
        self.active.set(header.active);
        self.overflow.set(header.overflow);
        self.len.set(header.len);
        self.mask.set(header.mask);
        self.key.set(header.key);
        for (to, from) in self.entries.iter().zip(&entries[..header.len as usize]) {
            to.set(*from);
        }
    }
}
