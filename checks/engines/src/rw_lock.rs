//! Read-write locks and SRCU over a machine's words: the semantics of `kvmmu-sim`, by compare and
//! exchange.
//!
//! A reader of a read-write lock waits for the writer and for those that wait to be one. A grace
//! period of SRCU waits for just the read sections that had begun when it did.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex};

use kvmmu_model::{Guarded, LockId, Mode, Ordering, RwLock, Srcu, Tag, Until, Word};

use crate::machine::Run;
use crate::primitives::Primitives;
use crate::search::hold;
use crate::word::EngineWord;

/// A writer waits, by thread.
const WAITING: u32 = 32;
/// A thread writes.
const WRITER: u64 = 1 << 31;
/// The readers, by thread.
const READERS: u64 = WRITER - 1;

/// A read-write lock and its data.
pub struct EngineRwLock<X: Primitives, T: Guarded> {
    run: Arc<Run<X>>,
    id: LockId,
    word: EngineWord<X>,
    read_bit: u8,
    write_bit: u8,
    /// The data as it was released last. The word orders what is done with it, and the tool does
    /// not see it: owners have copies.
    data: Mutex<T>,
}

impl<X: Primitives, T: Guarded> EngineRwLock<X, T> {
    pub(crate) fn new(run: &Arc<Run<X>>, id: LockId, word: EngineWord<X>, init: T) -> Self {
        assert!(id.class.info().kind.has_readers(), "{:?} is no read-write lock", id.class);
        let (read_bit, write_bit) =
            (run.locks.add(id, Mode::Read), run.locks.add(id, Mode::Exclusive));
        let (run, data) = (Arc::clone(run), Mutex::new(init));
        EngineRwLock { run, id, word, read_bit, write_bit, data }
    }

    fn me(&self) -> u64 {
        1 << self.run.thread()
    }

    /// Waits until none of `bits` is set, and replaces the word.
    #[track_caller]
    fn enter(&self, bits: u64, new: impl Fn(u64) -> u64) {
        // The first guess is what was written last, so that this is one step if nobody is in the
        // way.
        let mut old = self.word.peek();
        loop {
            if old & bits != 0 {
                old = self.word.wait_until(Until::Clear(bits));
            }
            // ORDERING: acq-rel and acquire: as a lock.
            match self.word.compare_exchange(old, new(old), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return,
                Err(now) => old = now,
            }
        }
    }

    fn released(&self, bit: u8, mine: impl Fn() -> u64) {
        if std::thread::panicking() {
            return;
        }
        self.run.release(bit, Tag::lock(self.id));
        if self.id.contended {
            // ORDERING: release (and acquire, as every step of a lock here): as a lock.
            self.word.fetch_and(!mine(), Ordering::AcqRel);
        }
    }
}

impl<X: Primitives, T: Guarded> RwLock<T> for EngineRwLock<X, T> {
    type Read<'a> = ReadGuard<'a, X, T>;
    type Write<'a> = WriteGuard<'a, X, T>;

    #[track_caller]
    fn read(&self) -> ReadGuard<'_, X, T> {
        self.run.ask(self.read_bit);
        if self.id.contended {
            let me = self.me();
            self.enter(WRITER | u64::MAX << WAITING, |old| old | me);
        }
        self.run.hold(1 << self.read_bit);
        ReadGuard { data: *hold(&self.data), lock: self }
    }

    #[track_caller]
    fn write(&self) -> WriteGuard<'_, X, T> {
        self.run.ask(self.write_bit);
        if self.id.contended {
            let waiting = self.me() << WAITING;
            let mut old = self.word.peek();
            loop {
                let free = old & (WRITER | READERS) == 0;
                let new = old | if free { WRITER } else { waiting };
                // ORDERING: acq-rel and acquire: as a lock.
                match self.word.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire) {
                    Ok(_) if free => break,
                    Ok(_) => {
                        self.enter(WRITER | READERS, |old| old & !waiting | WRITER);
                        break;
                    }
                    Err(now) => old = now,
                }
            }
        }
        self.run.hold(1 << self.write_bit);
        WriteGuard { data: *hold(&self.data), lock: self }
    }
}

impl<X: Primitives, T: Guarded> fmt::Debug for EngineRwLock<X, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.word, f)
    }
}

/// Shared ownership of an [`EngineRwLock`].
#[derive(Debug)]
pub struct ReadGuard<'a, X: Primitives, T: Guarded> {
    data: T,
    lock: &'a EngineRwLock<X, T>,
}

impl<X: Primitives, T: Guarded> Deref for ReadGuard<'_, X, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.data
    }
}

impl<X: Primitives, T: Guarded> Drop for ReadGuard<'_, X, T> {
    fn drop(&mut self) {
        self.lock.released(self.lock.read_bit, || self.lock.me());
    }
}

/// Ownership of an [`EngineRwLock`] alone.
#[derive(Debug)]
pub struct WriteGuard<'a, X: Primitives, T: Guarded> {
    data: T,
    lock: &'a EngineRwLock<X, T>,
}

impl<X: Primitives, T: Guarded> Deref for WriteGuard<'_, X, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.data
    }
}

impl<X: Primitives, T: Guarded> DerefMut for WriteGuard<'_, X, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.data
    }
}

impl<X: Primitives, T: Guarded> Drop for WriteGuard<'_, X, T> {
    fn drop(&mut self) {
        *hold(&self.lock.data) = self.data;
        self.lock.released(self.lock.write_bit, || WRITER);
    }
}

/// How many threads an SRCU has place for. The stop phase, which comes after them, reads but has
/// nobody to wait for.
const THREADS: usize = 7;
/// The threads and the stop phase.
pub(crate) const COLUMNS: usize = THREADS + 1;
/// The readers: the lowest row of as many bits. Above it a row for each thread: the readers that it
/// waits for.
const ROW: u64 = 0xff;
/// The first column of all rows.
const COLUMN: u64 = 0x0101_0101_0101_0101;

/// An SRCU domain.
pub struct EngineSrcu<X: Primitives> {
    run: Arc<Run<X>>,
    id: LockId,
    word: EngineWord<X>,
    bit: u8,
}

impl<X: Primitives> EngineSrcu<X> {
    pub(crate) fn new(run: &Arc<Run<X>>, id: LockId, word: EngineWord<X>) -> Self {
        assert!(id.class.info().kind.has_sections(), "{:?} is no SRCU", id.class);
        let bit = run.locks.add(id, Mode::Read);
        EngineSrcu { run: Arc::clone(run), id, word, bit }
    }

    /// The column of the running thread.
    pub(crate) fn me(&self) -> usize {
        let (thread, stop) = (self.run.thread(), self.run.threads());
        assert!(stop <= THREADS, "SRCU is for {THREADS} threads");
        if thread == stop { THREADS } else { thread }
    }

    /// Waits until every read section has ended that has begun by now.
    #[track_caller]
    pub(crate) fn grace_period(&self) {
        let row = match self.me() {
            // Alone: nobody comes who reads anew.
            THREADS => 0,
            thread => 8 * (thread + 1),
        };
        let mut old = self.word.peek();
        // ORDERING: acq-rel and acquire: what was published before is seen by readers that begin
        // after.
        while let Err(now) = self.word.compare_exchange(
            old,
            old | (old & ROW) << row,
            Ordering::AcqRel,
            Ordering::Acquire,
        ) {
            old = now;
        }
        if old & ROW != 0 {
            self.word.wait_until(Until::Clear(ROW << row));
        }
    }
}

impl<X: Primitives> Srcu for EngineSrcu<X> {
    type Section<'a> = Section<'a, X>;

    #[track_caller]
    fn read_lock(&self) -> Section<'_, X> {
        let nested = self.run.holds_any(1 << self.bit);
        self.run.ask(self.bit);
        if self.id.contended && !nested {
            // ORDERING: acq-rel: srcu_read_lock() has a full barrier.
            self.word.fetch_or(1 << self.me(), Ordering::AcqRel);
        }
        self.run.hold(1 << self.bit);
        Section { srcu: self, nested }
    }

    #[track_caller]
    fn synchronize(&self) {
        self.run.ask_to_synchronize(self.bit);
        self.grace_period();
    }
}

impl<X: Primitives> fmt::Debug for EngineSrcu<X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.word, f)
    }
}

/// A read section of an [`EngineSrcu`].
#[derive(Debug)]
pub struct Section<'a, X: Primitives> {
    srcu: &'a EngineSrcu<X>,
    /// It lies in another one.
    nested: bool,
}

impl<X: Primitives> Drop for Section<'_, X> {
    fn drop(&mut self) {
        let EngineSrcu { run, id, word, bit } = self.srcu;
        if self.nested || std::thread::panicking() {
            return;
        }
        run.release(*bit, Tag::lock(*id));
        if id.contended {
            // ORDERING: release (and acquire, as every step here): who has waited for the section
            // sees it over.
            word.fetch_and(!(COLUMN << self.srcu.me()), Ordering::AcqRel);
        }
    }
}
