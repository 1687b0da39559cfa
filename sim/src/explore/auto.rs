//! The strategy for those who name none: samples, then short stories, then everything.

use super::explorer::{Explorer, Limits, Progress};
use super::keep::Keep;
use super::sample::Climb;
use super::sample::pct::Pct;
use super::stateful::Stateful;
use crate::record::goal::Goal;
use crate::record::outcome::{Outcome, Reason, Verdict};
use crate::run::engine::Engine;
use crate::run::program::Program;

/// Seeded samples, which find most bugs at once: half of them random, half by PCT, and half of
/// each from where others came closest to a story that is looked for. If there is one property to
/// find, a search of executions with few context switches, which finds most of the rest by short
/// runs. And then the exhaustive search, [`Stateful::reduced`]. The later ones do not watch for
/// witnesses that the samples saw.
#[derive(Clone, Debug)]
pub struct Auto {
    /// How many executions are sampled first.
    pub executions: u64,
    /// How many, if a story is looked for: cheap beside the searches that it saves.
    pub story_executions: u64,
    /// The depths of PCT.
    pub pct: Pct,
    /// The most context switches in the second search.
    pub switches_max: u32,
    /// The most states for each number of context switches.
    pub switches_states_max: u64,
    /// What follows them.
    pub then: Stateful,
}

impl Default for Auto {
    fn default() -> Auto {
        let then = Stateful { reduced: true, ..Stateful::default() };
        Auto {
            executions: 500,
            story_executions: 5000,
            pct: Pct::default(),
            switches_max: 4,
            switches_states_max: 2_000_000,
            then,
        }
    }
}

impl Auto {
    /// The samples, by an engine that is there.
    pub(crate) fn sample(
        &self,
        engine: &mut Engine,
        limits: &Limits,
        progress: Progress<'_>,
    ) -> Outcome {
        let executions = match engine.goal().story {
            Some(_) => self.story_executions,
            None => self.executions,
        };
        let executions_max = executions.min(limits.executions_max);
        let limits = Limits { executions_max, ..*limits };
        Climb { pct: self.pct }.explore_by(engine, &limits, progress)
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
        self.explore_with(program, goal, limits, progress, None)
    }

    /// The last of its searches is saved. The others take seconds, and are made again.
    fn explore_kept(
        &mut self,
        program: &dyn Program,
        goal: &Goal,
        limits: &Limits,
        progress: Progress<'_>,
        keep: &mut dyn Keep,
    ) -> Outcome {
        self.explore_with(program, goal, limits, progress, Some(keep))
    }
}

impl Auto {
    fn explore_with(
        &mut self,
        program: &dyn Program,
        goal: &Goal,
        limits: &Limits,
        progress: Progress<'_>,
        keep: Option<&mut dyn Keep>,
    ) -> Outcome {
        let engine = &mut Engine::new(program, goal.clone());
        let outcome = self.sample(engine, limits, progress);
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
        self.then.explore_with(engine, Some(program), limits, progress, keep)
    }
}
