//! What a fast fault on an indirect page would do. In no kernel: 5.10 never lets one run.
//!
//! The frame that an SPTE of an indirect page maps is not fixed by its place, so an SPTE that was
//! dropped and rebuilt in between (ABA) defeats the mark: the wrong frame is in the log. It runs if
//! guard `fast-fault-direct-only` is removed, or as locking.rst proposes it: with a reference on
//! the page over the cmpxchg, which keeps the page from being used for another frame.

use super::ShadowMmu;
use super::fast_fault::Fault;
use super::walk::GuestWalk;
use crate::guard::Guard;
use crate::host::Host;
use crate::platform::Ordering::Relaxed;
use crate::platform::{Platform, Word};
use crate::spte::Spte;
use crate::types::{Access, Gfn, Pfn, SpteLoc};
use crate::vm::{RetPf, Vm};

/// What a fast fault on an indirect page would do. See guard `fast-fault-direct-only`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum IndirectFastFault {
    /// Mark `sp->gfns[index]`, read before the cmpxchg.
    Gfns,
    /// Mark the frame that the fault's own guest walk found.
    Walk,
    /// The document's proposal: hold a reference on the page over the cmpxchg. Needs no guard to be
    /// removed.
    Pinned,
}

impl<P: Platform, H: Host> Vm<P, H, ShadowMmu<P>> {
    /// The call that 5.10 does not make.
    pub(super) fn indirect_fast_page_fault(&self, fault: Fault, walk: &GuestWalk) -> Option<RetPf> {
        let pinned = self.mmu.indirect_fast_fault == IndirectFastFault::Pinned;
        if !pinned && self.p.guarded(Guard::FastFaultDirectOnly, || true) {
            return None;
        }
        let ret = self.fast_page_fault(fault, Some(walk.gfn));
        (ret != RetPf::Invalid).then_some(ret)
    }

    /// The cmpxchg and the mark, of a frame that has to be found out.
    #[cold]
    pub(super) fn fast_pf_fix_indirect_spte(
        &self,
        access: Access,
        walk_gfn: Option<Gfn>,
        loc: SpteLoc,
        old: Spte,
        new: Spte,
    ) -> Option<RetPf> {
        let gfn = match (self.mmu.indirect_fast_fault, walk_gfn) {
            (IndirectFastFault::Walk, Some(gfn)) => gfn,
            // ORDERING: relaxed: nothing orders a lockless read of gfns[] with the SPTE.
            _ => Gfn(self.mmu.gfns(loc).load(Relaxed)),
        };
        if self.mmu.indirect_fast_fault != IndirectFastFault::Pinned {
            return self.fast_pf_fix_spte(access, loc, old, new, gfn);
        }
        let Some(pinned) = self.pin(gfn, old) else { return Some(RetPf::Invalid) };
        self.p.without(Guard::PinHold, || self.host.kvm_release_pfn_clean(pinned));
        let fixed = self.fast_pf_fix_spte(access, loc, old, new, gfn);
        self.p.guarded(Guard::PinHold, || self.host.kvm_release_pfn_clean(pinned));
        fixed
    }

    /// Takes a reference on the page of a frame, if it is the page that the SPTE maps.
    fn pin(&self, gfn: Gfn, spte: Spte) -> Option<Pfn> {
        let for_write = self.p.guarded(Guard::PinForWrite, || true);
        let page = self.host.gfn_to_pfn_atomic(gfn, for_write)?;
        let other = || page.pfn != self.mmu.format.pfn(spte);
        if self.p.guarded(Guard::PinPfnCompare, other) {
            self.host.kvm_release_pfn_clean(page.pfn);
            return None;
        }
        Some(page.pfn)
    }
}
