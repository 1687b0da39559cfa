//! Read-write locks: one word, with the writer, the readers, and the writers that wait.
//!
//! A reader waits for the writer and for those that wait to be one, as with `rw_semaphore` and
//! `percpu_rw_semaphore`: so two readers can block one another through a writer that came between.

use core::fmt;
use core::panic::Location;

use kvmmu_model::{LockId, Mode, RwLock, Tag};

use super::pending::{Kind, Pending};
use super::state::Machine;
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
#[derive(Clone, Copy)]
pub struct SimRwLock {
    machine: &'static Machine,
    word: SimWord,
    read_bit: u8,
    write_bit: u8,
    contended: bool,
}

impl SimRwLock {
    pub(crate) fn new(machine: &'static Machine, id: LockId) -> SimRwLock {
        assert!(id.class.info().kind.has_readers(), "{:?} is no read-write lock", id.class);
        SimRwLock {
            machine,
            word: SimWord::new(machine, Tag::lock(id), 0),
            read_bit: machine.new_bit(id, Mode::Read),
            write_bit: machine.new_bit(id, Mode::Exclusive),
            contended: id.contended,
        }
    }

    fn me(&self) -> u64 {
        1 << self.machine.running.get()
    }

    /// Waits until none of `bits` is set, and replaces the word.
    fn enter(&self, bits: u64, site: &'static Location<'static>, f: impl Fn(u64) -> u64) {
        self.word.pause(Kind::WaitClear, bits, site);
        let old = self.word.value(site);
        self.word.note(1);
        self.word.poke(f(old));
    }

    fn took(&self, bit: u8, mode: Mode, site: &'static Location<'static>) {
        let m = self.machine;
        m.hold(1 << bit);
        if m.tracer.on() {
            m.tracer.record(m.running.get(), site, What::Acquire { object: self.word.tag(), mode });
        }
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

impl RwLock for SimRwLock {
    type Read<'a> = ReadGuard<'a>;
    type Write<'a> = WriteGuard<'a>;

    #[track_caller]
    fn read(&self) -> ReadGuard<'_> {
        let site = Location::caller();
        self.machine.ask(self.read_bit, site);
        if self.contended {
            let me = self.me();
            self.enter(WRITER | u64::MAX << WAITING, site, |old| old | me);
        }
        self.took(self.read_bit, Mode::Read, site);
        ReadGuard { lock: self, site }
    }

    #[track_caller]
    fn write(&self) -> WriteGuard<'_> {
        let site = Location::caller();
        assert!(self.contended, "a writer of a lock for which none was announced");
        self.machine.ask(self.write_bit, site);
        let waiting = self.me() << WAITING;
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
        self.took(self.write_bit, Mode::Exclusive, site);
        WriteGuard { lock: self, site }
    }
}

/// Shared ownership of a [`SimRwLock`].
#[derive(Debug)]
pub struct ReadGuard<'a> {
    lock: &'a SimRwLock,
    site: &'static Location<'static>,
}

impl Drop for ReadGuard<'_> {
    fn drop(&mut self) {
        self.lock.released(self.lock.read_bit, self.lock.me(), self.site);
    }
}

/// Ownership of a [`SimRwLock`] alone.
#[derive(Debug)]
pub struct WriteGuard<'a> {
    lock: &'a SimRwLock,
    site: &'static Location<'static>,
}

impl Drop for WriteGuard<'_> {
    fn drop(&mut self) {
        self.lock.released(self.lock.write_bit, WRITER, self.site);
    }
}

impl fmt::Debug for SimRwLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.word, f)
    }
}
