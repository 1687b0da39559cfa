//! Words whose value nobody will read any more: it stays where it is, for traces, and is no part of
//! the state. A store makes the word one like any other again; other writes change a value that is
//! not read. Who reads it all the same has found a bug of this program: the run ends, and with it
//! the search.
//!
//! That a word is not read is no access: it changes what states are told apart, and not what a step
//! does. So it is in no footprint.

use core::panic::Location;

use kvmmu_model::Object;

use super::hash::word_part;
use super::state::{LOCS_MAX, Machine, UNREAD};

/// Cells with a bit for each location.
pub(super) const CELLS: u16 = (LOCS_MAX / 64) as u16;

const fn place(loc: u16) -> (u16, u64) {
    (loc / 64, 1 << (loc % 64))
}

impl Machine {
    /// True if nobody will read the word.
    #[inline(always)]
    pub(crate) fn is_unread(&self, loc: u16) -> bool {
        let (i, bit) = place(loc);
        self.arena.get(self.unread.get() + i) & bit != 0
    }

    /// Nobody will read the word that is at `cell`.
    pub(crate) fn forget(&self, loc: u16, cell: u16) {
        if !self.is_unread(loc) && !self.kept.borrow().contains(&self.tag(loc).object) {
            self.toggle_unread(loc, cell);
        }
    }

    /// The word has a value again that may be read.
    #[inline(always)]
    pub(crate) fn remember(&self, loc: u16, cell: u16) {
        if self.is_unread(loc) {
            self.toggle_unread(loc, cell);
        }
    }

    fn toggle_unread(&self, loc: u16, cell: u16) {
        let (i, bit) = place(loc);
        let all = self.unread.get() + i;
        let old = self.arena.get(all);
        self.arena.set(all, old ^ bit);
        self.mix(word_part(UNREAD + i, old) ^ word_part(UNREAD + i, old ^ bit));
        self.mix(word_part(loc, self.arena.get(cell)));
    }

    /// A word is read.
    #[inline(always)]
    pub(crate) fn check_unread(&self, loc: u16, site: &'static Location<'static>) {
        if self.is_unread(loc) {
            self.read_all_the_same(loc, site);
        }
    }

    #[cold]
    fn read_all_the_same(&self, loc: u16, site: &'static Location<'static>) {
        panic!("{} is read at {site}, after it was said that nobody will", self.name(loc));
    }

    /// The next swap of the word reads it for the last time. Where a thread is in its program says
    /// whether this was said, so it is no part of the key.
    pub(crate) fn forget_after_swap(&self, loc: u16) {
        let (i, bit) = place(loc);
        let cell = self.unread.get() + CELLS + i;
        self.arena.set(cell, self.arena.get(cell) | bit);
    }

    /// The word was swapped.
    #[inline(always)]
    pub(crate) fn swapped(&self, loc: u16, cell: u16) {
        let (i, bit) = place(loc);
        if self.arena.get(self.unread.get() + CELLS + i) & bit != 0 {
            self.forget(loc, cell);
        }
    }

    /// The words of this object are never forgotten.
    pub(crate) fn keep(&self, object: Object) {
        self.kept.borrow_mut().push(object);
    }
}
