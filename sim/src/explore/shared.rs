//! One search by several engines, each on a thread of its own.
//!
//! Each makes the whole search by itself, in an order of its own, and what one of them is done with
//! is known to all: a state whose component is complete, and its future. So they part at the first
//! state with two moves, and meet where the other has been. Nobody waits for anybody, no path
//! changes hands, and a state that another has open is looked at as if it were new. The search is
//! over when one of them is done with the first state.
//!
//! Why that is sound, and what of the result depends on timing: docs/engine.md.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashTable;
use kvmmu_scenarios::lockdep::LockOrders;

use super::exchange::Exchange;
use super::futures::{Future, Futures};
use super::visited::{Filling, Insert, Place, Visited};
use crate::machine::memory::Account;
use crate::machine::numbers::Numbers;
use crate::record::outcome::{Seen, Stats};

/// Threads that nobody else needs: a search that has become large takes them.
#[derive(Debug)]
pub struct Cores {
    free: AtomicUsize,
    from: u64,
}

impl Cores {
    /// So many threads, for searches that have met more than `from` states.
    pub const fn new(free: usize, from: u64) -> Cores {
        Cores { free: AtomicUsize::new(free), from }
    }

    /// From how many states on a search may be shared. What is known of a larger one depends on
    /// timing, but for what it found.
    pub fn from(&self) -> u64 {
        self.from
    }

    /// One more is free.
    pub fn give(&self) {
        // ORDERING: a number, with which nothing else is published.
        self.free.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes one, if one is free.
    pub(crate) fn take(&self) -> bool {
        // ORDERING: a number, with which nothing else is published.
        let less = |free: usize| free.checked_sub(1);
        self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}

/// In how many parts the set of states is, each with a lock.
const SHARDS: usize = 64;

/// What the engines of one search share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// States that somebody is done with, and the numbers of their futures in `futures`.
    shards: Box<[Mutex<Visited>]>,
    closed: AtomicU64,
    futures: Mutex<Futures>,
    /// The numbers of locations, the same for all engines.
    pub(crate) numbers: Arc<Mutex<Numbers>>,
    /// Nothing is left to do, for whatever reason.
    over: AtomicBool,
    /// Somebody is done with the first state.
    done: AtomicBool,
    /// What was found depends on the order: one engine has to make the search.
    alone: AtomicBool,
    parts: Mutex<Vec<Part>>,
}

/// What an engine found that helped.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) stats: Stats,
    pub(crate) seen: Seen,
    pub(crate) locks: LockOrders,
    pub(crate) finals: Option<BTreeSet<u128>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Shares what `own` has of closed states; none if there is no room.
    pub(crate) fn new(
        own: &Visited,
        account: &Account,
        futures: Futures,
        numbers: Numbers,
    ) -> Option<Shared> {
        let mut counts = [0; SHARDS];
        own.closed().for_each(|(place, _)| counts[shard_of(place)] += 1);
        let shards = counts.iter().map(|count| Filling::new(account.another(), *count));
        let mut shards = shards.collect::<Option<Vec<Filling>>>()?;
        if !own.closed().all(|(place, number)| shards[shard_of(place)].add(place, number)) {
            return None;
        }
        Some(Shared {
            shards: shards.into_iter().map(|shard| Mutex::new(shard.done())).collect(),
            closed: AtomicU64::new(counts.iter().sum::<usize>() as u64),
            futures: Mutex::new(futures),
            numbers: Arc::new(Mutex::new(numbers)),
            over: AtomicBool::new(false),
            done: AtomicBool::new(false),
            alone: AtomicBool::new(false),
            parts: Mutex::default(),
        })
    }

    fn shard(&self, place: Place) -> MutexGuard<'_, Visited> {
        lock(&self.shards[shard_of(place)])
    }

    /// The number of the future of a closed state.
    #[inline]
    fn get(&self, place: Place) -> Option<u32> {
        self.shard(place).get(place)
    }

    /// A state is closed; false if there is no room.
    fn close(&self, place: Place, number: u32) -> bool {
        let mut shard = self.shard(place);
        match shard.insert(place) {
            Insert::Full => return false,
            Insert::Known(..) => {}
            // ORDERING: a number, with which nothing else is published.
            Insert::New => _ = self.closed.fetch_add(1, Ordering::Relaxed),
        }
        shard.set_number(place, number);
        shard.clear_flag(place);
        true
    }

    /// How many states are closed.
    pub(crate) fn closed(&self) -> u64 {
        // ORDERING: a number, with which nothing else is published.
        self.closed.load(Ordering::Relaxed)
    }

    /// Somebody is done with the first state, or all of them are to end.
    pub(crate) fn end(&self, done: bool) {
        // ORDERING: `over` says to end; `done` is read after it was, or after the threads ended.
        if done {
            self.done.store(true, Ordering::Release);
        }
        self.over.store(true, Ordering::Release);
    }

    /// One engine has to make the search.
    pub(crate) fn give_up(&self) {
        // ORDERING: as in `end`.
        self.alone.store(true, Ordering::Release);
        self.end(false);
    }

    /// True if nothing is left to do.
    pub(crate) fn is_over(&self) -> bool {
        // ORDERING: pairs with the stores of `end`.
        self.over.load(Ordering::Acquire)
    }

    /// True if everything was explored.
    pub(crate) fn is_done(&self) -> bool {
        // ORDERING: as `is_over`.
        self.done.load(Ordering::Acquire)
    }

    /// True if one engine has to make the search.
    pub(crate) fn has_given_up(&self) -> bool {
        // ORDERING: as `is_over`.
        self.alone.load(Ordering::Acquire)
    }

    /// An engine that helped has ended.
    pub(crate) fn add(&self, part: Part) {
        lock(&self.parts).push(part);
    }

    /// What the engines found that helped.
    pub(crate) fn take_parts(&self) -> Vec<Part> {
        core::mem::take(&mut *lock(&self.parts))
    }
}

/// The part of the set that has a state: by bits that say nothing of its place there.
fn shard_of(place: Place) -> usize {
    (place.key() >> 40) as usize % SHARDS
}

/// A key is a hash.
fn hash(place: Place) -> u64 {
    (place.key() >> 64) as u64
}

/// What one engine has of a shared search.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) shared: Arc<Shared>,
    /// The states that it has open, and the numbers of their futures, once they are known.
    open: HashTable<(Place, u32)>,
    exchange: Exchange,
    /// There was no room for a state.
    pub(crate) full: bool,
}

impl Member {
    /// That of the engine whose futures the shared ones were copied from, or of a new one.
    pub(crate) fn new(
        shared: Arc<Shared>,
        open: impl Iterator<Item = (Place, u32)>,
        copied: Option<&Futures>,
    ) -> Member {
        let exchange = copied.map_or_else(Exchange::default, Exchange::same);
        let mut member = Member { shared, open: HashTable::new(), exchange, full: false };
        open.for_each(|(place, number)| member.add(place, number));
        member
    }

    fn add(&mut self, place: Place, number: u32) {
        self.open.insert_unique(hash(place), (place, number), |(place, _)| hash(*place));
    }

    /// As [`Visited::insert`]; the number of a closed state is a shared one.
    #[inline]
    pub(crate) fn insert(&mut self, place: Place) -> Insert {
        if let Some((_, number)) = self.open.find(hash(place), |(open, _)| *open == place) {
            return Insert::Known(true, *number);
        }
        if let Some(number) = self.shared.get(place) {
            return Insert::Known(false, number);
        }
        self.add(place, 0);
        Insert::New
    }

    /// As [`Visited::set_number`].
    pub(crate) fn set_number(&mut self, place: Place, number: u32) {
        if let Some(open) = self.open.find_mut(hash(place), |(open, _)| *open == place) {
            open.1 = number;
        }
    }

    /// As [`Visited::clear_flag`]: the state is closed.
    pub(crate) fn clear_flag(&mut self, place: Place) {
        if let Ok(open) = self.open.find_entry(hash(place), |(open, _)| *open == place) {
            let ((place, number), _) = open.remove();
            self.full |= !self.shared.close(place, number);
        }
    }

    /// The number of a shared future among those of this engine.
    #[inline]
    pub(crate) fn import(&mut self, futures: &mut Futures, number: u32) -> Future {
        self.exchange.imported(number).unwrap_or_else(|| {
            let shared = lock(&self.shared.futures);
            self.exchange.import(futures, &shared, Future(number))
        })
    }

    /// The shared number of a future of this engine.
    #[inline]
    pub(crate) fn export(&mut self, futures: &Futures, future: Future) -> u32 {
        let known = self.exchange.exported(future);
        let number = known.unwrap_or_else(|| {
            let mut shared = lock(&self.shared.futures);
            self.exchange.export(futures, &mut shared, future)
        });
        number.0
    }

    /// How much memory it takes, but for what is shared.
    pub(crate) fn bytes(&self) -> usize {
        self.open.capacity() * 40 + self.exchange.bytes()
    }
}
