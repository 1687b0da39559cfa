//! RCU: the read sections and grace periods of SRCU, and a queue. Nothing here sleeps.
//!
//! A CPU that takes a callback waits for a grace period that begins when it takes it, the oldest
//! first.

use kvmmu_model::{LockClass, LockId, RCU_CALLBACKS_MAX, Rcu, Srcu};
use spin::mutex::SpinMutex;

use super::lock::{Section, SpinSrcu};
use crate::el2::cpu::wait;

/// An RCU domain.
#[derive(Debug)]
pub(crate) struct SpinRcu {
    class: LockClass,
    readers: SpinSrcu,
    queue: SpinMutex<Queue>,
}

/// The callbacks that wait, the oldest first.
#[derive(Debug, Default)]
struct Queue {
    callbacks: [u64; RCU_CALLBACKS_MAX],
    len: usize,
    closed: bool,
}

impl Queue {
    fn pop(&mut self) -> Option<u64> {
        let oldest = self.callbacks[..self.len].first().copied()?;
        self.callbacks.copy_within(1..self.len, 0);
        self.len -= 1;
        Some(oldest)
    }
}

impl SpinRcu {
    pub(crate) fn new(id: LockId) -> Self {
        let readers = SpinSrcu::new(id);
        SpinRcu { class: id.class, readers, queue: SpinMutex::new(Queue::default()) }
    }
}

impl Rcu for SpinRcu {
    type Section<'a> = Section<'a>;

    fn read_lock(&self) -> Section<'_> {
        self.readers.read_lock()
    }

    fn synchronize(&self) {
        self.readers.synchronize();
    }

    fn call(&self, callback: u64) {
        let mut queue = self.queue.lock();
        let len = queue.len;
        assert!(!queue.closed, "call_rcu() after the domain was closed");
        assert!(len < RCU_CALLBACKS_MAX, "call_rcu(): {len} callbacks wait already");
        queue.callbacks[len] = callback;
        queue.len += 1;
    }

    fn wait_ripe(&self) -> Option<u64> {
        let mut callback = None;
        wait::until(self.class.info().short, || {
            let mut queue = self.queue.lock();
            callback = queue.pop();
            callback.is_some() || queue.closed
        });
        if callback.is_some() {
            self.readers.synchronize();
        }
        callback
    }

    fn close(&self) {
        self.queue.lock().closed = true;
    }
}
