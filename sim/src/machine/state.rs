//! The simulated machine: shared state, threads, and what every access to them does.
//!
//! One OS thread, one machine, one running coroutine: everything is a `Cell`. A machine is never
//! freed, so that handles to it are plain references; engines reuse those that other engines have
//! left.

use core::cell::{Cell, RefCell};
use core::panic::Location;
use std::sync::{Arc, Mutex};

use kvmmu_model::{GuardSet, LockClass, LockId, Mode as Held, Object, Tag};

use super::arena::{Arena, Extent};
use super::coroutine::Switch;
use super::footprint::{Footprint, LOCS, Touched};
use super::hash::word_part;
use super::lockdep::Locks;
use super::numbers::Numbers;
use super::pending::{Kind, Pending};
use super::thread::Thread;
use super::tracer::Tracer;
use super::unread;
use super::{MemoryModel, THREADS_MAX};
use crate::record::goal::Violation;
use crate::record::rule::Rule;
use crate::record::story::Automaton;

/// How many locations there may be.
pub(super) const LOCS_MAX: usize = 1024;
/// The type of a word's value.
const WORD: &str = "u64";
/// Not locations, but hashed like them: the owners of locks, the poison bits, and the bits of words
/// that nobody will read.
const OWNERS: u16 = 0xF000;
const POISON: u16 = 0xF800;
pub(super) const UNREAD: u16 = 0xFC00;

/// Whether accesses are scheduled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// No: the program is being built, or an explorer looks.
    Build,
    /// Yes.
    Scheduled,
    /// No: the stop phase runs alone.
    Stop,
}

/// A shared word or blob.
#[derive(Clone, Copy, Debug)]
struct Place {
    tag: Tag,
    /// The cell that holds its value, or its value's hash.
    cell: u16,
    /// The type of the value, for those who look at parts of keys.
    of: &'static str,
}

/// A lock.
pub(crate) struct LockInfo {
    pub(crate) loc: u16,
    pub(crate) hash_cell: u16,
    pub(crate) hash: Box<dyn Fn(&Arena) -> u128>,
    pub(crate) data: Extent,
}

/// The machine.
pub(crate) struct Machine {
    pub(crate) arena: Arena,
    /// Xor of what every location adds: the key of the shared state.
    pub(crate) key: Cell<u128>,
    pub(crate) threads: [Thread; THREADS_MAX + 1],
    /// The running thread; [`THREADS_MAX`] in the stop phase and outside.
    pub(crate) running: Cell<u8>,
    pub(crate) mode: Cell<Mode>,
    pub(crate) choice: Cell<u8>,
    pub(crate) switch: Switch,
    pub(super) reads: Touched,
    pub(super) writes: Touched,
    adds: Touched,
    /// An addition commutes with others even if its thread sees what was there.
    pub(crate) adds_commute: Cell<bool>,
    acquired: Cell<u64>,
    released: Cell<u64>,
    locs: RefCell<Vec<Place>>,
    /// The number of each location in footprints, plus 1; 0: it was not touched yet.
    numbers: Box<[Cell<u16>; LOCS_MAX]>,
    touched: Cell<u16>,
    /// Where the numbers come from, if several engines have the same.
    pub(crate) shared_numbers: RefCell<Option<Arc<Mutex<Numbers>>>>,
    /// Locks with data, by number; others have none.
    data: RefCell<Vec<Option<LockInfo>>>,
    pub(crate) locks: Locks,
    /// First of the cells with one bit for each freed location.
    poison: Cell<u16>,
    /// First of the cells with one bit for each word that nobody will read, and of those with one
    /// for each that nobody will after the next swap.
    pub(super) unread: Cell<u16>,
    /// Objects whose words are never forgotten.
    pub(super) kept: RefCell<Vec<Object>>,
    /// First of the interrupt words: location and cell.
    pub(crate) irqs: Cell<(u16, u16)>,
    pub(crate) automata: RefCell<Vec<Automaton>>,
    /// Marks that some automaton looks at.
    pub(crate) watched: Cell<u128>,
    pub(crate) seen_marks: Cell<u128>,
    pub(crate) seen_witnesses: Cell<u64>,
    /// Removed guards that some step asked for.
    pub(crate) seen_asked: Cell<GuardSet>,
    pub(crate) without: Cell<GuardSet>,
    /// A checkpoint that has no effect: file and line.
    pub(crate) ignored_checkpoint: Cell<Option<(&'static str, u32)>>,
    pub(crate) violation: RefCell<Option<Violation>>,
    pub(crate) tracer: Tracer,
    pub(crate) model: Cell<MemoryModel>,
}

thread_local!(static LEFT: RefCell<Vec<&'static Machine>> = const { RefCell::new(Vec::new()) });

impl Machine {
    /// An empty machine.
    pub(crate) fn take() -> &'static Machine {
        let machine = LEFT.with_borrow_mut(Vec::pop).unwrap_or_else(|| Box::leak(Machine::new()));
        machine.clear();
        machine
    }

    /// Leaves the machine to the next engine of this OS thread.
    pub(crate) fn leave(&'static self) {
        self.clear();
        LEFT.with_borrow_mut(|left| left.push(self));
    }

    fn new() -> Box<Machine> {
        Box::new(Machine {
            arena: Arena::new(),
            key: Cell::new(0),
            threads: core::array::from_fn(|_| Thread::new()),
            running: Cell::new(THREADS_MAX as u8),
            mode: Cell::new(Mode::Build),
            choice: Cell::new(0),
            switch: Switch::new(),
            reads: Touched::default(),
            writes: Touched::default(),
            adds: Touched::default(),
            adds_commute: Cell::new(false),
            acquired: Cell::new(0),
            released: Cell::new(0),
            locs: RefCell::default(),
            numbers: Box::new([const { Cell::new(0) }; LOCS_MAX]),
            touched: Cell::new(0),
            shared_numbers: RefCell::new(None),
            data: RefCell::default(),
            locks: Locks::new(),
            poison: Cell::new(0),
            unread: Cell::new(0),
            kept: RefCell::default(),
            irqs: Cell::new((0, 0)),
            automata: RefCell::default(),
            watched: Cell::new(0),
            seen_marks: Cell::new(0),
            seen_witnesses: Cell::new(0),
            seen_asked: Cell::new(GuardSet::EMPTY),
            without: Cell::new(GuardSet::EMPTY),
            ignored_checkpoint: Cell::new(None),
            violation: RefCell::new(None),
            tracer: Tracer::default(),
            model: Cell::new(MemoryModel::Sc),
        })
    }

    fn clear(&self) {
        self.arena.clear();
        self.key.set(0);
        self.threads.iter().for_each(Thread::clear);
        self.running.set(THREADS_MAX as u8);
        self.mode.set(Mode::Build);
        self.begin_step(THREADS_MAX as u8, 0);
        self.adds_commute.set(false);
        self.locs.borrow_mut().clear();
        self.numbers.iter().for_each(|n| n.set(0));
        self.touched.set(0);
        *self.shared_numbers.borrow_mut() = None;
        self.data.borrow_mut().clear();
        self.locks.clear();
        self.automata.borrow_mut().clear();
        self.watched.set(0);
        self.seen_marks.set(0);
        self.seen_witnesses.set(0);
        self.seen_asked.set(GuardSet::EMPTY);
        *self.violation.borrow_mut() = None;
        self.tracer.restart(false);
        self.poison.set(self.arena.take(LOCS_MAX / 64));
        self.unread.set(self.arena.take(2 * usize::from(unread::CELLS)));
        self.kept.borrow_mut().clear();
    }

    // Locations.

    /// Makes a location whose value, a `T`, is at `cell`.
    pub(crate) fn location<T>(&self, tag: Tag, cell: u16) -> u16 {
        assert!(
            self.mode.get() == Mode::Build,
            "shared objects are made by `Program::build` alone"
        );
        let mut locs = self.locs.borrow_mut();
        assert!(locs.len() < LOCS_MAX, "more than {LOCS_MAX} shared objects");
        locs.push(Place { tag, cell, of: core::any::type_name::<T>() });
        (locs.len() - 1) as u16
    }

    /// Makes a word: its location and its cell.
    pub(crate) fn new_word(&self, tag: Tag, init: u64) -> (u16, u16) {
        let cell = self.arena.take(1);
        self.arena.set(cell, init);
        let loc = self.location::<u64>(tag, cell);
        self.mix(word_part(loc, init));
        (loc, cell)
    }

    /// Makes a lock of data that exists already, and returns its number.
    pub(crate) fn new_lock(&self, id: LockId, info: LockInfo) -> u8 {
        let lock = self.new_bit(id, Held::Exclusive);
        self.guards(lock, info);
        self.mix(word_part(OWNERS + u16::from(lock), 0));
        lock
    }

    /// Makes a lock without data, or one way to hold it, and returns its number.
    pub(crate) fn new_bit(&self, id: LockId, mode: Held) -> u8 {
        self.data.borrow_mut().push(None);
        self.locks.add(id, mode)
    }

    /// The lock of this number guards data.
    pub(crate) fn guards(&self, lock: u8, info: LockInfo) {
        self.data.borrow_mut()[usize::from(lock)] = Some(info);
    }

    /// The tag of a location.
    pub(crate) fn tag(&self, loc: u16) -> Tag {
        self.locs.borrow()[loc as usize].tag
    }

    /// How many locations there are.
    pub(crate) fn locations(&self) -> usize {
        self.locs.borrow().len()
    }

    #[inline(always)]
    pub(crate) fn mix(&self, part: u128) {
        self.key.set(self.key.get() ^ part);
    }

    #[inline(always)]
    pub(crate) fn thread(&self) -> &Thread {
        &self.threads[self.running.get() as usize]
    }

    // Steps.

    /// Clears the footprint and names the thread that runs from now on.
    #[inline(always)]
    pub(crate) fn begin_step(&self, thread: u8, choice: u8) {
        self.reads.clear();
        self.writes.clear();
        self.adds.clear();
        self.acquired.set(0);
        self.released.set(0);
        self.running.set(thread);
        self.choice.set(choice);
    }

    /// The thread suspended or ended: what it may have changed through guards is hashed again.
    #[inline(always)]
    pub(crate) fn end_step(&self, ended: bool) {
        let thread = self.thread();
        if thread.dirty.get() != 0 {
            self.rehash(thread.dirty.get());
        }
        if ended {
            let site = thread.pending.get().site;
            let held = thread.held.get();
            if held != 0 {
                self.ended_holding(self.running.get(), held, site);
            }
            thread.clear();
            thread.pending.set(Pending { site, ..thread.pending.get() });
            // All that ended threads have seen is that they ended; a fresh one has seen nothing.
            thread.note(u64::MAX);
        }
        thread.settle(self.running.get());
        self.running.set(THREADS_MAX as u8);
    }

    /// What the last step touched.
    #[inline(always)]
    pub(crate) fn footprint(&self) -> Footprint {
        Footprint {
            reads: self.reads.get(),
            writes: self.writes.get(),
            adds: self.adds.get(),
            acquired: self.acquired.get(),
            released: self.released.get(),
        }
    }

    /// Offers the scheduler a step; returns when it is this step's turn.
    #[inline(always)]
    pub(crate) fn pause(&self, pending: Pending) {
        if self.mode.get() != Mode::Scheduled || std::thread::panicking() {
            return self.pass(&pending);
        }
        self.thread().pending.set(pending);
        self.switch.suspend();
    }

    /// An access that is not scheduled must not have to wait.
    #[cold]
    fn pass(&self, pending: &Pending) {
        if !self.is_enabled(self.thread(), pending) {
            let at = pending.site;
            self.violate(Rule::DEADLOCK, || format!("{at} would wait for ever"), at);
        }
    }

    /// True if `pending` could be taken now by `thread`.
    #[inline(always)]
    pub(crate) fn is_enabled(&self, thread: &Thread, pending: &Pending) -> bool {
        let value = || self.arena.get(pending.cell);
        match pending.kind {
            Kind::Done => false,
            Kind::Acquire => value() == 0,
            Kind::WaitIs => value() == pending.arg,
            Kind::WaitNot => value() != pending.arg,
            Kind::WaitNotAll => value() & pending.arg != pending.arg,
            Kind::WaitClear => value() & pending.arg == 0,
            Kind::WaitAny => value() != 0,
            Kind::WaitChange => !self.is_futile(thread),
            _ => true,
        }
    }

    fn is_futile(&self, thread: &Thread) -> bool {
        let locs = self.locs.borrow();
        thread.attempt.futile(|loc| self.arena.get(locs[loc as usize].cell))
    }

    // Footprints.

    /// The number of a location in footprints.
    #[inline(always)]
    pub(crate) fn bit(&self, loc: u16) -> u8 {
        match self.numbers[loc as usize].get() {
            0 => self.first_touch(loc),
            n => (n - 1) as u8,
        }
    }

    #[cold]
    fn first_touch(&self, loc: u16) -> u8 {
        if let Some((n, touched)) = self.shared_number(loc) {
            self.touched.set(touched);
            self.numbers[loc as usize].set(n);
            return (n - 1) as u8;
        }
        self.touched.set(self.touched.get() + 1);
        let n = self.touched.get().min(LOCS as u16);
        self.numbers[loc as usize].set(n);
        (n - 1) as u8
    }

    /// How many locations were touched, and the number of each plus 1.
    pub(crate) fn numbering(&self) -> (u16, Vec<u16>) {
        let locations = self.locs.borrow().len();
        (self.touched.get(), self.numbers[..locations].iter().map(Cell::get).collect())
    }

    /// Numbers locations as [`Machine::numbering`] said. False: there are not as many.
    pub(crate) fn number(&self, touched: u16, numbers: &[u16]) -> bool {
        self.touched.set(touched);
        self.numbers.iter().zip(numbers).for_each(|(cell, number)| cell.set(*number));
        numbers.len() == self.locs.borrow().len()
    }

    /// How many locations share a number in footprints.
    pub(crate) fn lumped(&self) -> u16 {
        match self.touched.get().saturating_sub(LOCS as u16) {
            0 => 0,
            others => others + 1,
        }
    }

    /// The step read a location.
    #[inline(always)]
    pub(crate) fn did_read(&self, loc: u16, value: u64) {
        let bit = self.bit(loc);
        self.reads.add(bit);
        self.thread().attempt.read(loc, bit, value);
    }

    /// The step wrote a location.
    #[inline(always)]
    pub(crate) fn did_write(&self, loc: u16, old: u64, new: u64) {
        let bit = self.bit(loc);
        self.writes.add(bit);
        self.thread().attempt.write(loc, bit, old, new);
    }

    /// The step added to a location, and its thread does not see what was there.
    #[inline(always)]
    pub(crate) fn did_add(&self, loc: u16, old: u64, new: u64) {
        let bit = self.bit(loc);
        self.adds.add(bit);
        self.thread().attempt.write(loc, bit, old, new);
    }

    /// The step depends on everything that the running attempt touched.
    pub(crate) fn did_read_attempt(&self) {
        self.reads.add_all(self.thread().attempt.mask());
    }

    // Locks.

    /// The step took a lock.
    #[inline(always)]
    pub(crate) fn did_acquire(&self, lock: u8) {
        let lock = u16::from(lock);
        self.acquired.set(self.acquired.get() | 1 << lock);
        let owner = self.running.get() as u64 + 1;
        self.mix(word_part(OWNERS + lock, 0) ^ word_part(OWNERS + lock, owner));
    }

    /// The step took a lock and saw its data, which has this hash.
    #[inline(always)]
    pub(crate) fn did_see(&self, loc: u16, hash_cell: u16) {
        let hash = self.blob_hash(hash_cell);
        self.did_read(loc, hash as u64);
        self.thread().note(hash as u64);
        self.thread().note((hash >> 64) as u64);
    }

    /// The data of a lock may be changed until it is given back.
    #[inline(always)]
    pub(crate) fn will_change(&self, lock: u8) {
        let dirty = &self.thread().dirty;
        dirty.set(dirty.get() | 1 << lock);
    }

    /// The data of a lock is not changed any more.
    #[inline(always)]
    pub(crate) fn did_change(&self, lock: u8) {
        let thread = self.thread();
        let bit = 1 << lock;
        if thread.dirty.get() & bit != 0 {
            self.rehash(bit);
            thread.dirty.set(thread.dirty.get() & !bit);
        }
    }

    /// The step is about to give a lock back.
    #[inline(always)]
    pub(crate) fn will_release(&self, lock: u8) {
        self.did_change(lock);
        let lock = u16::from(lock);
        self.released.set(self.released.get() | 1 << lock);
        let owner = self.running.get() as u64 + 1;
        self.mix(word_part(OWNERS + lock, 0) ^ word_part(OWNERS + lock, owner));
    }

    /// Hashes the data of these locks again.
    fn rehash(&self, mut dirty: u64) {
        let data = self.data.borrow();
        while dirty != 0 {
            let info = &data[dirty.trailing_zeros() as usize];
            dirty &= dirty - 1;
            if let Some(info) = info {
                let hash = (info.hash)(&self.arena);
                if self.replace_hash(info.loc, info.hash_cell, hash) {
                    self.arena.touch(info.data);
                }
            }
        }
    }

    /// The hash of a blob.
    #[inline(always)]
    pub(crate) fn blob_hash(&self, hash_cell: u16) -> u128 {
        let (low, high) = (self.arena.get(hash_cell), self.arena.get(hash_cell + 1));
        (high as u128) << 64 | low as u128
    }

    /// A blob may have a new value, which has this hash. False if it has none.
    #[inline(always)]
    pub(crate) fn replace_hash(&self, loc: u16, hash_cell: u16, new: u128) -> bool {
        let old = self.blob_hash(hash_cell);
        if old != new {
            self.mix(old ^ new);
            self.arena.set(hash_cell, new as u64);
            self.arena.set(hash_cell + 1, (new >> 64) as u64);
            self.did_write(loc, old as u64, new as u64);
        }
        old != new
    }

    // Freed memory.

    /// Sets or clears the poison of a location.
    pub(crate) fn poison(&self, loc: u16, freed: bool) {
        let (cell, bit) = (self.poison.get() + loc / 64, 1 << (loc % 64));
        let old = self.arena.get(cell);
        let new = if freed { old | bit } else { old & !bit };
        self.arena.set(cell, new);
        self.mix(word_part(POISON + loc / 64, old) ^ word_part(POISON + loc / 64, new));
        self.writes.add(self.bit(loc));
    }

    /// A thread accesses the location.
    #[inline(always)]
    pub(crate) fn check_freed(&self, loc: u16, site: &'static Location<'static>) {
        if self.arena.get(self.poison.get() + loc / 64) >> (loc % 64) & 1 == 1 {
            // The step depends on the one that freed it: dpor must see that they race.
            self.reads.add(self.bit(loc));
            let detail = || format!("{} is accessed after it was freed", self.name(loc));
            self.violate(Rule::USE_AFTER_FREE, detail, site);
        }
    }

    /// A location as reports print it.
    pub(crate) fn name(&self, loc: u16) -> String {
        let Tag { object, index } = self.tag(loc);
        let (name, [i, j]) = (object.name(), index);
        match (i, j) {
            (i, _) if object == Object::Lock(LockClass::VcpuMutex) => format!("vcpu{i}->mutex"),
            (0, 0) => name.to_string(),
            (i, 0) => format!("{name}[{i}]"),
            (i, j) => format!("{name}[{i}][{j}]"),
        }
    }

    /// Appends what the key has of each location, a word's value or half of the hash of a blob, and
    /// which of them are freed, and are not read any more. `is_part`: whether a location is part
    /// of the key.
    pub(crate) fn values(&self, is_part: impl Fn(u16) -> bool, values: &mut Vec<u64>) {
        let value = |(loc, place): (u16, &Place)| match is_part(loc) && !self.is_unread(loc) {
            true => self.arena.get(place.cell),
            false => 0,
        };
        values.extend((0..).zip(self.locs.borrow().iter()).map(value));
        for first in [self.poison.get(), self.unread.get()] {
            values.extend((0..LOCS_MAX as u16 / 64).map(|i| self.arena.get(first + i)));
        }
    }

    /// What a blob adds to the key.
    pub(crate) fn part_of_blob(&self, loc: u16) -> u128 {
        self.blob_hash(self.locs.borrow()[usize::from(loc)].cell)
    }

    /// What the [`Machine::values`] are called.
    pub(crate) fn value_names(&self) -> Vec<String> {
        // An oracle's cell has no name of its own, and some locks have a word beside their data.
        let name = |loc: u16| match self.locs.borrow()[usize::from(loc)].of {
            WORD => self.name(loc),
            of => format!("{} ({})", self.name(loc), of.rsplit("::").next().unwrap_or(of)),
        };
        let locations = (0..self.locations() as u16).map(name);
        let bits = |what: &'static str| {
            (0..LOCS_MAX / 64).map(move |i| format!("{what} locations from {} on", i * 64))
        };
        locations.chain(bits("freed")).chain(bits("unread")).collect()
    }

    /// Which of the [`Machine::values`] are those of words, or bits.
    pub(crate) fn value_words(&self) -> Vec<bool> {
        let locs = self.locs.borrow();
        let locations = locs.iter().map(|place| place.of == WORD);
        locations.chain([true; 2 * LOCS_MAX / 64]).collect()
    }
}
