//! What stores are looked at: asked at each store of the kernel, so without a lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use kvmmu_steps::event::Frame;

/// Pages of memory that there is room for: 4 GiB from address 0 on.
const PAGES: usize = 1 << 20;
/// Words that there is room for.
const WORDS: usize = 16;
/// An address that nothing has.
const NOWHERE: u64 = 1;

static PAGE: [AtomicU64; PAGES / 64] = [const { AtomicU64::new(0) }; PAGES / 64];
static WORD: [AtomicU64; WORDS] = [const { AtomicU64::new(NOWHERE) }; WORDS];

/// Stores to this page are looked at, or not any more.
pub(crate) fn page(page: Frame, on: bool) {
    let Some(word) = PAGE.get(page.0 as usize / 64) else { return };
    let bit = 1 << (page.0 % 64);
    // ORDERING: relaxed: CPUs take turns, in one thread. Where they do not, recordings are marked
    // as inexact.
    if on {
        word.fetch_or(bit, Relaxed)
    } else {
        word.fetch_and(!bit, Relaxed)
    };
}

/// True if they are.
pub(crate) fn has_page(page: Frame) -> bool {
    // ORDERING: relaxed: as above.
    PAGE.get(page.0 as usize / 64).is_some_and(|word| word.load(Relaxed) >> (page.0 % 64) & 1 == 1)
}

/// Stores to the word at this virtual address are looked at. The oldest one makes room.
pub(crate) fn word(number: usize, address: u64) {
    // ORDERING: relaxed: as above.
    WORD[number % WORDS].store(address & !7, Relaxed);
}

/// True if they are.
pub(crate) fn has_word(address: u64) -> bool {
    // ORDERING: relaxed: as above.
    WORD.iter().any(|word| word.load(Relaxed) == address & !7)
}
