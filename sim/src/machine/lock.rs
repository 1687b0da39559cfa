//! Locks and the data that only their owners touch.

use core::fmt;
use core::ops::{Deref, DerefMut};
use core::panic::Location;

use kvmmu_model::{Guarded, Lock, LockClass, LockId, Mode, Object, Tag};

use super::arena::{Arena, Claim, Slot};
use super::hash::blob_part;
use super::pending::{Kind, Pending};
use super::state::{LockInfo, Machine};
use crate::record::event::What;

/// A lock of the simulated machine.
pub struct SimLock<T> {
    machine: &'static Machine,
    slot: Slot<T>,
    /// Its number among the locks, which is also its bit of what a thread holds.
    lock: u8,
    /// The location of its data.
    loc: u16,
    owner_cell: u16,
    hash_cell: u16,
    contended: bool,
}

impl<T> Clone for SimLock<T> {
    fn clone(&self) -> SimLock<T> {
        *self
    }
}
impl<T> Copy for SimLock<T> {}

impl<T: Guarded> SimLock<T> {
    pub(crate) fn new(machine: &'static Machine, id: LockId, init: T) -> SimLock<T> {
        let (tag, contended) = (Tag::lock(id), id.contended);
        assert!(!id.class.info().kind.has_readers(), "{:?} has readers", id.class);
        let owner_cell = machine.arena.take(1);
        if !contended {
            // Nobody ever waits for it: it is held or not, and not part of the state.
            assert!(
                size_of::<T>() == 0,
                "the data of {:?} would be no part of the state",
                id.class
            );
            let (slot, loc) = (machine.arena.blob(init), machine.location::<u64>(tag, owner_cell));
            let lock = machine.new_bit(id, Mode::Exclusive);
            return SimLock { machine, slot, lock, loc, owner_cell, hash_cell: 0, contended };
        }
        let (hash_cell, slot, loc) = blob(machine, tag, init);
        let hash = Box::new(move |arena: &Arena| {
            // Hashed in place: a copy of a large table would cost as much as the hash.
            arena.with(slot, |data| blob_part(loc, data))
        });
        let lock = machine.new_lock(id, LockInfo { loc, hash_cell, hash, data: slot.extent() });
        SimLock { machine, slot, lock, loc, owner_cell, hash_cell, contended }
    }

    /// What the lock is called.
    pub fn tag(&self) -> Tag {
        self.machine.tag(self.loc)
    }

    /// A copy of the data, owned or not: no step, and the thread is not taken to have seen it.
    pub fn peek(&self) -> T {
        self.machine.did_read(self.loc, self.machine.arena.get(self.hash_cell));
        self.machine.arena.read(self.slot)
    }

    /// True if the running thread owns the lock: no step.
    pub fn is_mine(&self) -> bool {
        self.machine.arena.get(self.owner_cell) == self.machine.running.get() as u64 + 1
    }
}

/// Makes a blob: two cells with its hash, then its value.
pub(crate) fn blob<T: Guarded>(machine: &Machine, tag: Tag, init: T) -> (u16, Slot<T>, u16) {
    let hash_cell = machine.arena.take(2);
    let slot = machine.arena.blob(init);
    let loc = machine.location::<T>(tag, hash_cell);
    let part = blob_part(loc, &init);
    machine.arena.set(hash_cell, part as u64);
    machine.arena.set(hash_cell + 1, (part >> 64) as u64);
    machine.mix(part);
    (hash_cell, slot, loc)
}

impl<T: Guarded> Lock<T> for SimLock<T> {
    type Guard<'a> = SimGuard<'a, T>;

    #[inline]
    #[track_caller]
    fn lock(&self) -> SimGuard<'_, T> {
        let (m, site) = (self.machine, Location::caller());
        let (loc, cell) = (self.loc, self.owner_cell);
        m.ask(self.lock, site);
        let claim = if self.contended {
            let arg = self.lock as u64;
            m.pause(Pending { kind: Kind::Acquire, loc, cell, arg, site });
            let claim = m.arena.claim(self.slot, cell, m.running.get() as u64 + 1);
            m.did_acquire(self.lock);
            m.did_see(loc, self.hash_cell);
            claim
        } else {
            m.arena.claim(self.slot, cell, m.running.get() as u64 + 1)
        };
        m.hold(1 << self.lock);
        if m.tracer.on() {
            let (object, mode) = (self.tag(), Mode::Exclusive);
            m.tracer.record(m.running.get(), site, What::Acquire { object, mode });
        }
        SimGuard { lock: self, claim, site }
    }
}

/// Ownership of a [`SimLock`]. Releasing it is part of the step that runs.
pub struct SimGuard<'a, T: Guarded> {
    lock: &'a SimLock<T>,
    claim: Claim<'static, T>,
    site: &'static Location<'static>,
}

impl<T: Guarded> Deref for SimGuard<'_, T> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        &self.claim
    }
}

impl<T: Guarded> DerefMut for SimGuard<'_, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // Until the release: the reference that is made here may live across steps.
        self.lock.machine.will_change(self.lock.lock);
        &mut self.claim
    }
}

impl<T: Guarded> Drop for SimGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        let m = self.lock.machine;
        if !self.lock.is_mine() {
            m.foreign_release(self.lock.tag(), self.site);
        }
        m.unhold(1 << self.lock.lock);
        if self.lock.contended {
            m.will_release(self.lock.lock);
        }
        self.claim.release();
        if m.tracer.on() {
            m.tracer.record(m.running.get(), self.site, What::Release { object: self.lock.tag() });
        }
        let is_mmu_lock = self.lock.tag().object == Object::Lock(LockClass::MmuLock);
        if is_mmu_lock && !std::thread::panicking() {
            m.observe(|observer| observer.mmu_unlocked(&self.lock.peek()));
        }
    }
}

impl<T> fmt::Debug for SimLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.machine.name(self.loc))
    }
}

impl<T: Guarded> fmt::Debug for SimGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}
