//! Clearing D, where page-modification logging keeps the dirty log.
//!
//! Guarantee: after the flush that is asked for, the next store to the page sets D again, which
//! hardware logs; no fault is needed. Linux v5.10 `arch/x86/kvm/mmu/mmu.c`. Not modelled: SPTEs
//! whose D cannot be trusted (`spte_wrprot_for_clear_dirty`: of nested guests), setting D where a
//! log ends (`kvm_mmu_slot_set_dirty`: it spares hardware the logging).

use super::paging::PG_LEVEL_4K;
use super::{Locked, ShadowMmu};
use crate::host::Host;
use crate::kernel;
use crate::mark::Mark;
use crate::platform::Platform;
use crate::types::{Gfn, SpteLoc};
use crate::virt::Memslot;
use crate::vm::Vm;

impl<P: Platform, H: Host> Vm<P, H, ShadowMmu<P>> {
    /// `spte_clear_dirty`: true if the caller owes a flush.
    ///
    /// Locks: `mmu_lock`.
    #[kernel]
    fn spte_clear_dirty(&self, l: &Locked, loc: SpteLoc) -> bool {
        let spte = self.mmu_spte_get_lockless(loc);
        let flush = self.mmu_spte_update(l, loc, spte.without(self.mmu.format.dirty_mask));
        self.p.mark(Mark::DirtyCleared);
        flush
    }

    /// `__rmap_clear_dirty`: every mapping of a frame; true if a flush is owed.
    ///
    /// Locks: `mmu_lock`.
    fn __rmap_clear_dirty(&self, l: &Locked, gfn: Gfn) -> bool {
        let mut flush = false;
        for loc in l.mmu.rmap(gfn, PG_LEVEL_4K).iter() {
            flush |= self.spte_clear_dirty(l, loc);
        }
        flush
    }

    /// `kvm_mmu_clear_dirty_pt_masked`, and with every bit set `kvm_mmu_slot_leaf_clear_dirty`: D
    /// of every mapping of the frames of a slot whose bits are set. True if a flush is owed.
    ///
    /// Locks: `mmu_lock`. The flush comes after it.
    pub(super) fn kvm_mmu_clear_dirty_pt_masked(
        &self,
        l: &Locked,
        slot: &Memslot<P>,
        mask: u64,
    ) -> bool {
        let mut flush = false;
        for offset in (0..slot.npages).filter(|offset| mask >> offset & 1 == 1) {
            flush |= self.__rmap_clear_dirty(l, Gfn(slot.base_gfn.0 + offset));
        }
        flush
    }
}
