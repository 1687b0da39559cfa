//! MMIO SPTEs: that no memslot has a frame is remembered, for the next access to it.
//!
//! Guarantee: once the ioctl that makes a memslot has returned, no access to its frames is taken
//! for MMIO. Mechanism: an MMIO SPTE, and what a vCPU remembers of its last one, carry the
//! generation of the memslots that they were made by. They count only while that generation is in
//! use and no update is under way; who found nothing in old memslots can only have read an old
//! generation, because the new one comes after the grace period. Where the generation wraps,
//! everything is zapped. Linux v5.10 `arch/x86/kvm/mmu/mmu.c`, `arch/x86/kvm/x86.h`. Not modelled:
//! access bits in them.

use super::{Locked, ShadowMmu};
use crate::guard::Guard;
use crate::host::Host;
use crate::kernel;
use crate::mark::Mark;
use crate::platform::{Local, Platform};
use crate::spte::Spte;
use crate::types::{CpuId, Gfn, Gva, SpteLoc};
use crate::virt::memslots::MemslotSet;
use crate::vm::{RetPf, Vm};

impl<P: Platform, H: Host> Vm<P, H, ShadowMmu<P>> {
    /// A fault for whose frame there is no memslot: what `handle_abnormal_pfn` and `set_mmio_spte`
    /// make of it. `ram`: there is one, an invalid one, as in [`RetPf::Mmio`]. `leaf` finds the
    /// leaf of the page, as for a frame that has a memslot.
    ///
    /// Locks: takes `mmu_lock`; the vCPU thread holds `kvm->srcu`.
    pub(super) fn map_mmio(
        &self,
        cpu: CpuId,
        page: u64,
        gfn: Gfn,
        ram: bool,
        leaf: impl FnOnce(&mut Locked) -> Option<SpteLoc>,
    ) -> RetPf {
        let mmio = RetPf::Mmio { ram };
        if self.mmu.format.mmio_value == 0 {
            return mmio;
        }
        self.vcpu_cache_mmio_info(cpu, page);
        // Not v5.10: mmu_notifier_retry is left out, for there is no page that could be taken back.
        let mut l = self.kvm.mmu_lock.lock();
        let Some(loc) = leaf(&mut l) else { return RetPf::Retry };
        self.mark_mmio_spte(&mut l, loc, gfn);
        mmio
    }

    /// `mark_mmio_spte`, with the generation of the memslots that are in use by now. What was
    /// mapped goes first, as in `mmu_set_spte`: a guest's entry may have come to name another frame
    /// without KVM's knowledge.
    ///
    /// Locks: `mmu_lock`, and a read section of `kvm->srcu`.
    #[kernel]
    pub(super) fn mark_mmio_spte(&self, l: &mut Locked, loc: SpteLoc, gfn: Gfn) {
        let generation = self.kvm_memslots().mmio_generation();
        let dropped = self.p.guarded(Guard::MmioSpteDrops, || self.drop_spte(l, loc));
        self.mmu_spte_set(l, loc, self.mmu.format.mmio(gfn, generation));
        if dropped {
            self.kvm_flush_remote_tlbs(None);
        }
        self.p.mark(Mark::MmioSpteSet);
    }

    /// `handle_mmio_page_fault`: hardware met an MMIO SPTE. [`RetPf::Invalid`]: what it says does
    /// not count any more, and the fault is handled like others. Not v5.10, nor later: there the
    /// generation is read after the SPTE, which may be gone by then because the generation wraps.
    ///
    /// Locks: none; the vCPU thread holds `kvm->srcu`.
    #[kernel]
    pub(super) fn handle_mmio_page_fault(&self, cpu: CpuId, page: u64) -> RetPf {
        if self.mmio_info_in_cache(cpu, page) {
            self.p.mark(Mark::MmioCached);
            return RetPf::Mmio { ram: false };
        }
        let early = self.p.guarded(Guard::MmioGenerationFirst, || Some(self.kvm_memslots()));
        self.walk_shadow_page_lockless_begin(cpu);
        let (_, spte) = self.walk_lockless(cpu, page);
        self.p.checkpoint((early, spte));
        self.walk_shadow_page_lockless_end(cpu);
        if !self.mmu.format.is_mmio(spte) {
            // It was zapped meanwhile.
            return RetPf::Retry;
        }
        let slots = early.unwrap_or_else(|| self.kvm_memslots());
        if !self.check_mmio_spte(spte, slots) {
            return RetPf::Invalid;
        }
        self.vcpu_cache_mmio_info(cpu, page);
        self.p.mark(Mark::MmioCached);
        RetPf::Mmio { ram: false }
    }

    /// `check_mmio_spte`: it was made by the memslots that are in use.
    fn check_mmio_spte(&self, spte: Spte, slots: MemslotSet) -> bool {
        // No guard: while an update is under way the generation is that of before, and what the new
        // memslots have may be taken for MMIO until the ioctl returns.
        if slots.is_update_in_progress() {
            return false;
        }
        let other = || self.mmu.format.mmio_generation(spte) != slots.mmio_generation();
        !self.p.guarded(Guard::MmioSpteGeneration, other)
    }

    /// `vcpu_cache_mmio_info`: the vCPU remembers its last MMIO page, unless memslots change.
    fn vcpu_cache_mmio_info(&self, cpu: CpuId, page: u64) {
        let slots = self.kvm_memslots();
        // No guard for the test (5.1, ddfd1730fd82): what is remembered while an update is under
        // way says so, and is never equal to a generation that counts.
        if !slots.is_update_in_progress() {
            self.mmu.mmio_info(cpu).set(slots.whole_generation() << 8 | (page + 1));
        }
    }

    /// `vcpu_clear_mmio_info`: the guest invalidates a page, or all of them (`MMIO_GVA_ANY`).
    pub(super) fn vcpu_clear_mmio_info(&self, cpu: CpuId, gva: Option<Gva>) {
        let info = self.mmu.mmio_info(cpu);
        // No guard: what is remembered is asked only where an MMIO SPTE was met.
        if gva.is_none_or(|gva| info.get() & 0xff == gva.0 + 1) {
            info.set(0);
        }
    }

    /// `mmio_info_in_cache`: it is the page that the vCPU remembers, of these memslots.
    fn mmio_info_in_cache(&self, cpu: CpuId, page: u64) -> bool {
        let info = self.mmu.mmio_info(cpu).get();
        if info & 0xff != page + 1 {
            return false;
        }
        let slots = self.kvm_memslots();
        let other = || slots.is_update_in_progress() || info >> 8 != slots.whole_generation();
        !self.p.guarded(Guard::MmioInfoGeneration, other)
    }
}
