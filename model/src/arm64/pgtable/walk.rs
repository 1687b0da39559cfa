//! The walker: depth first over a range, with a callback before a table, at what is no table, and
//! after a table. Linux v5.10 `arch/arm64/kvm/hyp/pgtable.c`.

use super::pte::KvmPte;
use super::{LAST_LEVEL, Locked, PTRS_PER_PTE, Stage2Mmu, granule, index_at};
use crate::host::Host;
use crate::platform::Ordering::Relaxed;
use crate::platform::{Platform, Word};
use crate::types::{Gfn, GfnRange, SpId, SpteLoc};
use crate::vm::Vm;

/// An entry that a walk has come to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Visit {
    /// The first frame that the walk wants of it.
    pub(super) addr: Gfn,
    /// Where the walk ends, of all.
    pub(super) end: Gfn,
    /// The level of its table.
    pub(super) level: u8,
    /// Where it is (`ptep`).
    pub(super) loc: SpteLoc,
    /// What it held when the walk read it last. The kernel's callbacks read it again: under
    /// `mmu_lock` nothing but AF can differ.
    pub(super) pte: KvmPte,
}

/// The tables could not be had: there is no memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(in crate::arm64) struct NoMemory;

/// What a walk does (`struct kvm_pgtable_walker`): nothing where it has no callback.
pub(super) trait Walker<P: Platform, H: Host> {
    /// `KVM_PGTABLE_WALK_TABLE_PRE`: at a table, before what is below it.
    fn pre(&mut self, _vm: &Vm<P, H, Stage2Mmu<P>>, _l: &mut Locked, _at: Visit) {}
    /// `KVM_PGTABLE_WALK_LEAF`: at what is no table. An invalid entry counts as a leaf.
    ///
    /// # Errors
    /// What ends the walk.
    fn leaf(
        &mut self,
        vm: &Vm<P, H, Stage2Mmu<P>>,
        l: &mut Locked,
        at: Visit,
    ) -> Result<(), NoMemory>;
    /// `KVM_PGTABLE_WALK_TABLE_POST`: at a table, after what is below it.
    ///
    /// # Errors
    /// What ends the walk.
    fn post(
        &mut self,
        _vm: &Vm<P, H, Stage2Mmu<P>>,
        _l: &mut Locked,
        _at: Visit,
    ) -> Result<(), NoMemory> {
        Ok(())
    }
}

impl<P: Platform, H: Host> Vm<P, H, Stage2Mmu<P>> {
    /// `kvm_pgtable_walk`.
    ///
    /// Locks: `mmu_lock`.
    ///
    /// # Errors
    /// What a callback has ended it for.
    pub(super) fn kvm_pgtable_walk(
        &self,
        l: &mut Locked,
        range: GfnRange,
        walker: &mut impl Walker<P, H>,
    ) -> Result<(), NoMemory> {
        let mut addr = range.start;
        self.__kvm_pgtable_walk(
            l,
            (Stage2Mmu::<P>::PGD, super::START_LEVEL),
            &mut addr,
            range.end,
            walker,
        )
    }

    /// `__kvm_pgtable_walk`: the entries of one table, from that of `addr` on.
    fn __kvm_pgtable_walk(
        &self,
        l: &mut Locked,
        (table, level): (SpId, u8),
        addr: &mut Gfn,
        end: Gfn,
        walker: &mut impl Walker<P, H>,
    ) -> Result<(), NoMemory> {
        for index in index_at(level, *addr)..PTRS_PER_PTE as u8 {
            if *addr >= end {
                break;
            }
            self.__kvm_pgtable_visit(l, SpteLoc { sp: table, index }, level, (addr, end), walker)?;
        }
        Ok(())
    }

    /// `__kvm_pgtable_visit`: one entry. After the callback at a leaf it is read again: that may
    /// have become a table. After the one before a table it is not: the walk goes on into what it
    /// has read, although the callback may have detached it.
    fn __kvm_pgtable_visit(
        &self,
        l: &mut Locked,
        loc: SpteLoc,
        level: u8,
        (addr, end): (&mut Gfn, Gfn),
        walker: &mut impl Walker<P, H>,
    ) -> Result<(), NoMemory> {
        let mut at = Visit { addr: *addr, end, level, loc, pte: self.read_pte(loc) };
        if at.pte.is_table(level) {
            walker.pre(self, l, at);
        } else {
            walker.leaf(self, l, at)?;
            if level < LAST_LEVEL {
                at.pte = self.read_pte(loc);
            }
        }
        if !at.pte.is_table(level) {
            *addr = Gfn((addr.0 | (granule(level) - 1)) + 1);
            return Ok(());
        }
        self.__kvm_pgtable_walk(l, (at.pte.follow(), level + 1), addr, end, walker)?;
        walker.post(self, l, at)
    }

    /// What an entry holds.
    pub(super) fn read_pte(&self, loc: SpteLoc) -> KvmPte {
        // ORDERING: relaxed: written under mmu_lock, which is held; hardware sets AF alone.
        KvmPte(self.mmu.ptep(loc).load(Relaxed))
    }
}
