//! What an execution can break.

use core::fmt;

use kvmmu_scenarios::Property;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What an execution breaks when it ends in a violation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Rule {
    /// A property that scenarios know.
    Property(Property),
    /// A rule of a small program's own, by its name.
    Own(&'static str),
    /// Not a rule: the nesting of two locks that was looked for.
    Nesting,
    /// Not a rule: the model, a scenario or the simulator panicked.
    InternalError,
}

impl Rule {
    /// Stuck: some threads have not ended and none can go on.
    pub const DEADLOCK: Rule = Rule::Property(Property::Deadlock);
    /// Retries for ever, or retries that all wait for a change that cannot come.
    pub const LIVELOCK: Rule = Rule::Property(Property::Livelock);
    /// Freed memory was touched.
    pub const USE_AFTER_FREE: Rule = Rule::Property(Property::UseAfterFree);

    /// The name that files and reports use.
    pub const fn name(self) -> &'static str {
        match self {
            Rule::Property(property) => property.name(),
            Rule::Own(name) => name,
            Rule::Nesting => "nesting",
            Rule::InternalError => "internal-error",
        }
    }

    /// The property, if it is one that scenarios know.
    pub const fn property(self) -> Option<Property> {
        match self {
            Rule::Property(property) => Some(property),
            Rule::Own(_) | Rule::Nesting | Rule::InternalError => None,
        }
    }

    /// True if nobody gets on: how an execution ends that neither ends nor breaks anything else.
    pub const fn is_stuck(self) -> bool {
        matches!(self, Rule::DEADLOCK | Rule::LIVELOCK)
    }
}

impl From<Property> for Rule {
    fn from(property: Property) -> Rule {
        Rule::Property(property)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// By its name.
impl Serialize for Rule {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.name())
    }
}

/// What is no other rule's name is that of a small program's own, and is kept for good.
impl<'de> Deserialize<'de> for Rule {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Rule, D::Error> {
        let name = String::deserialize(from)?;
        let others = [Rule::Nesting, Rule::InternalError];
        let other = others.into_iter().find(|rule| rule.name() == name);
        let known = Property::by_name(&name).map(Rule::from).or(other);
        Ok(known.unwrap_or_else(|| Rule::Own(name.leak())))
    }
}
