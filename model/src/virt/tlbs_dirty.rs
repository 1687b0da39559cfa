//! Flushes that are owed: `kvm->tlbs_dirty`, of kernels from 2.6.38 to 5.15.
//!
//! Guarantee: what was dropped from a shadow page without a flush is in no TLB when the host takes
//! its page back. Mechanism: whoever drops it counts; `range_start` flushes if something is
//! counted, though it finds nothing to zap; each flush, for whatever reason, takes away what was
//! counted before it began. It has two holes: who looks for mappings of a frame by its reverse map
//! alone does not know of it; and a flush beside `mmu_lock` takes a debt for its own that is
//! another one of the same count. Since 5.16 `sync_page` flushes at once, and nothing is owed: with
//! guard `sync-page-flushes` there is nothing of this. Linux v5.10 `virt/kvm/kvm_main.c`,
//! `arch/x86/kvm/mmu/paging_tmpl.h`.

use crate::guard::Guard;
use crate::host::Host;
use crate::mark::Mark;
use crate::platform::Ordering::{Acquire, Release, SeqCst};
use crate::platform::{Platform, Word};
use crate::vm::{Mmu, Vm};

impl<P: Platform, H: Host, M: Mmu<P>> Vm<P, H, M> {
    /// `kvm->tlbs_dirty++`, after the SPTE was dropped.
    ///
    /// Locks: `mmu_lock`.
    pub(crate) fn owe_flush(&self) {
        let Some(tlbs_dirty) = &self.kvm.tlbs_dirty else { return };
        // ORDERING: release (smp_wmb): pairs with the acquire of the flush, which may take a debt
        // for paid only if the SPTE was gone before its requests. Not judged under SC.
        tlbs_dirty.add(1, Release);
        self.p.mark(Mark::FlushOwed);
    }

    /// `kvm->tlbs_dirty` is not 0.
    ///
    /// Locks: `mmu_lock`, under which it is counted up.
    pub(super) fn owes_flushes(&self) -> bool {
        self.count_owed_flushes().is_some_and(|count| count != 0)
    }

    /// What is owed when a flush begins.
    pub(super) fn owed_before(&self) -> Option<u64> {
        self.p.guarded(Guard::TlbsDirtyReadFirst, || self.count_owed_flushes())
    }

    /// A flush is done: what was owed when it began is owed no more. What came since stays, unless
    /// another flush has paid in between, and as much is owed again.
    pub(super) fn paid(&self, before: Option<u64>) {
        let seen = before.or_else(|| self.count_owed_flushes());
        if let (Some(seen), Some(tlbs_dirty)) = (seen, &self.kvm.tlbs_dirty) {
            // ORDERING: full, as every x86 cmpxchg.
            let _ = tlbs_dirty.compare_exchange(seen, 0, SeqCst, SeqCst);
        }
    }

    /// `None`: nobody counts, as it is since 5.16; what comes after that is 5.10.
    fn count_owed_flushes(&self) -> Option<u64> {
        if self.p.guarded(Guard::SyncPageFlushes, || true) {
            return None;
        }
        // ORDERING: acquire (smp_load_acquire) pairs with the release of owe_flush: what is counted
        // is gone. Not judged under SC.
        self.kvm.tlbs_dirty.as_ref().map(|tlbs_dirty| tlbs_dirty.load(Acquire))
    }
}
