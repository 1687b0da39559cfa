//! Words of the native machine: one atomic each, or one for each bit.

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::{Backoff, CachePadded};
use kvmmu_model::virt::GFNS;
use kvmmu_model::{Until, Word};

/// Waits, and lets others run when that takes long: there may be more threads than CPUs.
pub(super) fn wait(load: impl Fn() -> u64, until: Until) -> u64 {
    let backoff = Backoff::new();
    loop {
        let value = load();
        if until.is_met_by(value) {
            return value;
        }
        backoff.snooze();
    }
}

/// Makes a wrapper of an atomic a [`Word`]: each method is the atomic's own.
macro_rules! word_is {
    ($Name:ty, |$word:ident| $atomic:expr) => {
        impl Word for $Name {
            #[inline(always)]
            fn load(&self, order: Ordering) -> u64 {
                let $word = self;
                $atomic.load(order)
            }
            #[inline(always)]
            fn store(&self, value: u64, order: Ordering) {
                let $word = self;
                $atomic.store(value, order);
            }
            #[inline(always)]
            fn swap(&self, value: u64, order: Ordering) -> u64 {
                let $word = self;
                $atomic.swap(value, order)
            }
            #[inline(always)]
            fn compare_exchange(
                &self,
                current: u64,
                new: u64,
                success: Ordering,
                failure: Ordering,
            ) -> Result<u64, u64> {
                let $word = self;
                $atomic.compare_exchange(current, new, success, failure)
            }
            #[inline(always)]
            fn fetch_or(&self, bits: u64, order: Ordering) -> u64 {
                let $word = self;
                $atomic.fetch_or(bits, order)
            }
            #[inline(always)]
            fn fetch_and(&self, bits: u64, order: Ordering) -> u64 {
                let $word = self;
                $atomic.fetch_and(bits, order)
            }
            #[inline(always)]
            fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
                let $word = self;
                $atomic.fetch_add(value, order)
            }
            fn wait_until(&self, until: Until) -> u64 {
                // ORDERING: acquire: what was done before the word changed is seen.
                wait(|| self.load(Ordering::Acquire), until)
            }
        }
    };
}
pub(super) use word_is;

/// A word among its neighbours: SPTEs of one table share cache lines, as in hardware.
#[derive(Debug)]
pub struct PlainWord(pub AtomicU64);

word_is!(PlainWord, |word| word.0);

/// A word as if its neighbours were far away: the frames of the model stand for frames whose SPTEs
/// and bits of the dirty bitmap are not in the same cache line.
#[derive(Debug)]
pub enum ApartWord {
    /// A word in a cache line of its own.
    One(CachePadded<AtomicU64>),
    /// A dirty bitmap: each bit in a cache line of its own.
    Bits(Box<[CachePadded<AtomicU64>; GFNS]>),
}

impl ApartWord {
    /// A bitmap.
    pub fn bits(init: u64) -> Self {
        let bit = |i: usize| CachePadded::new(AtomicU64::new(init & 1_u64 << i));
        ApartWord::Bits(Box::new(std::array::from_fn(bit)))
    }

    /// Does something to each of these bits, and puts the results together.
    #[inline]
    fn each(
        lines: &[CachePadded<AtomicU64>; GFNS],
        bits: u64,
        mut f: impl FnMut(&AtomicU64, u64) -> u64,
    ) -> u64 {
        let mut rest = bits & ((1 << GFNS) - 1);
        let mut found = 0;
        while rest != 0 {
            let bit = rest & rest.wrapping_neg();
            found |= f(&lines[rest.trailing_zeros() as usize], bit);
            rest ^= bit;
        }
        found
    }
}

/// Operations on all of a bitmap take its bits one after another, as the kernel takes its words.
/// The protocol sets single bits, reads for a hint, and exchanges with 0.
impl Word for ApartWord {
    #[inline(always)]
    fn load(&self, order: Ordering) -> u64 {
        match self {
            ApartWord::One(word) => word.load(order),
            ApartWord::Bits(lines) => ApartWord::each(lines, u64::MAX, |line, _| line.load(order)),
        }
    }
    #[inline(always)]
    fn store(&self, value: u64, order: Ordering) {
        match self {
            ApartWord::One(word) => word.store(value, order),
            ApartWord::Bits(lines) => {
                ApartWord::each(lines, u64::MAX, |line, bit| {
                    line.store(value & bit, order);
                    0
                });
            }
        }
    }
    #[inline(always)]
    fn swap(&self, value: u64, order: Ordering) -> u64 {
        match self {
            ApartWord::One(word) => word.swap(value, order),
            ApartWord::Bits(lines) => {
                ApartWord::each(lines, u64::MAX, |line, bit| line.swap(value & bit, order))
            }
        }
    }
    #[inline(always)]
    fn compare_exchange(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        match self {
            ApartWord::One(word) => word.compare_exchange(current, new, success, failure),
            ApartWord::Bits(_) => unreachable!("nobody compares and exchanges a dirty bitmap"),
        }
    }
    #[inline(always)]
    fn fetch_or(&self, bits: u64, order: Ordering) -> u64 {
        match self {
            ApartWord::One(word) => word.fetch_or(bits, order),
            ApartWord::Bits(lines) => {
                ApartWord::each(lines, bits, |line, bit| line.fetch_or(bit, order))
            }
        }
    }
    #[inline(always)]
    fn fetch_and(&self, bits: u64, order: Ordering) -> u64 {
        match self {
            ApartWord::One(word) => word.fetch_and(bits, order),
            ApartWord::Bits(lines) => {
                ApartWord::each(lines, u64::MAX, |line, bit| line.fetch_and(bits & bit, order))
            }
        }
    }
    #[inline(always)]
    fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
        match self {
            ApartWord::One(word) => word.fetch_add(value, order),
            ApartWord::Bits(_) => unreachable!("nobody adds to a dirty bitmap"),
        }
    }
    fn wait_until(&self, until: Until) -> u64 {
        // ORDERING: acquire: what was done before the word changed is seen.
        wait(|| self.load(Ordering::Acquire), until)
    }
}
