//! Mutexes and spinlocks over a tool's mutexes, and the data that only their owners touch.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

use kvmmu_model::{Guarded, Lock, LockClass, LockId, Mode, Object, Tag};

use crate::machine::Run;
use crate::primitives::Primitives;
use crate::search::hold;

/// A lock and its data.
pub struct EngineLock<X: Primitives, T: Guarded> {
    tag: Tag,
    run: Arc<Run<X>>,
    /// Its bit of what a thread holds.
    bit: u8,
    /// None where nobody ever waits for it.
    mutex: Option<X::Mutex<T>>,
    /// The data as it was released last.
    released: Mutex<T>,
    /// Somebody owns the lock.
    held: AtomicBool,
}

impl<X: Primitives, T: Guarded> EngineLock<X, T> {
    pub(crate) fn new(run: &Arc<Run<X>>, id: LockId, init: T) -> Self {
        assert!(!id.class.info().kind.has_readers(), "{:?} has readers", id.class);
        EngineLock {
            tag: Tag::lock(id),
            run: Arc::clone(run),
            bit: run.locks.add(id, Mode::Exclusive),
            mutex: id.contended.then(|| X::mutex(init)),
            released: Mutex::new(init),
            held: AtomicBool::new(false),
        }
    }

    /// The data as it was released last, without a step.
    pub fn peek(&self) -> T {
        *hold(&self.released)
    }

    /// It has an owner, who may have made something else of the data.
    pub fn is_held(&self) -> bool {
        self.held.load(Relaxed)
    }
}

impl<X: Primitives, T: Guarded> Lock<T> for EngineLock<X, T> {
    type Guard<'a> = EngineGuard<'a, X, T>;

    #[track_caller]
    fn lock(&self) -> EngineGuard<'_, X, T> {
        self.run.ask(self.bit);
        let data = match &self.mutex {
            Some(mutex) => Data::Taken(X::lock(mutex)),
            None => Data::Alone(self.peek()),
        };
        self.held.store(true, Relaxed);
        self.run.hold(1 << self.bit);
        EngineGuard { data, lock: self }
    }
}

impl<X: Primitives, T: Guarded> fmt::Debug for EngineLock<X, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.tag.object.name())
    }
}

/// The data of a lock that is held.
enum Data<'a, X: Primitives, T: Guarded> {
    /// In the tool's mutex.
    Taken(X::Guard<'a, T>),
    /// A copy: nobody waits for the lock.
    Alone(T),
}

/// Ownership of an [`EngineLock`].
pub struct EngineGuard<'a, X: Primitives, T: Guarded> {
    data: Data<'a, X, T>,
    lock: &'a EngineLock<X, T>,
}

impl<X: Primitives, T: Guarded> Deref for EngineGuard<'_, X, T> {
    type Target = T;
    fn deref(&self) -> &T {
        match &self.data {
            Data::Taken(guard) => guard,
            Data::Alone(data) => data,
        }
    }
}

impl<X: Primitives, T: Guarded> DerefMut for EngineGuard<'_, X, T> {
    fn deref_mut(&mut self) -> &mut T {
        match &mut self.data {
            Data::Taken(guard) => guard,
            Data::Alone(data) => data,
        }
    }
}

impl<X: Primitives, T: Guarded> Drop for EngineGuard<'_, X, T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let run = &self.lock.run;
        run.release(self.lock.bit, self.lock.tag);
        let data: &T = self;
        *hold(&self.lock.released) = *data;
        self.lock.held.store(false, Relaxed);
        if self.lock.tag.object == Object::Lock(LockClass::MmuLock) {
            run.observe(|observer| observer.mmu_unlocked(data));
        }
    }
}

impl<X: Primitives, T: Guarded> fmt::Debug for EngineGuard<'_, X, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}
