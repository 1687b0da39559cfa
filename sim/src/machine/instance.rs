//! What runs on the machine: threads over its shared words, and the answers that it needs of them.

use kvmmu_model::arm64::{Dsb, TlbiScope};
use kvmmu_model::{Object, Tag};
use kvmmu_scenarios::Observer;

/// A built program. All of its methods take `&self`: what changes lives on the platform.
pub trait Instance {
    /// The body of a thread, run in a coroutine. Violations are reported by
    /// [`crate::Sim::violate`].
    ///
    /// Between two shared accesses of a thread its stack may be saved, restored and dropped without
    /// unwinding. So nothing that is alive across a shared access may own heap memory: a `String`
    /// or a `Vec` there would be freed twice. What all runs share belongs into the instance.
    fn run(&self, thread: usize);
    /// Runs alone after every thread has ended; its accesses are not scheduled.
    fn stop(&self) {}
    /// How many outcomes the pending operation `request` may have in the current state; at least 1.
    /// Asked between steps of a thread that published a request by [`crate::Sim::access`].
    fn choices(&self, _request: u64) -> u8 {
        1
    }
    /// The running thread begins an invalidation of TLBs. Called inside the step.
    fn tlbi(&self, _scope: TlbiScope) {}
    /// A barrier of the running thread that completes invalidations. Called inside the step.
    fn dsb(&self, _dsb: Dsb) {}
    /// Calls `forget` with the location of each cell whose value nobody will read any more in the
    /// current state: it is no part of the key. Asked between steps; may look at what is in the
    /// key, and at nothing else.
    fn unread(&self, _forget: &mut dyn FnMut(u16)) {}
    /// Who watches what happens in the steps of threads.
    fn observer(&self) -> Option<&dyn Observer> {
        None
    }
    /// What is written when the answer of [`Instance::object_names`] may change.
    fn renames(&self) -> Object {
        Object::SpHeader
    }
    /// What readers call the shared objects in the current state, where their places say little.
    /// Asked between steps, and only while a trace is taken: before the first step, and after a
    /// step that wrote what [`Instance::renames`] says.
    fn object_names(&self) -> Vec<(Tag, String)> {
        Vec::new()
    }
}
