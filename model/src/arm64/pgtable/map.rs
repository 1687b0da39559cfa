//! Mapping: a leaf, a table in the place of a block or of nothing, a block in the place of a table.
//!
//! Guarantee: no CPU has two translations of one frame that differ in page or in size. Mechanism:
//! break before make. A valid entry that is to translate something else is made invalid, what CPUs
//! have of it is invalidated, and only then it is stored. What a broken block mapped beside the
//! page of the fault is mapped again by faults. Linux v5.10 and v6.1
//! `arch/arm64/kvm/hyp/pgtable.c`; how v6.12 does it is in `map_shared.rs`.

use super::pte::{KvmPgtableProt, KvmPte};
use super::walk::{Held, Visit, WalkError, Walker};
use super::{LAST_LEVEL, Stage2Mmu, Version, granule};
use crate::arm64::Dsb;
use crate::guard::Guard;
use crate::host::Host;
use crate::kernel;
use crate::mark::Mark;
use crate::platform::Ordering::{Relaxed, Release};
use crate::platform::{Platform, Word};
use crate::types::{CpuId, Gfn, GfnRange, Pfn, SpteLoc};
use crate::vm::Vm;

/// `struct stage2_map_data`.
pub(super) struct MapData {
    /// The first frame that is mapped.
    pub(super) addr: Gfn,
    /// The page of it.
    pub(super) phys: Pfn,
    /// What the next leaf maps, where it follows from the last.
    pub(super) cursor: Pfn,
    pub(super) prot: KvmPgtableProt,
    /// The entry of a table that a block is to replace: everything below it goes.
    anchor: Option<SpteLoc>,
    /// The vCPU whose pages for tables there are.
    pub(super) memcache: Option<CpuId>,
}

impl<P: Platform, H: Host> Vm<P, H, Stage2Mmu<P>> {
    /// `kvm_pgtable_stage2_map`: maps frames to as many pages in a row, by the largest leaves that
    /// fit. `memcache`: the vCPU whose pages for tables are used; without, nothing is mapped where
    /// one is missing.
    ///
    /// Locks: `mmu_lock`.
    ///
    /// # Errors
    /// A page for a table is missing. Since 5.12: the page is mapped already, and only permissions
    /// differ, if anything does. Since 6.2: another fault is there.
    #[kernel]
    pub(in crate::arm64) fn kvm_pgtable_stage2_map(
        &self,
        l: Held<'_>,
        range: GfnRange,
        phys: Pfn,
        prot: KvmPgtableProt,
        memcache: Option<CpuId>,
    ) -> Result<(), WalkError> {
        let (addr, cursor) = (range.start, phys);
        let mut data = MapData { addr, phys, cursor, prot, anchor: None, memcache };
        let walked = self.kvm_pgtable_walk(l, range, &mut data);
        self.p.dsb(Dsb::Ishst);
        walked
    }

    /// Break before make: `old` goes, and nothing that a CPU has of it is left, before `make`
    /// stores what comes.
    fn break_before_make(&self, at: Visit, old: KvmPte, make: impl FnOnce()) {
        let flush = || self.__kvm_tlb_flush_vmid_ipa(at.addr, at.level);
        if old.is_valid() {
            self.p.guarded(Guard::S2BbmBreak, || {
                self.clear_pte(at);
                self.p.mark(Mark::Stage2Broken);
                self.p.guarded(Guard::S2BbmTlbi, flush);
            });
        }
        make();
        let late = || {
            if old.is_valid() {
                flush();
            }
        };
        self.p.without(Guard::S2BbmBreak, late);
    }

    /// `kvm_set_invalid_pte`, since 5.13 `kvm_clear_pte`.
    pub(super) fn clear_pte(&self, at: Visit) {
        self.set_pte(at, at.pte.cleared(self.mmu.version));
    }

    /// `WRITE_ONCE`.
    pub(super) fn set_pte(&self, at: Visit, new: KvmPte) {
        // ORDERING: relaxed: the DSB of the flush that follows publishes it.
        self.mmu.ptep(at.loc).store(new.0, Relaxed);
    }

    /// `smp_store_release` of an entry that becomes valid.
    pub(super) fn set_valid_pte(&self, loc: SpteLoc, pte: KvmPte) {
        // ORDERING: release: a walk that sees the entry sees the table that it leads to, zeroed.
        // Not judged under SC.
        self.mmu.ptep(loc).store(pte.0, Release);
    }
}

/// `kvm_block_mapping_supported`: an entry of this level may map these frames to these pages.
pub(super) fn kvm_block_mapping_supported(at: Visit, phys: Pfn) -> bool {
    let size = granule(at.level);
    let aligned = (at.addr.0 | phys.0).is_multiple_of(size);
    at.level == LAST_LEVEL || aligned && size <= at.end.0 - at.addr.0
}

/// What a map does at the entries that it comes to, in 5.10 and 6.1.
impl<P: Platform, H: Host> Vm<P, H, Stage2Mmu<P>> {
    /// `stage2_map_walker_try_leaf`: false if no leaf may be here. The count of the table stays
    /// what it was where a leaf takes the place of another.
    ///
    /// # Errors
    /// Since 5.12: the page is mapped already.
    fn stage2_map_walker_try_leaf(
        &self,
        at: Visit,
        old: KvmPte,
        data: &mut MapData,
    ) -> Result<bool, WalkError> {
        if !kvm_block_mapping_supported(at, data.cursor) {
            return Ok(false);
        }
        let new = KvmPte::leaf(data.cursor, data.prot, at.level);
        if self.mmu.version > Version::V5_10 && !old.needs_update(new) {
            return self.again();
        }
        if old.is_valid() {
            self.put_page(at.loc.sp);
        }
        // Somebody may have mapped just this.
        if old != new {
            self.break_before_make(at, old, || self.set_valid_pte(at.loc, new));
            self.p.mark(Mark::Stage2Mapped);
        }
        self.get_page(at.loc.sp);
        data.cursor.0 += granule(at.level);
        Ok(true)
    }

    /// `stage2_map_walk_leaf`, of an entry that holds `old`: a leaf, or a table to put it in. Below
    /// a table that goes, what is valid gives its reference back.
    fn stage2_map_walk_leaf(
        &self,
        l: Held<'_>,
        at: Visit,
        old: KvmPte,
        data: &mut MapData,
    ) -> Result<(), WalkError> {
        if data.anchor.is_some() {
            if old.is_valid() {
                self.put_page(at.loc.sp);
            }
            return Ok(());
        }
        if self.stage2_map_walker_try_leaf(at, old, data)? {
            return Ok(());
        }
        let Some(cpu) = data.memcache else { return Err(WalkError::NoMemory) };
        let child = self.alloc_table(l, cpu);
        self.break_before_make(at, old, || self.set_valid_pte(at.loc, KvmPte::table(child)));
        if old.is_valid() {
            self.put_page(at.loc.sp);
        }
        self.get_page(at.loc.sp);
        self.p.mark(Mark::TableLinked);
        Ok(())
    }

    /// `stage2_map_walk_table_pre`: where a block may be, the table goes. What CPUs have of all its
    /// pages is invalidated here: an invalidation by address would reach one of them, and the
    /// others are found invalid, and not flushed again, by who unmaps them later.
    fn stage2_map_walk_table_pre(&self, at: Visit, data: &mut MapData) {
        if data.anchor.is_some() || !kvm_block_mapping_supported(at, data.cursor) {
            return;
        }
        self.clear_pte(at);
        self.p.guarded(Guard::S2MergeFlushVmid, || self.__kvm_tlb_flush_vmid());
        let by_address = || self.__kvm_tlb_flush_vmid_ipa(at.addr, at.level);
        self.p.without(Guard::S2MergeFlushVmid, by_address);
        data.anchor = Some(at.loc);
    }

    /// `stage2_map_walk_table_post`: a table that goes is freed, and the block comes; since 5.13
    /// the block comes first. The way to the table 5.10 finds in the invalid entry, in which the
    /// address has outlived bit 0; later versions have kept it.
    fn stage2_map_walk_table_post(
        &self,
        l: Held<'_>,
        at: Visit,
        data: &mut MapData,
    ) -> Result<(), WalkError> {
        if data.anchor.is_none() {
            return Ok(());
        }
        let free = || self.free_table(at.pte.follow());
        let first = self.mmu.version == Version::V5_10;
        if first {
            free();
        }
        self.put_page(at.loc.sp);
        if data.anchor == Some(at.loc) {
            data.anchor = None;
            self.p.mark(Mark::TableMerged);
            self.stage2_map_walk_leaf(l, at, at.pte.invalid(), data)?;
        }
        if !first {
            free();
        }
        Ok(())
    }
}

impl<P: Platform, H: Host> Walker<P, H> for MapData {
    fn pre(
        &mut self,
        vm: &Vm<P, H, Stage2Mmu<P>>,
        l: Held<'_>,
        at: Visit,
    ) -> Result<(), WalkError> {
        match vm.mmu.version {
            Version::V6_12 => vm.walk_table_pre_shared(l, at, self),
            _ => {
                vm.stage2_map_walk_table_pre(at, self);
                Ok(())
            }
        }
    }
    fn leaf(
        &mut self,
        vm: &Vm<P, H, Stage2Mmu<P>>,
        l: Held<'_>,
        at: Visit,
    ) -> Result<(), WalkError> {
        match vm.mmu.version {
            Version::V6_12 => vm.walk_leaf_shared(l, at, self),
            _ => vm.stage2_map_walk_leaf(l, at, at.pte, self),
        }
    }
    fn post(
        &mut self,
        vm: &Vm<P, H, Stage2Mmu<P>>,
        l: Held<'_>,
        at: Visit,
    ) -> Result<(), WalkError> {
        vm.stage2_map_walk_table_post(l, at, self)
    }
}
