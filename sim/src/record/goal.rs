//! What an exploration looks for.

use kvmmu_scenarios::Story;
use kvmmu_scenarios::lockdep::Nesting;

use super::rule::Rule;

/// Which violations count. The others are recorded apart from the verdict; their paths end there.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Goal {
    /// What is violated; `None`: anything.
    pub rule: Option<Rule>,
    /// The sequence of moments that the way there passes.
    pub story: Option<Story>,
    /// A lock that is asked for while another is held: each execution ends there, with
    /// [`Rule::Nesting`].
    pub nesting: Option<Nesting>,
}

impl Goal {
    /// Any violation of any property.
    pub const ANY: Goal = Goal { rule: None, story: None, nesting: None };

    /// Any violation of one rule.
    pub const fn of(rule: Rule) -> Goal {
        Goal { rule: Some(rule), story: None, nesting: None }
    }

    /// A lock that is asked for while another is held. Not a violation by itself.
    pub const fn nesting(nesting: Nesting) -> Goal {
        Goal { rule: Some(Rule::Nesting), story: None, nesting: Some(nesting) }
    }
}

/// A rule was violated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Which rule.
    pub rule: Rule,
    /// What is wrong, in words.
    pub detail: String,
    /// True if the goal's story was complete by then, or there is none.
    pub story: bool,
}
