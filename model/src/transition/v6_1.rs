//! What an SPTE may become without `mmu_lock` in Linux v6.1, `arch/x86/kvm/mmu/mmu.c`.

use super::{FastFault, Transitions};
use crate::guard::Guard;
use crate::spte::Spte;
use crate::types::Access;

impl<G: Fn(Guard) -> bool> Transitions<'_, G> {
    /// `page_fault_can_be_fast`: a write to what is mapped; what is not mapped, only where KVM
    /// keeps no A/D bits.
    #[inline]
    pub(super) fn page_fault_can_be_fast_v6_1(&self, access: Access, present: bool) -> bool {
        if present { access == Access::Write } else { self.format.accessed_mask == 0 }
    }

    /// `fast_page_fault`: gives a tracked SPTE its permissions back, and W to one that has M.
    #[inline]
    pub(super) fn fast_page_fault_v6_1(
        &self,
        spte: Spte,
        level: u8,
        access: Access,
        logged: bool,
    ) -> FastFault {
        let f = self.format;
        if !f.is_shadow_present(spte) || !f.is_last(spte, level) {
            return FastFault::Refuse;
        }
        if f.allows(spte, access) {
            return FastFault::Spurious;
        }
        let mut new = spte;
        if f.accessed_mask == 0 && f.is_access_track(spte) {
            new = f.restore_acc_track(new);
        }
        if access == Access::Write && self.may_become_writable_v6_1(spte) {
            if level > 1 && logged && self.guarded(Guard::FastFaultNotLarge, || true) {
                // One bit of the dirty bitmap cannot stand for a large page.
                return FastFault::Refuse;
            }
            new = new.with(f.writable_mask);
        }
        if new == spte || !f.allows(new, access) {
            return FastFault::Refuse;
        }
        FastFault::Fix(new)
    }

    /// `is_mmu_writable_spte`: M, which is never set without H.
    #[inline]
    fn may_become_writable_v6_1(&self, spte: Spte) -> bool {
        if !self.format.is_mmu_writable(spte) && self.guarded(Guard::FastFaultMmuWritable, || true)
        {
            return false;
        }
        true
    }
}
