//! What is known of variants that nothing tells apart.
//!
//! A guard for which no step of any execution asks changes nothing when it is removed. So what was
//! found of one variant, everything explored and nothing violated, is what would be found of each
//! that differs from it in such guards alone, to the last state. It is not explored again.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvmmu_model::{Guard, GuardSet};
use kvmmu_scenarios::Scenario;
use kvmmu_sim::Progress;
use kvmmu_sim::outcome::{Outcome, Verdict};

use crate::cli::exit::Failure;
use crate::lab::kept::Kept;
use crate::lab::run::Machine;
use crate::lab::search::Search;
use crate::lab::variant::{Goal, Variant};

/// The variants of one run that were explored.
pub struct Known<'m> {
    machine: &'m dyn Machine,
    kept: Option<&'m Kept>,
    explored: Mutex<Vec<Explored>>,
}

/// A variant that holds, all of which was explored.
struct Explored {
    scenario: Arc<Scenario>,
    without: GuardSet,
    goal: Goal,
    outcome: Outcome,
}

impl<'m> Known<'m> {
    /// Nothing is known but what is kept.
    pub fn new(machine: &'m dyn Machine, kept: Option<&'m Kept>) -> Known<'m> {
        Known { machine, kept, explored: Mutex::default() }
    }

    /// [`Machine::explore`], unless the outcome is known; and whether it was.
    ///
    /// # Errors
    ///
    /// Those of the machine.
    pub fn explore(
        &self,
        variant: &Variant,
        search: &Search,
        progress: Progress<'_>,
    ) -> Result<(Outcome, bool), Failure> {
        let goal = variant.goal();
        if let Some(outcome) = self.find(variant, &goal) {
            return Ok((outcome, true));
        }
        let outcome = match self.kept {
            Some(kept) => kept.explore(self.machine, variant, search, progress)?,
            None => self.machine.explore(variant, &goal, search, progress)?,
        };
        if outcome.verdict == Verdict::Holds && outcome.others.is_empty() {
            let (scenario, without) = (Arc::clone(&variant.scenario), variant.without);
            let explored = Explored { scenario, without, goal, outcome: outcome.clone() };
            self.lock().push(explored);
        }
        Ok((outcome, false))
    }

    fn find(&self, variant: &Variant, goal: &Goal) -> Option<Outcome> {
        let is_it = |one: &&Explored| {
            let same = |g: &Guard| one.without.contains(*g) == variant.without.contains(*g);
            let unasked = |g: &Guard| !one.outcome.seen.asked.contains(*g);
            one.goal == *goal
                && Guard::ALL.iter().all(|guard| same(guard) || unasked(guard))
                && one.scenario == variant.scenario
        };
        self.lock().iter().find(is_it).map(|one| one.outcome.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Explored>> {
        self.explored.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Known<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Known").field("variants", &self.lock().len()).finish_non_exhaustive()
    }
}
