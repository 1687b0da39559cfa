//! Stage-2 page tables (`arch/arm64/kvm/hyp/pgtable.c`): their memory, its reference counts, and,
//! file by file, what KVM does with them.
//!
//! Levels are those of arm64: the last is 3. Here a walk begins at level 2: a root of two entries,
//! each of which is a block of four pages, a table of four entries, or invalid.

mod attr;
mod map;
pub mod pte;
mod tables;
mod unmap;
mod walk;

pub use pte::{KVM_PTE, KvmPgtableProt, KvmPte};

use crate::host::Host;
use crate::mark::Mark;
use crate::platform::Platform;
use crate::tag::{Object, Tag};
use crate::types::{Gfn, SpId, SpteLoc};
use crate::virt::{GFNS, MmuState};
use crate::vm::Vm;

/// `KVM_PGTABLE_MAX_LEVELS` less one: the level of pages.
pub const LAST_LEVEL: u8 = 3;
/// `pgt->start_level`: that of the root.
pub const START_LEVEL: u8 = 2;
/// `PTRS_PER_PTE`: entries of a table, 512 in hardware.
pub const PTRS_PER_PTE: usize = 4;
/// Entries of the root that translate something.
pub const PTRS_PER_PGD: usize = GFNS.div_ceil(granule(START_LEVEL) as usize);
/// Pages for tables: the root, one for each of its entries, and one more.
pub const PT_PAGES: usize = 2 + PTRS_PER_PGD;

const _: () = assert!(PTRS_PER_PTE.is_power_of_two(), "an index is some bits of an address");
const _: () = assert!(PTRS_PER_PGD <= PTRS_PER_PTE, "the root is one page");
const _: () = assert!(START_LEVEL + 1 == LAST_LEVEL, "blocks are of one size");

/// `kvm_granule_size`, in frames: what an entry of this level translates.
pub const fn granule(level: u8) -> u64 {
    (PTRS_PER_PTE as u64).pow((LAST_LEVEL - level) as u32)
}

/// `kvm_pgtable_idx`: the index that a frame has in a table of this level.
pub const fn index_at(level: u8, addr: Gfn) -> u8 {
    (addr.0 / granule(level) % PTRS_PER_PTE as u64) as u8
}

/// `struct kvm_s2_mmu` with its `struct kvm_pgtable`.
#[derive(Debug)]
pub struct Stage2Mmu<P: Platform> {
    /// The memory of the tables, which hardware walks.
    tables: [[P::Word; PTRS_PER_PTE]; PT_PAGES],
}

/// What only the owner of `mmu_lock` touches. To have one is to hold the lock.
pub type Locked = MmuState<PageTables>;

/// What `mmu_lock` guards of this MMU.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PageTables {
    /// `page_count` of each page: 0 if it is free, else 1 and one for each valid entry in it.
    /// Invariant: true whenever the lock is released.
    pub page_count: [u8; PT_PAGES],
}

/// The root is there, and nothing below it.
impl Default for PageTables {
    fn default() -> PageTables {
        let mut page_count = [0; PT_PAGES];
        page_count[0] = 1;
        PageTables { page_count }
    }
}

impl PageTables {
    /// `get_page`, of the table that an entry is in.
    fn get_page(&mut self, table: SpId) {
        self.page_count[usize::from(table.0)] += 1;
    }
    /// `put_page`.
    fn put_page(&mut self, table: SpId) {
        // Below 0 only where a guard is removed: what is freed then is counted on.
        let count = &mut self.page_count[usize::from(table.0)];
        *count = count.saturating_sub(1);
    }
    /// `page_count`.
    pub fn page_count(&self, table: SpId) -> u8 {
        self.page_count[usize::from(table.0)]
    }
}

impl<P: Platform> Stage2Mmu<P> {
    /// The root (`pgt->pgd`).
    pub const PGD: SpId = SpId(0);

    /// An MMU that maps nothing (`kvm_init_stage2_mmu`).
    pub fn new(p: &P) -> Self {
        let pte = |i, j| p.word(Tag::at(Object::Spte, i, j), 0);
        Stage2Mmu { tables: core::array::from_fn(|i| core::array::from_fn(|j| pte(i, j))) }
    }

    /// The memory of an entry.
    pub fn ptep(&self, loc: SpteLoc) -> &P::Word {
        &self.tables[usize::from(loc.sp.0)][usize::from(loc.index)]
    }
}

impl<P: Platform, H: Host> Vm<P, H, Stage2Mmu<P>> {
    /// A page for a table, all zeroes, from what the fault has put aside before it took the lock
    /// (`mmu_memory_cache_alloc`).
    ///
    /// # Panics
    /// If there is none: there is always one more than the tables that can be linked.
    fn alloc_table(&self, l: &mut Locked) -> SpId {
        let free = l.mmu.page_count.iter().position(|count| *count == 0);
        let page = free.expect("a page more than can be linked");
        l.mmu.page_count[page] = 1;
        self.p.allocated(&self.mmu.tables[page]);
        self.p.zeroed(&self.mmu.tables[page]);
        SpId(page as u8)
    }

    /// `free_page`, of a table that nothing leads to.
    fn free_table(&self, l: &mut Locked, table: SpId) {
        l.mmu.page_count[usize::from(table.0)] = 0;
        self.p.freed(&self.mmu.tables[usize::from(table.0)]);
        self.p.mark(Mark::TableFreed);
    }
}
