//! MMU notifiers: the host's memory manager notifies KVM of what it does with pages.
//!
//! Guarantee: after [`Vm::invalidate_range_start`] returns, no CPU can use the page, and no fault
//! maps it again until [`Vm::invalidate_range_end`]; a fault that looked the page up before gives
//! up. Mechanism: `mmu_notifier_count` is raised in between, `mmu_notifier_seq` moves at the end.
//! Linux v5.10 `virt/kvm/kvm_main.c`, `include/linux/kvm_host.h`.
//!
//! Later: since 5.12 the retry asks for the range of what runs, since 6.8 in frames; since 5.14
//! `mmu_lock` is taken only where a memslot is hit, and memslots wait for what runs
//! (`mn_active_invalidate_count`); since 6.0 it is `mmu_invalidate_seq`,
//! `mmu_invalidate_in_progress` and `mmu_invalidate_retry`; 6.10 has no change_pte; since 6.13
//! aging need not flush, since 6.15 not lock.

use super::MmuState;
use crate::guard::Guard;
use crate::host::Host;
use crate::kernel;
use crate::mark::Mark;
use crate::platform::Ordering::{Relaxed, Release};
use crate::platform::{Platform, Srcu, Until, Word};
use crate::types::{Gfn, GfnRange, Pfn};
use crate::vm::{Mmu, Vm};

impl<P: Platform, H: Host, M: Mmu<P>> Vm<P, H, M> {
    /// `mmu_notifier_retry`: did an invalidation run since the sequence was read, or does one run?
    ///
    /// Locks: `mmu_lock`. Under it the barrier between the two tests is redundant on x86.
    pub(crate) fn mmu_notifier_retry(&self, l: &MmuState<M::State>, seq: u64) -> bool {
        let running = l.notifier_count != 0 && self.p.guarded(Guard::NotifierCountCheck, || true);
        // ORDERING: relaxed: written under mmu_lock, which is held.
        let moved = || self.kvm.notifier_seq.load(Relaxed) != seq;
        let retry = running || self.p.guarded(Guard::NotifierSeqRecheck, moved);
        if retry {
            self.p.mark(Mark::NotifierRetry);
        }
        retry
    }

    /// `kvm_mmu_notifier_invalidate_range_start`.
    ///
    /// Locks: takes `mmu_lock` in a read section of `kvm->srcu`.
    #[kernel("kvm_mmu_notifier_invalidate_range_start")]
    pub fn invalidate_range_start(&self, frames: GfnRange) {
        // No guard: the section keeps memslots alive in which the kernel looks the range up. Here
        // the caller gives the frames.
        let _srcu = self.kvm.srcu.read_lock();
        if !self.invalidation_counts(frames) {
            return;
        }
        let mut l = self.kvm.mmu_lock.lock();
        // No guard: without the raise notifier-count-check has nothing to find, and without that of
        // the sequence at the end neither has notifier-seq-recheck.
        l.notifier_count += 1;
        let zapped;
        (l, zapped) = match self.p.guarded(Guard::RangeStartZaps, || true) {
            true => M::kvm_unmap_hva_range(self, l, frames),
            false => (l, false),
        };
        if zapped || self.p.guarded(Guard::RangeStartPaysFlushes, || self.owes_flushes()) {
            self.p.guarded(Guard::RangeStartFlush, || self.kvm_flush_remote_tlbs(None));
        }
        drop(l);
        self.apic_reload_in_range_start(frames);
        self.p.mark(Mark::RangeStarted);
    }

    /// `kvm_mmu_notifier_invalidate_range_end`: the sequence first, then the count: who sees no
    /// invalidation running must see that one has run. Under `mmu_lock`, where
    /// `mmu_notifier_retry` reads both, the order does not matter.
    ///
    /// Locks: takes `mmu_lock`.
    #[kernel("kvm_mmu_notifier_invalidate_range_end")]
    pub fn invalidate_range_end(&self, frames: GfnRange) {
        if !self.invalidation_counts(frames) {
            return;
        }
        let mut l = self.kvm.mmu_lock.lock();
        self.bump_notifier_seq();
        // Below 0 only without guard range-start-counts-always.
        l.notifier_count = l.notifier_count.wrapping_sub(1);
        drop(l);
        self.p.mark(Mark::RangeEnded);
    }

    /// An invalidation counts, and takes `mmu_lock`, whatever memslots there are.
    fn invalidation_counts(&self, frames: GfnRange) -> bool {
        let has_slot = || {
            let _srcu = self.kvm.srcu.read_lock();
            frames.iter().any(|gfn| self.gfn_to_memslot(gfn).is_some())
        };
        self.p.without(Guard::RangeStartCountsAlways, has_slot).unwrap_or(true)
    }

    #[track_caller]
    fn bump_notifier_seq(&self) {
        // ORDERING: release: pairs with the acquire before gfn_to_pfn. The smp_wmb of the kernel
        // stands between this and the count, for who asks without the lock; here all who ask have
        // it. Not judged under SC.
        self.kvm.notifier_seq.add(1, Release);
    }

    /// `kvm_mmu_notifier_change_pte`: the host maps the frame to another page, read-only.
    ///
    /// Locks: takes `mmu_lock` in a read section of `kvm->srcu`. The count is not raised: the host
    /// brackets it with start and end.
    #[kernel("kvm_mmu_notifier_change_pte")]
    pub fn change_pte(&self, gfn: Gfn, pfn: Pfn) {
        // No guard: as in range_start, the caller gives the frame.
        let _srcu = self.kvm.srcu.read_lock();
        let mut l = self.kvm.mmu_lock.lock();
        self.p.guarded(Guard::ChangePteBumpsSeq, || self.bump_notifier_seq());
        if M::kvm_set_spte_hva(self, &mut l, gfn, pfn) {
            self.p.guarded(Guard::ChangePteFlush, || self.kvm_flush_remote_tlbs(None));
        }
    }

    /// `kvm_mmu_notifier_clear_flush_young`: as [`Vm::clear_young`], with a flush.
    ///
    /// Locks: takes `mmu_lock` in a read section of `kvm->srcu`.
    #[kernel("kvm_mmu_notifier_clear_flush_young")]
    pub fn clear_flush_young(&self, gfn: Gfn) -> bool {
        // No guard: as in range_start, the caller gives the frame.
        let _srcu = self.kvm.srcu.read_lock();
        let mut l = self.kvm.mmu_lock.lock();
        let young = M::kvm_age_hva(self, &mut l, gfn);
        // No guard: what a TLB still holds of the page is dropped before the page itself is taken
        // back, by range_start. Without the flush a page that is used looks unused for longer.
        if young {
            self.kvm_flush_remote_tlbs(None);
        }
        young
    }

    /// `kvm_mmu_notifier_clear_young`: was the frame used since it was last asked?
    ///
    /// Locks: takes `mmu_lock` in a read section of `kvm->srcu`.
    #[kernel("kvm_mmu_notifier_clear_young")]
    pub fn clear_young(&self, gfn: Gfn) -> bool {
        // No guard: as in range_start, the caller gives the frame.
        let _srcu = self.kvm.srcu.read_lock();
        let mut l = self.kvm.mmu_lock.lock();
        M::kvm_age_hva(self, &mut l, gfn)
    }

    /// `kvm_mmu_notifier_release`: the address space ends, or the VM is destroyed.
    ///
    /// Locks: as those of [`Mmu::kvm_arch_flush_shadow_all`], in a read section of `kvm->srcu`.
    #[kernel]
    pub fn kvm_mmu_notifier_release(&self) {
        let _srcu = self.kvm.srcu.read_lock();
        M::kvm_arch_flush_shadow_all(self);
    }

    /// Stands for the faults that a guest takes in vain while an invalidation runs: the next one
    /// that may end otherwise comes after `mmu_notifier_seq` has changed, which range_end does. KVM
    /// spins through the guest; here the thread waits.
    pub fn wait_for_invalidation(&self, seq: u64) {
        self.kvm.notifier_seq.wait_until(Until::Not(seq));
    }
}
