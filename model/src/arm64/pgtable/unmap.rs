//! Unmapping. Guarantee: when it returns, no CPU reaches the frames by what was mapped, and no CPU
//! walks a table that was freed. Mechanism: each valid entry that is cleared is flushed by address
//! before anything is given back. What is invalid already is not flushed again. Linux
//! `arch/arm64/kvm/hyp/pgtable.c`.

use super::Stage2Mmu;
use super::walk::{Held, Visit, WalkError, Walker};
use crate::guard::Guard;
use crate::host::Host;
use crate::kernel;
use crate::mark::Mark;
use crate::platform::Platform;
use crate::types::GfnRange;
use crate::vm::Vm;

/// What `stage2_unmap_walker` keeps.
#[derive(Default)]
struct Unmap {
    /// A table was cleared and is flushed when the walk has ended. Only where guard
    /// `s2-table-tlbi-before-free` is removed.
    deferred: Option<Visit>,
}

impl<P: Platform, H: Host> Vm<P, H, Stage2Mmu<P>> {
    /// `kvm_pgtable_stage2_unmap`: nothing of these frames is mapped any more. A block goes whole,
    /// whatever part of it the range is.
    ///
    /// Locks: `mmu_lock`.
    #[kernel]
    pub(in crate::arm64) fn kvm_pgtable_stage2_unmap(&self, l: Held<'_>, range: GfnRange) {
        let mut unmap = Unmap::default();
        // It asks for no memory.
        let _walked = self.kvm_pgtable_walk(l, range, &mut unmap);
        if let Some(at) = unmap.deferred {
            self.__kvm_tlb_flush_vmid_ipa(at.addr, at.level);
        }
    }

    /// `stage2_unmap_walker`, at what is no table.
    fn stage2_unmap_leaf(&self, at: Visit) {
        if at.pte.is_valid() {
            self.clear_and_flush(at);
            self.put_page(at.loc.sp);
        }
    }

    /// `stage2_unmap_walker`, after a table: one in which nothing is valid goes, too.
    fn stage2_unmap_table(&self, at: Visit, unmap: &mut Unmap) {
        let child = at.pte.follow();
        if self.page_count(child) != 1 {
            return;
        }
        self.p.guarded(Guard::S2TableTlbiBeforeFree, || self.clear_and_flush(at));
        let late = || {
            self.clear_pte(at);
            unmap.deferred = Some(at);
        };
        self.p.without(Guard::S2TableTlbiBeforeFree, late);
        self.put_page(at.loc.sp);
        self.free_table(child);
    }

    /// Clears an entry, and drops what CPUs have of it.
    fn clear_and_flush(&self, at: Visit) {
        self.clear_pte(at);
        let flush = || self.__kvm_tlb_flush_vmid_ipa(at.addr, at.level);
        self.p.guarded(Guard::S2UnmapTlbi, flush);
        self.p.mark(Mark::Stage2Unmapped);
    }
}

impl<P: Platform, H: Host> Walker<P, H> for Unmap {
    fn leaf(
        &mut self,
        vm: &Vm<P, H, Stage2Mmu<P>>,
        _l: Held<'_>,
        at: Visit,
    ) -> Result<(), WalkError> {
        vm.stage2_unmap_leaf(at);
        Ok(())
    }
    fn post(
        &mut self,
        vm: &Vm<P, H, Stage2Mmu<P>>,
        _l: Held<'_>,
        at: Visit,
    ) -> Result<(), WalkError> {
        vm.stage2_unmap_table(at, self);
        Ok(())
    }
}
