//! `fast_page_fault`: repairs a fault without `mmu_lock`.
//!
//! Guarantee: it changes an SPTE only from exactly the value that it judged, to one that the same
//! page may legally have, and a page that it makes writable is in the dirty log before this vCPU
//! leaves KVM_RUN. Mechanism: H && M (M alone in 6.1) say that the SPTE may be made writable; one
//! cmpxchg does it, so that any change in between defeats it; the bitmap follows the SPTE, because
//! no lock keeps the harvest away. Linux v5.10 `arch/x86/kvm/mmu/mmu.c`, `fast_page_fault()`;
//! locking.rst section 2. What is tried is decided by `Transitions`.
//!
//! Equal bits are not the same mapping: an SPTE may have been dropped and rebuilt in between (ABA).
//! The frame that an SPTE of a *direct* page maps is fixed by its place, so the mark is right all
//! the same. That is why faults on indirect pages come here only if guard `fast-fault-direct-only`
//! is removed: `fast_fault_indirect.rs` has what no kernel does.

use super::paging::{PG_LEVEL_4K, frame_at};
use super::walk::ShadowWalk;
use super::{Header, ShadowMmu};
use crate::guard::Guard;
use crate::host::Host;
use crate::kernel;
use crate::mark::Mark;
use crate::platform::Ordering::{AcqRel, Acquire, Relaxed};
use crate::platform::{Platform, Word};
use crate::spte::Spte;
use crate::tables::Tables;
use crate::transition::{Algorithm, FastFault};
use crate::types::{Access, CpuId, Gfn, SpteLoc};
use crate::vm::{RetPf, Vm};

/// Attempts before a fast fault gives up: the first and `retry_count` of 4.
const ATTEMPTS_MAX: u8 = 5;

/// A fault, as hardware reports it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Fault {
    /// The CPU, and the vCPU.
    pub(super) cpu: CpuId,
    /// The page: a guest frame (direct) or a guest-virtual page number (shadow).
    pub(super) page: u64,
    /// What was tried.
    pub(super) access: Access,
    /// `PFERR_PRESENT_MASK`: the translation was there but did not allow it.
    pub(super) present: bool,
}

impl<P: Platform, H: Host> Vm<P, H, ShadowMmu<P>> {
    /// `fast_page_fault`. Returns [`RetPf::Invalid`] for the slow path. `walk_gfn`: the frame that
    /// a guest walk found; direct faults have none.
    ///
    /// Locks: none; the vCPU thread holds `kvm->srcu`.
    #[kernel]
    #[inline]
    pub(super) fn fast_page_fault(&self, fault: Fault, walk_gfn: Option<Gfn>) -> RetPf {
        let steps = self.transitions();
        if !steps.page_fault_can_be_fast(fault.access, fault.present) {
            return RetPf::Invalid;
        }
        let mut ret = RetPf::Invalid;
        let mut kept = None;
        self.walk_shadow_page_lockless_begin(fault.cpu);
        for attempt in 0..ATTEMPTS_MAX {
            self.p.checkpoint((attempt, kept));
            // From the root each time: what was linked before may be zapped by now.
            let again = || kept.map(|at: ShadowWalk| (at, self.mmu_spte_get_lockless(at.loc)));
            let stale = self.p.without(Guard::FastFaultRewalk, again).flatten();
            let (at, old) = stale.unwrap_or_else(|| self.walk_lockless(fault.cpu, fault.page));
            self.p.without(Guard::FastFaultRewalk, || kept = Some(at));
            self.p.mark(Mark::FastFaultRead);
            // ORDERING: relaxed: constant while the page is in use, and the walk keeps it in use.
            let sp = Header(self.mmu.tables[usize::from(at.loc.sp.0)].header.load(Relaxed));
            let logged = sp.level() > PG_LEVEL_4K && self.is_logged(Gfn(fault.page));
            let new = match steps.fast_page_fault(old, sp.level(), fault.access, logged) {
                FastFault::Refuse => break,
                FastFault::Spurious => {
                    self.p.mark(Mark::FastFaultSpurious);
                    ret = RetPf::Spurious;
                    break;
                }
                FastFault::Fix(new) => new,
            };
            let fixed = if sp.is_direct() {
                self.fast_pf_fix_direct_spte(fault.access, sp, at.loc, old, new)
            } else {
                self.fast_pf_fix_indirect_spte(fault.access, walk_gfn, at.loc, old, new)
            };
            if let Some(done) = fixed {
                ret = done;
                break;
            }
        }
        self.p.checkpoint(ret);
        self.walk_shadow_page_lockless_end(fault.cpu);
        ret
    }

    /// True if the memslot of a direct fault has a dirty log, where that matters: for a large page
    /// in 6.1. That looks the slot up once, before its attempts; in between the log cannot have
    /// begun, whose grace period waits for this vCPU.
    fn is_logged(&self, gfn: Gfn) -> bool {
        self.mmu.algorithm == Algorithm::V6_1
            && self.gfn_to_memslot(gfn).is_some_and(|slot| slot.dirty_bitmap().is_some())
    }

    /// `fast_pf_fix_direct_spte`. The frame of an SPTE of a direct page is fixed by its place.
    #[inline]
    fn fast_pf_fix_direct_spte(
        &self,
        access: Access,
        sp: Header,
        loc: SpteLoc,
        old: Spte,
        new: Spte,
    ) -> Option<RetPf> {
        let gfn = frame_at(sp.level(), sp.gfn(), loc.index);
        self.fast_pf_fix_spte(access, loc, old, new, gfn)
    }

    /// The cmpxchg, and then the mark, for what is writable now and was not. `None`: the SPTE held
    /// another value; the cmpxchg lost. `access` matters only where guard `restore-marks-dirty` is
    /// removed.
    #[inline]
    pub(super) fn fast_pf_fix_spte(
        &self,
        access: Access,
        loc: SpteLoc,
        old: Spte,
        new: Spte,
        gfn: Gfn,
    ) -> Option<RetPf> {
        let format = &self.mmu.format;
        let made_writable = format.is_writable(new) && !format.is_writable(old);
        let no_write = access != Access::Write;
        let unmarked = no_write && self.p.without(Guard::RestoreMarksDirty, || ()).is_some();
        let mark = || {
            if made_writable && !unmarked {
                self.mark_page_dirty(gfn);
            }
        };
        self.p.without(Guard::MarkDirtyAfterCmpxchg, mark);
        if !self.cmpxchg_spte(loc, old, new) {
            self.p.mark(Mark::FastFaultLost);
            return None;
        }
        self.p.mark(Mark::FastFaultFixed);
        if format.is_access_track(old) {
            self.p.mark(Mark::AccessTrackRestored);
        }
        if made_writable {
            self.p.mark(Mark::FastFaultWritable);
        }
        self.p.guarded(Guard::MarkDirtyAfterCmpxchg, mark);
        Some(RetPf::Fixed)
    }

    /// The one store to an SPTE outside `mmu_lock`: only in place of exactly the value that was
    /// judged.
    #[inline]
    fn cmpxchg_spte(&self, loc: SpteLoc, old: Spte, new: Spte) -> bool {
        let sptep = self.mmu.sptep(loc);
        // ORDERING: relaxed: this store replaces the cmpxchg and is wrong in any order.
        let store = || self.p.lockless(|| sptep.store(new.0, Relaxed));
        let stored = self.p.without(Guard::FastFaultCmpxchg, store).is_some();
        // ORDERING: acq-rel pairs with the xchg of mmu_spte_clear_track_bits and mmu_spte_update.
        let cmpxchg = || sptep.compare_exchange(old.0, new.0, AcqRel, Acquire);
        stored || self.p.lockless(cmpxchg).is_ok()
    }
}
