//! Large SPTEs: what may be mapped by one, what goes before a table comes in its place, and back.
//!
//! Guarantee: an SPTE above the 4K level maps what the host maps by one entry, too, inside of one
//! memslot; no frame that is a shadowed guest table; and of a slot that is logged nothing writable,
//! for a bit of the dirty bitmap stands for 4K. Mechanism: a fault asks for all of that under
//! `mmu_lock`, when `mmu_notifier_retry` has said that the host's page table is as it was; a log
//! that begins takes W from the large SPTEs of its slot (`write_protect.rs`), and a table that is
//! shadowed from those that map its frame. The fault that is then refused a large page drops the
//! large SPTE and maps 4K. Linux v5.10 `arch/x86/kvm/mmu/mmu.c`. Not modelled: 1G, the lack of huge
//! pages that may be executed (`nx_huge_pages`).

use super::map::Mapping;
use super::paging::{PG_LEVEL_4K, frames_of, large_page_of, page_base};
use super::{Locked, ShadowMmu};
use crate::guard::Guard;
use crate::host::{Host, PinnedPage};
use crate::kernel;
use crate::mark::Mark;
use crate::platform::Platform;
use crate::spte::Spte;
use crate::tag::Object;
use crate::types::{CpuId, Gfn, GfnRange, Pfn, SpteLoc};
use crate::virt::Memslot;
use crate::vm::Vm;

impl<P: Platform, H: Host> Vm<P, H, ShadowMmu<P>> {
    /// `kvm_mmu_hugepage_adjust`: what a fault maps, with all of the large page that the frame is
    /// in, if it may. `max_level`: that of the entry of the guest's own tables.
    ///
    /// Locks: `mmu_lock`, after `mmu_notifier_retry`; a read section of `kvm->srcu`.
    pub(super) fn kvm_mmu_hugepage_adjust(&self, l: &Locked, m: Mapping, max_level: u8) -> Mapping {
        let max_level = max_level.min(self.mmu.max_huge_page_level);
        if max_level == PG_LEVEL_4K {
            return m;
        }
        let Some(slot) = self.gfn_to_memslot_dirty_bitmap(m.gfn) else { return m };
        let level = self.kvm_mmu_max_mapping_level(l, slot, m.gfn, max_level);
        let mask = frames_of(level - 1) as u64 - 1;
        let page = PinnedPage { pfn: Pfn(m.page.pfn.0 & !mask), ..m.page };
        Mapping { gfn: page_base(level, m.gfn), page, level, ..m }
    }

    /// `gfn_to_memslot_dirty_bitmap`: the memslot of the frame, if it is valid and not logged.
    fn gfn_to_memslot_dirty_bitmap(&self, gfn: Gfn) -> Option<&Memslot<P>> {
        let found = self.gfn_to_memslot(gfn).filter(|found| found.valid)?;
        let logged = || found.dirty_bitmap().is_some();
        let logged = self.p.guarded(Guard::LargeNotLogged, logged);
        (!logged).then_some(found.slot)
    }

    /// `kvm_mmu_max_mapping_level`: the highest level at which an SPTE may map the frame. (A
    /// function of its own since 5.11.)
    fn kvm_mmu_max_mapping_level(
        &self,
        l: &Locked,
        slot: &Memslot<P>,
        gfn: Gfn,
        max_level: u8,
    ) -> u8 {
        let may =
            |level: &u8| *level == PG_LEVEL_4K || !self.lpage_disallowed(l, slot, gfn, *level);
        let level = (PG_LEVEL_4K..=max_level).rev().find(may).unwrap_or(PG_LEVEL_4K);
        if level == PG_LEVEL_4K {
            return level;
        }
        let blind = self.p.without(Guard::LargeAsHostMaps, || level);
        level.min(blind.unwrap_or_else(|| self.host.host_pfn_mapping_level(gfn)))
    }

    /// `lpage_info_slot`, and its `disallow_lpage`: a large page reaches beyond the slot, or has
    /// guest tables in it that are shadowed.
    fn lpage_disallowed(&self, l: &Locked, slot: &Memslot<P>, gfn: Gfn, level: u8) -> bool {
        let large = GfnRange::new(page_base(level, gfn), frames_of(level - 1) as u64);
        let (first, end) = (slot.frames().start, slot.frames().end);
        if large.start < page_base(level, first) || large.start >= end {
            // An index of lpage_info below 0, or behind its last.
            self.p.out_of_bounds(Object::Memslots);
            return true;
        }
        // kvm_alloc_memslot_metadata
        let beyond = || !slot.frames().covers(large);
        self.p.guarded(Guard::LargeInSlot, beyond) || l.mmu.disallow_lpage[large_page_of(gfn)] != 0
    }

    /// `kvm_mmu_gfn_disallow_lpage`: the frame is a guest table that is shadowed. Not counted where
    /// nobody asks.
    ///
    /// Locks: `mmu_lock`.
    pub(super) fn kvm_mmu_gfn_disallow_lpage(&self, l: &mut Locked, gfn: Gfn) {
        let count = || {
            if self.mmu.max_huge_page_level > PG_LEVEL_4K {
                l.mmu.disallow_lpage[large_page_of(gfn)] += 1;
            }
        };
        self.p.guarded(Guard::ShadowedDisallowsLarge, count);
    }

    /// `kvm_mmu_gfn_allow_lpage`: it is not any more.
    ///
    /// Locks: `mmu_lock`.
    pub(super) fn kvm_mmu_gfn_allow_lpage(&self, l: &mut Locked, gfn: Gfn) {
        let count = || {
            if self.mmu.max_huge_page_level > PG_LEVEL_4K {
                l.mmu.disallow_lpage[large_page_of(gfn)] -= 1;
            }
        };
        self.p.guarded(Guard::ShadowedDisallowsLarge, count);
    }

    /// `drop_large_spte`: an entry is to lead to a table, and maps a large page.
    ///
    /// Locks: `mmu_lock`.
    pub(super) fn drop_large_spte(&self, l: &mut Locked, me: Option<CpuId>, loc: SpteLoc) {
        // What maps its frames from now on is in the rmaps of the 4K level.
        self.p.guarded(Guard::DropLargeSpte, || {
            self.drop_spte(l, loc);
            self.p.mark(Mark::LargeSpteDropped);
            self.p.guarded(Guard::DropLargeFlushes, || self.kvm_flush_remote_tlbs(me));
        });
    }

    /// Of `mmu_set_spte`: a large page comes where a table is, which loses this parent.
    ///
    /// Locks: `mmu_lock`.
    pub(super) fn large_over_table(&self, l: &mut Locked, loc: SpteLoc, old: Spte) {
        let child = self.mmu.format.child(old);
        self.p.guarded(Guard::LargeUnlinksTable, || self.drop_parent_pte(l, child, loc));
        self.p.without(Guard::LargeUnlinksTable, || self.mmu_spte_clear_no_track(l, loc));
        self.p.mark(Mark::LargeOverTable);
    }

    /// `kvm_mmu_zap_collapsible_sptes`: the log of a slot has ended. What maps its frames by 4K,
    /// and could be a part of a large SPTE, is dropped: the next fault maps that.
    ///
    /// Locks: `slots_lock`; takes `mmu_lock`.
    #[kernel]
    pub(super) fn kvm_mmu_zap_collapsible_sptes(&self, slot: &Memslot<P>) {
        let mut l = self.kvm.mmu_lock.lock();
        let mut flush = false;
        for gfn in slot.frames().iter() {
            // The large ones, too, since 5.17: 2M may be a part of 1G. Here nothing is larger.
            for loc in l.mmu.rmap(gfn, PG_LEVEL_4K).with(self.large_rmap(&l, gfn)).iter() {
                flush |= self.kvm_mmu_zap_collapsible_spte(&mut l, slot, loc);
            }
        }
        if flush {
            self.p.mark(Mark::CollapsibleZapped);
            self.p.guarded(Guard::CollapsibleFlushes, || self.kvm_flush_remote_tlbs(None));
        }
    }

    /// `kvm_mmu_zap_collapsible_spte`: true if it was dropped. Not v5.10: that asks whether the
    /// page is a compound one, and not what level the frame could be mapped at.
    ///
    /// Locks: `mmu_lock`.
    fn kvm_mmu_zap_collapsible_spte(
        &self,
        l: &mut Locked,
        slot: &Memslot<P>,
        loc: SpteLoc,
    ) -> bool {
        let sp = *l.mmu.page(loc.sp);
        let beyond = || !slot.frames().contains(sp.gfn);
        if !sp.role.direct || self.p.guarded(Guard::CollapsibleInSlot, beyond) {
            return false;
        }
        let max_level = self.mmu.max_huge_page_level;
        let level = self.kvm_mmu_max_mapping_level(l, slot, sp.gfn, max_level);
        sp.role.level < level && self.drop_spte(l, loc)
    }
}
