//! Locks of the native machine.
//!
//! Spinlocks are ticket locks: `mmu_lock` of the kernel is a queued spinlock, fair as these are, so
//! that the price of contention is that of waiting in line. Who waits long lets others run: user
//! space cannot turn preemption off, and the thread whose turn it is may have no CPU. What may
//! sleep in the kernel sleeps here (`parking_lot`, whose readers wait behind a writer that waits).

use std::cell::Cell;
use std::fmt;
use std::ops::{Deref, DerefMut};

use crossbeam_epoch::Guard;
use kvmmu_model::{Guarded, Lock, LockId, LockKind, RwLock, Srcu};
use parking_lot as pl;
use spin::mutex::{TicketMutex, TicketMutexGuard};
use spin::relax::RelaxStrategy;

use super::section::Domain;

/// Turns in the loop of a waiter between two yields.
const SPINS: u32 = 128;

/// Spins, and yields now and then.
#[derive(Debug)]
pub struct SpinThenYield;

impl RelaxStrategy for SpinThenYield {
    fn relax() {
        thread_local! {
            static TURNS: Cell<u32> = const { Cell::new(0) };
        }
        let turn = TURNS.get().wrapping_add(1);
        TURNS.set(turn);
        if turn.is_multiple_of(SPINS) {
            std::thread::yield_now();
        } else {
            std::hint::spin_loop();
        }
    }
}

/// A lock and its data.
pub enum NativeLock<T: Guarded> {
    /// A spinlock.
    Spin(TicketMutex<T, SpinThenYield>),
    /// A mutex.
    Sleep(pl::Mutex<T>),
}

impl<T: Guarded> NativeLock<T> {
    /// The lock of this name: spinning or sleeping, as the table of locks says.
    pub fn new(id: LockId, init: T) -> Self {
        match id.class.info().kind {
            LockKind::Spinlock | LockKind::RawSpinlock => NativeLock::Spin(TicketMutex::new(init)),
            _ => NativeLock::Sleep(pl::Mutex::new(init)),
        }
    }
}

impl<T: Guarded> fmt::Debug for NativeLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NativeLock::Spin(_) => "spinlock",
            NativeLock::Sleep(_) => "mutex",
        })
    }
}

impl<T: Guarded> Lock<T> for NativeLock<T> {
    type Guard<'a> = NativeGuard<'a, T>;

    #[inline]
    fn lock(&self) -> NativeGuard<'_, T> {
        match self {
            NativeLock::Spin(lock) => NativeGuard::Spin(lock.lock()),
            NativeLock::Sleep(lock) => NativeGuard::Sleep(lock.lock()),
        }
    }
}

/// Ownership of a [`NativeLock`].
pub enum NativeGuard<'a, T: Guarded> {
    /// Of a spinlock.
    Spin(TicketMutexGuard<'a, T, SpinThenYield>),
    /// Of a mutex.
    Sleep(pl::MutexGuard<'a, T>),
}

impl<T: Guarded> Deref for NativeGuard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        match self {
            NativeGuard::Spin(guard) => guard,
            NativeGuard::Sleep(guard) => guard,
        }
    }
}

impl<T: Guarded> DerefMut for NativeGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        match self {
            NativeGuard::Spin(guard) => guard,
            NativeGuard::Sleep(guard) => guard,
        }
    }
}

impl<T: Guarded> fmt::Debug for NativeGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

/// A read-write lock. All of them sleep, an `rwlock_t` too: no program that is measured has one.
#[derive(Debug)]
pub struct NativeRwLock<T>(pl::RwLock<T>);

impl<T: Guarded> NativeRwLock<T> {
    /// A lock around this data.
    pub fn new(init: T) -> Self {
        NativeRwLock(pl::RwLock::new(init))
    }
}

impl<T: Guarded> RwLock<T> for NativeRwLock<T> {
    type Read<'a> = pl::RwLockReadGuard<'a, T>;
    type Write<'a> = pl::RwLockWriteGuard<'a, T>;

    #[inline]
    fn read(&self) -> Self::Read<'_> {
        self.0.read()
    }
    fn write(&self) -> Self::Write<'_> {
        self.0.write()
    }
}

/// An SRCU domain, on epochs of its own.
#[derive(Debug)]
pub struct NativeSrcu {
    /// None where nobody ever waits for the readers.
    domain: Option<Domain>,
}

impl NativeSrcu {
    /// The domain of this name.
    pub fn new(id: LockId) -> Self {
        NativeSrcu { domain: id.contended.then(Domain::new) }
    }
}

impl Srcu for NativeSrcu {
    type Section<'a> = Section;

    #[inline]
    fn read_lock(&self) -> Section {
        Section { _pinned: self.domain.as_ref().map(Domain::enter) }
    }
    fn synchronize(&self) {
        if let Some(domain) = &self.domain {
            domain.synchronize(|| {});
        }
    }
}

/// A read section of a [`NativeSrcu`].
pub struct Section {
    _pinned: Option<Guard>,
}

impl fmt::Debug for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("srcu section")
    }
}
