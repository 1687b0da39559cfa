//! Walking shadow pages without `mmu_lock`.
//!
//! Guarantee: a shadow page that was reachable when the walk began is not freed before it ends.
//! Mechanism: the walk runs with interrupts off and `vcpu->mode` = READING_SHADOW_PAGE_TABLES;
//! a page is freed only after a flush, and the flush waits for the interrupt of every CPU in that
//! mode. Linux v5.10 `arch/x86/kvm/mmu/mmu.c`, `walk_shadow_page_lockless_begin()` and `_end()`.

use super::ShadowMmu;
use super::walk::ShadowWalk;
use crate::guard::Guard;
use crate::host::Host;
use crate::mark::Mark;
use crate::platform::Ordering::{Release, SeqCst};
use crate::platform::{Platform, Word};
use crate::spte::Spte;
use crate::tables::Tables;
use crate::types::CpuId;
use crate::virt::{OUTSIDE_GUEST_MODE, READING_SHADOW_PAGE_TABLES};
use crate::vm::Vm;

impl<P: Platform, H: Host> Vm<P, H, ShadowMmu<P>> {
    /// `walk_shadow_page_lockless_begin`.
    pub(super) fn walk_shadow_page_lockless_begin(&self, cpu: CpuId) {
        self.p.guarded(Guard::LocklessWalkIrqOff, || self.p.local_irq_disable(cpu));
        self.p.guarded(Guard::LocklessWalkMode, || {
            // ORDERING: release: who sees the mode sees that interrupts are off. Not judged under
            // SC.
            self.vcpu(cpu).mode.store(READING_SHADOW_PAGE_TABLES, Release);
            // ORDERING: full barrier (smp_store_mb of the mode), pairs with the cmpxchg in
            // kvm_request_needs_ipi: no SPTE is read before the mode can be seen. Not judged under
            // SC.
            self.p.guarded(Guard::SmpMbAfterReadingShadowPages, || self.p.fence(SeqCst));
        });
    }

    /// `walk_shadow_page_lockless_end`.
    pub(super) fn walk_shadow_page_lockless_end(&self, cpu: CpuId) {
        self.p.guarded(Guard::LocklessWalkMode, || {
            // ORDERING: release (smp_store_release): no read of the walk comes after it, where a
            // flush would not wait for it. Not judged under SC.
            self.vcpu(cpu).mode.store(OUTSIDE_GUEST_MODE, Release);
        });
        self.p.guarded(Guard::LocklessWalkIrqOff, || self.p.local_irq_enable(cpu));
    }

    /// `for_each_shadow_entry_lockless`: down from the root as far as SPTEs are shadow-present.
    /// Returns the last place and what it held. Between begin and end only.
    #[inline]
    pub(super) fn walk_lockless(&self, cpu: CpuId, page: u64) -> (ShadowWalk, Spte) {
        let goes_on = |spte| {
            let present = self.mmu.format.is_shadow_present(spte);
            if present {
                self.p.mark(Mark::LocklessWalkStep);
            }
            present
        };
        let from_root = ShadowWalk::new(self.mmu.root(cpu), page);
        from_root.down(&self.mmu.format, |loc| self.mmu_spte_get_lockless(loc), goes_on)
    }
}
