//! The shape of the tables: how many levels, entries and shadow pages there are.
//!
//! Everything else takes the sizes from here; what they must satisfy is checked when they are
//! compiled.

use crate::types::{Gfn, SpId, SpteLoc};
use crate::virt::GFNS;

/// Entries of a table: 512 in hardware.
pub const PT_ENTRIES: usize = 4;
/// The level of a root: so many levels of tables, the guest's and the shadow's.
pub const ROOT_LEVEL: u8 = 2;
/// `PG_LEVEL_4K`.
pub const PG_LEVEL_4K: u8 = 1;
/// `KVM_MAX_HUGEPAGE_LEVEL`: the highest level whose entries may map a page.
pub const KVM_MAX_HUGEPAGE_LEVEL: u8 = 2;
/// Shadow pages in the pool.
pub const SHADOW_PAGES: usize = 6;
/// Large pages that the frames make up.
pub const LARGE_PAGES: usize = GFNS.div_ceil(frames_of(PG_LEVEL_4K));

/// How many bits of an address one level translates.
const LEVEL_BITS: u32 = PT_ENTRIES.trailing_zeros();

const _: () = assert!(PT_ENTRIES.is_power_of_two(), "an index is some bits of an address");
const _: () = assert!(ROOT_LEVEL > PG_LEVEL_4K, "a root has a table below it");
const _: () = assert!(KVM_MAX_HUGEPAGE_LEVEL == PG_LEVEL_4K + 1, "large pages are of one size");
const _: () = assert!(GFNS <= 1 << (LEVEL_BITS * ROOT_LEVEL as u32), "a root maps every frame");
const _: () = assert!(SHADOW_PAGES >= ROOT_LEVEL as usize, "there is a page for each level");
const _: () =
    assert!(SHADOW_PAGES * PT_ENTRIES <= u32::BITS as usize, "SpteSet has a bit for each");

/// The index that an address (a gfn or a guest-virtual page number) has in a table of this level.
#[inline]
pub const fn index_at(level: u8, page: u64) -> u8 {
    (page >> (LEVEL_BITS * (level as u32 - 1)) & (PT_ENTRIES as u64 - 1)) as u8
}

/// The first frame that a direct table of this level maps, if it maps this one.
pub(super) const fn direct_base(level: u8, gfn: u64) -> Gfn {
    Gfn(gfn & !(frames_of(level) as u64 - 1))
}

/// The first frame of the page that an entry of this level maps, if this one is in it.
pub const fn page_base(level: u8, gfn: Gfn) -> Gfn {
    direct_base(level - 1, gfn.0)
}

/// The first frame that an entry maps, in a direct table of this level that begins at `base`.
pub(super) const fn frame_at(level: u8, base: Gfn, index: u8) -> Gfn {
    Gfn(base.0 + index as u64 * frames_of(level - 1) as u64)
}

/// Which large page a frame is in, counted from gfn0.
pub const fn large_page_of(gfn: Gfn) -> usize {
    gfn.0 as usize / frames_of(PG_LEVEL_4K)
}

/// The frame of a page that an entry of this level maps as a part of its own, larger one.
pub(super) const fn frame_in(level: u8, first: Gfn, page: u64) -> Gfn {
    let others = frames_of(level - 1) as u64 - 1;
    Gfn(first.0 & !others | page & others)
}

/// Frames that a table of this level translates; at level 0 the one of an entry.
pub const fn frames_of(level: u8) -> usize {
    1 << (LEVEL_BITS * level as u32)
}

/// Shadow pages that map every frame directly: a root, and what is below it.
pub const fn direct_pages() -> usize {
    let (mut pages, mut level) = (0, PG_LEVEL_4K);
    while level <= ROOT_LEVEL {
        pages += GFNS.div_ceil(frames_of(level));
        level += 1;
    }
    pages
}

/// Every SPTE place of the pool.
pub fn all_spte_locs() -> impl Iterator<Item = SpteLoc> {
    all_pages().flat_map(entries_of)
}

/// The places of the pool.
pub fn all_pages() -> impl Iterator<Item = SpId> {
    (0..SHADOW_PAGES as u8).map(SpId)
}

/// The entries of one shadow page.
pub fn entries_of(sp: SpId) -> impl Iterator<Item = SpteLoc> {
    (0..PT_ENTRIES as u8).map(move |index| SpteLoc { sp, index })
}

/// A set of SPTE places: an rmap chain, or the parents of a shadow page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct SpteSet(u32);

impl SpteSet {
    const fn bit(loc: SpteLoc) -> u32 {
        1 << (loc.sp.0 as usize * PT_ENTRIES + loc.index as usize)
    }
    /// Adds a place.
    pub fn insert(&mut self, loc: SpteLoc) {
        self.0 |= SpteSet::bit(loc);
    }
    /// Takes a place out.
    pub fn remove(&mut self, loc: SpteLoc) {
        self.0 &= !SpteSet::bit(loc);
    }
    /// True if the place is in.
    pub fn contains(self, loc: SpteLoc) -> bool {
        self.0 & SpteSet::bit(loc) != 0
    }
    /// True if there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
    /// With those of another set.
    #[must_use]
    pub(super) const fn with(self, other: SpteSet) -> SpteSet {
        SpteSet(self.0 | other.0)
    }
    /// The places, lowest first.
    pub fn iter(self) -> impl Iterator<Item = SpteLoc> {
        all_spte_locs().filter(move |loc| self.contains(*loc))
    }
}

/// A set of shadow pages, such as those that were zapped and wait to be freed (`invalid_list`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct SpSet(u32);

impl SpSet {
    /// Adds a page.
    pub(super) fn insert(&mut self, sp: SpId) {
        self.0 |= 1 << sp.0;
    }
    /// Adds those of another set.
    pub(super) fn add(&mut self, other: SpSet) {
        self.0 |= other.0;
    }
    /// True if there is none.
    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }
    /// The pages, lowest first.
    pub(super) fn iter(self) -> impl Iterator<Item = SpId> {
        all_pages().filter(move |sp| self.0 >> sp.0 & 1 == 1)
    }
}
