//! What an exploration looks for.

use kvmmu_scenarios::Story;
use kvmmu_scenarios::lockdep::Nesting;

/// Which violations count. The others are recorded apart from the verdict; their paths end there.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Goal {
    /// The property that is violated; `None`: any.
    pub property: Option<&'static str>,
    /// The sequence of moments that the way there passes.
    pub story: Option<Story>,
    /// A lock that is asked for while another is held: each execution ends there, with
    /// [`property::NESTING`].
    pub nesting: Option<Nesting>,
}

impl Goal {
    /// Any violation of any property.
    pub const ANY: Goal = Goal { property: None, story: None, nesting: None };

    /// Any violation of one property.
    pub const fn of(property: &'static str) -> Goal {
        Goal { property: Some(property), story: None, nesting: None }
    }

    /// A lock that is asked for while another is held. Not a violation by itself.
    pub const fn nesting(nesting: Nesting) -> Goal {
        Goal { property: Some(property::NESTING), story: None, nesting: Some(nesting) }
    }
}

/// A property was violated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Which property.
    pub property: &'static str,
    /// What is wrong, in words.
    pub detail: String,
    /// True if the goal's story was complete by then, or there is none.
    pub story: bool,
}

/// Properties that the simulated machine itself watches.
pub mod property {
    /// Some threads have not ended and none can go on.
    pub const DEADLOCK: &str = "deadlock";
    /// Retries for ever, or retries that all wait for a change that cannot come.
    pub const LIVELOCK: &str = "livelock";
    /// Freed memory was touched.
    pub const USE_AFTER_FREE: &str = "use-after-free";
    /// Not a property: the nesting of two locks that was looked for.
    pub const NESTING: &str = "nesting";
    /// Not a property: the model, a scenario or the simulator panicked.
    pub const INTERNAL_ERROR: &str = "internal-error";
}
