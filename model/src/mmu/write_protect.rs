//! Write protection: for the dirty log, and of pages that become shadowed guest page tables.
//!
//! Guarantee: with `pt_protect`, after the flush that is asked for no CPU writes the page and no
//! fast fault makes it writable again, because M is clear too. Linux v5.10
//! `arch/x86/kvm/mmu/mmu.c`.

use super::{Mmu, MmuState};
use crate::host::Host;
use crate::mark::Mark;
use crate::platform::Platform;
use crate::types::{Gfn, SpteLoc};

impl<P: Platform, H: Host> Mmu<P, H> {
    /// `spte_write_protect`: true if the caller owes a flush. Without `pt_protect`, a W that is
    /// clear already asks for none, even if a TLB still has it: whoever cleared it owes that flush.
    ///
    /// Locks: `mmu_lock`.
    pub(super) fn spte_write_protect(&self, loc: SpteLoc, pt_protect: bool) -> bool {
        self.p.call("spte_write_protect", || {
            let spte = self.mmu_spte_get_lockless(loc);
            let Some(new) = self.transitions().write_protect(spte, pt_protect) else {
                self.p.mark(Mark::NoFlushOwed);
                return false;
            };
            let flush = self.mmu_spte_update(loc, new);
            self.p.mark(if pt_protect { Mark::WriteProtectedPt } else { Mark::WriteProtected });
            if !flush {
                self.p.mark(Mark::NoFlushOwed);
            }
            flush
        })
    }

    /// `kvm_mmu_slot_gfn_write_protect` and `rmap_write_protect`: every mapping of a frame that is
    /// about to be shadowed; true if the caller owes a flush before it drops the lock.
    ///
    /// Locks: `mmu_lock`.
    pub(super) fn rmap_write_protect(&self, l: &MmuState, gfn: Gfn) -> bool {
        self.p.call("rmap_write_protect", || {
            let mut flush = false;
            for loc in l.rmap[gfn.0 as usize].iter() {
                flush |= self.spte_write_protect(loc, true);
            }
            flush
        })
    }

    /// `mmu_need_write_protect`: is the frame a guest page table that somebody shadows? No page is
    /// unsynced yet, so it behaves as for `can_unsync = false` always.
    ///
    /// Locks: `mmu_lock`.
    pub(super) fn mmu_need_write_protect(&self, l: &MmuState, gfn: Gfn) -> bool {
        l.pages.iter().any(|sp| sp.is_valid() && !sp.role.direct && sp.gfn == gfn)
    }
}
