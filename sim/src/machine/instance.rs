//! What runs on the machine: threads over its shared words, and the answers that it needs of them.

use kvmmu_model::Tag;

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
    /// A word changed, by whomever. Called inside the step, for words made with
    /// [`kvmmu_model::Object::Spte`] only.
    fn spte_written(&self, _tag: Tag, _old: u64, _new: u64) {}
    /// A lock was released in this step. Called before the thread goes on.
    fn released(&self, _tag: Tag) {}
    /// What readers call the shared objects in the current state, where their places say little.
    /// Asked between steps, and only while a trace is taken: before the first step, and after a
    /// step that wrote an [`kvmmu_model::Object::SpHeader`].
    fn object_names(&self) -> Vec<(Tag, String)> {
        Vec::new()
    }
}
