//! Bringing shadow pages that are out of sync up to date.
//!
//! Guarantee: when a guest has invalidated a translation, by INVLPG or by loading CR3, its vCPU
//! uses what its tables said at that time or say since. Mechanism: the entries of every table below
//! the root that is out of sync are compared with the guest's, after the table was write-protected,
//! so that whatever is stored to it later takes it out of sync again. Linux v5.10
//! `arch/x86/kvm/mmu/mmu.c`; `arch/x86/kvm/mmu/paging_tmpl.h`. Not modelled: that
//! `mmu_sync_children` takes 16 pages at a time and yields; `KVM_REQ_MMU_SYNC`, `kvm_sync_pages`
//! and `mmu_zap_unsync_children`, which only tables of three levels need; prefetch by INVLPG.
//!
//! *Whose flush.* What `sync_page` drops may be in the TLB of another vCPU, and is in no rmap any
//! more. Since 5.16 it flushes at once. Before it counted in `kvm->tlbs_dirty` that a flush was
//! owed, which the next one for another reason paid, or the next invalidation; and whoever looked
//! for mappings by the rmap alone did not know of it (guard `sync-page-flushes`).

use super::map::Mapping;
use super::paging::{PG_LEVEL_4K, SpSet, entries_of};
use super::walk::ShadowWalk;
use super::{Locked, ShadowMmu};
use crate::guard::Guard;
use crate::host::{Host, PinnedPage};
use crate::kernel;
use crate::mark::Mark;
use crate::platform::Ordering::Acquire;
use crate::platform::{Platform, Word};
use crate::spte::{Gpte, Spte};
use crate::tables::Tables;
use crate::types::{CpuId, Gva, SpId, SpteLoc};
use crate::virt::KVM_REQ_TLB_FLUSH_CURRENT;
use crate::vm::Vm;

impl<P: Platform, H: Host> Vm<P, H, ShadowMmu<P>> {
    /// `kvm_mmu_sync_roots`: what this vCPU translates by is what its guest's tables say. Not
    /// v5.10: since 4.19 it returns without the lock where nothing below the root counts as out of
    /// sync, and so misses a page that another vCPU has read just before and is about to link
    /// there.
    ///
    /// Locks: takes `mmu_lock`.
    #[kernel]
    pub(super) fn kvm_mmu_sync_roots(&self, cpu: CpuId) {
        self.vcpu_clear_mmio_info(cpu, None);
        let Some(unsync_children) = &self.mmu.unsync_children else { return };
        // A root is no table of the 4K level, so that one is never out of sync.
        let root = self.mmu.root(cpu);
        let lock = || self.kvm.mmu_lock.lock();
        let early = self.p.guarded(Guard::SyncRootsLocks, || Some(lock()));
        // ORDERING: acquire pairs with the release of mark_unsync. Not judged under SC.
        if unsync_children[usize::from(root.0)].load(Acquire) == 0 {
            self.p.mark(Mark::SyncSkipped);
            return;
        }
        let mut l = early.unwrap_or_else(lock);
        self.mmu_sync_children(&mut l, cpu, root);
    }

    /// `mmu_sync_children`: every page below this one that is out of sync.
    ///
    /// Locks: `mmu_lock`.
    #[kernel]
    fn mmu_sync_children(&self, l: &mut Locked, cpu: CpuId, parent: SpId) {
        let (mut invalid, mut kept) = (SpSet::default(), false);
        loop {
            let pages = self.mmu_unsync_walk(l, parent);
            if pages.is_empty() {
                break;
            }
            let mut protected = false;
            for sp in pages.iter() {
                let gfn = l.mmu.page(sp).gfn;
                let protect = || self.rmap_write_protect(l, gfn);
                protected |= self.p.guarded(Guard::SyncWriteProtects, protect);
            }
            if protected {
                // Before the guest's entries are read: what is stored by a TLB after that is lost.
                self.p.guarded(Guard::SyncFlushesFirst, || self.kvm_flush_remote_tlbs(Some(cpu)));
            }
            for sp in pages.iter() {
                kept |= self.kvm_sync_page(l, cpu, sp, &mut invalid);
            }
        }
        self.kvm_mmu_flush_or_zap(l, cpu, invalid, kept);
    }

    /// `mmu_unsync_walk`: the pages below this one that are out of sync. Bits of `unsync_children`
    /// that stand for none are cleared on the way (in the kernel also by
    /// `mmu_pages_clear_parents`).
    ///
    /// Locks: `mmu_lock`.
    fn mmu_unsync_walk(&self, l: &mut Locked, parent: SpId) -> SpSet {
        let mut found = SpSet::default();
        for loc in entries_of(parent) {
            if l.mmu.page(parent).unsync_child_bitmap >> loc.index & 1 == 0 {
                continue;
            }
            let spte = self.mmu_spte_get_lockless(loc);
            let mut below = SpSet::default();
            if self.mmu.format.is_shadow_present(spte) && !self.mmu.format.is_large(spte) {
                let child = self.mmu.format.child(spte);
                below = self.mmu_unsync_walk(l, child);
                if l.mmu.page(child).unsync {
                    below.insert(child);
                }
            }
            if below.is_empty() {
                self.clear_unsync_child_bit(l, loc);
            }
            found.add(below);
        }
        found
    }

    /// `kvm_sync_page`: from now on it counts as in sync. The guest cannot write the table: the
    /// caller has seen to that. False: nothing was left of it, and it was zapped.
    ///
    /// Locks: `mmu_lock`.
    #[kernel]
    fn kvm_sync_page(&self, l: &mut Locked, cpu: CpuId, sp: SpId, invalid: &mut SpSet) -> bool {
        l.mmu.page_mut(sp).unsync = false;
        self.__kvm_sync_page(l, cpu, sp, invalid)
    }

    /// `__kvm_sync_page`: as [`Vm::kvm_sync_page`], of a page that stays out of sync, because its
    /// guest may write the table at any time.
    ///
    /// Locks: `mmu_lock`.
    pub(super) fn __kvm_sync_page(
        &self,
        l: &mut Locked,
        cpu: CpuId,
        sp: SpId,
        invalid: &mut SpSet,
    ) -> bool {
        let kept = self.sync_page(l, cpu, sp);
        if !kept {
            self.kvm_mmu_prepare_zap_page(l, sp, invalid);
        }
        kept
    }

    /// `FNAME(sync_page)`: drops each SPTE whose guest entry is not that of its frame any more, and
    /// writes those that are left anew, with the access that their entries give now. False: none
    /// was left.
    ///
    /// Locks: `mmu_lock`.
    #[kernel("FNAME(sync_page)")]
    fn sync_page(&self, l: &mut Locked, cpu: CpuId, sp: SpId) -> bool {
        let shadow = *l.mmu.page(sp);
        let (mut present, mut flush) = (false, false);
        for loc in entries_of(sp) {
            let spte = self.mmu_spte_get_lockless(loc);
            let mmio = self.mmu.format.is_mmio(spte);
            if !mmio && !self.mmu.format.is_shadow_present(spte) {
                continue;
            }
            // The table is in no memslot any more: the page goes as a whole.
            let Some(gpte) = self.read_gpte(shadow.gfn, loc.index) else { return false };
            // FNAME(prefetch_invalid_gpte)
            let valid = gpte.is_present() && gpte.is_accessed();
            if mmio && valid {
                present |= self.sync_mmio_spte(l, loc, spte, gpte);
                continue;
            }
            let gfn = gpte.gfn();
            if !valid || gfn != self.kvm_mmu_page_get_gfn(l, loc) {
                self.drop_spte(l, loc);
                flush |= self.p.guarded(Guard::SyncPageFlushes, || true);
                self.p.without(Guard::SyncPageFlushes, || self.owe_flush());
                continue;
            }
            present = true;
            let f = &self.mmu.format;
            let page = PinnedPage { pfn: f.pfn(spte), writable: f.is_host_writable(spte) };
            let clean = self.protect_clean_gpte(gpte);
            let guest_writable = shadow.role.writable && gpte.is_writable() && !clean;
            let mapping = Mapping {
                cpu,
                gfn,
                page,
                level: PG_LEVEL_4K,
                guest_writable,
                write_fault: false,
                speculative: true,
                can_unsync: false,
            };
            flush |= self.sync_spte(l, loc, mapping);
        }
        self.p.mark(Mark::PageSynced);
        if flush {
            self.kvm_flush_remote_tlbs(Some(cpu));
        }
        present
    }

    /// `sync_mmio_spte`: an MMIO SPTE stays where the guest's entry names its frame still. True if
    /// it stays.
    ///
    /// Locks: `mmu_lock`.
    fn sync_mmio_spte(&self, l: &mut Locked, loc: SpteLoc, spte: Spte, gpte: Gpte) -> bool {
        let gfn = self.mmu.format.mmio_gfn(spte);
        let other = || gpte.gfn() != gfn;
        if self.p.guarded(Guard::SyncDropsMmio, other) {
            self.mmu_spte_clear_no_track(l, loc);
            return false;
        }
        self.mark_mmio_spte(l, loc, gfn);
        true
    }

    /// `kvm_mmu_flush_or_zap`, where no remote flush is owed: frees what was zapped; else the vCPU
    /// flushes its own TLB before it enters, if asked to.
    ///
    /// Locks: `mmu_lock`.
    fn kvm_mmu_flush_or_zap(&self, l: &mut Locked, cpu: CpuId, invalid: SpSet, local: bool) {
        if !invalid.is_empty() {
            self.kvm_mmu_commit_zap_page(l, invalid);
        } else if local {
            self.kvm_make_request(cpu, KVM_REQ_TLB_FLUSH_CURRENT);
        }
    }

    /// What `kvm_mmu_get_page` does with a page that it has found: one that is out of sync is
    /// brought up to date, because what becomes present in a guest's tables needs no invalidation.
    /// False: nothing was left of it, and it is gone. (5.10 frees it at the end of
    /// `kvm_mmu_get_page`, when there is a new page in its place.)
    ///
    /// Locks: `mmu_lock`.
    pub(super) fn sync_what_was_found(&self, l: &mut Locked, me: Option<CpuId>, sp: SpId) -> bool {
        let (true, Some(cpu)) = (l.mmu.page(sp).unsync, me) else { return true };
        let mut invalid = SpSet::default();
        let sync = || self.__kvm_sync_page(l, cpu, sp, &mut invalid);
        let stale = self.p.without(Guard::GetPageSyncs, || true);
        let kept = stale.unwrap_or_else(sync);
        self.kvm_mmu_flush_or_zap(l, cpu, invalid, kept);
        kept
    }

    /// `FNAME(invlpg)`: drops the SPTE of a page, where its table is out of sync.
    ///
    /// Locks: `mmu_lock`.
    #[kernel("FNAME(invlpg)")]
    pub(super) fn invlpg(&self, l: &mut Locked, cpu: CpuId, gva: Gva) {
        let mut at = ShadowWalk::new(self.mmu.root(cpu), gva.0);
        while at.level > PG_LEVEL_4K {
            let spte = self.mmu_spte_get_lockless(at.loc);
            let in_sync = l.mmu.page(at.loc.sp).unsync_child_bitmap == 0;
            let leads_on =
                self.mmu.format.is_shadow_present(spte) && !self.mmu.format.is_large(spte);
            if in_sync || !leads_on {
                return;
            }
            at = at.next(self.mmu.format.child(spte));
        }
        if l.mmu.page(at.loc.sp).unsync {
            self.p.guarded(Guard::InvlpgZapsUnsync, || self.invlpg_zaps(l, cpu, at.loc));
        }
    }

    /// Drops the SPTE, and flushes it from every TLB: no invalidation of the host finds it any
    /// more.
    fn invlpg_zaps(&self, l: &mut Locked, cpu: CpuId, loc: SpteLoc) {
        let was = self.mmu_spte_get_lockless(loc);
        self.mmu_page_zap_pte(l, loc);
        if self.mmu.format.is_shadow_present(was) {
            self.p.guarded(Guard::InvlpgFlushes, || self.kvm_flush_remote_tlbs(Some(cpu)));
        }
    }
}
