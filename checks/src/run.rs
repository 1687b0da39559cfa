//! The one place that knows how scenarios are loaded, explored, minimised and replayed.
//!
//! Everything else in this crate goes through [`Machine`] and the functions here.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kvmmu_model::spte::SHADOW_PAGES_BASE;
use kvmmu_model::{Access, GuardSet, Spte, SpteFormat};
use kvmmu_scenarios::Scenario;
use kvmmu_scenarios::builtin::FILES;
use kvmmu_scenarios::loader::{self, LoadError};
use kvmmu_scenarios::lockdep::Nesting;
use kvmmu_scenarios::world::format_of;
use kvmmu_sim::dpor::Dpor;
use kvmmu_sim::event::{Event, What};
use kvmmu_sim::goal::property::INTERNAL_ERROR;
use kvmmu_sim::memory::Memory;
use kvmmu_sim::minimise::minimise;
use kvmmu_sim::naive::Naive;
use kvmmu_sim::names::{Names, Wait};
use kvmmu_sim::outcome::{Found, Outcome, Reason, Stats, Verdict};
use kvmmu_sim::outcomes::{Collected, collect};
use kvmmu_sim::pct::Pct;
use kvmmu_sim::program::Program;
use kvmmu_sim::race::Race;
use kvmmu_sim::random::Random;
use kvmmu_sim::replay::{Replay, replay};
use kvmmu_sim::schedule::Schedule;
use kvmmu_sim::stateful::Stateful;
use kvmmu_sim::{Auto, Engine, Explorer, Limits};

use crate::args::{SearchArgs, Strategy};
use crate::exit::{Failure, panic_words};
use crate::memory;
use crate::variant::{Goal, Variant};

/// The memory model of the simulated machine, as verdicts name it.
pub const MEMORY_MODEL: &str = "SC";

/// How to search and how far.
#[derive(Clone, Debug)]
pub struct Search {
    /// How.
    pub strategy: Strategy,
    /// The seed of all random choices.
    pub seed: u64,
    /// The longest time for one variant.
    pub time_max: Option<Duration>,
    /// The most states.
    pub states_max: u64,
    /// The most executions.
    pub executions_max: u64,
    /// The longest execution.
    pub steps_max: u32,
    /// The memory that all searches together may take.
    pub memory: Option<&'static Memory>,
}

/// The search of `kvmmu check` without options, in as much memory as it takes.
impl Default for Search {
    fn default() -> Search {
        Search {
            strategy: Strategy::Auto,
            seed: 1,
            time_max: None,
            states_max: STATES_MAX,
            executions_max: 1_000_000_000,
            steps_max: 5_000,
            memory: None,
        }
    }
}

impl Search {
    /// As the command line says it, for so many at the same time.
    pub fn new(args: &SearchArgs, jobs: usize) -> Search {
        let (strategy, default) = (args.strategy(), Search::default());
        let executions = match strategy {
            Strategy::Random | Strategy::Pct => 100_000,
            _ => default.executions_max,
        };
        Search {
            strategy,
            seed: args.seed,
            time_max: args.time_max,
            states_max: args.states_max.unwrap_or(default.states_max),
            executions_max: args.executions_max.unwrap_or(executions),
            steps_max: args.steps_max.unwrap_or(default.steps_max),
            memory: memory::bound(args.memory_max, jobs),
        }
    }
}

/// A replayed schedule.
#[derive(Clone, Debug, Default)]
pub struct Replayed {
    /// What happened.
    pub events: Vec<Event>,
    /// What the objects of the events are called.
    pub names: Names,
    /// What threads wait for after the last step.
    pub waits: Vec<Wait>,
    /// The locks that threads ask for after the last step and do not have yet; after a violation by
    /// an acquisition that one alone.
    pub asks: Vec<Wait>,
    /// The step after which the state was the last one already, if there is one: the steps from
    /// there on go round.
    pub lap: Option<usize>,
    /// Steps that are no moves of the schedule but were put in, as `report::twin` does.
    pub extra: Vec<u32>,
    /// The first move that could not be made, by index, and why.
    pub stuck: Option<(usize, String)>,
}

/// The property that the events violate, and what is wrong, in words. What comes after the first
/// violation is no behaviour any more.
pub fn violation(events: &[Event]) -> Option<(&'static str, &str)> {
    events.iter().find_map(|event| match &event.what {
        What::Violation { property, detail } => Some((*property, detail.as_str())),
        _ => None,
    })
}

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

/// A shortest way to a nesting of two locks.
#[derive(Clone, Debug)]
pub struct Witness {
    /// The way there.
    pub schedule: Schedule,
    /// What happens on it. It ends where the inner lock is asked for, which is the one of
    /// [`Replayed::asks`].
    pub run: Replayed,
}

/// Called now and then with what a search took so far; returns false to end it.
pub type Progress<'a> = &'a mut dyn FnMut(&Stats) -> bool;

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
    ) -> Result<Option<Witness>, Failure>;

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

/// The most states of a search, and the most that minimising looks at before it settles for a
/// counterexample that is merely small, unless the command line says. A state costs more there.
const STATES_MAX: u64 = 50_000_000;
const MINIMISE_STATES_MAX: u64 = 2_000_000;

/// A variant as the simulator runs it.
fn program(variant: &Variant) -> Race {
    Race::new(Scenario::clone(&variant.scenario), variant.without)
}

/// An engine that runs `variant` and looks for `goal`.
fn engine(variant: &Variant, goal: &Goal) -> Engine {
    let story = goal.story.as_ref().map(kvmmu_sim::race::story);
    Engine::new(
        &program(variant),
        kvmmu_sim::Goal { property: goal.property, story, nesting: None },
    )
}

/// The strategy that `search` names.
fn explorer(search: &Search) -> Box<dyn Explorer> {
    match search.strategy {
        Strategy::Auto => Box::new(Auto::default()),
        Strategy::Stateful => Box::new(Stateful::default()),
        Strategy::Random => Box::new(Random),
        Strategy::Pct => Box::new(Pct::default()),
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
    }
}

/// How far minimising goes with what `search` found.
pub fn minimising(search: &Search) -> Search {
    let states_max = match search.states_max {
        STATES_MAX => MINIMISE_STATES_MAX,
        asked => asked,
    };
    Search { states_max, ..search.clone() }
}

/// An internal error that `outcome` reports in place of a verdict.
fn internal(outcome: &Outcome) -> Option<Failure> {
    let found = match &outcome.verdict {
        Verdict::Violated(found) => Some(found),
        _ => None,
    };
    let error = found.into_iter().chain(&outcome.others).find(|f| f.property == INTERNAL_ERROR)?;
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
        let mut engine = engine(variant, goal);
        let outcome = explorer(search).explore(&mut engine, &limits(search), progress);
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
        let limits = limits(&minimising(search));
        let small = minimise(&mut engine, &found.schedule, &limits, progress);
        let replayed = self.replay(variant, &small.schedule)?;
        // A cycle of states violates something in none of its steps.
        let (property, detail) = match violation(&replayed.events) {
            Some((property, detail)) => (property, detail.to_owned()),
            None => (found.property, found.detail.clone()),
        };
        let found = Found { schedule: small.schedule, property, detail, ..found.clone() };
        Ok(Minimised { found, exact: small.exact, cut: small.cut })
    }

    fn witness(
        &self,
        variant: &Variant,
        nesting: Nesting,
        search: &Search,
        progress: Progress<'_>,
    ) -> Result<Option<Witness>, Failure> {
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

impl From<Replay> for Replayed {
    fn from(run: Replay) -> Replayed {
        let Replay { events, names, waits, asks, keys, violation, .. } = run;
        let before = keys.split_last().filter(|_| violation.is_none());
        let lap = before.and_then(|(last, before)| before.iter().position(|key| key == last));
        Replayed { events, names, waits, asks, lap: lap.map(|i| i + 1), ..Replayed::default() }
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
) -> Result<Option<Witness>, Failure> {
    let mut engine = Engine::new(program, kvmmu_sim::Goal::nesting(nesting));
    let outcome = explorer(search).explore(&mut engine, &limits(search), progress);
    if let Some(failure) = internal(&outcome) {
        return Err(failure);
    }
    let Verdict::Violated(found) = outcome.verdict else { return Ok(None) };
    let limits = limits(&minimising(search));
    let schedule = minimise(&mut engine, &found.schedule, &limits, progress).schedule;
    let run = replay(&mut engine, &schedule)
        .map_err(|error| Failure::internal(format!("a schedule does not replay: {error}")))?;
    Ok(Some(Witness { schedule, run: run.into() }))
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
    match collected.broken.iter().find(|f| f.property == INTERNAL_ERROR) {
        Some(error) => Err(Failure::internal(panic_words(&error.detail))),
        None => Ok(collected),
    }
}

/// The built-in scenarios at `size`, in order of their names.
///
/// # Errors
///
/// A built-in file that does not load.
pub fn builtin(size: u8) -> Result<Vec<Arc<Scenario>>, Failure> {
    let load = |(name, text): &(&str, &str)| {
        loader::load(name, text, size).map(Arc::new).map_err(|error| refused(&error))
    };
    FILES.iter().map(load).collect()
}

/// The built-in scenario `name` at `size`.
///
/// # Errors
///
/// A name that no built-in file has, a size that it does not fit.
pub fn builtin_named(name: &str, size: u8) -> Result<Arc<Scenario>, Failure> {
    let file = FILES.iter().find(|(file, _)| file.strip_suffix(".toml") == Some(name));
    let Some((file, text)) = file else {
        return Err(Failure::usage(
            format!("no scenario is called '{name}'"),
            "'kvmmu list' prints the scenarios",
        ));
    };
    loader::load(file, text, size).map(Arc::new).map_err(|error| refused(&error))
}

/// The text of a scenario file.
///
/// # Errors
///
/// A file that cannot be read.
pub fn read(path: &Path) -> Result<Arc<str>, Failure> {
    loader::read(path).map(Arc::from).map_err(|error| refused(&error))
}

/// The scenario that `text`, of a file of this name, is.
///
/// # Errors
///
/// A text that does not load.
pub fn load(file: &str, text: &str, size: u8) -> Result<Arc<Scenario>, Failure> {
    loader::load(file, text, size).map(Arc::new).map_err(|error| refused(&error))
}

/// Why a scenario file does not load, with its place and the next thing to try.
fn refused(error: &LoadError) -> Failure {
    let text = error.to_string();
    let message = text.split_once("\n  help: ").map_or(text.as_str(), |(message, _)| message);
    Failure::usage(message, error.hint.clone())
}

/// The shadow page that a non-leaf SPTE points to, by its place in the pool.
pub fn child_of(value: u64) -> Option<u8> {
    // Only shadow pages lie this high.
    // Every format has its pfn there.
    let (format, spte) = (SpteFormat::STAGE2, Spte(value));
    (format.pfn(spte).0 >= SHADOW_PAGES_BASE).then(|| format.child(spte).0)
}

/// How an SPTE's value reads in reports: `pfn1 r-x HM AD`, where `r-x` is what hardware allows, H
/// and M are host- and MMU-writable, A and D are the hardware's bits.
pub fn format_spte(scenario: &Scenario, value: u64) -> String {
    let spte = Spte(value);
    if value == 0 {
        return "0".to_owned();
    }
    let format = format_of(scenario.spte);
    if let Some(sp) = child_of(value) {
        return format!("sp{sp}");
    }
    let bit = |set: bool, letter: char| if set { letter } else { '-' };
    let mut text = format!("pfn{} ", format.pfn(spte).0);
    let accesses = [(Access::Read, 'r'), (Access::Write, 'w'), (Access::Fetch, 'x')];
    text.extend(accesses.map(|(access, letter)| bit(format.allows(spte, access), letter)));
    text.push(' ');
    text.push(bit(format.is_host_writable(spte), 'H'));
    text.push(bit(format.is_mmu_writable(spte), 'M'));
    if scenario.spte.has_ad() {
        text.push(' ');
        text.push(bit(format.is_accessed(spte), 'A'));
        text.push(bit(format.is_dirty(spte), 'D'));
    } else if format.is_access_track(spte) {
        // What a restore would give back.
        let saved = format.restore_acc_track(spte);
        text += " saved ";
        text.extend(accesses.map(|(access, letter)| bit(format.allows(saved, access), letter)));
    }
    text
}

/// Hashes what a schedule depends on: format, scenario, missing guards and the sources of model,
/// scenarios and sim. The prose of the scenario, its expectations and whether
/// locks are checked do not count.
pub fn fingerprint(scenario: &Scenario, without: GuardSet) -> u32 {
    let mut bare = scenario.clone();
    bare.title.clear();
    bare.source.clear();
    bare.about.clear();
    bare.expects.clear();
    bare.lock_checks = true;
    let guards: Vec<&str> = without.iter().map(|g| g.info().name).collect();
    let text = format!("v1\n{bare:?}\n{guards:?}\n{}", env!("KVMMU_SOURCE_HASH"));
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    (hash >> 32) as u32 ^ hash as u32
}
