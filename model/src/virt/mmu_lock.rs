//! `kvm->mmu_lock`: a spinlock, or a read-write lock where an architecture has made it one (x86
//! with the TDP MMU since 5.12, arm64 since 5.18).

use core::fmt;
use core::ops::{Deref, DerefMut};

use super::MmuState;
use crate::lock::LockClass;
use crate::platform::{Guarded, Lock, Platform, RwLock};

type Spin<P, S> = <P as Platform>::Lock<MmuState<S>>;
type ReadWrite<P, S> = <P as Platform>::RwLock<MmuState<S>>;

/// Shared ownership of a `mmu_lock` that has readers.
pub type MmuRead<'a, P, S> = <ReadWrite<P, S> as RwLock<MmuState<S>>>::Read<'a>;

/// `kvm->mmu_lock` and what it guards.
#[derive(Debug)]
pub enum MmuLock<P: Platform, S: Guarded> {
    /// `spinlock_t`.
    Spin(Spin<P, S>),
    /// `rwlock_t`.
    ReadWrite(ReadWrite<P, S>),
}

impl<P: Platform, S: Guarded + Default> MmuLock<P, S> {
    pub(super) fn new(p: &P, has_readers: bool) -> Self {
        let id = LockClass::MmuLock.one();
        if has_readers {
            MmuLock::ReadWrite(p.rw_lock(id, MmuState::default()))
        } else {
            MmuLock::Spin(p.lock(id, MmuState::default()))
        }
    }
}

impl<P: Platform, S: Guarded> MmuLock<P, S> {
    /// `spin_lock`, or `write_lock`.
    #[inline]
    #[track_caller]
    pub fn lock(&self) -> MmuGuard<'_, P, S> {
        match self {
            MmuLock::Spin(l) => MmuGuard::Spin(l.lock()),
            MmuLock::ReadWrite(l) => MmuGuard::Write(l.write()),
        }
    }

    /// `cond_resched_lock`, or `cond_resched_rwlock_write`: gives others a chance in the middle of
    /// long work. Whatever was read by the lock must be read again.
    #[track_caller]
    pub fn cond_resched<'a>(&'a self, l: MmuGuard<'a, P, S>) -> MmuGuard<'a, P, S> {
        drop(l);
        self.lock()
    }

    /// `read_lock`.
    ///
    /// # Panics
    /// If it is a spinlock.
    #[track_caller]
    pub fn read(&self) -> MmuRead<'_, P, S> {
        match self {
            MmuLock::Spin(_) => unreachable!("a spinlock has no readers"),
            MmuLock::ReadWrite(l) => l.read(),
        }
    }
}

/// Ownership of [`MmuLock`], alone. Dropping it releases.
pub enum MmuGuard<'a, P: Platform + 'a, S: Guarded> {
    /// Of a spinlock.
    Spin(<Spin<P, S> as Lock<MmuState<S>>>::Guard<'a>),
    /// Of a read-write lock.
    Write(<ReadWrite<P, S> as RwLock<MmuState<S>>>::Write<'a>),
}

impl<P: Platform, S: Guarded> Deref for MmuGuard<'_, P, S> {
    type Target = MmuState<S>;
    #[inline]
    fn deref(&self) -> &MmuState<S> {
        match self {
            MmuGuard::Spin(l) => l,
            MmuGuard::Write(l) => l,
        }
    }
}

impl<P: Platform, S: Guarded> DerefMut for MmuGuard<'_, P, S> {
    #[inline]
    fn deref_mut(&mut self) -> &mut MmuState<S> {
        match self {
            MmuGuard::Spin(l) => l,
            MmuGuard::Write(l) => l,
        }
    }
}

impl<P: Platform, S: Guarded> fmt::Debug for MmuGuard<'_, P, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}
