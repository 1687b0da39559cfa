//! Write protection: for the dirty log, and of pages that become shadowed guest page tables.
//!
//! Guarantee: with `pt_protect`, after the flush that is asked for no CPU writes the page and no
//! fast fault makes it writable again, because M is clear too. Linux v5.10
//! `arch/x86/kvm/mmu/mmu.c`.

use super::{Locked, ShadowMmu};
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
        for loc in l.mmu.rmap[gfn.0 as usize].iter() {
            flush |= self.spte_write_protect(l, loc, true);
        }
        flush
    }

    /// `kvm_mmu_write_protect_pt_masked`: every mapping of the frames of a slot whose bits are set
    /// is written to by a fault again. The caller owes the flush, whatever is returned: true if one
    /// of them had W set.
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
            for loc in l.mmu.rmap[(slot.base_gfn.0 + offset) as usize].iter() {
                cleared_w |= self.spte_write_protect(l, loc, false);
            }
        }
        cleared_w
    }
}
