//! RCU of the native machine: epochs, as its SRCU, and a queue.
//!
//! A thread that takes a callback waits for a grace period that begins when it takes it, the oldest
//! first. So a section that began after the call may hold the callback up; no section waits, so
//! each one ends.

use std::collections::VecDeque;

use kvmmu_model::{LockId, RCU_CALLBACKS_MAX, Rcu, Srcu};
use parking_lot::{Condvar, Mutex};

use super::lock::{NativeSrcu, Section};

/// An RCU domain.
#[derive(Debug)]
pub struct NativeRcu {
    readers: NativeSrcu,
    queue: Mutex<Queue>,
    changed: Condvar,
    /// False where no thread waits for readers.
    contended: bool,
}

#[derive(Debug, Default)]
struct Queue {
    callbacks: VecDeque<u64>,
    closed: bool,
}

impl NativeRcu {
    /// The domain of this name.
    pub fn new(id: LockId) -> Self {
        NativeRcu {
            readers: NativeSrcu::new(id),
            queue: Mutex::default(),
            changed: Condvar::new(),
            contended: id.contended,
        }
    }
}

impl Rcu for NativeRcu {
    type Section<'a> = Section;

    #[inline]
    fn read_lock(&self) -> Section {
        self.readers.read_lock()
    }

    fn synchronize(&self) {
        self.readers.synchronize();
    }

    fn call(&self, callback: u64) {
        assert!(self.contended, "callbacks of an RCU for which none was announced");
        let mut queue = self.queue.lock();
        assert!(!queue.closed, "call_rcu() after the domain was closed");
        let len = queue.callbacks.len();
        assert!(
            len < RCU_CALLBACKS_MAX,
            "call_rcu(): {len} callbacks wait already; does a thread run them? If so, raise \
             RCU_CALLBACKS_MAX of model/src/platform.rs"
        );
        queue.callbacks.push_back(callback);
        self.changed.notify_one();
    }

    fn wait_ripe(&self) -> Option<u64> {
        let mut queue = self.queue.lock();
        let callback = loop {
            match queue.callbacks.pop_front() {
                Some(callback) => break callback,
                None if queue.closed => return None,
                None => self.changed.wait(&mut queue),
            }
        };
        drop(queue);
        self.readers.synchronize();
        Some(callback)
    }

    fn close(&self) {
        self.queue.lock().closed = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

    use kvmmu_model::LockClass;

    use super::*;

    #[test]
    fn a_callback_runs_after_the_sections_that_began_before_it() {
        let rcu = NativeRcu::new(LockClass::VarRcu.one());
        let (reads, freed) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _section = rcu.read_lock();
                reads.store(true, SeqCst);
                // Long enough for a callback that does not wait.
                std::thread::sleep(std::time::Duration::from_millis(50));
                assert_eq!(freed.load(SeqCst), 0, "freed while a section lasts");
            });
            scope.spawn(|| {
                while let Some(callback) = rcu.wait_ripe() {
                    freed.fetch_add(callback, SeqCst);
                }
            });
            while !reads.load(SeqCst) {
                std::thread::yield_now();
            }
            rcu.call(7);
            rcu.call(8);
            rcu.close();
        });
        assert_eq!(freed.load(SeqCst), 15, "each callback runs once");
    }

    #[test]
    #[should_panic(expected = "8 callbacks wait already")]
    fn one_callback_too_many_is_asserted() {
        let rcu = NativeRcu::new(LockClass::VarRcu.one());
        (0..=RCU_CALLBACKS_MAX as u64).for_each(|callback| rcu.call(callback));
    }
}
