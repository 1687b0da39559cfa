//! The locks that a scenario file declares: nothing of KVM takes them, programs do.

use alloc::vec::Vec;

use kvmmu_model::{LockClass, LockKind};

use crate::machine::Machine;

/// A lock of the file's own. It guards no data: programs only take it and give it back.
#[derive(Debug)]
pub(crate) enum OwnLock<M: Machine> {
    /// A mutex or a spinlock.
    Alone(M::Lock<()>),
    /// A lock that has readers.
    Shared(M::RwLock<()>),
    /// An SRCU.
    Srcu(M::Srcu),
    /// An RCU domain.
    Rcu(M::Rcu),
}

impl<M: Machine> OwnLock<M> {
    /// Makes those of a file, in its order.
    pub(crate) fn all(m: &M, classes: &[LockClass]) -> Vec<OwnLock<M>> {
        let make = |class: &LockClass| match class.info().kind {
            LockKind::Mutex | LockKind::Spinlock | LockKind::RawSpinlock => {
                OwnLock::Alone(m.lock(class.one(), ()))
            }
            LockKind::Rwlock | LockKind::RwSemaphore | LockKind::PercpuRwSemaphore => {
                OwnLock::Shared(m.rw_lock(class.one(), ()))
            }
            LockKind::Srcu => OwnLock::Srcu(m.srcu(class.one())),
            LockKind::Rcu => OwnLock::Rcu(m.rcu(class.one())),
        };
        classes.iter().map(make).collect()
    }
}
