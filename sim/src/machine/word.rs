//! Shared words.

use core::fmt;
use core::panic::Location;

use kvmmu_model::{Local, Object, Ordering, Tag, Until, Word};
use kvmmu_scenarios::lockdep;

use super::MemoryModel;
use super::hash::word_part;
use super::pending::{Kind, Pending};
use super::state::Machine;
use crate::record::event::{What, Write};

/// A shared word of the simulated machine.
#[derive(Clone, Copy)]
pub struct SimWord {
    pub(crate) machine: &'static Machine,
    pub(crate) loc: u16,
    cell: u16,
    object: Object,
    /// Something protects it from being read, or written.
    protected: (bool, bool),
}

impl SimWord {
    pub(crate) fn new(machine: &'static Machine, tag: Tag, init: u64) -> SimWord {
        let (loc, cell) = machine.new_word(tag, init);
        let needs = |write| lockdep::protectors(tag.object, write).next().is_some();
        let protected = (needs(false), needs(true));
        SimWord { machine, loc, cell, object: tag.object, protected }
    }

    /// One of the machine's own words.
    pub(crate) fn at(machine: &'static Machine, (loc, cell): (u16, u16)) -> SimWord {
        SimWord { machine, loc, cell, object: machine.tag(loc).object, protected: (false, false) }
    }

    /// What the word is called.
    pub fn tag(&self) -> Tag {
        self.machine.tag(self.loc)
    }

    /// Reads the word: no step, and the thread is not taken to have seen the value. If its future
    /// depends on it, see [`crate::Sim::observe`].
    #[inline]
    #[track_caller]
    pub fn peek(&self) -> u64 {
        self.machine.check_unread(self.loc, Location::caller());
        let value = self.machine.arena.get(self.cell);
        self.machine.did_read(self.loc, value);
        value
    }

    /// What the word holds, and whether it may be read: not even an access.
    pub(crate) fn glance(&self) -> (u64, bool) {
        (self.machine.arena.get(self.cell), !self.machine.is_unread(self.loc))
    }

    /// Nobody will read the word, unless somebody stores to it.
    pub(crate) fn forget(&self) {
        self.machine.forget(self.loc, self.cell);
    }

    /// Writes the word: no step, no event.
    #[inline]
    pub fn poke(&self, value: u64) {
        self.replace(value);
    }

    #[inline(always)]
    fn replace(&self, new: u64) -> u64 {
        let m = self.machine;
        let old = m.arena.get(self.cell);
        m.arena.set(self.cell, new);
        self.mix(old, new);
        m.did_write(self.loc, old, new);
        old
    }

    /// The word's part of the key follows its value.
    #[inline(always)]
    fn mix(&self, old: u64, new: u64) {
        if !self.machine.is_unread(self.loc) {
            self.machine.mix(word_part(self.loc, old) ^ word_part(self.loc, new));
        }
    }

    /// A write other than by addition.
    #[inline(always)]
    pub(crate) fn write(&self, new: u64, how: Write, site: &'static Location<'static>) {
        let old = self.replace(new);
        self.report(old, new, how, site);
    }

    #[inline(always)]
    fn report(&self, old: u64, new: u64, how: Write, site: &'static Location<'static>) {
        let m = self.machine;
        if m.tracer.on() {
            let object = self.tag();
            m.tracer.record(m.running.get(), site, What::Write { object, how, old, new });
        }
        if self.object == Object::Spte && old != new {
            m.observe(|observer| observer.spte_written(self.tag(), new));
        }
        if self.object == Object::VcpuRequests && old != 0 && new == 0 {
            m.observe(|observer| observer.requests_taken(self.tag()));
        }
    }

    #[inline(always)]
    pub(crate) fn pause(&self, kind: Kind, arg: u64, site: &'static Location<'static>) {
        self.machine.pause(Pending { kind, loc: self.loc, cell: self.cell, arg, site });
    }

    /// The access that a step is made for: reads the word.
    #[inline(always)]
    pub(crate) fn value(&self, site: &'static Location<'static>) -> u64 {
        self.machine.check_unread(self.loc, site);
        self.found(site)
    }

    /// The access that a step is made for finds this, and nobody sees it.
    #[inline(always)]
    fn found(&self, site: &'static Location<'static>) -> u64 {
        self.machine.check_freed(self.loc, site);
        let value = self.machine.arena.get(self.cell);
        self.machine.did_read(self.loc, value);
        value
    }

    #[inline(always)]
    pub(crate) fn note(&self, value: u64) {
        self.machine.thread().note(value);
    }

    #[inline(always)]
    fn trace(&self, site: &'static Location<'static>, what: impl FnOnce(Tag) -> What) {
        let m = self.machine;
        if m.tracer.on() {
            m.tracer.record(m.running.get(), site, what(self.tag()));
        }
    }

    /// The thread that runs reads the word.
    #[inline(always)]
    fn may_read(&self, site: &'static Location<'static>) {
        if self.protected.0 {
            self.machine.check_protected(self.object, false, site);
        }
    }

    /// The thread that runs writes the word.
    #[inline(always)]
    fn may_write(&self, site: &'static Location<'static>) {
        if self.protected.1 {
            self.machine.check_protected(self.object, true, site);
        }
    }

    #[inline(always)]
    fn update(&self, how: Write, site: &'static Location<'static>, f: impl Fn(u64) -> u64) -> u64 {
        self.pause(Kind::Rmw, 0, site);
        self.may_write(site);
        let old = self.value(site);
        self.note(old);
        self.write(f(old), how, site);
        old
    }

    /// [`SimWord::update`] by a thread that does not see what was there. The footprint has the read
    /// all the same: whether anything changes, and so what an observer of SPTEs looks at, depends
    /// on it.
    #[inline(always)]
    fn change(&self, how: Write, site: &'static Location<'static>, f: impl Fn(u64) -> u64) {
        self.pause(Kind::Rmw, 0, site);
        self.may_write(site);
        let old = self.found(site);
        self.note(1);
        self.write(f(old), how, site);
    }

    /// An addition in the step that runs, of which nobody is told.
    pub(crate) fn count(&self, value: u64) {
        let m = self.machine;
        let old = m.arena.get(self.cell);
        let new = old.wrapping_add(value);
        m.arena.set(self.cell, new);
        self.mix(old, new);
        if m.thread().attempt.is_active() {
            m.did_read(self.loc, old);
            m.did_write(self.loc, old, new);
        } else {
            m.did_add(self.loc, old, new);
        }
    }

    /// An addition; `seen`: the thread sees what was there. So does an attempt, for which it counts
    /// whether somebody else has added in between.
    #[inline(always)]
    fn increase(&self, value: u64, seen: bool, site: &'static Location<'static>) -> u64 {
        let m = self.machine;
        self.pause(Kind::Add, 0, site);
        self.may_write(site);
        m.check_freed(self.loc, site);
        if seen {
            m.check_unread(self.loc, site);
        }
        let old = m.arena.get(self.cell);
        let new = old.wrapping_add(value);
        self.note(if seen { old } else { 1 });
        m.arena.set(self.cell, new);
        self.mix(old, new);
        if seen && !m.adds_commute.get() || m.thread().attempt.is_active() {
            m.did_read(self.loc, old);
            m.did_write(self.loc, old, new);
        } else {
            m.did_add(self.loc, old, new);
        }
        self.report(old, new, Write::Add, site);
        old
    }
}

/// A word of one thread: what it reads there is its own doing, so that nothing needs to be
/// observed.
impl Local for SimWord {
    #[inline]
    fn get(&self) -> u64 {
        self.peek()
    }
    #[inline]
    fn set(&self, value: u64) {
        self.poke(value);
    }
}

impl Word for SimWord {
    #[inline]
    #[track_caller]
    fn load(&self, _order: Ordering) -> u64 {
        let site = Location::caller();
        self.pause(Kind::Load, 0, site);
        self.may_read(site);
        let value = self.value(site);
        self.note(value);
        self.trace(site, |object| What::Load { object, value });
        value
    }

    #[inline]
    #[track_caller]
    fn store(&self, value: u64, _order: Ordering) {
        let site = Location::caller();
        self.pause(Kind::Store, 0, site);
        self.may_write(site);
        self.machine.check_freed(self.loc, site);
        self.note(1);
        self.machine.remember(self.loc, self.cell);
        match self.machine.model.get() {
            MemoryModel::Sc => self.write(value, Write::Store, site),
        }
    }

    #[inline]
    #[track_caller]
    fn swap(&self, value: u64, _order: Ordering) -> u64 {
        let old = self.update(Write::Swap, Location::caller(), |_| value);
        self.machine.swapped(self.loc, self.cell);
        old
    }

    #[inline]
    #[track_caller]
    fn compare_exchange(
        &self,
        current: u64,
        new: u64,
        _success: Ordering,
        _failure: Ordering,
    ) -> Result<u64, u64> {
        let site = Location::caller();
        self.pause(Kind::Rmw, 0, site);
        self.may_write(site);
        let found = self.value(site);
        self.note(found);
        if found == current {
            self.write(new, Write::Cmpxchg, site);
            return Ok(found);
        }
        self.trace(site, |object| What::CmpxchgFailed { object, expected: current, found });
        Err(found)
    }

    #[inline]
    #[track_caller]
    fn fetch_or(&self, bits: u64, _order: Ordering) -> u64 {
        self.update(Write::Or, Location::caller(), |old| old | bits)
    }

    #[inline]
    #[track_caller]
    fn fetch_and(&self, bits: u64, _order: Ordering) -> u64 {
        self.update(Write::And, Location::caller(), |old| old & bits)
    }

    #[inline]
    #[track_caller]
    fn fetch_add(&self, value: u64, _order: Ordering) -> u64 {
        self.increase(value, true, Location::caller())
    }

    #[inline]
    #[track_caller]
    fn or(&self, bits: u64, _order: Ordering) {
        self.change(Write::Or, Location::caller(), |old| old | bits);
    }

    #[inline]
    #[track_caller]
    fn and(&self, bits: u64, _order: Ordering) {
        self.change(Write::And, Location::caller(), |old| old & bits);
    }

    #[inline]
    #[track_caller]
    fn add(&self, value: u64, _order: Ordering) {
        self.increase(value, false, Location::caller());
    }

    #[inline]
    #[track_caller]
    fn wait_until(&self, until: Until) -> u64 {
        let site = Location::caller();
        let (kind, arg) = Pending::wait(until);
        self.machine.check_unread(self.loc, site);
        self.pause(kind, arg, site);
        let value = self.value(site);
        self.note(value);
        self.trace(site, |object| What::Waited { object, value });
        value
    }
}

impl fmt::Debug for SimWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.machine.name(self.loc))
    }
}
