//! What a CPU may have cached of the tables.
//!
//! A view is kept by table place, one part for each thing that a TLB can hold of an entry; and it
//! is asked by address, too: what the CPU may use to translate one, through tables that may
//! no longer be linked.

use core::hash::{Hash, Hasher};

use super::super::few::Few;
use super::super::posted::Posted;
use kvmmu_model::x86::mmu::paging::{
    PG_LEVEL_4K, PT_ENTRIES, ROOT_LEVEL, SHADOW_PAGES, SpteSet, entries_of, index_at,
};
use kvmmu_model::x86::mmu::walk::ShadowWalk;
use kvmmu_model::{Access, SpId, SpteLoc};

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

/// What a CPU may have cached, by table place.
type Places = [[Cached; PT_ENTRIES]; SHADOW_PAGES];

fn place(places: &mut Places, loc: SpteLoc) -> &mut Cached {
    &mut places[usize::from(loc.sp.0)][usize::from(loc.index)]
}

/// What one CPU may have cached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Tlb {
    /// It runs guest code now, and so may cache what it can reach.
    pub(crate) running: bool,
    places: Places,
    /// Who has begun to invalidate what is in `leaving`; none if nothing is.
    posted: Posted,
    /// What is usable until one of them completes its invalidation.
    leaving: Places,
    /// Its vCPU has taken a request to flush it and has not done so. Never between steps, unless a
    /// guard is removed; no part of the key.
    pub(crate) owes_flush: bool,
}

/// Two entries at a time: a view is hashed whenever it changes.
impl Hash for Tlb {
    fn hash<S: Hasher>(&self, state: &mut S) {
        let packed = |c: &Cached| {
            let bytes = [c.read.0, c.write.0, c.tables.0, u8::from(c.denies)];
            u64::from(u32::from_le_bytes(bytes))
        };
        let mut hash = |places: &Places| {
            for table in places {
                for two in table.chunks(2) {
                    state.write_u64(two.iter().fold(0, |all, cached| all << 32 | packed(cached)));
                }
            }
        };
        hash(&self.places);
        if self.posted != Posted::NONE {
            hash(&self.leaving);
            self.posted.hash(state);
        }
    }
}

impl Tlb {
    /// What it may have cached of an entry.
    pub(crate) fn of(&self, loc: SpteLoc) -> Cached {
        let mut cached = self.places[usize::from(loc.sp.0)][usize::from(loc.index)];
        if self.posted != Posted::NONE {
            cached.add(self.leaving[usize::from(loc.sp.0)][usize::from(loc.index)]);
        }
        cached
    }

    /// It may cache this of an entry from now on, in addition to what it has.
    pub(crate) fn add(&mut self, loc: SpteLoc, cached: Cached) {
        place(&mut self.places, loc).add(cached);
    }

    /// It has this of an entry and nothing else.
    pub(crate) fn replace(&mut self, loc: SpteLoc, cached: Cached) {
        *place(&mut self.places, loc) = cached;
        *place(&mut self.leaving, loc) = Cached::default();
    }

    /// Everything is dropped.
    pub(crate) fn flush(&mut self) {
        self.places = Default::default();
        self.complete(self.posted);
        self.owes_flush = false;
    }

    /// An invalidation of these places begins.
    pub(crate) fn post(&mut self, places: SpteSet, by: Posted) {
        for loc in places.iter() {
            let dropped = core::mem::take(place(&mut self.places, loc));
            place(&mut self.leaving, loc).add(dropped);
        }
        if self.leaving != Places::default() {
            self.posted = self.posted.with(by);
        }
    }

    /// The invalidations that these have begun are complete.
    pub(crate) fn complete(&mut self, by: Posted) {
        if self.posted.has_any(by) {
            self.leaving = Default::default();
            self.posted = Posted::NONE;
        }
    }

    /// What is cached of leaves that may translate a page is dropped, by whatever way the CPU may
    /// come to them. What it has of upper levels stays.
    pub(crate) fn flush_leaves(&mut self, root: SpId, page: u64) {
        for sp in (0..SHADOW_PAGES as u8).map(SpId) {
            let level = if sp == root { ROOT_LEVEL } else { PG_LEVEL_4K };
            let loc = SpteLoc { sp, index: index_at(level, page) };
            for places in [&mut self.places, &mut self.leaving] {
                let cached = place(places, loc);
                *cached = Cached { tables: cached.tables, ..Cached::default() };
            }
        }
    }

    /// Every page that it may write without touching an entry again.
    pub(crate) fn writable(&self) -> Few {
        let all = self.places.iter().chain(&self.leaving).flatten();
        all.fold(Few::NONE, |all, cached| all.with(cached.write))
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

    /// Calls `each` with every entry that it may come to on the way to a page, upper ones before
    /// those below them: first through the tables as they are, then through those that it has
    /// cached. `child` says which table an entry in memory leads to, if it leads to any.
    pub(crate) fn entries(
        &self,
        at: ShadowWalk,
        child: &impl Fn(SpteLoc) -> Option<SpId>,
        each: &mut impl FnMut(ShadowWalk),
    ) {
        each(at);
        if at.level == PG_LEVEL_4K {
            return;
        }
        let now = child(at.loc);
        let cached = self.of(at.loc).tables.iter().map(|sp| SpId(sp as u8));
        for sp in now.into_iter().chain(cached.filter(|sp| Some(*sp) != now)) {
            self.entries(at.next(sp), child, each);
        }
    }
}
