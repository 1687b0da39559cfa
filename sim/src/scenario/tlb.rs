//! What a CPU may have cached of the tables.
//!
//! A view is kept by table place, one part for each thing that a TLB can hold of an entry; and it
//! is asked by address, too: what the CPU may use to translate one, through tables that may
//! no longer be linked.

use core::hash::{Hash, Hasher};

use kvmmu_model::x86::mmu::paging::{
    PG_LEVEL_4K, PT_ENTRIES, ROOT_LEVEL, SHADOW_PAGES, entries_of, index_at,
};
use kvmmu_model::x86::mmu::walk::ShadowWalk;
use kvmmu_model::{Access, SpId, SpteLoc};
use kvmmu_scenarios::host_mm::PFNS;

/// A set of host pages, or of shadow pages: a bit each.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Few(u8);

const _: () = assert!(PFNS <= u8::BITS as usize, "Few has a bit for each page");
const _: () = assert!(SHADOW_PAGES <= u8::BITS as usize, "Few has a bit for each table");

impl Few {
    pub(crate) const NONE: Few = Few(0);

    /// The one with this number.
    pub(crate) const fn one(number: u64) -> Few {
        Few(1 << number)
    }
    pub(crate) const fn with(self, others: Few) -> Few {
        Few(self.0 | others.0)
    }
    pub(crate) const fn contains(self, number: u64) -> bool {
        self.0 >> number & 1 == 1
    }
    /// Those of the set, lowest first.
    pub(crate) fn iter(self) -> impl Iterator<Item = u64> {
        (0..u64::from(u8::BITS)).filter(move |number| self.contains(*number))
    }
}

/// What a CPU may have cached of one entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Cached {
    /// Pages that it may read by it.
    pub(crate) read: Few,
    /// Pages that it may write by it, without touching the entry again.
    pub(crate) write: Few,
    /// Tables that it may walk to by it.
    pub(crate) tables: Few,
    /// It may deny stores. Only where permission faults are cached.
    pub(crate) denies: bool,
}

impl Cached {
    /// The pages that an access may reach by it.
    pub(crate) fn pages(&self, access: Access) -> Few {
        if access == Access::Write { self.write } else { self.read }
    }

    fn add(&mut self, other: Cached) {
        self.read = self.read.with(other.read);
        self.write = self.write.with(other.write);
        self.tables = self.tables.with(other.tables);
        self.denies |= other.denies;
    }
}

/// What one CPU may have cached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Tlb {
    /// It runs guest code now, and so may cache what it can reach.
    pub(crate) running: bool,
    places: [[Cached; PT_ENTRIES]; SHADOW_PAGES],
}

/// Two entries at a time: a view is hashed whenever it changes.
impl Hash for Tlb {
    fn hash<S: Hasher>(&self, state: &mut S) {
        let packed = |c: &Cached| {
            let bytes = [c.read.0, c.write.0, c.tables.0, u8::from(c.denies)];
            u64::from(u32::from_le_bytes(bytes))
        };
        self.running.hash(state);
        for table in &self.places {
            for two in table.chunks(2) {
                state.write_u64(two.iter().fold(0, |all, cached| all << 32 | packed(cached)));
            }
        }
    }
}

impl Tlb {
    /// What it may have cached of an entry.
    pub(crate) fn of(&self, loc: SpteLoc) -> Cached {
        self.places[usize::from(loc.sp.0)][usize::from(loc.index)]
    }

    fn at(&mut self, loc: SpteLoc) -> &mut Cached {
        &mut self.places[usize::from(loc.sp.0)][usize::from(loc.index)]
    }

    /// It may cache this of an entry from now on, in addition to what it has.
    pub(crate) fn add(&mut self, loc: SpteLoc, cached: Cached) {
        self.at(loc).add(cached);
    }

    /// It has this of an entry and nothing else.
    pub(crate) fn replace(&mut self, loc: SpteLoc, cached: Cached) {
        *self.at(loc) = cached;
    }

    /// Everything is dropped.
    pub(crate) fn flush(&mut self) {
        self.places = Default::default();
    }

    /// What is cached of leaves that may translate a page is dropped, by whatever way the CPU may
    /// come to them. What it has of upper levels stays.
    pub(crate) fn flush_leaves(&mut self, root: SpId, page: u64) {
        for sp in (0..SHADOW_PAGES as u8).map(SpId).filter(|sp| *sp != root) {
            let loc = SpteLoc { sp, index: index_at(PG_LEVEL_4K, page) };
            self.replace(loc, Cached { tables: self.of(loc).tables, ..Cached::default() });
        }
    }

    /// Every page that it may write without touching an entry again.
    pub(crate) fn writable(&self) -> Few {
        self.places.iter().flatten().fold(Few::NONE, |all, cached| all.with(cached.write))
    }

    /// The tables that it may walk, if its root is this one.
    pub(crate) fn tables_under(&self, root: SpId) -> Few {
        let mut tables = Few::one(u64::from(root.0));
        for _ in PG_LEVEL_4K..ROOT_LEVEL {
            let below = tables.iter().flat_map(|sp| entries_of(SpId(sp as u8)));
            tables = below.fold(tables, |all, loc| all.with(self.of(loc).tables));
        }
        tables
    }

    /// Calls `each` with every leaf that it may come to on the way to a page: first that of the
    /// tables as they are, if there is one, then those of tables that it has cached.
    /// `child` says which table an entry in memory leads to, if it leads to any.
    pub(crate) fn leaves(
        &self,
        at: ShadowWalk,
        child: &impl Fn(SpteLoc) -> Option<SpId>,
        each: &mut impl FnMut(SpteLoc),
    ) {
        if at.level == PG_LEVEL_4K {
            return each(at.loc);
        }
        let now = child(at.loc);
        let cached = self.of(at.loc).tables.iter().map(|sp| SpId(sp as u8));
        for sp in now.into_iter().chain(cached.filter(|sp| Some(*sp) != now)) {
            self.leaves(at.next(sp), child, each);
        }
    }
}
