//! Sets of guards.

use super::Guard;

/// A set of guards, such as those that a run takes away: those after the first 128 of the table,
/// and those.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct GuardSet(u64, u128);

const LOW: u32 = u128::BITS;

const _: () = assert!(Guard::ALL.len() <= (u64::BITS + LOW) as usize);

impl GuardSet {
    /// No guards.
    pub const EMPTY: GuardSet = GuardSet(0, 0);

    /// The same set and `guard`.
    #[must_use]
    pub const fn with(self, guard: Guard) -> GuardSet {
        match guard as u32 {
            low @ 0..LOW => GuardSet(self.0, self.1 | 1 << low),
            high => GuardSet(self.0 | 1 << (high - LOW), self.1),
        }
    }
    /// True if the set has `guard`.
    #[inline]
    pub const fn contains(self, guard: Guard) -> bool {
        match guard as u32 {
            low @ 0..LOW => self.1 >> low & 1 == 1,
            high => self.0 >> (high - LOW) & 1 == 1,
        }
    }
    /// True if the set has no guard.
    pub const fn is_empty(self) -> bool {
        self.0 == 0 && self.1 == 0
    }
    /// Those of the set that nothing shows to be missing under sequential consistency. Unless it is
    /// empty, a search under SC that finds no violation has judged nothing.
    #[must_use]
    pub fn unjudged_under_sc(self) -> GuardSet {
        self.iter().filter(|guard| !guard.is_judged_under_sc()).collect()
    }
    /// The guards of the set, in the order of the table.
    pub fn iter(self) -> impl Iterator<Item = Guard> {
        Guard::ALL.iter().copied().filter(move |g| self.contains(*g))
    }
}

impl FromIterator<Guard> for GuardSet {
    fn from_iter<I: IntoIterator<Item = Guard>>(guards: I) -> GuardSet {
        guards.into_iter().fold(GuardSet::EMPTY, GuardSet::with)
    }
}
