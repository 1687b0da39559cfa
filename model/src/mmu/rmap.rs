//! The reverse map: from a guest frame to the SPTEs that map it.
//!
//! Guarantee: when `mmu_lock` is released, a leaf SPTE is shadow-present if and only if it stands
//! in the rmap of the frame that it maps, once. Linux v5.10 `arch/x86/kvm/mmu/mmu.c`. KVM's chains
//! of descriptors are a set of places here; a chain longer than 1000 (`rmap_recycle`) cannot arise.

use super::{Mmu, MmuState};
use crate::host::Host;
use crate::platform::Ordering::Relaxed;
use crate::platform::{Platform, Word};
use crate::types::{Gfn, SpId, SpteLoc};

impl<P: Platform, H: Host> Mmu<P, H> {
    /// `kvm_mmu_page_get_gfn`: the frame that a leaf of a shadow page maps.
    ///
    /// Locks: `mmu_lock`.
    pub(super) fn kvm_mmu_page_get_gfn(&self, l: &MmuState, loc: SpteLoc) -> Gfn {
        let sp = &l.pages[usize::from(loc.sp.0)];
        if sp.role.direct {
            Gfn(sp.gfn.0 + u64::from(loc.index))
        } else {
            // ORDERING: relaxed: written under mmu_lock, which is held.
            Gfn(self.gfns(loc).load(Relaxed))
        }
    }

    /// `rmap_add`, with `kvm_mmu_page_set_gfn`. It comes after the SPTE itself is written.
    ///
    /// Locks: `mmu_lock`.
    pub(super) fn rmap_add(&self, l: &mut MmuState, loc: SpteLoc, gfn: Gfn) {
        if !l.pages[usize::from(loc.sp.0)].role.direct {
            // ORDERING: relaxed: read under mmu_lock only, unless direct-only is gone: then by
            // nobody's leave.
            self.gfns(loc).store(gfn.0, Relaxed);
        }
        l.rmap[gfn.0 as usize].insert(loc);
    }

    /// `rmap_remove`.
    ///
    /// Locks: `mmu_lock`.
    fn rmap_remove(&self, l: &mut MmuState, loc: SpteLoc) {
        let gfn = self.kvm_mmu_page_get_gfn(l, loc);
        l.rmap[gfn.0 as usize].remove(loc);
    }

    /// `drop_spte`: clears a leaf, passes A and D on, takes it off the rmap. The caller owes the
    /// flush.
    ///
    /// Locks: `mmu_lock`.
    pub(super) fn drop_spte(&self, l: &mut MmuState, loc: SpteLoc) -> bool {
        self.p.call("drop_spte", || {
            let cleared = self.mmu_spte_clear_track_bits(loc);
            if cleared {
                self.rmap_remove(l, loc);
            }
            cleared
        })
    }

    /// `kvm_zap_rmapp`: drops every mapping of a frame; true if there was one.
    ///
    /// Locks: `mmu_lock`.
    pub(crate) fn kvm_zap_rmapp(&self, l: &mut MmuState, gfn: Gfn) -> bool {
        let mut flush = false;
        for loc in l.rmap[gfn.0 as usize].iter() {
            flush |= self.drop_spte(l, loc);
        }
        flush
    }

    /// `drop_parent_pte`: unlinks a child, by a plain store.
    ///
    /// Locks: `mmu_lock`.
    pub(super) fn drop_parent_pte(&self, l: &mut MmuState, child: SpId, parent: SpteLoc) {
        l.pages[usize::from(child.0)].parent_ptes.remove(parent);
        self.mmu_spte_clear_no_track(parent);
    }

    /// `sp->gfns[index]`.
    pub(super) fn gfns(&self, loc: SpteLoc) -> &P::Word {
        &self.tables[usize::from(loc.sp.0)].gfns[usize::from(loc.index)]
    }
}
