//! The strategy for those who name none: a sample, short stories, then everything.

use super::explorer::{Explorer, Limits, Progress};
use super::sample::random::Random;
use super::stateful::Stateful;
use crate::record::goal::Goal;
use crate::record::outcome::{Outcome, Reason, Verdict};
use crate::run::engine::Engine;
use crate::run::program::Program;

/// A short seeded search, which finds most bugs at once; if one property is looked for, a search of
/// executions with few context switches, which finds most of the rest by short runs; and
/// then the exhaustive search, [`Stateful::reduced`]. The others do not watch for witnesses that
/// the first one saw.
#[derive(Clone, Debug)]
pub struct Auto {
    /// How many random executions there are first.
    pub executions: u64,
    /// The most context switches in the second search.
    pub switches_max: u32,
    /// The most states for each number of context switches.
    pub switches_states_max: u64,
    /// What follows them.
    pub then: Stateful,
}

impl Default for Auto {
    fn default() -> Auto {
        Auto {
            executions: 500,
            switches_max: 4,
            switches_states_max: 2_000_000,
            then: Stateful { reduced: true, ..Stateful::default() },
        }
    }
}

/// True if nothing more is to be done: the verdict is there, or a signal or the clock said stop.
fn is_final(verdict: &Verdict) -> bool {
    use Reason::{InternalError, Interrupted, Time};
    matches!(
        verdict,
        Verdict::Violated(_) | Verdict::Inconclusive(Interrupted | Time | InternalError)
    )
}

impl Explorer for Auto {
    fn explore(
        &mut self,
        program: &dyn Program,
        goal: &Goal,
        limits: &Limits,
        progress: Progress<'_>,
    ) -> Outcome {
        let engine = &mut Engine::new(program, goal.clone());
        let executions_max = self.executions.min(limits.executions_max);
        let short = Limits { executions_max, ..*limits };
        let outcome = Random.explore_by(engine, &short, progress);
        if is_final(&outcome.verdict) {
            return outcome;
        }
        // States need not differ by progress towards a witness that is known. Only here: where
        // later searches end may depend on the memory that others leave them.
        engine.settle_witnesses();
        let few = Limits { states_max: self.switches_states_max.min(limits.states_max), ..*limits };
        for switches in 1..=self.switches_max {
            if engine.goal().rule.is_none() {
                break;
            }
            let mut search = Stateful { switches_max: Some(switches), ..Stateful::default() };
            let outcome = search.explore_by(engine, &few, progress);
            if is_final(&outcome.verdict) {
                return outcome;
            }
            if matches!(outcome.verdict, Verdict::Inconclusive(Reason::States | Reason::Memory)) {
                break;
            }
        }
        self.then.explore_by(engine, limits, progress)
    }
}
