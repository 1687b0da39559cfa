//! Break and make, since 6.2: how walkers that hold `mmu_lock` together replace an entry.
//!
//! Guarantee: of two walkers at one entry one replaces it, and no CPU has two translations of one
//! frame that differ in page or in size. Mechanism: who breaks it puts a marker there, LOCKED, by a
//! compare-exchange against what it has read; who finds the marker, or something else than it has
//! read, leaves the entry alone. Between the marker and what comes in its place the old translation
//! is flushed, and nobody else writes. Linux v6.12 `arch/arm64/kvm/hyp/pgtable.c`.

use super::Stage2Mmu;
use super::pte::KvmPte;
use super::walk::{Held, Visit, WalkError};
use crate::guard::Guard;
use crate::host::Host;
use crate::mark::Mark;
use crate::platform::Ordering::{AcqRel, Relaxed};
use crate::platform::{Platform, Word};
use crate::vm::Vm;

impl<P: Platform, H: Host> Vm<P, H, Stage2Mmu<P>> {
    /// What replaces an entry that the walk has read: break, then make.
    ///
    /// # Errors
    /// Another walker is at it, or was.
    pub(super) fn replace_pte(&self, l: Held<'_>, at: Visit, new: KvmPte) -> Result<(), WalkError> {
        let over = self.p.without(Guard::S2BbmBreak, || {
            if !self.stage2_try_set_pte(l, at, new) {
                return self.again();
            }
            if at.pte.is_valid() {
                self.flush_broken(at);
            } else {
                self.get_page(at.loc.sp);
            }
            Ok(())
        });
        let break_and_make = || {
            self.stage2_try_break_pte(l, at)?;
            if at.pte.is_table(at.level) {
                self.p.mark(Mark::TableMerged);
            }
            self.stage2_make_pte(at, new);
            Ok(())
        };
        over.unwrap_or_else(break_and_make)
    }

    /// `stage2_try_break_pte`: the entry holds what the walk has read, nothing that a CPU has of it
    /// is left, and nobody else will replace it.
    ///
    /// # Errors
    /// Another walker is at it, or was.
    fn stage2_try_break_pte(&self, l: Held<'_>, at: Visit) -> Result<(), WalkError> {
        let marker = self.p.guarded(Guard::S2LockedMarker, || true);
        if marker && at.pte == KvmPte::LOCKED {
            self.wait_for_make(at.loc);
            return self.again();
        }
        let locked = if marker { KvmPte::LOCKED } else { KvmPte::NONE };
        let plain = self.p.without(Guard::S2BreakCmpxchg, || l.plain());
        if !self.stage2_try_set_pte(plain.unwrap_or(l), at, locked) {
            return self.again();
        }
        if at.pte.is_valid() {
            self.p.mark(Mark::Stage2Broken);
            self.flush_broken(at);
            self.put_page(at.loc.sp);
        }
        Ok(())
    }

    /// `stage2_make_pte`: what comes in the place of the marker. A plain store is enough, as nobody
    /// else writes there.
    fn stage2_make_pte(&self, at: Visit, new: KvmPte) {
        self.get_page(at.loc.sp);
        self.set_valid_pte(at.loc, new);
    }

    /// What CPUs have of the old entry is dropped: of a table, everything that it translates, which
    /// without FEAT_TLBIRANGE is everything of the VM.
    fn flush_broken(&self, at: Visit) {
        let by_address = || self.__kvm_tlb_flush_vmid_ipa(at.addr, at.level);
        if at.pte.is_table(at.level) {
            self.p.guarded(Guard::S2MergeFlushVmid, || self.__kvm_tlb_flush_vmid());
            self.p.without(Guard::S2MergeFlushVmid, by_address);
        } else {
            self.p.guarded(Guard::S2BbmTlbi, by_address);
        }
    }

    /// `stage2_try_set_pte`: false if a shared walk finds something else than it has read.
    pub(super) fn stage2_try_set_pte(&self, l: Held<'_>, at: Visit, new: KvmPte) -> bool {
        if !l.shared {
            self.set_pte(at, new);
            return true;
        }
        // ORDERING: acq-rel: cmpxchg is a full barrier in the kernel; what is read of the tables
        // after it is not older. Not judged under SC.
        self.mmu.ptep(at.loc).compare_exchange(at.pte.0, new.0, AcqRel, Relaxed).is_ok()
    }

    /// The entry is left to another fault.
    pub(super) fn again<T>(&self) -> Result<T, WalkError> {
        self.p.mark(Mark::Stage2Again);
        Err(WalkError::Again)
    }
}
