//! MMU notifiers: the host's memory manager tells KVM what becomes of its pages.
//!
//! Guarantee: after [`Mmu::invalidate_range_start`] returns, no CPU can use the page, and no fault
//! maps it again until [`Mmu::invalidate_range_end`]; a fault that looked the page up before gives
//! up. Mechanism: `mmu_notifier_count` is raised in between, `mmu_notifier_seq` moves at the end.
//! Linux v5.10
//! `virt/kvm/kvm_main.c`, `include/linux/kvm_host.h`.

use super::{Mmu, MmuState};
use crate::guard::Guard;
use crate::host::Host;
use crate::mark::Mark;
use crate::platform::Ordering::{Relaxed, Release};
use crate::platform::{Lock, Platform, Srcu, Until, Word};
use crate::spte::Spte;
use crate::types::{Gfn, Pfn};

impl<P: Platform, H: Host> Mmu<P, H> {
    /// `mmu_notifier_retry`: did an invalidation run since the sequence was read, or does one run?
    ///
    /// Locks: `mmu_lock`. Under it the barrier between the two tests is redundant on x86.
    pub(super) fn mmu_notifier_retry(&self, l: &MmuState, seq: u64) -> bool {
        let running = l.notifier_count != 0 && self.p.guarded(Guard::NotifierCountCheck, || true);
        // ORDERING: relaxed: written under mmu_lock, which is held.
        let retry = running
            || self.p.guarded(Guard::NotifierSeqRecheck, || self.notifier_seq.load(Relaxed) != seq);
        if retry {
            self.p.mark(Mark::NotifierRetry);
        }
        retry
    }

    /// `kvm_mmu_notifier_invalidate_range_start`, for one frame.
    ///
    /// Locks: takes `mmu_lock` in a read section of `kvm->srcu`.
    pub fn invalidate_range_start(&self, gfn: Gfn) {
        self.p.call("kvm_mmu_notifier_invalidate_range_start", || {
            let _srcu = self.kvm.srcu.read_lock();
            let mut l = self.mmu_lock.lock();
            l.notifier_count += 1;
            let flush = self.kvm_zap_rmapp(&mut l, gfn);
            if flush {
                self.p.guarded(Guard::RangeStartFlush, || self.kvm_flush_remote_tlbs(None));
            }
            drop(l);
            self.p.mark(Mark::RangeStarted);
        });
    }

    /// `kvm_mmu_notifier_invalidate_range_end`: the sequence first, then the count.
    ///
    /// Locks: takes `mmu_lock`.
    pub fn invalidate_range_end(&self) {
        self.p.call("kvm_mmu_notifier_invalidate_range_end", || {
            let mut l = self.mmu_lock.lock();
            self.bump_notifier_seq();
            l.notifier_count -= 1;
            drop(l);
            self.p.mark(Mark::RangeEnded);
        });
    }

    #[track_caller]
    fn bump_notifier_seq(&self) {
        // ORDERING: release (smp_wmb in the kernel): pairs with the read before gfn_to_pfn.
        self.notifier_seq.fetch_add(1, Release);
    }

    /// `kvm_mmu_notifier_change_pte`: the host maps the frame to another page, read-only.
    ///
    /// Locks: takes `mmu_lock` in a read section of `kvm->srcu`. The count is not raised: the host
    /// brackets it with start and end.
    pub fn change_pte(&self, gfn: Gfn, pfn: Pfn) {
        self.p.call("kvm_mmu_notifier_change_pte", || {
            let _srcu = self.kvm.srcu.read_lock();
            let l = self.mmu_lock.lock();
            self.bump_notifier_seq();
            let mut flush = false;
            for loc in l.rmap[gfn.0 as usize].iter() {
                let old = self.mmu_spte_get_lockless(loc);
                let new = self.changed_pte_spte(old, pfn);
                self.mmu_spte_clear_track_bits(loc);
                self.mmu_spte_set(loc, new);
                self.p.mark(Mark::PteChanged);
                flush = true;
            }
            if flush {
                self.p.guarded(Guard::ChangePteFlush, || self.kvm_flush_remote_tlbs(None));
            }
        });
    }

    /// `kvm_mmu_changed_pte_notifier_make_spte`.
    fn changed_pte_spte(&self, old: Spte, pfn: Pfn) -> Spte {
        let f = &self.format;
        let new = f.write_protected(f.with_pfn(old, pfn)).without(f.host_writable_mask);
        let m = self.p.guarded(Guard::ChangePteClearsMmuWritable, || f.mmu_writable_mask);
        self.mark_spte_for_access_track(new.without(m))
    }

    /// `kvm_mmu_notifier_clear_flush_young`, and `clear_young` without the flush. True if it was
    /// young.
    ///
    /// Locks: takes `mmu_lock` in a read section of `kvm->srcu`.
    pub fn clear_young(&self, gfn: Gfn, flush: bool) -> bool {
        let name = if flush {
            "kvm_mmu_notifier_clear_flush_young"
        } else {
            "kvm_mmu_notifier_clear_young"
        };
        self.p.call(name, || {
            let _srcu = self.kvm.srcu.read_lock();
            let l = self.mmu_lock.lock();
            let mut young = false;
            for loc in l.rmap[gfn.0 as usize].iter() {
                young |= self.mmu_spte_age(loc);
            }
            if young && flush {
                self.kvm_flush_remote_tlbs(None);
            }
            young
        })
    }

    /// Stands for the faults that a guest takes in vain while an invalidation runs: the next one
    /// that may end otherwise comes after `mmu_notifier_seq` has changed, which range_end does. KVM
    /// spins through the guest; here the thread waits.
    pub fn wait_for_invalidation(&self, seq: u64) {
        self.notifier_seq.wait_until(Until::Not(seq));
    }
}
