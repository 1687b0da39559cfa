//! `fast_page_fault`: repairs a fault without `mmu_lock`.
//!
//! Guarantee: it changes an SPTE only from exactly the value that it judged, to one that the same
//! page may legally have, and a page that it makes writable is in the dirty log before this vCPU
//! leaves KVM_RUN. Mechanism: H && M (M alone in 6.1) say that the SPTE may be made writable; one
//! cmpxchg does it, so that any change in between defeats it; the bitmap follows the SPTE, because
//! no lock keeps the harvest away. Linux v5.10 `arch/x86/kvm/mmu/mmu.c`, `fast_page_fault()`;
//! locking.rst section 2. What is tried is decided in `transition.rs`.
//!
//! Equal bits are not the same mapping: an SPTE may have been dropped and rebuilt in between (ABA).
//! The frame that an SPTE of a *direct* page maps is fixed by its place, so the mark is right all
//! the same. That is why faults on indirect pages do not come here.

use super::direct::RetPf;
use super::lockless::WalkIterator;
use super::{Header, Mmu, Table};
use crate::guard::Guard;
use crate::host::Host;
use crate::mark::Mark;
use crate::platform::Ordering::{AcqRel, Acquire, Relaxed};
use crate::platform::{Platform, Word};
use crate::spte::Spte;
use crate::transition::FastFault;
use crate::types::{Access, CpuId, Gfn, Pfn, SpteLoc};

/// Attempts before a fast fault gives up: the first and `retry_count` of 4.
const ATTEMPTS_MAX: u8 = 5;

/// What a fast fault on an indirect page would do. 5.10 never lets one run; see guard
/// `fast-fault-direct-only`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum IndirectFastFault {
    /// Mark `sp->gfns[index]`, read before the cmpxchg.
    Gfns,
    /// Mark the frame that the fault's own guest walk found.
    Walk,
    /// The document's proposal: hold a reference on the page over the cmpxchg. Needs no guard to be
    /// taken away.
    Pinned,
}

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

impl<P: Platform, H: Host> Mmu<P, H> {
    /// `fast_page_fault`. `walk_gfn` is the frame that a guest walk found, for an indirect page.
    ///
    /// Locks: none; the vCPU thread holds `kvm->srcu`. Returns [`RetPf::Invalid`] for the slow
    /// path.
    #[inline(always)]
    pub(super) fn fast_page_fault(&self, fault: Fault, walk_gfn: Option<Gfn>) -> RetPf {
        if !self.transitions().page_fault_can_be_fast(fault.access, fault.present) {
            return RetPf::Invalid;
        }
        self.p.call("fast_page_fault", || {
            self.walk_shadow_page_lockless_begin(fault.cpu);
            let mut first_walk = None;
            let mut ret = RetPf::Invalid;
            for attempt in 0..ATTEMPTS_MAX {
                self.p.checkpoint((attempt, first_walk));
                let at = self.walk_for_attempt(fault, first_walk);
                self.p.without(Guard::FastFaultRewalk, || first_walk = Some(at.loc));
                self.p.mark(Mark::FastFaultRead);
                if let Some(done) = self.fast_page_fault_attempt(fault, walk_gfn, at) {
                    ret = done;
                    break;
                }
            }
            self.walk_shadow_page_lockless_end(fault.cpu);
            ret
        })
    }

    /// The walk of one attempt: from the root each time.
    #[inline(always)]
    fn walk_for_attempt(&self, fault: Fault, first_walk: Option<SpteLoc>) -> WalkIterator<'_, P> {
        match first_walk {
            Some(loc) => self.read_lockless(loc),
            None => self.walk_lockless(fault.cpu, fault.page),
        }
    }

    /// One attempt. `None`: the cmpxchg met another value, try again.
    #[inline(always)]
    fn fast_page_fault_attempt(
        &self,
        fault: Fault,
        walk_gfn: Option<Gfn>,
        at: WalkIterator<'_, P>,
    ) -> Option<RetPf> {
        // ORDERING: relaxed: constant while the page is in use, and the walk keeps it in use.
        let sp = Header(at.table.header.load(Relaxed));
        // No slot of the model has large pages: whether it is logged does not matter.
        let attempt = self.transitions().fast_page_fault(at.spte, sp.level(), fault.access, true);
        let new = match attempt {
            FastFault::Refuse => return Some(RetPf::Invalid),
            FastFault::Spurious => {
                self.p.mark(Mark::FastFaultSpurious);
                return Some(RetPf::Spurious);
            }
            FastFault::Fix(new) => new,
        };
        if sp.is_direct() {
            let gfn = Gfn(sp.gfn().0 + u64::from(at.loc.index));
            return self.fast_pf_fix_spte(fault.access, at.sptep, at.spte, new, gfn);
        }
        self.fast_pf_fix_indirect_spte(fault.access, walk_gfn, at.table, at.loc.index, at.spte, new)
    }

    /// `fast_pf_fix_direct_spte`: the cmpxchg, then the mark. `None`: it met another value.
    #[inline(always)]
    fn fast_pf_fix_spte(
        &self,
        access: Access,
        sptep: &P::Word,
        old: Spte,
        new: Spte,
        gfn: Gfn,
    ) -> Option<RetPf> {
        let made_writable = self.format.is_writable(new) && !self.format.is_writable(old);
        let marks = made_writable
            && (access == Access::Write || self.p.guarded(Guard::RestoreMarksDirty, || true));
        let mark = || {
            if marks {
                self.mark_page_dirty(gfn);
            }
        };
        self.p.without(Guard::MarkDirtyAfterCmpxchg, mark);
        if !self.write_fixed_spte(sptep, old, new) {
            return self.fast_fault_lost();
        }
        self.p.mark(Mark::FastFaultFixed);
        if self.format.is_access_track(old) {
            self.p.mark(Mark::AccessTrackRestored);
        }
        if made_writable {
            self.p.mark(Mark::FastFaultWritable);
        }
        self.p.guarded(Guard::MarkDirtyAfterCmpxchg, mark);
        Some(RetPf::Fixed)
    }

    /// Somebody else was faster. A function, so that the path of those who win is straight.
    #[cold]
    #[inline(never)]
    fn fast_fault_lost(&self) -> Option<RetPf> {
        self.p.mark(Mark::FastFaultLost);
        None
    }

    /// The cmpxchg itself.
    fn write_fixed_spte(&self, sptep: &P::Word, old: Spte, new: Spte) -> bool {
        // ORDERING: relaxed: this store replaces the cmpxchg and is wrong in any order.
        let store = || self.p.lockless(|| sptep.store(new.0, Relaxed));
        let stored = self.p.without(Guard::FastFaultCmpxchg, store).is_some();
        // ORDERING: acq-rel pairs with the xchg of mmu_spte_clear_track_bits and mmu_spte_update.
        let cmpxchg = || sptep.compare_exchange(old.0, new.0, AcqRel, Acquire);
        stored || self.p.lockless(cmpxchg).is_ok()
    }

    /// What a fast fault on an indirect page would do: not in any kernel.
    #[cold]
    fn fast_pf_fix_indirect_spte(
        &self,
        access: Access,
        walk_gfn: Option<Gfn>,
        sp: &Table<P>,
        index: u8,
        old: Spte,
        new: Spte,
    ) -> Option<RetPf> {
        let sptep = &sp.spt[usize::from(index)];
        let gfn = match (self.indirect_fast_fault, walk_gfn) {
            (IndirectFastFault::Walk, Some(gfn)) => gfn,
            // ORDERING: relaxed: nothing orders a lockless read of gfns[] with the SPTE.
            _ => Gfn(sp.gfns[usize::from(index)].load(Relaxed)),
        };
        if self.indirect_fast_fault != IndirectFastFault::Pinned {
            return self.fast_pf_fix_spte(access, sptep, old, new, gfn);
        }
        let Some(pinned) = self.pin(gfn, old) else { return Some(RetPf::Invalid) };
        self.p.without(Guard::PinHold, || self.host.kvm_release_pfn_clean(pinned));
        let fixed = self.fast_pf_fix_spte(access, sptep, old, new, gfn);
        self.p.guarded(Guard::PinHold, || self.host.kvm_release_pfn_clean(pinned));
        fixed
    }

    /// Takes a reference on the page of a frame, if it is the page that the SPTE maps.
    fn pin(&self, gfn: Gfn, spte: Spte) -> Option<Pfn> {
        let for_write = self.p.guarded(Guard::PinForWrite, || true);
        let page = self.host.gfn_to_pfn_atomic(gfn, for_write)?;
        if page.pfn != self.format.pfn(spte) && self.p.guarded(Guard::PinPfnCompare, || true) {
            self.host.kvm_release_pfn_clean(page.pfn);
            return None;
        }
        Some(page.pfn)
    }
}
