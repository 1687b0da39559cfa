//! Sets of guards.

use super::Guard;

/// A set of guards, such as those that a run takes away.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct GuardSet(u128);

const _: () = assert!(Guard::ALL.len() <= u128::BITS as usize);

impl GuardSet {
    /// No guards.
    pub const EMPTY: GuardSet = GuardSet(0);

    /// The same set and `guard`.
    #[must_use]
    pub const fn with(self, guard: Guard) -> GuardSet {
        GuardSet(self.0 | 1 << guard as u8)
    }
    /// True if the set has `guard`.
    #[inline]
    pub const fn contains(self, guard: Guard) -> bool {
        self.0 >> guard as u8 & 1 == 1
    }
    /// True if the set has no guard.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
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
