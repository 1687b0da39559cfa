//! Kinds of native machine: how words lie in memory, and whether they are watched.

use std::cell::Cell;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::CachePadded;
use kvmmu_model::{Guard, GuardSet, Mark, Object, Tag, Until, Word};

use super::word::{ApartWord, PlainWord, wait, word_is};

/// A kind of machine. What a kind leaves out costs nothing.
pub trait Kind: Debug + Send + Sync + 'static {
    /// Its words.
    type Word: Word + Debug + Send + Sync;
    /// Makes a word.
    fn word(&self, tag: Tag, init: u64) -> Self::Word;
    /// False if this protective step is removed.
    #[inline(always)]
    fn guard(&self, _guard: Guard) -> bool {
        true
    }
    /// Something worth a name happened.
    #[inline(always)]
    fn mark(&self, _mark: Mark) {}
    /// What follows may sleep.
    #[inline(always)]
    fn might_sleep(&self) {}
    /// This word's memory was freed.
    #[inline(always)]
    fn bury(&self, _word: &Self::Word) {}
    /// This word's memory, which was free, is in use again.
    #[inline(always)]
    fn raise(&self, _word: &Self::Word) {}
}

/// Words lie side by side: the four SPTEs of a table and their header share a cache line or two.
#[derive(Clone, Copy, Debug)]
pub struct Dense;

impl Kind for Dense {
    type Word = PlainWord;
    #[inline]
    fn word(&self, _tag: Tag, init: u64) -> PlainWord {
        PlainWord(AtomicU64::new(init))
    }
}

/// Each word, and each bit of a dirty bitmap, lies in a cache line of its own: the eight frames of
/// the model stand for eight frames of a large guest that are far apart.
#[derive(Clone, Copy, Debug)]
pub struct Apart;

impl Kind for Apart {
    type Word = ApartWord;
    fn word(&self, tag: Tag, init: u64) -> ApartWord {
        match tag.object {
            Object::DirtyBitmap => ApartWord::bits(init),
            _ => ApartWord::One(CachePadded::new(AtomicU64::new(init))),
        }
    }
}

/// What a word of freed memory holds: on x86 an MMIO SPTE, so that a walk ends at it; arm64 has
/// none, and a walk that meets it there panics.
const TOMBSTONE: u64 = 0xdeb0_0000_0000_0000;

/// Of so many times that a thread may sleep it does once.
const SLEEPS_ONCE_IN: u32 = 16;

/// Words side by side, guards that can be missing, marks that are counted, and freed memory that is
/// watched: for the stress.
#[derive(Debug)]
pub struct Watched {
    without: GuardSet,
    marks: [AtomicU64; Mark::ALL.len()],
    touched: Arc<AtomicU64>,
}

impl Watched {
    /// Without these guards.
    pub fn new(without: GuardSet) -> Self {
        Watched {
            without,
            marks: std::array::from_fn(|_| AtomicU64::new(0)),
            touched: Arc::default(),
        }
    }

    /// How often this has happened.
    pub fn count(&self, mark: Mark) -> u64 {
        // ORDERING: relaxed: a statistic.
        self.marks[mark as usize].load(Ordering::Relaxed)
    }

    /// How often a word of freed memory was read or written.
    pub fn touched(&self) -> u64 {
        // ORDERING: relaxed: a statistic.
        self.touched.load(Ordering::Relaxed)
    }
}

impl Kind for Watched {
    type Word = WatchedWord;
    fn word(&self, _tag: Tag, init: u64) -> WatchedWord {
        WatchedWord { value: AtomicU64::new(init), touched: Arc::clone(&self.touched) }
    }
    fn guard(&self, guard: Guard) -> bool {
        !self.without.contains(guard)
    }
    fn mark(&self, mark: Mark) {
        // ORDERING: relaxed: a statistic.
        self.marks[mark as usize].fetch_add(1, Ordering::Relaxed);
    }
    /// Which it does now and then: a page comes from the disk, a CPU has something better to do.
    /// What others do in the meantime would else be seen by luck alone, on few CPUs never.
    fn might_sleep(&self) {
        thread_local! {
            static TIMES: Cell<u32> = const { Cell::new(0) };
        }
        let times = TIMES.get().wrapping_add(1);
        TIMES.set(times);
        if times.is_multiple_of(SLEEPS_ONCE_IN) {
            std::thread::yield_now();
        }
    }
    fn bury(&self, word: &WatchedWord) {
        // ORDERING: relaxed: a trap for those who are late, not a message.
        word.value.store(TOMBSTONE, Ordering::Relaxed);
    }
    fn raise(&self, word: &WatchedWord) {
        // ORDERING: relaxed: the memory is published later, by the link.
        let left = word.value.swap(0, Ordering::Relaxed);
        if left != TOMBSTONE {
            word.seen(TOMBSTONE);
        }
    }
}

/// A word that notices when it is touched after it was freed.
#[derive(Debug)]
pub struct WatchedWord {
    value: AtomicU64,
    touched: Arc<AtomicU64>,
}

impl WatchedWord {
    /// Counts a value that only freed memory holds.
    fn seen(&self, value: u64) -> u64 {
        if value == TOMBSTONE {
            // ORDERING: relaxed: a statistic.
            self.touched.fetch_add(1, Ordering::Relaxed);
        }
        value
    }
}

/// The atomic of a word, each of whose values is looked at.
struct Seen<'a>(&'a WatchedWord);

impl Seen<'_> {
    fn load(&self, order: Ordering) -> u64 {
        self.0.seen(self.0.value.load(order))
    }
    fn store(&self, value: u64, order: Ordering) {
        self.0.value.store(value, order);
    }
    fn swap(&self, value: u64, order: Ordering) -> u64 {
        self.0.seen(self.0.value.swap(value, order))
    }
    fn compare_exchange(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        let result = self.0.value.compare_exchange(current, new, success, failure);
        result.map_err(|found| self.0.seen(found))
    }
    fn fetch_or(&self, bits: u64, order: Ordering) -> u64 {
        self.0.seen(self.0.value.fetch_or(bits, order))
    }
    fn fetch_and(&self, bits: u64, order: Ordering) -> u64 {
        self.0.seen(self.0.value.fetch_and(bits, order))
    }
    fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
        self.0.seen(self.0.value.fetch_add(value, order))
    }
}

word_is!(WatchedWord, |word| Seen(word));
