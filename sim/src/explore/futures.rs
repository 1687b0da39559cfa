//! What the threads of a program may still touch, from a state on.
//!
//! The future of a set of threads is what all steps touch on paths where only threads of the set
//! move, and what the blocked ones of them wait for there. A [`Future`] has those of several sets
//! of threads, which is more than enough to have one for every set: with few threads each subset
//! is there, with more of them each thread alone and all but each thread, which stand for what is
//! in them. Footprints and futures are interned: a state keeps 4 bytes.

use std::io;

use hashbrown::HashTable;
use serde::{Deserialize, Serialize};

use super::keep::{Reading, Unusable, Writing};
use crate::machine::footprint::Footprint;
use crate::machine::hash::mix;
use crate::machine::memory::bytes;

/// An interned footprint, or the union of several.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct FootprintId(u32);

impl FootprintId {
    /// Touches nothing.
    pub(crate) const NOTHING: FootprintId = FootprintId(0);
    /// May touch anything.
    pub(crate) const ANYTHING: FootprintId = FootprintId(u32::MAX);
}

/// An interned row of footprints: what sets of threads may still touch.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Future(pub(crate) u32);

impl Future {
    /// Nothing is known: they may touch anything.
    pub(crate) const ANYTHING: Future = Future(0);
    /// Nobody does anything any more.
    pub(crate) const NOTHING: Future = Future(1);
}

/// Programs of so many threads have a footprint for every set of threads.
const EXACT: usize = 4;
/// Entries of the caches of unions and of what is independent.
const CACHE: usize = 1 << 16;

/// The futures of a program's states.
#[derive(Debug)]
pub(crate) struct Futures {
    threads: usize,
    /// The sets of threads of which a future knows; the first is empty. All threads together are
    /// none: nobody asks what they may do.
    sets: Vec<u32>,
    /// The numbers of the sets in which a thread is, by thread.
    with: Vec<Vec<u8>>,
    /// How many footprints a row has: one for each set, and then nothing up to a power of two.
    width: usize,
    footprints: Vec<Footprint>,
    numbers: HashTable<u32>,
    /// Rows, one after the other.
    rows: Vec<FootprintId>,
    places: HashTable<u32>,
    /// Direct-mapped: a wrong entry costs time only.
    recent: Vec<u32>,
    unions: Pairs<FootprintId>,
    independent: Pairs<bool>,
    steps: Vec<(Step, Future)>,
}

/// All that the future of a state with one move follows from, if no thread waits there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Step {
    pub(crate) thread: u8,
    pub(crate) footprint: FootprintId,
    pub(crate) then: Future,
    /// True if others could have moved.
    pub(crate) partial: bool,
}

/// A hash of a row.
#[inline(always)]
fn row_hash(row: &[FootprintId]) -> u64 {
    mix(row.chunks(2).map(|two| two.iter().fold(0, |v, f| v << 32 | u64::from(f.0))))
}

/// The place of a pair in a cache.
#[inline(always)]
fn place(key: u64) -> usize {
    (key ^ key >> 32).wrapping_mul(0x9E37_79B9_7F4A_7C15) as usize >> 40 & (CACHE - 1)
}

/// What is known of pairs of footprints, in any order: direct-mapped. The first footprint, which
/// touches nothing, is asked about with none, so that no pair has the key 0.
#[derive(Debug)]
struct Pairs<V>(Vec<(u64, V)>);

impl<V: Copy> Pairs<V> {
    /// Nothing is known.
    fn new(any: V) -> Pairs<V> {
        Pairs(vec![(0, any); CACHE])
    }

    #[inline(always)]
    fn key(a: FootprintId, b: FootprintId) -> u64 {
        u64::from(a.min(b).0) << 32 | u64::from(a.max(b).0)
    }

    #[inline(always)]
    fn get(&self, a: FootprintId, b: FootprintId) -> Option<V> {
        let key = Self::key(a, b);
        let (known, value) = self.0[place(key)];
        (known == key).then_some(value)
    }

    #[inline(always)]
    fn set(&mut self, a: FootprintId, b: FootprintId, value: V) {
        let key = Self::key(a, b);
        self.0[place(key)] = (key, value);
    }
}

impl Futures {
    pub(crate) fn new(threads: usize) -> Futures {
        let all = (1u32 << threads) - 1;
        let sets: Vec<u32> = if threads <= EXACT {
            // A row of one thread has its set, so that "anything" differs from nothing.
            (0..all.max(2)).collect()
        } else {
            let alone = (0..threads).map(|t| 1 << t);
            let without = (0..threads).map(|t| all & !(1 << t));
            [0].into_iter().chain(alone).chain(without).collect()
        };
        let of = |t: usize| {
            (0..sets.len()).filter(|a| sets[*a] >> t & 1 == 1).map(|a| a as u8).collect()
        };
        let mut futures = Futures {
            threads,
            with: (0..threads).map(of).collect(),
            width: sets.len().next_power_of_two(),
            rows: Vec::new(),
            footprints: vec![Footprint::default()],
            numbers: HashTable::new(),
            places: HashTable::new(),
            recent: vec![0; CACHE],
            unions: Pairs::new(FootprintId::NOTHING),
            independent: Pairs::new(false),
            steps: vec![(Step::NONE, Future::NOTHING); CACHE],
            sets,
        };
        futures.numbers.insert_unique(Footprint::default().mix(), 0, |_| 0);
        let width = futures.width;
        let mut row = vec![FootprintId::ANYTHING; width];
        row[0] = FootprintId::NOTHING;
        let anything = futures.row(&row);
        let nothing = futures.row(&vec![FootprintId::NOTHING; width]);
        debug_assert_eq!((anything, nothing), (Future::ANYTHING, Future::NOTHING));
        futures
    }

    /// How much memory they take.
    pub(crate) fn bytes(&self) -> usize {
        let tables = (self.numbers.capacity() + self.places.capacity()) * 8;
        let caches = bytes(&self.unions.0) + bytes(&self.independent.0) + bytes(&self.recent);
        let caches = caches + bytes(&self.steps);
        bytes(&self.footprints) + bytes(&self.rows) + tables + caches
    }

    /// The same futures, with the same numbers.
    pub(crate) fn copy(&self) -> Futures {
        let mut copy = Futures::new(self.threads);
        copy.take_over(&self.footprints, &self.rows);
        copy
    }

    /// Adds footprints and rows of these, in their order.
    fn take_over(&mut self, footprints: &[Footprint], rows: &[FootprintId]) {
        for footprint in footprints {
            self.intern(footprint);
        }
        for row in rows.chunks(self.width) {
            self.row(row);
        }
    }

    /// How many futures and footprints there are.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.rows.len() / self.width, self.footprints.len())
    }

    /// The footprint with this number.
    pub(crate) fn footprint(&self, number: u32) -> &Footprint {
        &self.footprints[number as usize]
    }

    /// The number of a footprint.
    pub(crate) fn intern_number(&mut self, footprint: &Footprint) -> u32 {
        self.intern(footprint).0
    }

    /// The numbers of a future's footprints; none where that may be anything.
    pub(crate) fn row_numbers(&self, future: Future) -> impl Iterator<Item = Option<u32>> {
        let number = |id: &FootprintId| (*id != FootprintId::ANYTHING).then_some(id.0);
        self.of_all(future).iter().map(number)
    }

    /// The future that [`Futures::row_numbers`] says.
    pub(crate) fn row_of_numbers(&mut self, row: &[Option<u32>]) -> Future {
        let id = |number: &Option<u32>| number.map_or(FootprintId::ANYTHING, FootprintId);
        self.row(&row.iter().map(id).collect::<Vec<_>>())
    }

    /// Writes all footprints and rows.
    pub(crate) fn write(&self, to: &mut Writing<'_>) -> io::Result<()> {
        to.put(&self.footprints)?;
        to.put(&self.rows)
    }

    /// Reads what [`Futures::write`] wrote, of a program of as many threads.
    pub(crate) fn read(&mut self, from: &mut Reading<'_>) -> Result<(), Unusable> {
        let (footprints, rows): (Vec<Footprint>, Vec<FootprintId>) = (from.get()?, from.get()?);
        let known =
            |id: &FootprintId| *id == FootprintId::ANYTHING || (id.0 as usize) < footprints.len();
        if !rows.len().is_multiple_of(self.width) || !rows.iter().all(known) {
            return Err(Unusable::new("its futures are of another program"));
        }
        self.take_over(&footprints, &rows);
        Ok(())
    }

    /// The number of the smallest set that has all these threads, which are not all there are.
    #[inline(always)]
    fn cover(&self, threads: u32) -> usize {
        let n = self.threads;
        if n <= EXACT {
            return threads as usize;
        }
        match threads.count_ones() {
            0 => 0,
            1 => 1 + threads.trailing_zeros() as usize,
            _ => {
                debug_assert_ne!(threads.trailing_ones() as usize, n);
                1 + n + threads.trailing_ones() as usize
            }
        }
    }

    /// Interns a footprint.
    #[inline]
    pub(crate) fn intern(&mut self, footprint: &Footprint) -> FootprintId {
        let key = footprint.mix();
        let recent = &mut self.recent[key as usize & (CACHE - 1)];
        if self.footprints[*recent as usize] == *footprint {
            return FootprintId(*recent);
        }
        let footprints = &mut self.footprints;
        let same = |number: &u32| footprints[*number as usize] == *footprint;
        let number = match self.numbers.find(key, same) {
            Some(number) => *number,
            None => {
                let number = footprints.len() as u32;
                footprints.push(*footprint);
                self.numbers.insert_unique(key, number, |n| footprints[*n as usize].mix());
                number
            }
        };
        *recent = number;
        FootprintId(number)
    }

    /// Interns a row.
    #[inline]
    fn row(&mut self, row: &[FootprintId]) -> Future {
        let Futures { rows, places, width, .. } = self;
        let row_at = |n: u32| n as usize * *width..(n as usize + 1) * *width;
        let key = row_hash(row);
        if let Some(place) = places.find(key, |n| rows[row_at(*n)] == *row) {
            return Future(*place);
        }
        let number = (rows.len() / *width) as u32;
        rows.extend_from_slice(row);
        places.insert_unique(key, number, |n| row_hash(&rows[row_at(*n)]));
        Future(number)
    }

    /// What these threads may touch.
    #[inline(always)]
    pub(crate) fn of(&self, future: Future, threads: u32) -> FootprintId {
        self.get(future, self.cover(threads))
    }

    /// What each set of threads may touch, by its bits; none where that may be anything, and for
    /// all threads, of which nothing is known.
    pub(crate) fn by_set(&self, future: Future) -> Vec<Option<Footprint>> {
        let all = (1u32 << self.threads) - 1;
        let of = |set| (set != all).then(|| self.of(future, set));
        let footprint = |id: FootprintId| self.footprints.get(id.0 as usize).copied();
        (0..=all).map(|set| of(set).and_then(footprint)).collect()
    }

    #[inline(always)]
    fn get(&self, future: Future, set: usize) -> FootprintId {
        self.rows[future.0 as usize * self.width + set]
    }

    #[inline(always)]
    fn of_all(&self, future: Future) -> &[FootprintId] {
        &self.rows[future.0 as usize * self.width..][..self.width]
    }

    /// What either touches.
    #[inline]
    pub(crate) fn union(&mut self, a: FootprintId, b: FootprintId) -> FootprintId {
        if a == b || b == FootprintId::NOTHING || a == FootprintId::ANYTHING {
            return a;
        }
        if a == FootprintId::NOTHING || b == FootprintId::ANYTHING {
            return b;
        }
        if let Some(footprint) = self.unions.get(a, b) {
            return footprint;
        }
        let all = self.footprints[a.0 as usize].union(&self.footprints[b.0 as usize]);
        let footprint = self.intern(&all);
        self.unions.set(a, b, footprint);
        footprint
    }

    /// True if no order of these matters.
    #[inline]
    pub(crate) fn independent(&mut self, a: FootprintId, b: FootprintId) -> bool {
        if a == FootprintId::NOTHING || b == FootprintId::NOTHING {
            return true;
        }
        if a == FootprintId::ANYTHING || b == FootprintId::ANYTHING {
            return false;
        }
        if let Some(is) = self.independent.get(a, b) {
            return is;
        }
        let is = !self.footprints[a.0 as usize].depends(&self.footprints[b.0 as usize]);
        self.independent.set(a, b, is);
        is
    }
}

impl Step {
    /// Of no thread.
    const NONE: Step = Step {
        thread: u8::MAX,
        footprint: FootprintId::NOTHING,
        then: Future::NOTHING,
        partial: false,
    };
}

impl Futures {
    /// The future of a state with this step alone, where no thread waits. `sum` is for scratch.
    pub(crate) fn of_step(&mut self, step: Step, sum: &mut Sum) -> Future {
        let key = u64::from(step.footprint.0) << 32 | u64::from(step.then.0);
        let at = place(key ^ u64::from(step.thread) << 8 ^ u64::from(step.partial));
        let (known, future) = self.steps[at];
        if known == step {
            return future;
        }
        sum.clear(self);
        if step.partial {
            sum.0.copy_from_slice(self.of_all(step.then));
        }
        for i in 0..self.with[usize::from(step.thread)].len() {
            let set = usize::from(self.with[usize::from(step.thread)][i]);
            sum.0[set] = self.union(step.footprint, self.get(step.then, set));
        }
        let future = sum.intern(self);
        self.steps[at] = (step, future);
        future
    }
}

/// The future of a state while it is found out.
#[derive(Debug, Default)]
pub(crate) struct Sum(Vec<FootprintId>);

impl Sum {
    /// Nobody does anything, so far.
    pub(crate) fn clear(&mut self, futures: &Futures) {
        self.0.clear();
        self.0.resize(futures.width, FootprintId::NOTHING);
    }

    /// A thread may touch this, and then come what comes.
    #[inline]
    pub(crate) fn add(
        &mut self,
        futures: &mut Futures,
        thread: usize,
        footprint: FootprintId,
        then: Future,
    ) {
        for i in 0..futures.with[thread].len() {
            let set = usize::from(futures.with[thread][i]);
            let more = futures.union(footprint, futures.get(then, set));
            self.0[set] = futures.union(self.0[set], more);
        }
    }

    /// `may` says what a set may do without any thread of `taken`. It commutes with the steps of
    /// those. Of a set that has one of them, the steps of that one say as much.
    pub(crate) fn add_rest(
        &mut self,
        futures: &mut Futures,
        taken: u32,
        may: impl Fn(&mut Futures, u32) -> FootprintId,
    ) {
        for set in 1..futures.sets.len() {
            let threads = futures.sets[set];
            if threads & taken == 0 {
                let rest = may(futures, threads);
                self.0[set] = futures.union(self.0[set], rest);
            }
        }
    }

    /// Interns it.
    #[inline]
    pub(crate) fn intern(&self, futures: &mut Futures) -> Future {
        futures.row(&self.0)
    }
}

/// The threads that wait in some state, one bit each, and what each waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting<'a> {
    pub(crate) threads: u32,
    /// By rank among them.
    pub(crate) footprints: &'a [FootprintId],
}

impl Waiting<'_> {
    /// Nobody waits.
    pub(crate) const NONE: Waiting<'static> = Waiting { threads: 0, footprints: &[] };

    /// Each of them and what it waits for.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, FootprintId)> {
        threads(self.threads).zip(self.footprints.iter().copied())
    }
}

/// The threads of a set.
pub(crate) fn threads(mut set: u32) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let t = set.trailing_zeros() as usize;
        set &= set.wrapping_sub(1);
        (t < 32).then_some(t)
    })
}

impl Futures {
    /// What `rest` may touch from a state where `waiting` wait, before some step after which `then`
    /// comes and which commutes with all of it.
    #[inline]
    pub(crate) fn before(&mut self, then: Future, rest: u32, waiting: &Waiting) -> FootprintId {
        let free = self.of(then, rest & !waiting.threads);
        if rest & waiting.threads != 0 {
            // Those that wait go on waiting unless the others of `rest` end it.
            for (t, footprint) in waiting.iter() {
                if rest >> t & 1 == 1 && !self.independent(footprint, free) {
                    return self.of(then, rest);
                }
            }
        }
        free
    }
}
