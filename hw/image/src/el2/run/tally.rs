//! What the runs of a scenario gave.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use kvmmu_scenarios::Property;
use kvmmu_scenarios::outcome::Outcome;

use super::once::Ran;

/// What the runs of a scenario gave.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) outcomes: BTreeMap<Outcome, u64>,
    /// Violations, by what was said, and how often.
    pub(super) violations: BTreeMap<String, u64>,
    /// The properties that were violated.
    pub(super) properties: Vec<Property>,
    pub(super) runs: u64,
    /// In how many of them some property was violated.
    pub(super) violated: u64,
}

impl Tally {
    /// One more run.
    pub(super) fn add(&mut self, ran: Ran) {
        self.runs += 1;
        *self.outcomes.entry(ran.outcome).or_default() += 1;
        if let Some(violation) = ran.violation {
            self.violated += 1;
            let said = format!("{}: {}", violation.property.name(), violation.detail);
            *self.violations.entry(said).or_default() += 1;
            if !self.properties.contains(&violation.property) {
                self.properties.push(violation.property);
            }
        }
    }
}
