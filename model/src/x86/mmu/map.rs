//! Installing a leaf: `make_spte`, `set_spte`, `mmu_set_spte`.
//!
//! Guarantee: a new SPTE has W only with H and M, H only if the host maps the page writable, M only
//! if the guest may write and the frame is not a shadowed guest table; a page mapped writable is in
//! the dirty log. Linux v5.10 `arch/x86/kvm/mmu/mmu.c` and `spte.c`.

use super::fast_fault::Fault;
use super::paging::PG_LEVEL_4K;
use super::{Locked, ShadowMmu};
use crate::guard::Guard;
use crate::host::{Host, PinnedPage};
use crate::kernel;
use crate::mark::Mark;
use crate::platform::Platform;
use crate::spte::Spte;
use crate::transition::{Algorithm, NewLeaf};
use crate::types::{Access, CpuId, Gfn, SpteLoc};
use crate::virt::KVM_REQ_TLB_FLUSH_CURRENT;
use crate::vm::{RetPf, Vm};

/// What a fault maps.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Mapping {
    /// The CPU of the vCPU that faults.
    pub(super) cpu: CpuId,
    /// The frame; of a large page its first.
    pub(super) gfn: Gfn,
    /// Its page.
    pub(super) page: PinnedPage,
    /// The level of the entry that maps it.
    pub(super) level: u8,
    /// The guest's own tables allow writes (`ACC_WRITE_MASK`).
    pub(super) guest_writable: bool,
    /// The fault is a write.
    pub(super) write_fault: bool,
    /// No access asked for it yet (`speculative`, `prefault`).
    pub(super) speculative: bool,
    /// The frame may be a shadowed table that goes out of sync for it.
    pub(super) can_unsync: bool,
}

impl Mapping {
    /// What a fault maps for the access that faulted, by 4K.
    pub(super) fn of_fault(fault: Fault, gfn: Gfn, page: PinnedPage, guest_writable: bool) -> Self {
        let write_fault = fault.access == Access::Write;
        let (speculative, can_unsync) = (false, true);
        let (cpu, level) = (fault.cpu, PG_LEVEL_4K);
        Mapping { cpu, gfn, page, level, guest_writable, write_fault, speculative, can_unsync }
    }
}

impl<P: Platform, H: Host> Vm<P, H, ShadowMmu<P>> {
    /// `make_spte`. The flag is `SET_SPTE_WRITE_PROTECTED_PT`: the frame is a shadowed guest table.
    ///
    /// Locks: `mmu_lock`.
    fn make_spte(&self, l: &mut Locked, loc: SpteLoc, m: Mapping) -> (Spte, bool) {
        let steps = self.transitions();
        let writable = steps.leaf_may_be_writable(m.guest_writable, m.page.writable);
        // In 5.10 nothing depends on the old entry but where pages are synchronised.
        let old = match self.mmu.algorithm {
            Algorithm::V5_10 if m.can_unsync => Spte::ZERO,
            _ => self.mmu_spte_get_lockless(loc),
        };
        let asked = writable && !steps.sync_keeps_writable(old, m.can_unsync);
        let shadowed = || self.mmu_need_write_protect(l, m.gfn, m.can_unsync);
        let write_protected_pt = asked && self.p.guarded(Guard::MakeSpteWriteProtectsPt, shadowed);
        let leaf = NewLeaf {
            pfn: m.page.pfn,
            level: m.level,
            host_writable: m.page.writable,
            guest_writable: m.guest_writable,
            write_protected_pt,
            speculative: m.speculative,
            can_unsync: m.can_unsync,
            old,
        };
        (steps.make_spte(leaf), write_protected_pt)
    }

    /// `set_spte`, after `make_spte`: true if a remote flush is owed. The page is marked dirty
    /// *before* the SPTE is written, which is safe only because `mmu_lock` keeps the harvest away.
    ///
    /// Locks: `mmu_lock`.
    #[kernel]
    fn set_spte(&self, l: &Locked, loc: SpteLoc, new: Spte, gfn: Gfn, spurious: &mut bool) -> bool {
        if self.mmu.format.is_writable(new) {
            self.p.guarded(Guard::SetSpteMarksDirty, || self.mark_page_dirty(gfn));
        }
        *spurious = self.mmu_spte_get_lockless(loc) == new;
        !*spurious && self.mmu_spte_update(l, loc, new)
    }

    /// What `sync_page` writes in place of an SPTE that stays: true if a remote flush is owed.
    ///
    /// Locks: `mmu_lock`.
    pub(super) fn sync_spte(&self, l: &mut Locked, loc: SpteLoc, m: Mapping) -> bool {
        let (new, _) = self.make_spte(l, loc, m);
        self.set_spte(l, loc, new, m.gfn, &mut false)
    }

    /// `mmu_set_spte`: maps a frame at a leaf, flushes what that removes, and keeps the rmap.
    ///
    /// Locks: `mmu_lock`.
    #[kernel]
    pub(super) fn mmu_set_spte(&self, l: &mut Locked, loc: SpteLoc, m: Mapping) -> RetPf {
        let old = self.mmu_spte_get_lockless(loc);
        let mut flush = false;
        let mut was_rmapped = self.mmu.format.is_shadow_present(old);
        if was_rmapped && m.level > PG_LEVEL_4K && !self.mmu.format.is_large(old) {
            self.large_over_table(l, loc, old);
            // No guard for this flush: what the table maps is in rmaps still, and a CPU may come to
            // it by what it has cached of the entry above: who drops it, or frees the table,
            // flushes.
            flush = true;
            was_rmapped = false;
        } else if was_rmapped && self.mmu.format.pfn(old) != m.page.pfn {
            self.drop_spte(l, loc);
            flush = self.p.guarded(Guard::MmuSetSpteFlushesOldPfn, || true);
            self.p.mark(Mark::SpteOfAnotherPfn);
            was_rmapped = false;
        }
        let (new, write_protected_pt) = self.make_spte(l, loc, m);
        let mut spurious = false;
        // No guard for this flush: over the same page a new SPTE loses A, a hint; D in 6.1, as in
        // mmu_spte_update; or W, if the frame became a guest table, and then account_shadowed has
        // cleared M and flushed.
        flush |= self.set_spte(l, loc, new, m.gfn, &mut spurious);
        if self.mmu.format.is_writable(new) {
            self.p.without(Guard::UnsyncBeforeWritable, || self.kvm_unsync_pages(l, m.gfn));
        }
        let mut ret = if spurious { RetPf::Spurious } else { RetPf::Fixed };
        if write_protected_pt {
            if m.write_fault {
                ret = RetPf::Emulate;
            }
            // No guard: it is for the entry by which this vCPU faulted, and the fault dropped that.
            self.kvm_make_request(m.cpu, KVM_REQ_TLB_FLUSH_CURRENT);
        }
        if flush {
            self.kvm_flush_remote_tlbs(Some(m.cpu));
        }
        if !was_rmapped {
            self.rmap_add(l, loc, m.gfn);
            self.p.mark(Mark::SpteSet);
        }
        ret
    }
}
