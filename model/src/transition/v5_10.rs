//! What an SPTE may become without `mmu_lock` in Linux v5.10, `arch/x86/kvm/mmu/mmu.c`.

use super::{FastFault, Transitions};
use crate::guard::Guard;
use crate::spte::Spte;
use crate::types::Access;

impl<G: Fn(Guard) -> bool> Transitions<'_, G> {
    /// `page_fault_can_be_fast`: a write to what is mapped; anything where accesses may be tracked
    /// by permissions; never a fetch from what may not be executed.
    #[inline]
    pub(super) fn page_fault_can_be_fast_v5_10(&self, access: Access, present: bool) -> bool {
        if access == Access::Fetch && present {
            return false;
        }
        self.format.acc_track_mask != 0 || access == Access::Write && present
    }

    /// `fast_page_fault`: gives a tracked SPTE its permissions back, and W to one that has H and M.
    #[inline]
    pub(super) fn fast_page_fault_v5_10(&self, spte: Spte, level: u8, access: Access) -> FastFault {
        let f = self.format;
        if !f.is_last(spte, level) {
            return FastFault::Refuse;
        }
        if f.allows(spte, access) {
            return FastFault::Spurious;
        }
        let mut new = spte;
        if f.is_access_track(spte) {
            new = f.restore_acc_track(new);
        }
        if access == Access::Write && self.may_become_writable_v5_10(spte) {
            if level > 1 && self.guarded(Guard::FastFaultNotLarge, || true) {
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

    /// `spte_can_locklessly_be_made_writable`: the host maps the page writable (H), and it is
    /// neither read-only to the guest nor a shadowed guest table (M).
    #[inline]
    fn may_become_writable_v5_10(&self, spte: Spte) -> bool {
        let f = self.format;
        if !f.is_host_writable(spte) && self.guarded(Guard::FastFaultHostWritable, || true) {
            return false;
        }
        if !f.is_mmu_writable(spte) && self.guarded(Guard::FastFaultMmuWritable, || true) {
            return false;
        }
        true
    }
}
