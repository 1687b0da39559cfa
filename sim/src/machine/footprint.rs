//! Which locations a step touched. Two steps of different threads commute if their footprints do
//! not conflict; reductions rest on executed footprints alone.

use core::cell::Cell;
use core::ops::{BitAnd, BitOr, Sub};

use serde::{Deserialize, Serialize};

use super::hash::mix;

/// How many locations a set tells apart. The machine numbers them in the order in which they are
/// first touched, so that those that no thread comes to do not count; from the last number on they
/// share it, and seem to conflict with each other ([`Stats::lumped`] says so).
///
/// [`Stats::lumped`]: crate::outcome::Stats::lumped
pub const LOCS: usize = 256;

/// A set of locations.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Locs([u64; LOCS / 64]);

impl Locs {
    /// No location.
    pub const NONE: Locs = Locs([0; LOCS / 64]);

    /// One location.
    #[inline(always)]
    pub(crate) const fn of(bit: u8) -> Locs {
        let mut one = Locs::NONE;
        one.0[bit as usize / 64] = 1 << (bit % 64);
        one
    }

    /// True if there is none.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        *self == Locs::NONE
    }

    /// Their numbers.
    pub(crate) fn numbers(self) -> impl Iterator<Item = usize> {
        self.0.into_iter().enumerate().flat_map(|(i, word)| bits(word).map(move |bit| i * 64 + bit))
    }

    #[inline(always)]
    fn zip(self, other: Locs, f: impl Fn(u64, u64) -> u64) -> Locs {
        Locs(core::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl BitOr for Locs {
    type Output = Locs;
    #[inline(always)]
    fn bitor(self, other: Locs) -> Locs {
        self.zip(other, |a, b| a | b)
    }
}

impl BitAnd for Locs {
    type Output = Locs;
    #[inline(always)]
    fn bitand(self, other: Locs) -> Locs {
        self.zip(other, |a, b| a & b)
    }
}

/// Those of the first that are not in the second.
impl Sub for Locs {
    type Output = Locs;
    #[inline(always)]
    fn sub(self, other: Locs) -> Locs {
        self.zip(other, |a, b| a & !b)
    }
}

/// The numbers of the bits that are set.
pub(crate) fn bits(mut mask: u64) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let bit = mask.trailing_zeros() as usize;
        mask &= mask.wrapping_sub(1);
        (bit < 64).then_some(bit)
    })
}

/// A set of locations that grows while a step runs.
#[derive(Debug, Default)]
pub(crate) struct Touched([Cell<u64>; LOCS / 64]);

impl Touched {
    #[inline(always)]
    pub(crate) fn clear(&self) {
        self.0.iter().for_each(|word| word.set(0));
    }

    #[inline(always)]
    pub(crate) fn add(&self, bit: u8) {
        let word = &self.0[bit as usize / 64];
        word.set(word.get() | 1 << (bit % 64));
    }

    #[inline(always)]
    pub(crate) fn add_all(&self, locs: Locs) {
        self.0.iter().zip(locs.0).for_each(|(word, more)| word.set(word.get() | more));
    }

    #[inline(always)]
    pub(crate) fn get(&self) -> Locs {
        Locs(core::array::from_fn(|i| self.0[i].get()))
    }
}

/// A footprint in three words. Locations whose numbers are 64 apart share a bit, so steps whose
/// sketches do not meet commute, and others may.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Sketch {
    touched: u64,
    written: u64,
    locks: u64,
}

impl Sketch {
    /// False: the steps commute.
    #[inline(always)]
    pub(crate) fn meets(&self, other: &Sketch) -> bool {
        let data = self.written & other.touched | self.touched & other.written;
        data | self.locks & other.locks != 0
    }
}

/// What a step touched.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Footprint {
    /// Read.
    pub reads: Locs,
    /// Written.
    pub writes: Locs,
    /// Added to by [`Word::add`](kvmmu_model::Word::add): the thread did not see what was there.
    /// Such additions commute.
    pub adds: Locs,
    /// The lock that was acquired. Each lock has a bit of its own, and so has each way to hold it.
    pub acquired: u64,
    /// The locks that were released.
    pub released: u64,
}

impl Footprint {
    /// What either touched.
    #[inline(always)]
    #[must_use]
    pub fn union(&self, other: &Footprint) -> Footprint {
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
    pub fn data_without(&self, set: Locs) -> Footprint {
        Footprint {
            reads: self.reads - set,
            writes: self.writes - set,
            adds: self.adds - set,
            acquired: 0,
            released: 0,
        }
    }

    /// The same, coarser.
    #[inline(always)]
    pub(crate) fn sketch(&self) -> Sketch {
        let fold = |locs: Locs| locs.0.into_iter().fold(0, |all, word| all | word);
        let written = fold(self.written());
        Sketch { touched: fold(self.reads) | written, written, locks: self.locks() }
    }

    /// A hash for tables that compare what they find.
    #[inline(always)]
    pub(crate) fn mix(&self) -> u64 {
        let sets = [&self.reads, &self.writes, &self.adds];
        mix(sets.into_iter().flat_map(|set| set.0).chain([self.acquired, self.released]))
    }

    /// Every location that was written.
    #[inline(always)]
    pub fn written(&self) -> Locs {
        self.writes | self.adds
    }

    /// Every lock that was acquired or released.
    #[inline(always)]
    pub const fn locks(&self) -> u64 {
        self.acquired | self.released
    }

    /// The locations over which the steps conflict: one writes what the other touches, or one adds
    /// to what the other reads.
    #[inline(always)]
    pub fn conflicts(&self, other: &Footprint) -> Locs {
        let all = |f: &Footprint| f.reads | f.writes | f.adds;
        let added = self.adds & other.reads | self.reads & other.adds;
        self.writes & all(other) | all(self) & other.writes | added
    }

    /// True if the order of the steps matters.
    #[inline(always)]
    pub fn depends(&self, other: &Footprint) -> bool {
        self.locks() & other.locks() != 0 || !self.conflicts(other).is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sketches_of_dependent_steps_meet() {
        let bits = [0, 63, 64, 255];
        let of = |bit: u8| {
            let (locs, none) = (Locs::of(bit), Footprint::default());
            [
                Footprint { reads: locs, ..none },
                Footprint { writes: locs, ..none },
                Footprint { adds: locs, ..none },
                Footprint { acquired: 1 << (bit % 64), ..none },
                Footprint { released: 1 << (bit % 64), ..none },
            ]
        };
        let all: Vec<Footprint> = bits.into_iter().flat_map(of).collect();
        let mut dependent = 0;
        for (one, other) in all.iter().flat_map(|one| all.iter().map(move |other| (one, other))) {
            if one.depends(other) {
                assert!(one.sketch().meets(&other.sketch()), "{one:?} {other:?}");
                dependent += 1;
            }
        }
        assert!(dependent > 40, "{dependent}");
        let apart = [1, 2].map(|bit| Footprint { writes: Locs::of(bit), ..Footprint::default() });
        assert!(!apart[0].sketch().meets(&apart[1].sketch()), "it tells some apart");
    }
}
