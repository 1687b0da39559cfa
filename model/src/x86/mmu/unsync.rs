//! Guest page tables that their guest may write: shadow pages that are out of sync.
//!
//! Guarantee: a shadow page whose guest table some SPTE maps writable has `unsync` set, and each
//! page above it counts it in `unsync_children`, before a vCPU can write by that SPTE. So whoever
//! has to see what the guest's tables say now (`sync.rs`) finds it. Only tables of the 4K level go
//! out of sync; those above stay write-protected. Linux v5.10 `arch/x86/kvm/mmu/mmu.c`. Since 5.14
//! (`mmu_try_to_unsync_pages`) `mmu_unsync_pages_lock` is taken as well, and `unsync` read again
//! under it, because faults of the TDP MMU come with `mmu_lock` for reading: not here.

use super::paging::{PG_LEVEL_4K, all_pages};
use super::{Locked, ShadowMmu, ShadowPage};
use crate::guard::Guard;
use crate::host::Host;
use crate::mark::Mark;
use crate::platform::Ordering::Release;
use crate::platform::{Platform, Word};
use crate::types::{Gfn, SpId, SpteLoc};
use crate::vm::Vm;

impl<P: Platform, H: Host> Vm<P, H, ShadowMmu<P>> {
    /// `mmu_need_write_protect`: must the frame stay read-only, because somebody shadows it as a
    /// page table? Where the page may go out of sync instead, it does, and the answer is no.
    ///
    /// Locks: `mmu_lock`.
    pub(super) fn mmu_need_write_protect(
        &self,
        l: &mut Locked,
        gfn: Gfn,
        can_unsync: bool,
    ) -> bool {
        let may_unsync = can_unsync && self.mmu.unsync_children.is_some();
        // Of a frame that is tracked, too (kvm_page_track_is_active): its table is above 4K.
        let stays = |sp: &ShadowPage| !may_unsync || sp.role.level > PG_LEVEL_4K;
        if l.mmu.pages.iter().any(|sp| sp.shadows(gfn) && stays(sp)) {
            return true;
        }
        self.p.guarded(Guard::UnsyncBeforeWritable, || self.kvm_unsync_pages(l, gfn));
        false
    }

    /// `kvm_unsync_page`, of every shadow page of a frame.
    ///
    /// Locks: `mmu_lock`.
    pub(super) fn kvm_unsync_pages(&self, l: &mut Locked, gfn: Gfn) {
        if self.mmu.unsync_children.is_none() {
            return;
        }
        for sp in all_pages() {
            let page = l.mmu.page_mut(sp);
            if page.shadows(gfn) && !page.unsync {
                page.unsync = true;
                self.kvm_mmu_mark_parents_unsync(l, sp);
                self.p.mark(Mark::PageUnsynced);
            }
        }
    }

    /// `kvm_mmu_mark_parents_unsync`.
    fn kvm_mmu_mark_parents_unsync(&self, l: &mut Locked, sp: SpId) {
        for parent in l.mmu.page(sp).parent_ptes.iter() {
            self.mark_unsync(l, parent);
        }
    }

    /// `mark_unsync`: the table that this entry points to is out of sync, or has such a table below
    /// it.
    ///
    /// Locks: `mmu_lock`.
    pub(super) fn mark_unsync(&self, l: &mut Locked, parent: SpteLoc) {
        let page = l.mmu.page_mut(parent.sp);
        let bit = 1 << parent.index;
        if page.unsync_child_bitmap & bit != 0 {
            return;
        }
        let first = page.unsync_child_bitmap == 0;
        page.unsync_child_bitmap |= bit;
        self.set_unsync_children(l, parent.sp);
        if first {
            self.kvm_mmu_mark_parents_unsync(l, parent.sp);
        }
    }

    /// `clear_unsync_child_bit`.
    ///
    /// Locks: `mmu_lock`.
    pub(super) fn clear_unsync_child_bit(&self, l: &mut Locked, parent: SpteLoc) {
        l.mmu.page_mut(parent.sp).unsync_child_bitmap &= !(1 << parent.index);
        self.set_unsync_children(l, parent.sp);
    }

    /// `sp->unsync_children`: how many bits the bitmap has.
    pub(super) fn set_unsync_children(&self, l: &Locked, sp: SpId) {
        let Some(unsync_children) = &self.mmu.unsync_children else { return };
        let count = l.mmu.page(sp).unsync_child_bitmap.count_ones();
        // ORDERING: release: pairs with the acquire of kvm_mmu_sync_roots. That who sees what a
        // guest stored by the SPTE sees the count, too, is the work of an smp_wmb between the two,
        // at the end of mmu_need_write_protect: not here, for under SC it has nothing to order.
        unsync_children[usize::from(sp.0)].store(u64::from(count), Release);
    }
}
