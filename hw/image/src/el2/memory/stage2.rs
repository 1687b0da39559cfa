//! Stage 2: the tables that guests translate by.
//!
//! The outer tables and what maps the guests' own programs are built by `aarch64-paging`, once: a
//! root of two pages, as Linux has it for 40 bits of address, and what hangs below it. Below one
//! entry of the root hang the model's tables, which are real tables: index j of a table of the
//! model is index j of a table of 512 entries, of which the others stay invalid. So the model's
//! page p has the IPA `BASE + (p >> 2 << 21) + (p & 3 << 12)`, and what a root of the model holds
//! is at level 2: a table, or a block of 2 MiB.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use aarch64_paging::descriptor::{PhysicalAddress, Stage2Attributes};
use aarch64_paging::paging::{
    Constraints, MemoryRegion, PageTable, RootTable, Stage2, Translation,
};
use kvmmu_model::virt::GFNS;
use kvmmu_model::x86::mmu::paging::PT_ENTRIES;
use kvmmu_model::{Gfn, SpId};

use super::frames::{self, CODE, Frame, NAME};
use crate::el2::cpu::sysreg;

/// The word that tells a counting guest to stop: on a page of its own.
static CONTROL: Frame = Frame::zero();
/// The root: two pages, one behind the other.
#[repr(C, align(8192))]
struct Root([Frame; 2]);
static ROOT: Root = Root([const { Frame::zero() }; 2]);
/// Entries of a page of the root.
const ENTRIES: usize = 512;
/// Tables below it, for what is not the model's.
static OUTER: [Frame; 8] = [const { Frame::zero() }; 8];
/// How many tables were given out, the root among them.
static TABLES_USED: AtomicUsize = AtomicUsize::new(0);

/// Where the model's pages begin: 576 GiB, which the second page of the root translates.
pub(crate) const BASE: u64 = 576 << 30;
/// Where guests see the control page.
pub(crate) const CONTROL_IPA: u64 = 96 << 30;
const TABLE: u64 = 3;

#[expect(unsafe_code, reason = "these are in link.ld")]
unsafe extern "C" {
    safe static guest_text: u8;
    safe static guest_text_end: u8;
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

/// The word that tells a counting guest to stop.
pub(crate) fn control() -> &'static AtomicU64 {
    &CONTROL.0[0]
}

/// The root.
pub(crate) fn root() -> u64 {
    ROOT.0[0].address()
}

/// Gives `aarch64-paging` its tables.
struct Tables;

impl Translation<Stage2Attributes> for Tables {
    fn allocate_table(&mut self) -> (NonNull<PageTable<Stage2Attributes>>, PhysicalAddress) {
        // ORDERING: relaxed: one CPU builds.
        let used = TABLES_USED.fetch_add(1, Relaxed);
        // The root is allocated first, and has two pages.
        let table = used.checked_sub(1).map_or(&ROOT.0[0], |used| &OUTER[used]);
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
    // It is never dropped: guests run on it.
    core::mem::forget(root);
    sysreg::dsb();
}

/// Hangs the tables of the model below the root: guests translate by them from now on.
pub(crate) fn attach(sp: SpId) {
    let table = frames::table(usize::from(sp.0)).address();
    let entry = (BASE >> 30) as usize;
    // ORDERING: relaxed: barriers follow.
    ROOT.0[entry / ENTRIES].0[entry % ENTRIES].store(table | TABLE, Relaxed);
    sysreg::dsb();
}

/// Empties the model's tables and makes every page new: see [`frames`].
pub(crate) fn reset() {
    frames::reset();
    // ORDERING: relaxed: nobody else runs; barriers follow.
    CONTROL.0[0].store(0, Relaxed);
    sysreg::dsb();
}
