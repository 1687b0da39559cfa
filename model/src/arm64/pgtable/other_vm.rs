//! The tables of VM 1: its first frames are mapped, and stay mapped. Not KVM.

use super::{KvmPgtableProt, KvmPte, LAST_LEVEL, PT_PAGES, PTRS_PER_PTE};
use crate::arm64::VmidConfig;
use crate::types::{Gfn, Pfn, SpId};

/// VM 1, if there is one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OtherVm {
    exists: bool,
}

impl OtherVm {
    /// Its root.
    pub const PGD: SpId = SpId(PT_PAGES as u8 - 1);
    /// The one table below it.
    const TABLE: SpId = SpId(PT_PAGES as u8 - 2);
    /// The first of its pages, as many as it has frames.
    pub const FIRST_PAGE: Pfn = Pfn(PTRS_PER_PTE as u64);
    /// How many frames it has.
    pub const FRAMES: u64 = PTRS_PER_PTE as u64;

    pub(super) fn of(vmids: Option<VmidConfig>) -> OtherVm {
        OtherVm { exists: vmids.is_some_and(|config| config.other_vm != 0) }
    }

    /// The page of a frame.
    pub const fn page(gfn: Gfn) -> Pfn {
        Pfn(Self::FIRST_PAGE.0 + gfn.0)
    }

    /// What the entry of a table holds.
    pub(super) fn pte(self, table: usize, index: usize) -> u64 {
        let (pgd, below) = (usize::from(Self::PGD.0), usize::from(Self::TABLE.0));
        match (table, index) {
            (table, 0) if self.exists && table == pgd => KvmPte::table(Self::TABLE).0,
            (table, index) if self.exists && table == below => {
                let page = Self::page(Gfn(index as u64));
                KvmPte::leaf(page, KvmPgtableProt { write: true }, LAST_LEVEL).0
            }
            _ => 0,
        }
    }

    /// What the page of a table is counted.
    pub(super) fn page_count(self, table: usize) -> u64 {
        let is = |sp: SpId| self.exists && table == usize::from(sp.0);
        match (is(Self::PGD), is(Self::TABLE)) {
            (true, _) => 2,
            (_, true) => 1 + PTRS_PER_PTE as u64,
            _ => 0,
        }
    }
}
