//! Mapping, since 6.2: what a map does at the entries that it comes to where others map at the same
//! time. Linux v6.12 `arch/arm64/kvm/hyp/pgtable.c`.
//!
//! The page of a leaf follows from its address, since 6.4: a walk that comes back into a table
//! which another fault has put in the place of its block would map what is behind the block
//! otherwise.

use super::map::{MapData, kvm_block_mapping_supported};
use super::pte::KvmPte;
use super::walk::{Held, Visit, WalkError};
use super::{Stage2Mmu, granule};
use crate::guard::Guard;
use crate::host::Host;
use crate::mark::Mark;
use crate::platform::Platform;
use crate::types::Pfn;
use crate::vm::Vm;

impl<P: Platform, H: Host> Vm<P, H, Stage2Mmu<P>> {
    /// `stage2_map_walker_phys_addr`: the page of the leaf that would be here.
    fn stage2_map_walker_phys_addr(&self, at: Visit, data: &MapData) -> Pfn {
        let inferred = || Some(Pfn(data.phys.0 + (at.addr.0 - data.addr.0)));
        self.p.guarded(Guard::S2PaFromIpa, inferred).unwrap_or(data.cursor)
    }

    /// `stage2_map_walker_try_leaf` of 6.12: false if no leaf may be here.
    ///
    /// # Errors
    /// The page is mapped already, or another fault is at the entry.
    fn try_leaf_shared(
        &self,
        l: Held<'_>,
        at: Visit,
        data: &mut MapData,
    ) -> Result<bool, WalkError> {
        let phys = self.stage2_map_walker_phys_addr(at, data);
        if !kvm_block_mapping_supported(at, phys) {
            return Ok(false);
        }
        let new = KvmPte::leaf(phys, data.prot, at.level);
        if !at.pte.needs_update(new) {
            return self.again();
        }
        self.replace_pte(l, at, new)?;
        self.p.mark(Mark::Stage2Mapped);
        data.cursor.0 += granule(at.level);
        Ok(true)
    }

    /// `stage2_map_walk_leaf` of 6.12: a leaf, or a table to put it in.
    ///
    /// # Errors
    /// As [`Vm::try_leaf_shared`]; or a page for a table is missing.
    pub(super) fn walk_leaf_shared(
        &self,
        l: Held<'_>,
        at: Visit,
        data: &mut MapData,
    ) -> Result<(), WalkError> {
        if self.try_leaf_shared(l, at, data)? {
            return Ok(());
        }
        let Some(cpu) = data.memcache else { return Err(WalkError::NoMemory) };
        let child = self.alloc_table(l, cpu);
        if let Err(lost) = self.replace_pte(l, at, KvmPte::table(child)) {
            self.free_table(child);
            return Err(lost);
        }
        self.p.mark(Mark::TableLinked);
        Ok(())
    }

    /// `stage2_map_walk_table_pre` of 6.12: where a block may be, it takes the place of the table
    /// at once; the table is freed when no walker can be in it.
    ///
    /// # Errors
    /// Another fault is at the entry.
    pub(super) fn walk_table_pre_shared(
        &self,
        l: Held<'_>,
        at: Visit,
        data: &mut MapData,
    ) -> Result<(), WalkError> {
        if self.try_leaf_shared(l, at, data)? {
            self.free_unlinked_table(at.pte.follow());
        }
        Ok(())
    }
}
