//! The reverse map: from a guest frame to the SPTEs that map it.
//!
//! Guarantee: when `mmu_lock` is released, a leaf SPTE is shadow-present if and only if it stands
//! in the rmap of the frame that it maps, or that its large page begins with, once. Linux v5.10
//! `arch/x86/kvm/mmu/mmu.c`. KVM's chains of descriptors are a set of places here; a chain longer
//! than 1000 (`rmap_recycle`) cannot arise.

use super::paging::{KVM_MAX_HUGEPAGE_LEVEL, PG_LEVEL_4K, SpteSet, frame_at, page_base};
use super::{Locked, ShadowMmu};
use crate::guard::Guard;
use crate::host::Host;
use crate::kernel;
use crate::mark::Mark;
use crate::platform::Ordering::Relaxed;
use crate::platform::{Platform, Word};
use crate::spte::Spte;
use crate::types::{Gfn, Pfn, SpId, SpteLoc};
use crate::virt::Memslot;
use crate::vm::Vm;

impl<P: Platform, H: Host> Vm<P, H, ShadowMmu<P>> {
    /// `__gfn_to_rmap`, above the 4K level: the large SPTEs that map a frame. Rmaps are of
    /// memslots: a large SPTE is in that of its first frame.
    ///
    /// Locks: `mmu_lock`.
    pub(super) fn large_rmap(&self, l: &Locked, gfn: Gfn) -> SpteSet {
        let first = page_base(KVM_MAX_HUGEPAGE_LEVEL, gfn);
        if self.memslot_id(first) != self.memslot_id(gfn) {
            return SpteSet::default();
        }
        l.mmu.rmap(gfn, KVM_MAX_HUGEPAGE_LEVEL)
    }

    /// Every large SPTE that maps frames of a slot.
    ///
    /// Locks: `mmu_lock`.
    pub(super) fn large_rmaps_of(&self, l: &Locked, slot: &Memslot<P>) -> SpteSet {
        let all = SpteSet::default();
        slot.frames().iter().fold(all, |all, gfn| all.with(self.large_rmap(l, gfn)))
    }

    /// `kvm_mmu_page_get_gfn`: the frame that a leaf of a shadow page maps; of a large page its
    /// first.
    ///
    /// Locks: `mmu_lock`.
    pub(super) fn kvm_mmu_page_get_gfn(&self, l: &Locked, loc: SpteLoc) -> Gfn {
        let sp = l.mmu.page(loc.sp);
        if sp.role.direct {
            frame_at(sp.role.level, sp.gfn, loc.index)
        } else {
            // ORDERING: relaxed: written under mmu_lock, which is held.
            Gfn(self.mmu.gfns(loc).load(Relaxed))
        }
    }

    /// `rmap_add`, with `kvm_mmu_page_set_gfn`. It comes after the SPTE itself is written.
    ///
    /// Locks: `mmu_lock`.
    pub(super) fn rmap_add(&self, l: &mut Locked, loc: SpteLoc, gfn: Gfn) {
        if !l.mmu.page(loc.sp).role.direct {
            // ORDERING: relaxed: read under mmu_lock only; if fast-fault-direct-only is removed,
            // also by a fast fault, which nothing orders.
            self.mmu.gfns(loc).store(gfn.0, Relaxed);
        }
        let level = l.mmu.page(loc.sp).role.level;
        l.mmu.rmap_mut(gfn, level).insert(loc);
    }

    /// `rmap_remove`.
    ///
    /// Locks: `mmu_lock`.
    fn rmap_remove(&self, l: &mut Locked, loc: SpteLoc) {
        let gfn = self.kvm_mmu_page_get_gfn(l, loc);
        self.p.forget(self.mmu.gfns(loc));
        let level = l.mmu.page(loc.sp).role.level;
        l.mmu.rmap_mut(gfn, level).remove(loc);
    }

    /// `drop_spte`: clears a leaf, passes A and D on, takes it off the rmap. The caller owes the
    /// flush.
    ///
    /// Locks: `mmu_lock`.
    #[kernel]
    pub(super) fn drop_spte(&self, l: &mut Locked, loc: SpteLoc) -> bool {
        let cleared = self.mmu_spte_clear_track_bits(l, loc);
        if cleared {
            self.rmap_remove(l, loc);
        }
        cleared
    }

    /// `kvm_zap_rmapp`: drops every mapping of a frame, a large one, too; true if there was one.
    ///
    /// Locks: `mmu_lock`.
    pub(crate) fn kvm_zap_rmapp(&self, l: &mut Locked, gfn: Gfn) -> bool {
        let mut flush = false;
        let large = self.p.guarded(Guard::ZapAllLevels, || self.large_rmap(l, gfn));
        for loc in l.mmu.rmap(gfn, PG_LEVEL_4K).with(large).iter() {
            flush |= self.drop_spte(l, loc);
        }
        flush
    }

    /// `kvm_set_pte_rmapp`: what maps the frame maps this page, read-only. True if a flush is owed.
    /// Not modelled: a new entry of the host that is writable, of which 5.10 drops the SPTE only;
    /// large SPTEs, which are gone by then, because the host splits its own large page before.
    ///
    /// Locks: `mmu_lock`.
    pub(super) fn kvm_set_pte_rmapp(&self, l: &Locked, gfn: Gfn, pfn: Pfn) -> bool {
        let mut flush = false;
        for loc in l.mmu.rmap(gfn, PG_LEVEL_4K).iter() {
            let old = self.mmu_spte_get_lockless(loc);
            let new = self.kvm_mmu_changed_pte_notifier_make_spte(old, pfn);
            self.mmu_spte_clear_track_bits(l, loc);
            self.mmu_spte_set(l, loc, new);
            self.p.mark(Mark::PteChanged);
            flush = true;
        }
        flush
    }

    /// `kvm_mmu_changed_pte_notifier_make_spte`: read-only, to the host and in the SPTE, and for
    /// access tracking. Not v5.10: there M stays (cleared since 5.18, commit f082d86ea685), which
    /// does no harm where a fast fault needs H as well.
    fn kvm_mmu_changed_pte_notifier_make_spte(&self, old: Spte, pfn: Pfn) -> Spte {
        let f = &self.mmu.format;
        let new = f.write_protected(f.with_pfn(old, pfn)).without(f.host_writable_mask);
        let m = self.p.guarded(Guard::ChangePteClearsMmuWritable, || f.mmu_writable_mask);
        self.mark_spte_for_access_track(new.without(m))
    }

    /// `kvm_age_rmapp`: clears the Accessed state of every mapping of a frame; true if one had it
    /// set.
    ///
    /// Locks: `mmu_lock`.
    pub(super) fn kvm_age_rmapp(&self, l: &Locked, gfn: Gfn) -> bool {
        let mut young = false;
        // No guard for the large ones: a page that is used looks unused, no more.
        for loc in l.mmu.rmap(gfn, PG_LEVEL_4K).with(self.large_rmap(l, gfn)).iter() {
            young |= self.mmu_spte_age(l, loc);
        }
        young
    }

    /// `kvm_mmu_invalidate_zap_pages_in_memslot`, for `kvm_arch_flush_shadow_memslot`: zaps what
    /// maps the frames of a slot, and flushes. Not v5.10: that zaps every shadow page of the VM
    /// (`kvm_mmu_zap_all_fast`), and with it what maps the slot.
    ///
    /// Locks: takes `mmu_lock`.
    #[kernel("kvm_arch_flush_shadow_memslot")]
    pub(super) fn kvm_mmu_invalidate_zap_pages_in_memslot(&self, slot: &Memslot<P>) {
        let mut l = self.kvm.mmu_lock.lock();
        let mut flush = false;
        for gfn in slot.frames().iter() {
            flush |= self.kvm_zap_rmapp(&mut l, gfn);
        }
        if flush {
            self.p.mark(Mark::MemslotZapped);
            self.p.guarded(Guard::MemslotDeleteFlushes, || self.kvm_flush_remote_tlbs(None));
        }
    }

    /// `drop_parent_pte`: unlinks a child, by a plain store.
    ///
    /// Locks: `mmu_lock`.
    pub(super) fn drop_parent_pte(&self, l: &mut Locked, child: SpId, parent: SpteLoc) {
        debug_assert!(l.mmu.page(child).parent_ptes.contains(parent), "not its parent");
        l.mmu.page_mut(child).parent_ptes.remove(parent);
        self.mmu_spte_clear_no_track(l, parent);
    }
}
