//! Walks: of shadow tables, and of the guest's own.
//!
//! One of each, for any number of levels. How an entry is read is up to who walks: the MMU by
//! steps, hardware by its own, an observer by none.

use super::paging::{ROOT_LEVEL, frame_in, frames_of, index_at};
use crate::spte::{Gpte, Spte, SpteFormat};
use crate::types::{Access, Gfn, Gva, Pfn, SpId, SpteLoc};

/// `struct kvm_shadow_walk_iterator`: a place on the way from the root to a page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ShadowWalk {
    page: u64,
    /// Where the walk is.
    pub loc: SpteLoc,
    /// The level of that table.
    pub level: u8,
}

impl ShadowWalk {
    /// `shadow_walk_init`: at the root. `page`: a guest frame, or a guest-virtual page number.
    #[inline]
    pub const fn new(root: SpId, page: u64) -> ShadowWalk {
        let loc = SpteLoc { sp: root, index: index_at(ROOT_LEVEL, page) };
        ShadowWalk { page, loc, level: ROOT_LEVEL }
    }

    /// `shadow_walk_next`: one level down, to the table that the entry points to.
    #[must_use]
    #[inline]
    pub const fn next(self, child: SpId) -> ShadowWalk {
        let level = self.level - 1;
        ShadowWalk { loc: SpteLoc { sp: child, index: index_at(level, self.page) }, level, ..self }
    }

    /// The page by which a leaf at this place translates the address.
    #[inline]
    pub const fn pfn(self, format: &SpteFormat, leaf: Spte) -> Pfn {
        Pfn(format.pfn(leaf).0 | self.page & (frames_of(self.level - 1) as u64 - 1))
    }

    /// True if a leaf at this place may translate the address to this page.
    #[inline]
    pub const fn gives(self, page: Pfn) -> bool {
        (page.0 ^ self.page) & (frames_of(self.level - 1) as u64 - 1) == 0
    }

    /// `for_each_shadow_entry`: down to the leaf, or to the first entry of an upper level of which
    /// `goes_on` is false. The last place, and what it holds.
    #[inline]
    pub fn down(
        mut self,
        format: &SpteFormat,
        mut read: impl FnMut(SpteLoc) -> Spte,
        goes_on: impl Fn(Spte) -> bool,
    ) -> (ShadowWalk, Spte) {
        loop {
            let spte = read(self.loc);
            if format.is_last(spte, self.level) || !goes_on(spte) {
                return (self, spte);
            }
            self = self.next(format.child(spte));
        }
    }
}

/// The entry by which hardware translates a page, or the one that stops it, and where that is.
/// `read` is how the walker reads an entry.
#[inline]
pub fn hardware_walk(
    format: &SpteFormat,
    root: SpId,
    page: u64,
    read: impl FnMut(SpteLoc) -> Spte,
) -> (ShadowWalk, Spte) {
    ShadowWalk::new(root, page).down(format, read, |spte| format.allows(spte, Access::Read))
}

/// `struct guest_walker`: what a walk of the guest's tables found.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct GuestWalk {
    /// The frames of the tables, leaf level first (`table_gfn`).
    pub table_gfn: [Gfn; ROOT_LEVEL as usize],
    /// The entries, leaf level first (`ptes`).
    pub ptes: [Gpte; ROOT_LEVEL as usize],
    /// The level of the entry that maps the page; above it a walk reads what is here, below it
    /// nothing.
    pub level: u8,
    /// The frame that the address translates to.
    pub gfn: Gfn,
}

impl GuestWalk {
    /// Walks the guest's tables. `read` is how an entry is read; `None`: an entry is not present,
    /// or cannot be read.
    pub fn new(
        root: Gfn,
        gva: Gva,
        mut read: impl FnMut(Gfn, u8) -> Option<Gpte>,
    ) -> Option<GuestWalk> {
        let mut walk = GuestWalk {
            table_gfn: [root; ROOT_LEVEL as usize],
            ptes: [Gpte::default(); ROOT_LEVEL as usize],
            level: ROOT_LEVEL,
            gfn: root,
        };
        loop {
            let (level, table) = (walk.level, walk.gfn);
            let entry = read(table, index_at(level, gva.0)).filter(|entry| entry.is_present())?;
            walk.table_gfn[usize::from(level) - 1] = table;
            walk.ptes[usize::from(level) - 1] = entry;
            walk.gfn = entry.gfn();
            if entry.is_last(level) {
                walk.gfn = frame_in(level, walk.gfn, gva.0);
                return Some(walk);
            }
            walk.level -= 1;
        }
    }

    /// The leaf table that a walk ends in, whatever its entry says; `None`: an upper entry stops
    /// it.
    pub fn leaf_table(
        root: Gfn,
        gva: Gva,
        mut read: impl FnMut(Gfn, u8) -> Option<Gpte>,
    ) -> Option<Gfn> {
        let (mut reads, mut last) = (0, root);
        GuestWalk::new(root, gva, |table, index| {
            (reads, last) = (reads + 1, table);
            read(table, index)
        });
        (reads == ROOT_LEVEL).then_some(last)
    }

    /// The entry that maps the page.
    pub fn leaf(&self) -> Gpte {
        self.ptes[usize::from(self.level) - 1]
    }
    /// Every level allows writes.
    pub fn allows_writes(&self) -> bool {
        self.access_above(self.level - 1)
    }
    /// The frame of the guest's table of this level.
    pub fn table(&self, level: u8) -> Gfn {
        self.table_gfn[usize::from(level) - 1]
    }
    /// `pt_access`: every entry above the table of this level allows writes.
    pub fn access_above(&self, level: u8) -> bool {
        self.ptes[usize::from(level)..].iter().all(|entry| entry.is_writable())
    }
}
