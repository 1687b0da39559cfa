//! The walker: depth first over a range, with a callback before a table, at what is no table, and
//! after a table. Linux `arch/arm64/kvm/hyp/pgtable.c`.
//!
//! Since 6.2 faults walk together, each holding `mmu_lock` for reading: such a walk is *shared*
//! (`KVM_PGTABLE_WALK_SHARED`). It is inside a read section of RCU, so that the memory of a table
//! that another one unlinks stays, and it changes a descriptor only if that is still what the walk
//! has read. Every other walk has the tables to itself.

use super::pte::KvmPte;
use super::{LAST_LEVEL, Locked, PTRS_PER_PTE, Stage2Mmu, Version, granule, index_at};
use crate::host::Host;
use crate::platform::Ordering::Relaxed;
use crate::platform::{Platform, Rcu, Until, Word};
use crate::types::{Gfn, GfnRange, SpId, SpteLoc};
use crate::vm::Vm;

/// That `mmu_lock` is held, and what a walk may do by that.
#[derive(Clone, Copy)]
pub(in crate::arm64) struct Held<'l> {
    _lock: &'l Locked,
    /// `KVM_PGTABLE_WALK_SHARED`, and `KVM_PGTABLE_WALK_HANDLE_FAULT`: others walk, too, and the
    /// walk is that of a fault, which gives up where it meets one.
    pub(super) shared: bool,
}

impl<'l> Held<'l> {
    /// Nobody else changes what this walk changes.
    pub(in crate::arm64) fn alone(lock: &'l Locked) -> Held<'l> {
        Held { _lock: lock, shared: false }
    }
    /// Other faults walk, too.
    pub(in crate::arm64) fn shared(lock: &'l Locked) -> Held<'l> {
        Held { _lock: lock, shared: true }
    }
    /// The same, and what it changes it changes plainly. Only where a guard is removed.
    pub(super) fn plain(self) -> Held<'l> {
        Held { shared: false, ..self }
    }
}

/// An entry that a walk has come to (`struct kvm_pgtable_visit_ctx`).
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
    /// What it held when the walk read it last. The callbacks of 5.10 and 6.1 read it again: under
    /// `mmu_lock` nothing but AF can differ. Those of 6.12 have it from the walk.
    pub(super) pte: KvmPte,
}

/// Why a walk has ended before its range.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(in crate::arm64) enum WalkError {
    /// `-ENOMEM`: a page for a table could not be had.
    NoMemory,
    /// `-EAGAIN`: another fault is at this entry, or has done what this one is for.
    Again,
}

/// What a walk does (`struct kvm_pgtable_walker`): nothing where it has no callback.
pub(super) trait Walker<P: Platform, H: Host> {
    /// `KVM_PGTABLE_WALK_TABLE_PRE`: at a table, before what is below it.
    ///
    /// # Errors
    /// What ends the walk.
    fn pre(
        &mut self,
        _vm: &Vm<P, H, Stage2Mmu<P>>,
        _l: Held<'_>,
        _at: Visit,
    ) -> Result<(), WalkError> {
        Ok(())
    }
    /// `KVM_PGTABLE_WALK_LEAF`: at what is no table. An invalid entry counts as a leaf.
    ///
    /// # Errors
    /// What ends the walk.
    fn leaf(
        &mut self,
        vm: &Vm<P, H, Stage2Mmu<P>>,
        l: Held<'_>,
        at: Visit,
    ) -> Result<(), WalkError>;
    /// `KVM_PGTABLE_WALK_TABLE_POST`: at a table, after what is below it.
    ///
    /// # Errors
    /// What ends the walk.
    fn post(
        &mut self,
        _vm: &Vm<P, H, Stage2Mmu<P>>,
        _l: Held<'_>,
        _at: Visit,
    ) -> Result<(), WalkError> {
        Ok(())
    }
}

impl<P: Platform, H: Host> Vm<P, H, Stage2Mmu<P>> {
    /// `kvm_pgtable_walk`. A shared one is inside a read section of RCU
    /// (`kvm_pgtable_walk_begin`).
    ///
    /// Locks: `mmu_lock`.
    ///
    /// # Errors
    /// What a callback has ended it for.
    pub(super) fn kvm_pgtable_walk(
        &self,
        l: Held<'_>,
        range: GfnRange,
        walker: &mut impl Walker<P, H>,
    ) -> Result<(), WalkError> {
        let rcu = self.mmu.rcu.as_ref().filter(|_| l.shared);
        let _section = rcu.map(Rcu::read_lock);
        let mut addr = range.start;
        let root = (Stage2Mmu::<P>::PGD, super::START_LEVEL);
        self.__kvm_pgtable_walk(l, root, &mut addr, range.end, walker)
    }

    /// `__kvm_pgtable_walk`: the entries of one table, from that of `addr` on.
    fn __kvm_pgtable_walk(
        &self,
        l: Held<'_>,
        (table, level): (SpId, u8),
        addr: &mut Gfn,
        end: Gfn,
        walker: &mut impl Walker<P, H>,
    ) -> Result<(), WalkError> {
        for index in index_at(level, *addr)..PTRS_PER_PTE as u8 {
            if *addr >= end {
                break;
            }
            self.__kvm_pgtable_visit(l, SpteLoc { sp: table, index }, level, (addr, end), walker)?;
        }
        Ok(())
    }

    /// `__kvm_pgtable_visit`: one entry. After the callback at a leaf it is read again: that may
    /// have become a table. After the one before a table it is read again since 6.4 (commit
    /// a9f0e3d5a089), where the callback puts a block there; before that the walk goes on into what
    /// it has read, although the callback may have detached it.
    fn __kvm_pgtable_visit(
        &self,
        l: Held<'_>,
        loc: SpteLoc,
        level: u8,
        (addr, end): (&mut Gfn, Gfn),
        walker: &mut impl Walker<P, H>,
    ) -> Result<(), WalkError> {
        let mut at = Visit { addr: *addr, end, level, loc, pte: self.read_pte(loc) };
        let was_table = at.pte.is_table(level);
        let visited = if was_table { walker.pre(self, l, at) } else { walker.leaf(self, l, at) };
        self.kvm_pgtable_walk_continue(l, visited)?;
        if level < LAST_LEVEL && (!was_table || self.mmu.version >= Version::V6_12) {
            at.pte = self.read_pte(loc);
        }
        if !at.pte.is_table(level) {
            *addr = Gfn((addr.0 | (granule(level) - 1)) + 1);
            return Ok(());
        }
        self.__kvm_pgtable_walk(l, (at.pte.follow(), level + 1), addr, end, walker)?;
        let visited = walker.post(self, l, at);
        self.kvm_pgtable_walk_continue(l, visited)
    }

    /// `kvm_pgtable_walk_continue`: an error ends the walk. In 6.12 `-EAGAIN` ends that of a fault
    /// and no other.
    fn kvm_pgtable_walk_continue(
        &self,
        l: Held<'_>,
        result: Result<(), WalkError>,
    ) -> Result<(), WalkError> {
        let ignores = self.mmu.version >= Version::V6_12 && !l.shared;
        if ignores && result == Err(WalkError::Again) { Ok(()) } else { result }
    }

    /// What an entry holds.
    pub(super) fn read_pte(&self, loc: SpteLoc) -> KvmPte {
        // ORDERING: relaxed: READ_ONCE. Who walks alone holds what it is written under; who shares
        // compares it when it writes. Hardware sets AF alone.
        KvmPte(self.mmu.ptep(loc).load(Relaxed))
    }

    /// A shared walk has met an entry that another one has broken and not made yet. In the kernel
    /// the fault gives up and the guest faults again and again until it is made, with no effect;
    /// here the thread waits, and gives up then. Who makes it waits for nobody in between.
    pub(super) fn wait_for_make(&self, loc: SpteLoc) {
        self.mmu.ptep(loc).wait_until(Until::Not(KvmPte::LOCKED.0));
    }
}
