//! Walking shadow pages without `mmu_lock`.
//!
//! Guarantee: a shadow page that was reachable when the walk began is not freed before it ends.
//! Mechanism: the walk runs with interrupts off and `vcpu->mode` = READING_SHADOW_PAGE_TABLES;
//! whoever frees a page flushes first, and the flush waits for the interrupt of every CPU in that
//! mode. Linux v5.10 `arch/x86/kvm/mmu/mmu.c`, `walk_shadow_page_lockless_begin()` and `_end()`.

use super::vcpu::{OUTSIDE_GUEST_MODE, READING_SHADOW_PAGE_TABLES};
use super::{Mmu, ROOT_LEVEL, Table, index_at};
use crate::guard::Guard;
use crate::host::Host;
use crate::mark::Mark;
use crate::platform::Ordering::{Acquire, Release, SeqCst};
use crate::platform::{Platform, Word};
use crate::spte::Spte;
use crate::types::{CpuId, SpteLoc};

impl<P: Platform, H: Host> Mmu<P, H> {
    /// `walk_shadow_page_lockless_begin`.
    pub(super) fn walk_shadow_page_lockless_begin(&self, cpu: CpuId) {
        self.p.guarded(Guard::LocklessWalkIrqOff, || self.p.local_irq_disable(cpu));
        self.p.guarded(Guard::LocklessWalkMode, || {
            // ORDERING: smp_store_mb, pairs with the cmpxchg of the mode in kvm_request_needs_ipi:
            // no SPTE is read before the mode can be seen. Needs TSO to be seen missing.
            self.vcpu(cpu).mode.store(READING_SHADOW_PAGE_TABLES, SeqCst);
            self.p.fence(SeqCst);
        });
    }

    /// `walk_shadow_page_lockless_end`.
    pub(super) fn walk_shadow_page_lockless_end(&self, cpu: CpuId) {
        self.p.guarded(Guard::LocklessWalkMode, || {
            // ORDERING: release: no read of the walk moves below it. x86 never does that; loom
            // could show it.
            self.vcpu(cpu).mode.store(OUTSIDE_GUEST_MODE, Release);
        });
        self.p.guarded(Guard::LocklessWalkIrqOff, || self.p.local_irq_enable(cpu));
    }

    /// `for_each_shadow_entry_lockless`: down from the root as far as SPTEs are shadow-present.
    /// Returns the last one. Between begin and end only.
    #[inline(always)]
    pub(super) fn walk_lockless(&self, cpu: CpuId, page: u64) -> WalkIterator<'_, P> {
        let (mut sp, mut level) = (self.vcpu(cpu).root, ROOT_LEVEL);
        loop {
            let at = self.read_lockless(SpteLoc { sp, index: index_at(level, page) });
            if !self.format.is_shadow_present(at.spte) || self.format.is_last(at.spte, level) {
                return at;
            }
            self.p.mark(Mark::LocklessWalkStep);
            (sp, level) = (self.format.child(at.spte), level - 1);
        }
    }

    /// The SPTE at this place. Between begin and end only.
    #[inline(always)]
    pub(super) fn read_lockless(&self, loc: SpteLoc) -> WalkIterator<'_, P> {
        let table = &self.tables[usize::from(loc.sp.0)];
        let sptep = &table.spt[usize::from(loc.index)];
        // ORDERING: acquire, as mmu_spte_get_lockless: whoever sees a link sees the child.
        WalkIterator { loc, table, sptep, spte: Spte(sptep.load(Acquire)) }
    }
}

/// `struct kvm_shadow_walk_iterator`: where a walk is, and what it read there. The references spare
/// the fast path looking the place up again.
#[derive(Debug)]
pub(super) struct WalkIterator<'a, P: Platform> {
    /// The place.
    pub(super) loc: SpteLoc,
    /// The memory of its shadow page.
    pub(super) table: &'a Table<P>,
    /// Its own memory.
    pub(super) sptep: &'a P::Word,
    /// What it held.
    pub(super) spte: Spte,
}
