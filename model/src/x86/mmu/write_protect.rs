//! Write protection: for the dirty log, and of pages that become shadowed guest page tables.
//!
//! Guarantee: with `pt_protect`, after the flush that is asked for no CPU writes the page and no
//! fast fault makes it writable again, because M is clear too. Linux v5.10
//! `arch/x86/kvm/mmu/mmu.c`.

use super::paging::PG_LEVEL_4K;
use super::{Locked, ShadowMmu};
use crate::guard::Guard;
use crate::host::Host;
use crate::kernel;
use crate::mark::Mark;
use crate::platform::Platform;
use crate::types::{Gfn, SpteLoc};
use crate::virt::Memslot;
use crate::vm::Vm;

impl<P: Platform, H: Host> Vm<P, H, ShadowMmu<P>> {
    /// `spte_write_protect`: true if the caller owes a flush. Without `pt_protect`, a W that is
    /// clear already needs none, even if a TLB still has it: who cleared it owes that flush.
    ///
    /// Locks: `mmu_lock`.
    #[kernel]
    pub(super) fn spte_write_protect(&self, l: &Locked, loc: SpteLoc, pt_protect: bool) -> bool {
        let spte = self.mmu_spte_get_lockless(loc);
        let Some(new) = self.transitions().write_protect(spte, pt_protect) else {
            self.p.mark(Mark::NoFlushOwed);
            return false;
        };
        let flush = self.mmu_spte_update(l, loc, new);
        self.p.mark(if pt_protect { Mark::WriteProtectedPt } else { Mark::WriteProtected });
        if !flush {
            self.p.mark(Mark::NoFlushOwed);
        }
        flush
    }

    /// `kvm_mmu_slot_gfn_write_protect` and `rmap_write_protect`: every mapping of a frame that is
    /// about to be shadowed; true if the caller owes a flush before it drops the lock.
    ///
    /// Locks: `mmu_lock`.
    #[kernel]
    pub(super) fn rmap_write_protect(&self, l: &Locked, gfn: Gfn) -> bool {
        let mut flush = false;
        let large = self.p.guarded(Guard::WriteProtectAllLevels, || self.large_rmap(l, gfn));
        for loc in l.mmu.rmap(gfn, PG_LEVEL_4K).with(large).iter() {
            flush |= self.spte_write_protect(l, loc, true);
        }
        flush
    }

    /// `kvm_mmu_write_protect_pt_masked`: every mapping of the frames of a slot whose bits are set
    /// is written to by a fault again. Large SPTEs of a slot that is logged have no W. The caller
    /// owes the flush, whatever is returned: true if one of them had W set.
    ///
    /// Locks: `mmu_lock`.
    pub(super) fn kvm_mmu_write_protect_pt_masked(
        &self,
        l: &Locked,
        slot: &Memslot<P>,
        mask: u64,
    ) -> bool {
        let mut cleared_w = false;
        for offset in (0..slot.npages).filter(|offset| mask >> offset & 1 == 1) {
            let gfn = Gfn(slot.base_gfn.0 + offset);
            for loc in l.mmu.rmap(gfn, PG_LEVEL_4K).iter() {
                cleared_w |= self.spte_write_protect(l, loc, false);
            }
        }
        cleared_w
    }

    /// `kvm_mmu_slot_largepage_remove_write_access`, and what `kvm_mmu_slot_remove_write_access`
    /// does above the 4K level: one bit of a dirty bitmap cannot stand for a large page, so that no
    /// frame of a logged slot is written by one. True if a flush is owed.
    ///
    /// Locks: `mmu_lock`.
    pub(super) fn kvm_mmu_slot_largepage_remove_write_access(
        &self,
        l: &Locked,
        slot: &Memslot<P>,
    ) -> bool {
        let mut flush = false;
        for loc in self.large_rmaps_of(l, slot).iter() {
            flush |= self.spte_write_protect(l, loc, false);
        }
        flush
    }
}
