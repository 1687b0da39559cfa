//! Read-write locks: one word, with the writer, the readers, and the writers that wait; and the
//! data that readers see and a writer changes.
//!
//! A reader waits for the writer and for those that wait to be one, as with `rw_semaphore`,
//! `percpu_rw_semaphore` and the queued `rwlock_t`: so two readers can block one another through a
//! writer that came between.

use core::fmt;
use core::ops::{Deref, DerefMut};
use core::panic::Location;

use kvmmu_model::{Guarded, LockClass, LockId, Mode, Object, RwLock, Tag};

use super::arena::{Arena, Claim, Share, Slot};
use super::hash::blob_part;
use super::lock::blob;
use super::pending::{Kind, Pending};
use super::state::{LockInfo, Machine};
use super::word::SimWord;
use crate::record::event::What;

/// A writer waits, by thread.
const WAITING: u32 = 32;
/// A thread writes.
const WRITER: u64 = 1 << 31;
/// The readers, by thread.
const READERS: u64 = WRITER - 1;

/// How the thread wants the lock that waits like this for it.
pub(crate) fn mode_of(pending: &Pending) -> Mode {
    // Only readers wait for writers that wait.
    match (pending.kind, pending.arg >> WAITING) {
        (Kind::WaitClear, 1..) => Mode::Read,
        _ => Mode::Exclusive,
    }
}

/// A read-write lock of the simulated machine.
pub struct SimRwLock<T> {
    machine: &'static Machine,
    word: SimWord,
    slot: Slot<T>,
    /// Who has a part of the data or all of it: no part of the state, as it follows from the word.
    owner_cell: u16,
    /// The location and the hash of the data; none if there is nothing to see.
    data: Option<(u16, u16)>,
    read_bit: u8,
    write_bit: u8,
    contended: bool,
}

impl<T> Clone for SimRwLock<T> {
    fn clone(&self) -> SimRwLock<T> {
        *self
    }
}
impl<T> Copy for SimRwLock<T> {}

impl<T: Guarded> SimRwLock<T> {
    pub(crate) fn new(machine: &'static Machine, id: LockId, init: T) -> SimRwLock<T> {
        // What mmu_lock is, the architecture and the version say.
        let has_readers = id.class.info().kind.has_readers() || id.class == LockClass::MmuLock;
        assert!(has_readers, "{:?} is no read-write lock", id.class);
        let tag = Tag::lock(id);
        let word = SimWord::new(machine, tag, 0);
        let read_bit = machine.new_bit(id, Mode::Read);
        let write_bit = machine.new_bit(id, Mode::Exclusive);
        let owner_cell = machine.arena.take(1);
        let (slot, data) = if size_of::<T>() == 0 {
            (machine.arena.blob(init), None)
        } else {
            let (hash_cell, slot, loc) = blob(machine, tag, init);
            let hash = Box::new(move |arena: &Arena| arena.with(slot, |data| blob_part(loc, data)));
            machine.guards(write_bit, LockInfo { loc, hash_cell, hash, data: slot.extent() });
            (slot, Some((loc, hash_cell)))
        };
        let contended = id.contended;
        SimRwLock { machine, word, slot, owner_cell, data, read_bit, write_bit, contended }
    }

    /// Waits until none of `bits` is set, and replaces the word.
    fn enter(&self, bits: u64, site: &'static Location<'static>, f: impl Fn(u64) -> u64) {
        self.word.pause(Kind::WaitClear, bits, site);
        let old = self.word.value(site);
        self.word.note(1);
        self.word.poke(f(old));
    }

    /// A copy of the data, owned or not: no step, and the thread is not taken to have seen it.
    pub fn peek(&self) -> T {
        if let Some((loc, hash_cell)) = self.data {
            self.machine.did_read(loc, self.machine.arena.get(hash_cell));
        }
        self.machine.arena.read(self.slot)
    }

    /// Nobody has it any more: the observer looks at what it guards.
    fn observed(&self) {
        let is_mmu_lock = self.word.tag().object == Object::Lock(LockClass::MmuLock);
        let free = self.word.peek() & (WRITER | READERS) == 0;
        if is_mmu_lock && free && !std::thread::panicking() {
            self.machine.observe(|observer| observer.mmu_unlocked(&self.peek()));
        }
    }

    /// The running thread has the lock and sees the data.
    fn took(&self, bit: u8, mode: Mode, site: &'static Location<'static>) {
        let m = self.machine;
        if let Some((loc, hash_cell)) = self.data {
            m.did_see(loc, hash_cell);
        }
        m.hold(1 << bit);
        if m.tracer.on() {
            m.tracer.record(m.running.get(), site, What::Acquire { object: self.word.tag(), mode });
        }
    }
}

impl<T> SimRwLock<T> {
    fn me(&self) -> u64 {
        1 << self.machine.running.get()
    }

    fn released(&self, bit: u8, mine: u64, site: &'static Location<'static>) {
        let m = self.machine;
        if !m.holds_any(1 << bit) {
            m.foreign_release(self.word.tag(), site);
        }
        m.unhold(1 << bit);
        if self.contended {
            self.word.poke(self.word.peek() & !mine);
        }
        if m.tracer.on() {
            m.tracer.record(m.running.get(), site, What::Release { object: self.word.tag() });
        }
    }
}

impl<T: Guarded> RwLock<T> for SimRwLock<T> {
    type Read<'a> = ReadGuard<'a, T>;
    type Write<'a> = WriteGuard<'a, T>;

    #[track_caller]
    fn read(&self) -> ReadGuard<'_, T> {
        let site = Location::caller();
        self.machine.ask(self.read_bit, site);
        if self.contended {
            let me = self.me();
            self.enter(WRITER | u64::MAX << WAITING, site, |old| old | me);
        }
        let share = self.machine.arena.share(self.slot, self.owner_cell);
        self.took(self.read_bit, Mode::Read, site);
        ReadGuard { lock: self, share, site }
    }

    #[track_caller]
    fn write(&self) -> WriteGuard<'_, T> {
        let site = Location::caller();
        assert!(self.contended, "a writer of a lock for which none was announced");
        self.machine.ask(self.write_bit, site);
        let waiting = self.me() << WAITING;
        let seen = self.machine.thread().seen.get();
        self.word.pause(Kind::Rmw, 0, site);
        let old = self.word.value(site);
        let free = old & (WRITER | READERS) == 0;
        self.word.note(u64::from(free));
        if free {
            self.word.poke(old | WRITER);
        } else {
            self.word.poke(old | waiting);
            self.enter(WRITER | READERS, site, |old| old & !waiting | WRITER);
        }
        // Whether it had to wait makes no difference from now on.
        self.machine.thread().seen.set(seen);
        self.word.note(1);
        let me = self.machine.running.get() as u64 + 1;
        let claim = self.machine.arena.claim(self.slot, self.owner_cell, me);
        self.took(self.write_bit, Mode::Exclusive, site);
        WriteGuard { lock: self, claim, site }
    }
}

/// Shared ownership of a [`SimRwLock`].
pub struct ReadGuard<'a, T: Guarded> {
    lock: &'a SimRwLock<T>,
    share: Share<'static, T>,
    site: &'static Location<'static>,
}

impl<T: Guarded> Deref for ReadGuard<'_, T> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        &self.share
    }
}

impl<T: Guarded> Drop for ReadGuard<'_, T> {
    fn drop(&mut self) {
        self.share.release();
        self.lock.released(self.lock.read_bit, self.lock.me(), self.site);
        self.lock.observed();
    }
}

/// Ownership of a [`SimRwLock`] alone.
pub struct WriteGuard<'a, T: Guarded> {
    lock: &'a SimRwLock<T>,
    claim: Claim<'static, T>,
    site: &'static Location<'static>,
}

impl<T: Guarded> Deref for WriteGuard<'_, T> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        &self.claim
    }
}

impl<T: Guarded> DerefMut for WriteGuard<'_, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // Until the release: the reference that is made here may live across steps.
        self.lock.machine.will_change(self.lock.write_bit);
        &mut self.claim
    }
}

impl<T: Guarded> Drop for WriteGuard<'_, T> {
    fn drop(&mut self) {
        self.lock.machine.did_change(self.lock.write_bit);
        self.claim.release();
        self.lock.released(self.lock.write_bit, WRITER, self.site);
        self.lock.observed();
    }
}

impl<T> fmt::Debug for SimRwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.word, f)
    }
}

impl<T: Guarded> fmt::Debug for ReadGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl<T: Guarded> fmt::Debug for WriteGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}
