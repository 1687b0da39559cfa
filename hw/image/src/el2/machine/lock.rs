//! Locks: spin locks, whatever they are in the kernel. Nothing here sleeps.

use core::fmt;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU64, Ordering};

use kvmmu_model::{Guarded, Lock, LockClass, LockId, RwLock, Srcu};
use spin::mutex::{SpinMutex, SpinMutexGuard};

use super::watch;
use crate::el2::cpu::wait;
use crate::el2::record::story::{self, Held};

/// A lock and the data that only its owner touches.
#[derive(Debug)]
pub(crate) struct SpinLock<T> {
    class: LockClass,
    mutex: SpinMutex<T>,
}

impl<T: Guarded> SpinLock<T> {
    pub(crate) fn new(id: LockId, init: T) -> Self {
        SpinLock { class: id.class, mutex: SpinMutex::new(init) }
    }
}

impl<T: Guarded> Lock<T> for SpinLock<T> {
    type Guard<'a> = SpinGuard<'a, T>;

    #[inline]
    fn lock(&self) -> SpinGuard<'_, T> {
        let mut guard = self.mutex.try_lock();
        if guard.is_none() {
            wait::until(self.class.info().short, || {
                guard = self.mutex.try_lock();
                guard.is_some()
            });
        }
        if self.class.info().kind.spins() {
            story::begin_holding(Held::Spinlock);
        }
        SpinGuard { guard, class: self.class }
    }
}

/// Ownership of a [`SpinLock`].
pub(crate) struct SpinGuard<'a, T: Guarded> {
    /// There until it is dropped.
    guard: Option<SpinMutexGuard<'a, T>>,
    class: LockClass,
}

impl<T: Guarded> Deref for SpinGuard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        self.guard.as_ref().unwrap_or_else(|| unreachable!("the lock is held"))
    }
}

impl<T: Guarded> DerefMut for SpinGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.guard.as_mut().unwrap_or_else(|| unreachable!("the lock is held"))
    }
}

impl<T: Guarded> Drop for SpinGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        unlocked(self.class, &**self);
        self.guard = None;
        if self.class.info().kind.spins() {
            story::end_holding(Held::Spinlock);
        } else {
            story::released();
        }
    }
}

impl<T: Guarded> fmt::Debug for SpinGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

/// A read-write lock and its data. Writers are not preferred; nothing here has enough readers to
/// starve one.
#[derive(Debug)]
pub(crate) struct SpinRwLock<T> {
    class: LockClass,
    lock: spin::RwLock<T>,
}

impl<T: Guarded> SpinRwLock<T> {
    pub(crate) fn new(id: LockId, init: T) -> Self {
        SpinRwLock { class: id.class, lock: spin::RwLock::new(init) }
    }

    /// Spins until `take` has it.
    fn wait<G>(&self, mut take: impl FnMut() -> Option<G>) -> RwGuard<G> {
        let mut guard = None;
        wait::until(self.class.info().short, || {
            guard = take();
            guard.is_some()
        });
        let spins = self.class.info().kind.spins();
        if spins {
            story::begin_holding(Held::Spinlock);
        }
        RwGuard { guard, spins }
    }
}

impl<T: Guarded> RwLock<T> for SpinRwLock<T> {
    type Read<'a> = RwGuard<spin::RwLockReadGuard<'a, T>>;
    type Write<'a> = Writer<'a, T>;

    fn read(&self) -> Self::Read<'_> {
        self.wait(|| self.lock.try_read())
    }
    fn write(&self) -> Writer<'_, T> {
        Writer { guard: self.wait(|| self.lock.try_write()), class: self.class }
    }
}

/// Ownership of a [`SpinRwLock`], shared or alone.
#[derive(Debug)]
pub(crate) struct RwGuard<G> {
    /// There until it is dropped.
    guard: Option<G>,
    /// Nobody may sleep while it lives.
    spins: bool,
}

impl<G: Deref> Deref for RwGuard<G> {
    type Target = G::Target;
    #[inline]
    fn deref(&self) -> &G::Target {
        self.guard.as_ref().unwrap_or_else(|| unreachable!("the lock is held"))
    }
}

impl<G: DerefMut> DerefMut for RwGuard<G> {
    #[inline]
    fn deref_mut(&mut self) -> &mut G::Target {
        self.guard.as_mut().unwrap_or_else(|| unreachable!("the lock is held"))
    }
}

impl<G> Drop for RwGuard<G> {
    fn drop(&mut self) {
        self.guard = None;
        if self.spins {
            story::end_holding(Held::Spinlock);
        } else {
            story::released();
        }
    }
}

/// Ownership of a [`SpinRwLock`] alone.
#[derive(Debug)]
pub(crate) struct Writer<'a, T: Guarded> {
    guard: RwGuard<spin::RwLockWriteGuard<'a, T>>,
    class: LockClass,
}

impl<T: Guarded> Deref for Writer<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T: Guarded> DerefMut for Writer<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

impl<T: Guarded> Drop for Writer<'_, T> {
    fn drop(&mut self) {
        unlocked(self.class, &**self);
    }
}

/// A lock is about to be released by who had it alone, with this data.
#[inline]
fn unlocked<T: Guarded>(class: LockClass, data: &T) {
    if class == LockClass::MmuLock {
        watch::observe(|observer| observer.mmu_unlocked(data));
    }
}

/// An SRCU domain: readers are counted by the parity of the grace period in which they began.
#[derive(Debug)]
pub(crate) struct SpinSrcu {
    class: LockClass,
    period: AtomicU64,
    readers: [AtomicU64; 2],
}

impl SpinSrcu {
    pub(crate) fn new(id: LockId) -> Self {
        let readers = [AtomicU64::new(0), AtomicU64::new(0)];
        SpinSrcu { class: id.class, period: AtomicU64::new(0), readers }
    }
}

impl Srcu for SpinSrcu {
    type Section<'a> = Section<'a>;

    fn read_lock(&self) -> Section<'_> {
        // ORDERING: relaxed: either parity will do; a grace period waits for both.
        let readers = &self.readers[(self.period.load(Ordering::Relaxed) % 2) as usize];
        // ORDERING: sequentially consistent, as `srcu_read_lock`'s full barrier: the section's
        // reads come after it can be seen.
        readers.fetch_add(1, Ordering::SeqCst);
        Section(readers)
    }

    fn synchronize(&self) {
        // Twice: a reader may have read the parity before the first flip and counted after.
        for _ in 0..2 {
            // ORDERING: sequentially consistent: what was published before is seen by sections that
            // begin after.
            let old = self.period.fetch_add(1, Ordering::SeqCst);
            let readers = &self.readers[(old % 2) as usize];
            // ORDERING: acquire pairs with the end of a section.
            let is_over = || readers.load(Ordering::Acquire) == 0;
            wait::until(self.class.info().short, is_over);
        }
    }
}

/// A read section of a [`SpinSrcu`].
#[derive(Debug)]
pub(crate) struct Section<'a>(&'a AtomicU64);

impl Drop for Section<'_> {
    fn drop(&mut self) {
        // ORDERING: release: the section's reads come before its end.
        self.0.fetch_sub(1, Ordering::Release);
    }
}
