//! How a VMM keeps its vCPUs out of KVM_RUN: the threads that run them count themselves, and look
//! whether they are to stop before each operation.

use kvmmu_model::platform::Ordering::{AcqRel, Acquire, Release};
use kvmmu_model::{Object, Tag, Until, Word};

use crate::machine::Machine;

/// Of one VMM.
#[derive(Debug)]
pub(crate) struct VmmPause<M: Machine> {
    /// Not 0: they are to stop.
    asked: M::Word,
    /// How many are in KVM_RUN.
    running: M::Word,
}

impl<M: Machine> VmmPause<M> {
    /// All of so many vCPUs are in KVM_RUN.
    pub(crate) fn new(m: &M, vcpus: u8) -> Self {
        let word = |nth, init| m.word(Tag::nth(Object::VmmPause, nth), init);
        VmmPause { asked: word(0, 0), running: word(1, u64::from(vcpus)) }
    }

    /// Stops them, and waits until they have stopped.
    pub(crate) fn begin(&self) {
        // ORDERING: acq-rel: an atomic of the VMM.
        self.asked.swap(1, AcqRel);
        self.running.wait_until(Until::Is(0));
    }

    /// They may go on.
    pub(crate) fn end(&self) {
        // ORDERING: release: what was done meanwhile is there for them.
        self.asked.store(0, Release);
    }

    /// A vCPU looks whether it is to stop.
    pub(crate) fn is_asked(&self) -> bool {
        // ORDERING: acquire pairs with the release in `end`.
        self.asked.load(Acquire) != 0
    }

    /// A vCPU is out of KVM_RUN.
    pub(crate) fn leave(&self) {
        // ORDERING: acq-rel: who waits finds its KVM_RUN over.
        self.running.fetch_add(u64::MAX, AcqRel);
    }

    /// It waits until it may go on, and is in again.
    pub(crate) fn wait(&self) {
        self.asked.wait_until(Until::Is(0));
        // ORDERING: acq-rel: as above.
        self.running.fetch_add(1, AcqRel);
    }
}
