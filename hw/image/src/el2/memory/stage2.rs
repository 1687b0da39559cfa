//! Stage 2: the tables that guests translate by.
//!
//! The outer table (level 1) and what maps the guests' own programs are built by `aarch64-paging`,
//! once. Below one entry of it hang the model's tables, which are real tables: index j of a table
//! of the model is index j of a table of 512 entries, of which the others stay invalid. So the
//! model's page p has the IPA `BASE + (p >> 2 << 21) + (p & 3 << 12)`.
//!
//! The model counts host pages from 0, and its tables from [`SHADOW_PAGES_BASE`]; here both are
//! frames of one static block, and a descriptor in memory is the model's SPTE with the block's own
//! frame number added ([`Descriptor`]).
//!
//! [`SHADOW_PAGES_BASE`]: kvmmu_model::spte::SHADOW_PAGES_BASE

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering, Ordering::Relaxed};

use aarch64_paging::descriptor::{PhysicalAddress, Stage2Attributes};
use aarch64_paging::paging::{
    Constraints, MemoryRegion, PageTable, RootTable, Stage2, Translation,
};
use kvmmu_model::spte::SHADOW_PAGES_BASE;
use kvmmu_model::virt::GFNS;
use kvmmu_model::x86::mmu::paging::{PT_ENTRIES, SHADOW_PAGES};
use kvmmu_model::{Gfn, SpId};
use kvmmu_scenarios::host_mm::PFNS;

use crate::el2::cpu::sysreg;

/// Eight-byte words of a page.
const WORDS: usize = 512;
/// A page of memory, or a table.
#[repr(C, align(4096))]
struct Frame([AtomicU64; WORDS]);

/// A frame of zeroes.
const fn zero() -> Frame {
    Frame([const { AtomicU64::new(0) }; WORDS])
}

/// How many frames there are: those of the host below, tables above.
const FRAMES: usize = SHADOW_PAGES_BASE as usize + SHADOW_PAGES;
static MEMORY: [Frame; FRAMES] = [const { zero() }; FRAMES];
/// The word that tells a counting guest to stop: on a page of its own.
static CONTROL: Frame = zero();
/// Tables for what is not the model's.
static OUTER: [Frame; 8] = [const { zero() }; 8];
static OUTER_USED: AtomicUsize = AtomicUsize::new(0);
/// The physical address of the outermost table.
static ROOT: AtomicU64 = AtomicU64::new(0);

/// Where the model's pages begin: 64 GiB, far from the image.
pub(crate) const BASE: u64 = 64 << 30;
/// Where guests see the control page.
pub(crate) const CONTROL_IPA: u64 = 96 << 30;
/// The word of a page that has its name: the frame's number, which is never 0 there.
const NAME: usize = WORDS - 2;
/// The word of a page that has the instruction for fetches.
const CODE: usize = WORDS - 1;
/// `hvc #1`.
const HVC_1: u64 = 0xd400_0022;
const TABLE: u64 = 3;
const PFN_SHIFT: u32 = 12;

#[expect(unsafe_code, reason = "these are in link.ld")]
unsafe extern "C" {
    safe static guest_text: u8;
    safe static guest_text_end: u8;
}

/// The number of the first frame.
fn first_frame() -> u64 {
    core::ptr::from_ref(&MEMORY) as u64 >> PFN_SHIFT
}

/// The IPA of a page of the model.
pub(crate) fn ipa(page: u64) -> u64 {
    let entries = PT_ENTRIES as u64;
    BASE + ((page / entries) << 21) + ((page % entries) << 12)
}

/// The page of the model that an IPA is in.
pub(crate) fn page_of(ipa: u64) -> u64 {
    let offset = ipa - BASE;
    (offset >> 21) * PT_ENTRIES as u64 + (offset >> 12 & 0x1ff)
}

/// Every page of the model.
pub(crate) fn all_pages() -> impl Iterator<Item = Gfn> {
    (0..GFNS as u64).map(Gfn)
}

/// Where a guest reads the name of its page.
pub(crate) fn name_ipa(page: u64) -> u64 {
    ipa(page) + 8 * NAME as u64
}

/// Where a guest fetches from a page.
pub(crate) fn code_ipa(page: u64) -> u64 {
    ipa(page) + 8 * CODE as u64
}

/// The host page with this name.
pub(crate) fn named(name: u64) -> Option<u64> {
    (1..=PFNS as u64).contains(&name).then(|| name - 1)
}

/// A word of a host page.
pub(crate) fn page_word(pfn: usize, word: usize) -> &'static AtomicU64 {
    assert!(pfn < PFNS);
    &MEMORY[pfn].0[word]
}

/// The word that tells a counting guest to stop.
pub(crate) fn control() -> &'static AtomicU64 {
    &CONTROL.0[0]
}

/// The outermost table.
pub(crate) fn root() -> u64 {
    // ORDERING: relaxed: set before other CPUs run.
    ROOT.load(Relaxed)
}

/// A descriptor in memory, seen as the model's SPTE.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Descriptor(&'static AtomicU64);

/// What is in memory for an SPTE.
fn to_memory(spte: u64) -> u64 {
    if spte == 0 { 0 } else { spte + (first_frame() << PFN_SHIFT) }
}

/// The SPTE for what is in memory.
fn to_spte(memory: u64) -> u64 {
    if memory == 0 { 0 } else { memory - (first_frame() << PFN_SHIFT) }
}

impl Descriptor {
    /// An entry of a table of the model.
    pub(crate) fn at(table: usize, index: usize) -> Descriptor {
        Descriptor(&MEMORY[SHADOW_PAGES_BASE as usize + table].0[index])
    }
    /// Reads it.
    pub(crate) fn load(self, order: Ordering) -> u64 {
        to_spte(self.0.load(order))
    }
    /// Writes it.
    pub(crate) fn store(self, spte: u64, order: Ordering) {
        self.0.store(to_memory(spte), order);
    }
    /// Exchanges it.
    pub(crate) fn swap(self, spte: u64, order: Ordering) -> u64 {
        to_spte(self.0.swap(to_memory(spte), order))
    }
    /// Replaces what is expected.
    pub(crate) fn compare_exchange(
        self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        let (current, new) = (to_memory(current), to_memory(new));
        self.0.compare_exchange(current, new, success, failure).map(to_spte).map_err(to_spte)
    }
    /// Sets bits that are no part of the address.
    pub(crate) fn fetch_or(self, bits: u64, order: Ordering) -> u64 {
        to_spte(self.0.fetch_or(bits, order))
    }
    /// Clears bits that are no part of the address.
    pub(crate) fn fetch_and(self, bits: u64, order: Ordering) -> u64 {
        to_spte(self.0.fetch_and(bits, order))
    }
}

/// Gives `aarch64-paging` its tables.
struct Tables;

impl Translation<Stage2Attributes> for Tables {
    fn allocate_table(&mut self) -> (NonNull<PageTable<Stage2Attributes>>, PhysicalAddress) {
        // ORDERING: relaxed: one CPU builds.
        let table = &OUTER[OUTER_USED.fetch_add(1, Relaxed)];
        let address = NonNull::from_ref(table).cast();
        (address, PhysicalAddress(address.as_ptr() as usize))
    }
    #[expect(unsafe_code, reason = "the trait's")]
    unsafe fn deallocate_table(&mut self, _table: NonNull<PageTable<Stage2Attributes>>) {}
    fn physical_to_virtual(
        &self,
        address: PhysicalAddress,
    ) -> NonNull<PageTable<Stage2Attributes>> {
        // Stage 1 maps one to one; tables are never at 0.
        NonNull::new(address.0 as *mut _).unwrap_or(NonNull::dangling())
    }
}

/// Builds the outer tables. Once.
///
/// # Panics
/// If there are too few tables for them.
pub(crate) fn init() {
    let text = core::ptr::from_ref(&guest_text) as usize;
    let text_end = core::ptr::from_ref(&guest_text_end) as usize;
    let control = core::ptr::from_ref(&CONTROL) as usize;
    let read_only = Stage2Attributes::VALID
        | Stage2Attributes::MEMATTR_NORMAL_INNER_WB
        | Stage2Attributes::MEMATTR_NORMAL_OUTER_WB
        | Stage2Attributes::SH_INNER
        | Stage2Attributes::ACCESS_FLAG
        | Stage2Attributes::S2AP_ACCESS_RO;
    let mut root = RootTable::new(Tables, 1, Stage2);
    let mut map = |from: usize, to: usize, end: usize, attributes| {
        let region = MemoryRegion::new(from, from + (end - to));
        root.map_range(&region, PhysicalAddress(to), attributes, Constraints::NO_BLOCK_MAPPINGS)
            .expect("there are tables for what guests run");
    };
    map(text, text, text_end, read_only);
    map(CONTROL_IPA as usize, control, control + 4096, read_only | Stage2Attributes::XN);
    // ORDERING: relaxed: one CPU builds.
    ROOT.store(root.to_physical().0 as u64, Relaxed);
    // It is never dropped: guests run on it.
    core::mem::forget(root);
    sysreg::dsb();
}

/// Hangs the tables of the model below the outer one: guests have this root from now on.
pub(crate) fn attach(sp: SpId) {
    let table = core::ptr::from_ref(&MEMORY[SHADOW_PAGES_BASE as usize + usize::from(sp.0)]) as u64;
    // The outermost table was allocated first.
    // ORDERING: relaxed: barriers follow.
    OUTER[0].0[(BASE >> 30) as usize].store(table | TABLE, Relaxed);
    sysreg::dsb();
}

/// Empties the model's tables, and makes every host page new: zeroes, its name, an instruction.
pub(crate) fn reset() {
    for table in &MEMORY[SHADOW_PAGES_BASE as usize..] {
        // ORDERING: relaxed: nobody else runs; barriers follow.
        table.0.iter().for_each(|entry| entry.store(0, Relaxed));
    }
    for (pfn, page) in MEMORY[..PFNS].iter().enumerate() {
        for (i, word) in page.0.iter().enumerate() {
            let value = match i {
                NAME => pfn as u64 + 1,
                CODE => HVC_1,
                _ => 0,
            };
            // ORDERING: relaxed: as above.
            word.store(value, Relaxed);
        }
        sysreg::sync_code(core::ptr::from_ref(&page.0[CODE]) as usize);
    }
    // ORDERING: relaxed: as above.
    CONTROL.0[0].store(0, Relaxed);
    sysreg::dsb();
}
