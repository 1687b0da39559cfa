//! What one SPTE may become: the value changes of the protocol as pure functions.
//!
//! Guarantee: these are the functions that the MMU itself runs, so that checking a real kernel's
//! SPTEs against them checks them against the model. Mechanism: what a step writes depends
//! on the format, on the version of the algorithm, on the guards and on the value read, and on
//! nothing shared; reading, writing and locking stay with the callers. Linux v5.10
//! `arch/x86/kvm/mmu/mmu.c`, `spte.c`; v6.1 where [`Algorithm::V6_1`] differs.

mod v5_10;
mod v6_1;

use crate::guard::Guard;
use crate::spte::{Spte, SpteFormat};
use crate::types::{Access, Pfn};

/// Which kernel's algorithm, where versions differ in what an SPTE may become.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Algorithm {
    /// H and M together say that an SPTE may be made writable without the lock.
    V5_10,
    /// M alone says so (from 5.19 on): it is never set without H. Only where KVM keeps no A/D bits
    /// does a fault on a non-present SPTE go the fast way, and a large page may be made writable
    /// where dirty logging is off. Mapping a page again that is writable already clears D.
    V6_1,
}

/// What an attempt of a fast fault makes of the SPTE that it read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FastFault {
    /// `RET_PF_SPURIOUS`: the SPTE allows the access already.
    Spurious,
    /// It tries to write this in its place: `RET_PF_FIXED`, if its cmpxchg wins.
    Fix(Spte),
    /// `RET_PF_INVALID`: for the slow path.
    Refuse,
}

/// What a new leaf is made from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct NewLeaf {
    /// The page; of a large one its first.
    pub pfn: Pfn,
    /// The level of its entry: 1 maps 4 KiB.
    pub level: u8,
    /// The host maps it writable.
    pub host_writable: bool,
    /// The guest's own tables allow writes (`ACC_WRITE_MASK`).
    pub guest_writable: bool,
    /// The frame is a shadowed guest table (`mmu_need_write_protect`).
    pub write_protected_pt: bool,
    /// No access asked for it yet (`speculative`, `prefetch`).
    pub speculative: bool,
    /// A table may go out of sync for it: of every fault, and not where one is synchronised.
    pub can_unsync: bool,
    /// What the entry holds, of the same page or nothing (`old_spte`).
    pub old: Spte,
}

/// The steps, given a format, a version and the guards that are there.
#[derive(Clone, Copy, Debug)]
pub struct Transitions<'a, G> {
    /// The format.
    pub format: &'a SpteFormat,
    /// The version.
    pub algorithm: Algorithm,
    /// Is this guard there?
    pub guard: G,
}

impl<G: Fn(Guard) -> bool> Transitions<'_, G> {
    /// As [`crate::Platform::guarded`].
    #[inline(always)]
    fn guarded<R: Default>(&self, guard: Guard, step: impl FnOnce() -> R) -> R {
        if (self.guard)(guard) { step() } else { R::default() }
    }

    /// `page_fault_can_be_fast`.
    #[inline]
    pub fn page_fault_can_be_fast(&self, access: Access, present: bool) -> bool {
        match self.algorithm {
            Algorithm::V5_10 => self.page_fault_can_be_fast_v5_10(access, present),
            Algorithm::V6_1 => self.page_fault_can_be_fast_v6_1(access, present),
        }
    }

    /// `spte_can_locklessly_be_made_writable`, later `is_mmu_writable_spte`.
    #[inline]
    pub fn can_be_made_writable(&self, spte: Spte) -> bool {
        match self.algorithm {
            Algorithm::V5_10 => self.format.can_locklessly_be_made_writable(spte),
            Algorithm::V6_1 => self.format.is_mmu_writable(spte),
        }
    }

    /// One attempt of `fast_page_fault` on the entry that a walk ended at, in a table of `level`.
    /// `logged`: the slot of the fault has a dirty bitmap.
    #[inline]
    pub fn fast_page_fault(
        &self,
        spte: Spte,
        level: u8,
        access: Access,
        logged: bool,
    ) -> FastFault {
        match self.algorithm {
            Algorithm::V5_10 => self.fast_page_fault_v5_10(spte, level, access),
            Algorithm::V6_1 => self.fast_page_fault_v6_1(spte, level, access, logged),
        }
    }

    /// Whether `make_spte` may let the guest write at all; whether the frame is a shadowed guest
    /// table is asked only then.
    #[inline]
    pub fn leaf_may_be_writable(&self, guest_writable: bool, host_writable: bool) -> bool {
        if !host_writable && self.guarded(Guard::MakeSpteHostReadonly, || true) {
            return false;
        }
        guest_writable
    }

    /// The short cut of `make_spte` in 5.10: an entry that is synchronised and writable already
    /// stays so, and nobody asks whether its frame is a shadowed table.
    #[inline]
    pub fn sync_keeps_writable(&self, old: Spte, can_unsync: bool) -> bool {
        self.algorithm == Algorithm::V5_10 && !can_unsync && self.format.is_writable(old)
    }

    /// `make_spte`.
    #[inline]
    pub fn make_spte(&self, leaf: NewLeaf) -> Spte {
        let f = self.format;
        let mut spte = f.leaf(leaf.pfn);
        if leaf.level > 1 {
            spte = f.large(spte);
        }
        if !leaf.speculative {
            spte = spte.with(f.accessed_mask);
        }
        if leaf.host_writable {
            spte = spte.with(f.host_writable_mask);
        }
        let writable = self.leaf_may_be_writable(leaf.guest_writable, leaf.host_writable);
        if writable && !leaf.write_protected_pt {
            spte = spte.with(f.writable_mask | f.mmu_writable_mask);
            if self.sync_keeps_writable(leaf.old, leaf.can_unsync) {
                // Neither D nor the mark for access tracking.
                return spte;
            }
            // 6.1 takes a short cut where the page is writable already, and that leaves D out: of
            // two faults that map one page, the second clears the D that the first has set.
            if self.algorithm == Algorithm::V5_10 || !f.is_writable(leaf.old) {
                spte = spte.with(f.dirty_mask);
            }
        }
        if leaf.speculative {
            spte = self.mark_for_access_track(spte);
        }
        spte
    }

    /// `spte_write_protect`: what it writes, if anything.
    #[inline]
    pub fn write_protect(&self, mut spte: Spte, pt_protect: bool) -> Option<Spte> {
        let may_become_writable = pt_protect
            && self.can_be_made_writable(spte)
            && self.guarded(Guard::WriteProtectChecksMmuWritable, || true);
        if !self.format.is_writable(spte) && !may_become_writable {
            return None;
        }
        if pt_protect {
            let m = || self.format.mmu_writable_mask;
            spte = spte.without(self.guarded(Guard::PtProtectClearsMmuWritable, m));
        }
        Some(self.format.write_protected(spte))
    }

    /// `mark_spte_for_access_track`. W is dropped, not saved: the restore gives back R and X alone,
    /// and the fast fault sets W again if the access is a write and H and M are still set.
    #[inline]
    pub fn mark_for_access_track(&self, spte: Spte) -> Spte {
        let drops_w = self.guarded(Guard::AccessTrackDropsW, || true);
        self.format.mark_for_access_track(spte, !drops_w)
    }

    /// `spte_has_volatile_bits`: may this SPTE change outside `mmu_lock`?
    #[inline]
    pub fn has_volatile_bits(&self, spte: Spte) -> bool {
        let f = self.format;
        if !f.is_shadow_present(spte) {
            return false;
        }
        // A writable one cannot become more so: 6.1 does not count it.
        let gains = self.can_be_made_writable(spte)
            && (self.algorithm == Algorithm::V5_10 || !f.is_writable(spte));
        let not_accessed = f.ad_enabled(spte) && spte.0 & f.accessed_mask == 0;
        let not_dirty = f.ad_enabled(spte) && spte.0 & f.dirty_mask == 0;
        // Each is asked, whatever the others say.
        self.guarded(Guard::VolatileLocklesslyWritable, || gains)
            | self.guarded(Guard::VolatileAccessTrack, || f.is_access_track(spte))
            | self.guarded(Guard::VolatileNotAccessed, || not_accessed)
            | self.guarded(Guard::VolatileWriteNotDirty, || f.is_writable(spte) && not_dirty)
    }
}

/// What hardware writes back to the leaf that it translates this access by: A, and D for a write.
/// `None` if the entry does not allow the access.
#[inline]
pub fn hardware_update(format: &SpteFormat, spte: Spte, access: Access) -> Option<Spte> {
    if !format.allows(spte, access) {
        return None;
    }
    let dirty = if access == Access::Write { format.dirty_mask } else { 0 };
    Some(spte.with(format.accessed_mask | dirty))
}
