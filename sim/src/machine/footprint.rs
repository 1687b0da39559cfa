//! Which locations a step touched. Two steps of different threads commute if their footprints do
//! not conflict; reductions rest on executed footprints alone.

/// The locations that a step touched, one bit each. Locations from 127 on share bit 127, so that
/// they seem to conflict with each other.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Footprint {
    /// Read.
    pub reads: u128,
    /// Written, other than by `fetch_add`.
    pub writes: u128,
    /// Written by `fetch_add` alone; its result may have been observed.
    pub adds: u128,
    /// The lock that was acquired. Locks have bits of their own; those from 63 on share bit 63.
    pub acquired: u64,
    /// The locks that were released.
    pub released: u64,
}

impl Footprint {
    /// The bit of a location.
    #[inline(always)]
    pub(crate) const fn bit(loc: u16) -> u128 {
        1 << if loc < 127 { loc } else { 127 }
    }

    /// The bit of a lock.
    #[inline(always)]
    pub(crate) const fn lock_bit(lock: u16) -> u64 {
        1 << if lock < 63 { lock } else { 63 }
    }

    /// What either touched.
    #[inline(always)]
    #[must_use]
    pub const fn union(&self, other: &Footprint) -> Footprint {
        Footprint {
            reads: self.reads | other.reads,
            writes: self.writes | other.writes,
            adds: self.adds | other.adds,
            acquired: self.acquired | other.acquired,
            released: self.released | other.released,
        }
    }

    /// What was touched of locations outside of a set, and no locks.
    #[inline(always)]
    #[must_use]
    pub const fn data_without(&self, set: u128) -> Footprint {
        Footprint {
            reads: self.reads & !set,
            writes: self.writes & !set,
            adds: self.adds & !set,
            acquired: 0,
            released: 0,
        }
    }

    /// Every location that was written.
    #[inline(always)]
    pub const fn written(&self) -> u128 {
        self.writes | self.adds
    }

    /// Every lock that was acquired or released.
    #[inline(always)]
    pub const fn locks(&self) -> u64 {
        self.acquired | self.released
    }

    /// The locations over which the steps conflict. With `adds_commute`, two `fetch_add`s do not:
    /// right for programs that ignore what `fetch_add` returns.
    #[inline(always)]
    pub const fn conflicts(&self, other: &Footprint, adds_commute: bool) -> u128 {
        let (w, v) = (self.written(), other.written());
        let all = w & (other.reads | v) | self.reads & v;
        if !adds_commute {
            return all;
        }
        let pure = self.adds & !(self.reads | self.writes) & !(other.reads | other.writes);
        all & !(pure & other.adds)
    }

    /// True if the order of the steps matters.
    #[inline(always)]
    pub const fn depends(&self, other: &Footprint, adds_commute: bool) -> bool {
        self.locks() & other.locks() != 0 || self.conflicts(other, adds_commute) != 0
    }
}
