//! Small sets of numbered things.

use kvmmu_model::x86::mmu::paging::SHADOW_PAGES;
use kvmmu_scenarios::host_mm::PFNS;

/// A set of host pages, or of shadow pages: a bit each.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Few(pub(super) u8);

const _: () = assert!(PFNS <= u8::BITS as usize, "Few has a bit for each page");
const _: () = assert!(SHADOW_PAGES <= u8::BITS as usize, "Few has a bit for each table");

impl Few {
    pub(crate) const NONE: Few = Few(0);

    /// The one with this number; none if there is no such thing, as the page that the host does
    /// not have.
    pub(crate) const fn one(number: u64) -> Few {
        if number < u8::BITS as u64 { Few(1 << number) } else { Few::NONE }
    }
    /// So many in a row, from this number on.
    pub(crate) const fn row(first: u64, many: usize) -> Few {
        Few((((1u16 << many) - 1) << first) as u8)
    }
    pub(crate) const fn with(self, others: Few) -> Few {
        Few(self.0 | others.0)
    }
    pub(crate) const fn without(self, others: Few) -> Few {
        Few(self.0 & !others.0)
    }
    pub(crate) const fn contains(self, number: u64) -> bool {
        self.0 >> number & 1 == 1
    }
    /// Those of the set, lowest first.
    pub(crate) fn iter(self) -> impl Iterator<Item = u64> {
        (0..u64::from(u8::BITS)).filter(move |number| self.contains(*number))
    }
}
