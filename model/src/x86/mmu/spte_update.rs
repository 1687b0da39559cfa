//! The accessors of an SPTE: how KVM changes one that hardware and fast faults change too.
//!
//! Guarantee: no W, A or D that was set outside `mmu_lock` is lost, and every caller learns whether
//! a TLB may still hold more than the new SPTE allows. Mechanism: an SPTE that can change outside
//! the lock is *volatile* and replaced by `xchg`, whose result is then what counts. Linux v5.10
//! `arch/x86/kvm/mmu/mmu.c`; locking.rst section 2, cases 2 and 3.

use super::{Locked, ShadowMmu};
use crate::guard::Guard;
use crate::host::Host;
use crate::kernel;
use crate::mark::Mark;
use crate::platform::Ordering::{AcqRel, Acquire, Relaxed, Release};
use crate::platform::{Platform, Word};
use crate::spte::Spte;
use crate::tables::Tables;
use crate::types::SpteLoc;
use crate::vm::Vm;

impl<P: Platform, H: Host> Vm<P, H, ShadowMmu<P>> {
    /// `mmu_spte_get_lockless`, and every other plain read of an SPTE.
    #[track_caller]
    pub fn mmu_spte_get_lockless(&self, loc: SpteLoc) -> Spte {
        // ORDERING: acquire pairs with the release of mmu_spte_set: who sees a link sees the
        // child. Not judged under SC.
        Spte(self.mmu.sptep(loc).load(Acquire))
    }

    /// `mmu_spte_set`: the SPTE must not be shadow-present.
    ///
    /// Locks: `mmu_lock`.
    #[track_caller]
    pub(super) fn mmu_spte_set(&self, _: &Locked, loc: SpteLoc, new: Spte) {
        // ORDERING: release pairs with mmu_spte_get_lockless; x86 stores are never weaker. Not
        // judged under SC.
        self.mmu.sptep(loc).store(new.0, Release);
    }

    /// `spte_has_volatile_bits`: may this SPTE change outside `mmu_lock`?
    pub fn spte_has_volatile_bits(&self, spte: Spte) -> bool {
        self.transitions().has_volatile_bits(spte)
    }

    /// Replaces a shadow-present SPTE that read as `old`: by `xchg` if it is volatile. Returns what
    /// KVM believes it held, which for a plain store is the first read.
    fn replace_spte(&self, _: &Locked, loc: SpteLoc, old: Spte, new: Spte) -> Spte {
        if self.spte_has_volatile_bits(old) {
            // ORDERING: acq-rel pairs with the cmpxchg of fast_page_fault: one sees the other's
            // value.
            Spte(self.mmu.sptep(loc).swap(new.0, AcqRel))
        } else {
            self.p.mark(Mark::JudgedNotVolatile);
            // ORDERING: relaxed: a plain store under mmu_lock; no lockless path may write this
            // SPTE.
            self.mmu.sptep(loc).store(new.0, Relaxed);
            self.p.mark(Mark::SptePlainStore);
            old
        }
    }

    /// `mmu_spte_update_no_track`: replaces an SPTE and returns what it held. The pfn must not
    /// change.
    ///
    /// Locks: `mmu_lock`.
    pub(super) fn mmu_spte_update_no_track(&self, l: &Locked, loc: SpteLoc, new: Spte) -> Spte {
        let old = self.mmu_spte_get_lockless(loc);
        if !self.mmu.format.is_shadow_present(old) {
            self.mmu_spte_set(l, loc, new);
            return old;
        }
        debug_assert_eq!(
            self.mmu.format.pfn(old),
            self.mmu.format.pfn(new),
            "mmu_spte_update must not change the pfn"
        );
        self.replace_spte(l, loc, old, new)
    }

    /// `mmu_spte_update`: replaces an SPTE; true if the caller owes a flush of all TLBs.
    ///
    /// A flush is owed if the old SPTE *could* be written, not only if it was: an earlier writer
    /// may have cleared W and not flushed yet.
    ///
    /// Locks: `mmu_lock`; the flush may follow after it for the dirty log only.
    #[kernel]
    pub(super) fn mmu_spte_update(&self, l: &Locked, loc: SpteLoc, new: Spte) -> bool {
        let old = self.mmu_spte_update_no_track(l, loc, new);
        self.p.mark(Mark::SpteSet);
        if !self.mmu.format.is_shadow_present(old) {
            return false;
        }
        let can_be = || self.transitions().can_be_made_writable(old);
        let is = || self.mmu.format.is_writable(old);
        let could_be_written = self.p.guarded(Guard::FlushOnLocklesslyWritable, can_be)
            || self.p.without(Guard::FlushOnLocklesslyWritable, is) == Some(true);
        let mut flush = could_be_written && !self.mmu.format.is_writable(new);
        let pfn = self.mmu.format.pfn(old);
        if self.mmu.format.is_accessed(old) && !self.mmu.format.is_accessed(new) {
            // No guard for the flush: a page that is used looks unused for longer, no more.
            flush = true;
            let pass_on = || self.host.kvm_set_pfn_accessed(pfn);
            self.p.guarded(Guard::UpdatePassesAccessed, pass_on);
        }
        if self.mmu.format.is_dirty(old) && !self.mmu.format.is_dirty(new) {
            flush |= self.p.guarded(Guard::UpdateFlushesDirty, || true);
            self.p.guarded(Guard::UpdatePassesDirty, || self.host.kvm_set_pfn_dirty(pfn));
        }
        flush
    }

    /// `mmu_spte_clear_track_bits`: clears a leaf and passes its A and D on to the host. True if
    /// there was something to clear. The caller owes the flush.
    ///
    /// Locks: `mmu_lock`.
    #[kernel]
    pub(super) fn mmu_spte_clear_track_bits(&self, l: &Locked, loc: SpteLoc) -> bool {
        let first = self.mmu_spte_get_lockless(loc);
        if !self.mmu.format.is_shadow_present(first) {
            // ORDERING: relaxed: nothing to publish.
            self.mmu.sptep(loc).store(0, Relaxed);
            return false;
        }
        let old = self.replace_spte(l, loc, first, Spte::ZERO);
        self.p.mark(Mark::SpteZapped);
        if !self.mmu.format.is_shadow_present(old) {
            return false;
        }
        if self.mmu.format.is_accessed(old) {
            let pass_on = || self.host.kvm_set_pfn_accessed(self.mmu.format.pfn(old));
            self.p.guarded(Guard::ZapPassesAccessed, pass_on);
        }
        if self.mmu.format.is_dirty(old) {
            let pass_on = || self.host.kvm_set_pfn_dirty(self.mmu.format.pfn(old));
            self.p.guarded(Guard::ZapPassesDirty, pass_on);
        }
        true
    }

    /// `mmu_spte_clear_no_track`: clears a non-leaf or an MMIO SPTE by a plain store.
    ///
    /// Locks: `mmu_lock`.
    #[track_caller]
    pub(super) fn mmu_spte_clear_no_track(&self, _: &Locked, loc: SpteLoc) {
        // ORDERING: relaxed: hardware sets A in a non-leaf too, but nothing reads it.
        self.mmu.sptep(loc).store(0, Relaxed);
    }

    /// `mmu_spte_age`: clears the Accessed state; true if it was set. No flush here. Not v5.10: it
    /// judges W by its first read and ignores what the xchg returned, so the dirty state of a page
    /// that a fast fault makes writable in between is lost to the host (not to the dirty log).
    ///
    /// Locks: `mmu_lock`.
    #[kernel]
    pub(super) fn mmu_spte_age(&self, l: &Locked, loc: SpteLoc) -> bool {
        let spte = self.mmu_spte_get_lockless(loc);
        if !self.mmu.format.is_accessed(spte) {
            return false;
        }
        if self.mmu.format.ad_enabled(spte) {
            // ORDERING: relaxed: an atomic bit operation; the bit is a hint.
            self.mmu.sptep(loc).and(!self.mmu.format.accessed_mask, Relaxed);
            return true;
        }
        let new = self.mark_spte_for_access_track(spte);
        let old = self.mmu_spte_update_no_track(l, loc, new);
        self.p.mark(Mark::AccessTracked);
        let judged = self.p.without(Guard::AgeUsesXchgResult, || spte).unwrap_or(old);
        if self.mmu.format.is_writable(judged) {
            let pass_on = || self.host.kvm_set_pfn_dirty(self.mmu.format.pfn(old));
            self.p.guarded(Guard::AgePassesDirty, pass_on);
        }
        true
    }

    /// `mark_spte_for_access_track`: W is dropped, not saved.
    pub(super) fn mark_spte_for_access_track(&self, spte: Spte) -> Spte {
        self.transitions().mark_for_access_track(spte)
    }
}
