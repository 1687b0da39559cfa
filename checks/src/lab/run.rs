//! The one place that knows how variants are explored, minimised and replayed.
//!
//! Everything else in this crate goes through [`Machine`] and the functions here.

use kvmmu_scenarios::Scenario;
use kvmmu_scenarios::lockdep::Nesting;
pub use kvmmu_sim::Progress;
use kvmmu_sim::dpor::Dpor;
use kvmmu_sim::keep::Keep;
use kvmmu_sim::minimise::minimise;
use kvmmu_sim::naive::Naive;
use kvmmu_sim::outcome::{Found, Outcome, Reason, Verdict};
use kvmmu_sim::outcomes::{Collected, collect};
use kvmmu_sim::program::Program;
use kvmmu_sim::race::Race;
use kvmmu_sim::random::Random;
use kvmmu_sim::replay::replay;
use kvmmu_sim::rule::Rule;
use kvmmu_sim::schedule::Schedule;
use kvmmu_sim::stateful::Stateful;
use kvmmu_sim::{Auto, Engine, Explorer, Limits};

use crate::cli::exit::{Failure, panic_words};
use crate::lab::replayed::{Example, Replayed, violation};
use crate::lab::search::{Search, Strategy};
use crate::lab::variant::{Goal, Variant};

/// The memory model of the simulated machine, as verdicts name it.
pub const MEMORY_MODEL: &str = "SC";

/// A minimised counterexample.
#[derive(Clone, Debug)]
pub struct Minimised {
    /// The counterexample.
    pub found: Found,
    /// True if no shorter one with the same goal exists; false if a budget cut the search.
    pub exact: bool,
    /// The budget that did.
    pub cut: Option<Reason>,
}

/// What runs variants. Tests have one of their own.
pub trait Machine: Sync {
    /// Searches for a violation that shows `goal`.
    ///
    /// # Errors
    ///
    /// Those of the engine: bugs.
    fn explore(
        &self,
        variant: &Variant,
        goal: &Goal,
        search: &Search,
        progress: Progress<'_>,
    ) -> Result<Outcome, Failure>;

    /// [`Machine::explore`] that is saved in `keep` and goes on from there, to the same outcome.
    ///
    /// # Errors
    ///
    /// Those of the engine: bugs.
    fn explore_kept(
        &self,
        variant: &Variant,
        goal: &Goal,
        search: &Search,
        progress: Progress<'_>,
        keep: &mut dyn Keep,
    ) -> Result<Outcome, Failure> {
        let _ = keep;
        self.explore(variant, goal, search, progress)
    }

    /// A smallest counterexample that shows `goal`: context switches, then steps.
    ///
    /// # Errors
    ///
    /// Those of the engine: bugs.
    fn minimise(
        &self,
        variant: &Variant,
        goal: &Goal,
        found: &Found,
        search: &Search,
        progress: Progress<'_>,
    ) -> Result<Minimised, Failure>;

    /// Searches for a thread that asks for one lock while it holds another, and makes the way there
    /// short. `None`: none was found within the bounds.
    ///
    /// # Errors
    ///
    /// Those of the engine: bugs.
    fn witness(
        &self,
        variant: &Variant,
        nesting: Nesting,
        search: &Search,
        progress: Progress<'_>,
    ) -> Result<Option<Example>, Failure>;

    /// Runs one schedule as far as it goes.
    ///
    /// # Errors
    ///
    /// Those of the engine: bugs.
    fn replay(&self, variant: &Variant, schedule: &Schedule) -> Result<Replayed, Failure>;
}

/// The simulated machine.
#[derive(Clone, Copy, Debug)]
pub struct Simulated;

/// A variant as the simulator runs it.
fn program(variant: &Variant) -> Race {
    Race::new(Scenario::clone(&variant.scenario), variant.without)
}

/// A goal as the simulator looks for it.
fn looked_for(goal: &Goal) -> kvmmu_sim::Goal {
    let story = goal.story.as_ref().map(|witness| witness.story.clone());
    kvmmu_sim::Goal { rule: goal.rule, story, nesting: None }
}

/// An engine that runs `variant` and looks for `goal`.
fn engine(variant: &Variant, goal: &Goal) -> Engine {
    Engine::new(&program(variant), looked_for(goal))
}

/// The strategy that `search` names.
fn explorer(search: &Search) -> Box<dyn Explorer> {
    match search.strategy {
        Strategy::Auto => Box::new(Auto { pct: search.pct.0, ..Auto::default() }),
        Strategy::Stateful => Box::new(Stateful::default()),
        Strategy::Random => Box::new(Random),
        Strategy::Pct => Box::new(search.pct.0),
        Strategy::Naive => Box::new(Naive::default()),
        Strategy::Dpor => Box::new(Dpor::default()),
    }
}

/// The limits of `search`.
fn limits(search: &Search) -> Limits {
    Limits {
        steps_max: search.steps_max,
        states_max: search.states_max,
        executions_max: search.executions_max,
        time_max: search.time_max,
        memory: search.memory,
        seed: search.seed,
        workers: 1,
        cores: search.cores,
    }
}

/// An internal error that `outcome` reports in place of a verdict.
fn internal(outcome: &Outcome) -> Option<Failure> {
    let found = match &outcome.verdict {
        Verdict::Violated(found) => Some(found),
        _ => None,
    };
    let error = found.into_iter().chain(&outcome.others).find(|f| f.rule == Rule::InternalError)?;
    Some(Failure::internal(panic_words(&error.detail)))
}

impl Machine for Simulated {
    fn explore(
        &self,
        variant: &Variant,
        goal: &Goal,
        search: &Search,
        progress: Progress<'_>,
    ) -> Result<Outcome, Failure> {
        let (program, goal) = (program(variant), looked_for(goal));
        let outcome = explorer(search).explore(&program, &goal, &limits(search), progress);
        internal(&outcome).map_or(Ok(outcome), Err)
    }

    fn explore_kept(
        &self,
        variant: &Variant,
        goal: &Goal,
        search: &Search,
        progress: Progress<'_>,
        keep: &mut dyn Keep,
    ) -> Result<Outcome, Failure> {
        let (program, goal) = (program(variant), looked_for(goal));
        let mut explorer = explorer(search);
        let outcome = explorer.explore_kept(&program, &goal, &limits(search), progress, keep);
        internal(&outcome).map_or(Ok(outcome), Err)
    }

    fn minimise(
        &self,
        variant: &Variant,
        goal: &Goal,
        found: &Found,
        search: &Search,
        progress: Progress<'_>,
    ) -> Result<Minimised, Failure> {
        let mut engine = engine(variant, goal);
        let limits = limits(&search.minimising());
        let small = minimise(&mut engine, &found.schedule, &limits, progress);
        let replayed = self.replay(variant, &small.schedule)?;
        // A cycle of states violates something in none of its steps.
        let (rule, detail) = match violation(&replayed.events) {
            Some((rule, detail)) => (rule, detail.to_owned()),
            None => (found.rule, found.detail.clone()),
        };
        let found = Found { schedule: small.schedule, rule, detail, ..found.clone() };
        Ok(Minimised { found, exact: small.exact, cut: small.cut })
    }

    fn witness(
        &self,
        variant: &Variant,
        nesting: Nesting,
        search: &Search,
        progress: Progress<'_>,
    ) -> Result<Option<Example>, Failure> {
        witness(&program(variant), nesting, search, progress)
    }

    fn replay(&self, variant: &Variant, schedule: &Schedule) -> Result<Replayed, Failure> {
        let mut engine = engine(variant, &Goal::default());
        engine.reset();
        match replay(&mut engine, schedule) {
            Ok(run) => Ok(run.into()),
            Err(error) => {
                // As far as it goes: the moves before the one that cannot be made.
                let at = error.step - 1;
                let before = Schedule(schedule.0[..at].to_vec());
                engine.reset();
                let stuck = Some((at, error.to_string()));
                Ok(match replay(&mut engine, &before) {
                    Ok(run) => Replayed { stuck, ..run.into() },
                    Err(_) => Replayed { stuck, ..Replayed::default() },
                })
            }
        }
    }
}

/// [`Machine::witness`] of any program.
///
/// # Errors
///
/// Those of the engine: bugs.
pub fn witness(
    program: &dyn Program,
    nesting: Nesting,
    search: &Search,
    progress: Progress<'_>,
) -> Result<Option<Example>, Failure> {
    let goal = kvmmu_sim::Goal::nesting(nesting);
    let outcome = explorer(search).explore(program, &goal, &limits(search), progress);
    if let Some(failure) = internal(&outcome) {
        return Err(failure);
    }
    let Verdict::Violated(found) = outcome.verdict else { return Ok(None) };
    let limits = limits(&search.minimising());
    let mut engine = Engine::new(program, goal);
    let schedule = minimise(&mut engine, &found.schedule, &limits, progress).schedule;
    let run = replay(&mut engine, &schedule)
        .map_err(|error| Failure::internal(format!("a schedule does not replay: {error}")))?;
    Ok(Some(Example { schedule, run: run.into() }))
}

/// The outcomes of a variant. Its search ends early for its bounds only.
///
/// # Errors
///
/// Those of the engine: bugs.
pub fn outcomes(
    variant: &Variant,
    search: &Search,
    progress: Progress<'_>,
) -> Result<Collected, Failure> {
    let (scenario, without) = (&variant.scenario, variant.without);
    let mut explorer = explorer(search);
    let collected = collect(scenario, without, &mut *explorer, &limits(search), progress);
    match collected.broken.iter().find(|f| f.rule == Rule::InternalError) {
        Some(error) => Err(Failure::internal(panic_words(&error.detail))),
        None => Ok(collected),
    }
}
