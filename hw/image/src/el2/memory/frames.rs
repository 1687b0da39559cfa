//! The memory behind the model: host pages, page-table pages, and what the numbers of both are in
//! memory.
//!
//! The model counts host pages from 0, and the pages of its tables from [`SHADOW_PAGES_BASE`]. Here
//! both are frames of static memory, and a [`Descriptor`] in memory is what the model holds, but
//! for the address.
//!
//! Host pages have homes that blocks can map: page p is page p % 4 of an area of 2 MiB, so that
//! four in a row are what one entry of level 2 translates, and 508 more that no guest has an
//! address of.

use core::sync::atomic::{AtomicU64, Ordering, Ordering::Relaxed};

use kvmmu_model::arm64::pgtable::{KvmPte, PT_PAGES, pte};
use kvmmu_model::spte::SHADOW_PAGES_BASE;
use kvmmu_model::x86::mmu::paging::{PT_ENTRIES, SHADOW_PAGES};
use kvmmu_scenarios::host_mm::PFNS;

use crate::el2::cpu::sysreg;

/// Eight-byte words of a page.
const WORDS: usize = 512;
/// A page of memory, or a table.
#[repr(C, align(4096))]
pub(super) struct Frame(pub(super) [AtomicU64; WORDS]);

impl Frame {
    /// All zeroes.
    pub(super) const fn zero() -> Frame {
        Frame([const { AtomicU64::new(0) }; WORDS])
    }

    /// Where it is.
    pub(super) fn address(&self) -> u64 {
        core::ptr::from_ref(self) as u64
    }
}

/// What a block maps.
#[repr(C, align(0x20_0000))]
struct Area([Frame; AREA_FRAMES]);
const AREA_FRAMES: usize = 512;

/// Pages of an area that the model has a number for.
const AREA_PAGES: usize = PT_ENTRIES;
/// Those of the host, and what is behind the last of them: a fault that takes one page for four may
/// map it.
const AREAS: usize = PFNS / AREA_PAGES + 1;
static PAGES: [Area; AREAS] = [const { Area([const { Frame::zero() }; AREA_FRAMES]) }; AREAS];
/// The pages that the model has a number for.
const NUMBERED: usize = AREAS * AREA_PAGES;

/// The pages of tables: as many as the larger of the two MMUs needs.
const TABLES_NR: usize = if SHADOW_PAGES > PT_PAGES { SHADOW_PAGES } else { PT_PAGES };
static TABLES: [Frame; TABLES_NR] = [const { Frame::zero() }; TABLES_NR];

const _: () = assert!(PFNS.is_multiple_of(AREA_PAGES), "areas are full");

/// The word of a page that has its name: its number and 1, which is never 0.
pub(super) const NAME: usize = WORDS - 2;
/// The word of a page that has the instruction for fetches.
pub(super) const CODE: usize = WORDS - 1;
/// `hvc #1`.
const HVC_1: u64 = 0xd400_0022;
const PFN_SHIFT: u32 = 12;

fn page(pfn: usize) -> &'static Frame {
    &PAGES[pfn / AREA_PAGES].0[pfn % AREA_PAGES]
}

/// A page of the model's tables.
pub(super) fn table(sp: usize) -> &'static Frame {
    &TABLES[sp]
}

/// The page with this name: not every one is the host's.
pub(crate) fn named(name: u64) -> Option<u64> {
    (1..=NUMBERED as u64).contains(&name).then(|| name - 1)
}

/// A word of a page.
pub(crate) fn page_word(pfn: usize, word: usize) -> &'static AtomicU64 {
    &page(pfn).0[word]
}

/// Empties the model's tables, and makes every page new: zeroes, its name, an instruction.
pub(super) fn reset() {
    for table in &TABLES {
        // ORDERING: relaxed: nobody else runs; barriers follow.
        table.0.iter().for_each(|entry| entry.store(0, Relaxed));
    }
    for pfn in 0..NUMBERED {
        for (i, word) in page(pfn).0.iter().enumerate() {
            let value = match i {
                NAME => pfn as u64 + 1,
                CODE => HVC_1,
                _ => 0,
            };
            // ORDERING: relaxed: as above.
            word.store(value, Relaxed);
        }
        sysreg::sync_code(core::ptr::from_ref(&page(pfn).0[CODE]) as usize);
    }
}

/// A descriptor in memory, seen as what the model holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Descriptor(&'static AtomicU64);

/// The address of what the model counts as this frame. Of a frame that there is none of, its own
/// number, where guests find no memory.
fn address_of(frame: u64) -> u64 {
    let number = frame as usize;
    match frame.checked_sub(SHADOW_PAGES_BASE) {
        Some(sp) => TABLES.get(sp as usize).map_or(frame << PFN_SHIFT, Frame::address),
        None if number < NUMBERED => page(number).address(),
        None => frame << PFN_SHIFT,
    }
}

/// The frame at an address.
fn frame_at(address: u64) -> u64 {
    let offset = |from: u64, size: usize| {
        address.checked_sub(from).filter(|offset| *offset < size as u64).map(|o| o >> PFN_SHIFT)
    };
    if let Some(offset) = offset(PAGES[0].0[0].address(), size_of_val(&PAGES)) {
        let (area, page) = (offset / AREA_FRAMES as u64, offset % AREA_FRAMES as u64);
        return area * AREA_PAGES as u64 + page;
    }
    let table = offset(TABLES[0].address(), size_of_val(&TABLES));
    table.map_or(address >> PFN_SHIFT, |sp| SHADOW_PAGES_BASE + sp)
}

/// What is in memory for what the model holds. Nothing stays nothing, and so does the marker of a
/// walker between break and make; whatever else is invalid keeps its address, as in Linux 5.10.
fn to_memory(model: u64) -> u64 {
    if model == KvmPte::NONE.0 || model == KvmPte::LOCKED.0 {
        return model;
    }
    model & !pte::ADDR | address_of((model & pte::ADDR) >> PFN_SHIFT)
}

/// What the model holds for what is in memory: nothing of ours is at address 0.
fn to_model(memory: u64) -> u64 {
    match memory & pte::ADDR {
        0 => memory,
        address => memory & !pte::ADDR | frame_at(address) << PFN_SHIFT,
    }
}

impl Descriptor {
    /// An entry of a table of the model.
    pub(crate) fn at(sp: usize, index: usize) -> Descriptor {
        Descriptor(&table(sp).0[index])
    }
    /// Reads it.
    pub(crate) fn load(self, order: Ordering) -> u64 {
        to_model(self.0.load(order))
    }
    /// Writes it.
    pub(crate) fn store(self, new: u64, order: Ordering) {
        self.0.store(to_memory(new), order);
    }
    /// Exchanges it.
    pub(crate) fn swap(self, new: u64, order: Ordering) -> u64 {
        to_model(self.0.swap(to_memory(new), order))
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
        self.0.compare_exchange(current, new, success, failure).map(to_model).map_err(to_model)
    }
    /// Sets bits that are no part of the address.
    pub(crate) fn fetch_or(self, bits: u64, order: Ordering) -> u64 {
        to_model(self.0.fetch_or(bits, order))
    }
    /// Clears bits that are no part of the address.
    pub(crate) fn fetch_and(self, bits: u64, order: Ordering) -> u64 {
        to_model(self.0.fetch_and(bits, order))
    }
}
