//! What the engine runs: threads over shared words, and what must hold.

use kvmmu_model::{GuardSet, Mark, Tag};

use crate::platform::Sim;

/// A program: how to build its shared state. Explorers run it many times.
pub trait Program {
    /// The names of its threads, in schedule order. At most [`crate::THREADS_MAX`].
    fn threads(&self) -> Vec<String>;
    /// The guards that this run takes away.
    fn without(&self) -> GuardSet {
        GuardSet::EMPTY
    }
    /// False: the use of locks is not checked.
    fn lock_checks(&self) -> bool {
        true
    }
    /// Sequences of marks to watch for; the `i`-th sets bit `i` of `Seen::witnesses`.
    fn witnesses(&self) -> Vec<Story> {
        Vec::new()
    }
    /// Makes the words, locks and cells on `platform` and gives them their initial values. Called
    /// once for each engine; nothing that it does is a step. Everything mutable must live on
    /// `platform`.
    fn build(&self, platform: &Sim) -> Box<dyn Instance>;
}

/// A built program. All of its methods take `&self`: what changes lives on the platform.
pub trait Instance {
    /// The body of a thread, run in a coroutine. Violations are reported by [`Sim::violate`].
    ///
    /// Between two shared accesses of a thread its stack may be saved, restored and dropped without
    /// unwinding. So nothing that is alive across a shared access may own heap memory: a `String`
    /// or a `Vec` there would be freed twice. What all runs share belongs into the instance.
    fn run(&self, thread: usize);
    /// Runs alone after every thread has ended; its accesses are not scheduled.
    fn stop(&self) {}
    /// How many outcomes the pending operation `request` may have in the current state; at least 1.
    /// Asked between steps of a thread that published a request by [`Sim::access`].
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

/// A sequence of moments: each must come after the one before it. Seeing the first again starts
/// over, so that `read < zap < cmpxchg` speaks of the read that the cmpxchg belongs to.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Story(pub Vec<Moment>);

/// One moment of a story.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Moment {
    /// What happened.
    pub mark: Mark,
    /// In which thread; `None`: any.
    pub thread: Option<u8>,
}
