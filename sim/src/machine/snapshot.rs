//! Snapshots of an engine: a stack of them, as a depth-first search needs.
//!
//! A step changes one thread, so a snapshot shares the images of the other threads with the
//! snapshot below it, and restoring one copies back only the threads that have moved since.

use super::arena::{Arena, ArenaImages};
use super::attempt::Entry;
use super::coroutine::{Coroutines, StackImages};
use super::memory::bytes;
use super::thread::{Thread, ThreadImage};

/// A stack of snapshots of one engine.
#[derive(Default)]
pub struct Snapshots {
    arena: ArenaImages,
    stacks: StackImages,
    threads: Vec<Record>,
    entries: Vec<Entry>,
    /// For each snapshot and thread, the thread's record.
    index: Vec<u32>,
    snapshots: Vec<Snapshot>,
}

/// A thread as some snapshot saw it. Its stack is the stack image with the same number.
#[derive(Clone, Copy)]
struct Record {
    version: u64,
    image: ThreadImage,
    entries: usize,
}

#[derive(Clone, Copy)]
struct Snapshot {
    key: u128,
    /// How many records and log entries there were before.
    records: usize,
    entries: usize,
}

impl Snapshots {
    /// No snapshots.
    pub fn new() -> Snapshots {
        Snapshots::default()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.snapshots.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.snapshots.is_empty()
    }

    /// How much memory they take.
    pub fn bytes(&self) -> usize {
        let lists = bytes(&self.threads) + bytes(&self.entries) + bytes(&self.index);
        self.arena.bytes() + self.stacks.bytes() + lists + bytes(&self.snapshots)
    }

    /// Adds a snapshot. Threads whose version is that of the snapshot below are shared with it.
    pub(crate) fn push(
        &mut self,
        key: u128,
        arena: &Arena,
        threads: &[Thread],
        versions: &[u64],
        coroutines: &Coroutines,
    ) {
        debug_assert_eq!(self.stacks.len(), self.threads.len());
        let below = self.index.len().checked_sub(versions.len());
        self.snapshots.push(Snapshot {
            key,
            records: self.threads.len(),
            entries: self.entries.len(),
        });
        arena.save(&mut self.arena);
        for (t, version) in versions.iter().enumerate() {
            let shared = below.map(|below| self.index[below + t]);
            if let Some(record) = shared.filter(|r| self.threads[*r as usize].version == *version) {
                self.index.push(record);
                continue;
            }
            let entries = self.entries.len();
            let image = threads[t].save(&mut self.entries);
            coroutines.save(t, &mut self.stacks);
            self.index.push(self.threads.len() as u32);
            self.threads.push(Record { version: *version, image, entries });
        }
    }

    /// Brings back snapshot `at` and returns its key.
    pub(crate) fn load(
        &self,
        at: usize,
        arena: &Arena,
        threads: &[Thread],
        versions: &mut [u64],
        coroutines: &mut Coroutines,
    ) -> u128 {
        arena.load(&self.arena, at);
        let index = &self.index[at * versions.len()..(at + 1) * versions.len()];
        for (t, version) in versions.iter_mut().enumerate() {
            let record = &self.threads[index[t] as usize];
            if *version != record.version {
                threads[t].load(&record.image, &self.entries[record.entries..]);
                coroutines.load(&self.stacks, index[t] as usize);
                *version = record.version;
            }
        }
        self.snapshots[at].key
    }

    /// Keeps the first `n` snapshots.
    pub(crate) fn truncate(&mut self, n: usize, arena: &Arena, threads: usize) {
        if let Some(snapshot) = self.snapshots.get(n) {
            self.threads.truncate(snapshot.records);
            self.stacks.truncate(snapshot.records);
            self.entries.truncate(snapshot.entries);
            self.index.truncate(n * threads);
            self.arena.truncate(n, arena);
            self.snapshots.truncate(n);
        }
    }
}

impl core::fmt::Debug for Snapshots {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Snapshots").field("len", &self.len()).finish_non_exhaustive()
    }
}
