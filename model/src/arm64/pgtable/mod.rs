//! Stage-2 page tables (`arch/arm64/kvm/hyp/pgtable.c`): their memory, its reference counts, and,
//! file by file, what KVM does with them.
//!
//! One description of three versions of Linux ([`Version`]): 5.10, 6.1, and 6.12, in which faults
//! walk together. Levels are those of arm64: the last is 3. Here a walk begins at level 2: a root
//! of two entries, each of which is a block of four pages, a table of four entries, or invalid.

mod attr;
mod break_make;
mod map;
mod map_shared;
mod other_vm;
pub mod pte;
mod tables;
mod unlinked;
mod unmap;
mod walk;

pub use other_vm::OtherVm;
pub use pte::{KVM_PTE, KvmPgtableProt, KvmPte};
pub(in crate::arm64) use walk::{Held, WalkError};

use super::vmid::{VmidConfig, Vmids};
use crate::host::Host;
use crate::lock::LockClass;
use crate::mark::Mark;
use crate::platform::Ordering::Relaxed;
use crate::platform::{Platform, Word};
use crate::tag::{Object, Tag};
use crate::types::{CpuId, Gfn, SpId, SpteLoc};
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
/// Pages for tables: the root, one for each of its entries, one in the hands of each of three
/// faults, and two that are not free yet. The last two are those of VM 1, if there is one.
pub const PT_PAGES: usize = 6 + PTRS_PER_PGD;

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

/// Whose algorithms: what the versions do differently stands where they do it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Version {
    /// Linux 5.10: `mmu_lock` is a spinlock.
    V5_10,
    /// Linux 6.1: a read-write lock, which faults take for writing, unless they relax a page under
    /// a dirty log.
    V6_1,
    /// Linux 6.12: faults take it for reading, and walk together.
    V6_12,
}

/// What a [`Stage2Mmu`] is made from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stage2Config {
    /// Whose algorithms it has.
    pub version: Version,
    /// A thread runs the callbacks of RCU.
    pub frees: bool,
    /// The VM ends.
    pub ends: bool,
    /// CPUs have the errata Cortex-A55 2441007 or A76 4193800.
    pub early_completion: bool,
    /// VMIDs, where there are several.
    pub vmids: Option<VmidConfig>,
}

/// `struct kvm_s2_mmu` with its `struct kvm_pgtable`.
#[derive(Debug)]
pub struct Stage2Mmu<P: Platform> {
    /// Whose algorithms it has.
    pub version: Version,
    /// The memory of the tables, which hardware walks.
    tables: [[P::Word; PTRS_PER_PTE]; PT_PAGES],
    /// `page_count` of each page: 0 if it is free, else 1 and one for each valid entry in it. True
    /// whenever nobody holds `mmu_lock`. Read only by who walks alone, or has the page alone.
    page_count: [P::Word; PT_PAGES],
    /// RCU, where walks are shared.
    pub(in crate::arm64) rcu: Option<P::Rcu>,
    /// A thread runs the callbacks of it. Else what waits for walkers is never freed.
    frees: bool,
    /// `mmu->pgt`: 0 when the tables are gone. Protected by: `mmu_lock`. `None`: the VM stays.
    pgt: Option<P::Word>,
    /// `ARM64_WORKAROUND_REPEAT_TLBI`: a store of another CPU may be done after the invalidation of
    /// what translated it is complete, and before a second one is.
    pub(in crate::arm64) early_completion: bool,
    /// VMIDs. `None`: there is one VM, and it has one.
    pub vmids: Option<Vmids<P>>,
}

/// What `mmu_lock` guards. To have one is to hold the lock.
pub type Locked = MmuState<()>;

impl<P: Platform> Stage2Mmu<P> {
    /// The root (`pgt->pgd`).
    pub const PGD: SpId = SpId(0);

    /// An MMU that maps nothing (`kvm_init_stage2_mmu`).
    pub fn new(p: &P, config: Stage2Config) -> Self {
        let Stage2Config { version, frees, ends, early_completion, vmids } = config;
        let other = OtherVm::of(vmids);
        let pte = |i, j| p.word(Tag::at(Object::Spte, i, j), other.pte(i, j));
        let count = |i| {
            let mine = u64::from(i == usize::from(Self::PGD.0));
            p.word(Tag::nth(Object::PageCount, i), mine + other.page_count(i))
        };
        let rcu = LockClass::Rcu.one().contended(frees);
        Stage2Mmu {
            version,
            tables: core::array::from_fn(|i| core::array::from_fn(|j| pte(i, j))),
            page_count: core::array::from_fn(count),
            rcu: (version >= Version::V6_12).then(|| p.rcu(rcu)),
            frees,
            pgt: ends.then(|| p.word(Tag::one(Object::Pgt), 1)),
            early_completion,
            vmids: vmids.map(|config| Vmids::new(p, version, config)),
        }
    }

    /// `mmu->pgt` is not NULL.
    pub(in crate::arm64) fn has_pgt(&self, p: &P, _l: &Locked) -> bool {
        self.pgt.as_ref().is_none_or(|pgt| p.owned(pgt) != 0)
    }

    /// `mmu->pgt` is NULL from now on. False: it was before.
    pub(in crate::arm64) fn take_pgt(&self, p: &P, l: &Locked) -> bool {
        let had = self.has_pgt(p, l);
        // ORDERING: relaxed: mmu_lock is held.
        self.pgt.as_ref().inspect(|pgt| pgt.store(0, Relaxed));
        had
    }

    /// The memory of an entry.
    pub fn ptep(&self, loc: SpteLoc) -> &P::Word {
        &self.tables[usize::from(loc.sp.0)][usize::from(loc.index)]
    }
}

/// The pages of tables.
impl<P: Platform, H: Host> Vm<P, H, Stage2Mmu<P>> {
    fn page_count_of(&self, table: SpId) -> &P::Word {
        &self.mmu.page_count[usize::from(table.0)]
    }

    /// `get_page`, of the table that an entry is in.
    fn get_page(&self, table: SpId) {
        self.p.count(self.page_count_of(table), 1);
    }

    /// `put_page`. Below 0 only where a guard is removed: what is freed then is counted on.
    fn put_page(&self, table: SpId) {
        self.p.count(self.page_count_of(table), 1_u64.wrapping_neg());
    }

    /// `page_count`, by who walks alone or has the page alone.
    fn page_count(&self, table: SpId) -> u64 {
        self.p.owned(self.page_count_of(table))
    }

    /// A page for a table, all zeroes, from what the fault of this vCPU has put aside before it
    /// took the lock (`stage2_memcache_zalloc_page`).
    ///
    /// # Panics
    /// If there is none, and the host goes on all the same.
    fn alloc_table(&self, l: Held<'_>, cpu: CpuId) -> SpId {
        const TABLES: u8 = PT_PAGES as u8 - 1;
        let page = if l.shared {
            // Another vCPU has put other pages aside: each begins with some of its own.
            let mut pages = (0..TABLES).map(|i| SpId((2 * cpu.0 + i) % TABLES + 1));
            pages.find(|page| {
                // ORDERING: relaxed: what is free the page allocator orders.
                self.page_count_of(*page).compare_exchange(0, 1, Relaxed, Relaxed).is_ok()
            })
        } else {
            let page = (1..=TABLES).map(SpId).find(|page| self.page_count(*page) == 0);
            page.inspect(|page| self.get_page(*page))
        };
        let page = page.or_else(|| {
            self.host.out_of_table_pages();
            None
        });
        let page = page.expect("what follows is not run");
        let words = &self.mmu.tables[usize::from(page.0)];
        self.p.allocated(words);
        self.p.zeroed(words);
        page
    }

    /// `put_page`, the last, of a table that nothing leads to: it is free.
    fn free_table(&self, table: SpId) {
        let all = self.page_count(table);
        self.p.count(self.page_count_of(table), all.wrapping_neg());
        self.p.freed(&self.mmu.tables[usize::from(table.0)]);
        self.p.mark(Mark::TableFreed);
    }
}
