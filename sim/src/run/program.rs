//! What the engine runs: threads over shared words, and what must hold.

use kvmmu_model::GuardSet;
pub use kvmmu_scenarios::{Moment, Story};

pub use crate::machine::instance::Instance;
use crate::machine::platform::Sim;

/// A program: how to build its shared state. Explorers run it many times, on any number of threads.
pub trait Program: Sync {
    /// The names of its threads, in schedule order. At most [`crate::machine::THREADS_MAX`].
    fn threads(&self) -> Vec<String>;
    /// The guards that this run removes.
    fn without(&self) -> GuardSet {
        GuardSet::EMPTY
    }
    /// False: the use of locks is not checked.
    fn lock_checks(&self) -> bool {
        true
    }
    /// A checkpoint that has no effect, by file and line: for tests of what it is worth.
    fn ignored_checkpoint(&self) -> Option<(&'static str, u32)> {
        None
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
