//! The JSON lines of `kvmmu check`: what it writes, and what `kvmmu merge` reads again.
//!
//! The fields `shard` are those of one part of a run. Next to what the lines of a whole run say,
//! they have what it takes to print that run, for people too.

#[cfg(feature = "engines")]
use kvmmu_engines::EngineOutcome;
use kvmmu_sim::outcome::Reason;
use serde::{Deserialize, Serialize};

use crate::cli::exit::Exit;
#[cfg(feature = "engines")]
use crate::lab::by_engine::Judged as ByEngine;
use crate::lab::judge::{Judged, Word};
use crate::lab::orders::Order;
use crate::lab::search::{LARGE, Search};
use crate::lab::variant::Variant;

/// The version of the JSON lines.
pub const JSON_VERSION: u32 = 1;

/// The first JSON line of a run.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct RunStart {
    v: u32,
    r#type: String,
    /// Of kvmmu.
    pub version: String,
    /// Of the sources that decide what a step is.
    pub source_hash: String,
    /// How it searches.
    pub strategy: String,
    /// The seed of all random choices.
    pub seed: u64,
    /// At which scenarios are loaded.
    pub size: u8,
    /// How many were selected, and are of this part.
    pub variants: usize,
    /// The memory model.
    pub model: String,
    /// Of one part of a run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shard: Option<ShardStart>,
}

/// Which part of which run.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct ShardStart {
    /// Which part, from 1 on.
    pub index: u16,
    /// Of how many.
    pub of: u16,
    /// How many variants all parts have.
    pub selected: usize,
    /// A stamp of these variants.
    pub selection: String,
    /// The words that all parts were started with.
    pub command: String,
    /// What runs the variants.
    pub engine: String,
    /// The table that the results are compared with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counts: Option<String>,
}

/// What is said of a variant in one part of a run.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Placed {
    /// Its place among all variants of the run, from 0 on.
    pub index: usize,
    /// As people call it.
    pub name: String,
    /// How a run of it alone ends.
    pub exit: Exit,
    /// How many shared objects dpor took for one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lumped: u16,
    /// The orders in which it takes locks, if they count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locks: Option<Vec<Order>>,
}

/// A verdict as a JSON line.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct VerdictLine {
    v: u32,
    r#type: String,
    /// The scenario's name.
    pub scenario: String,
    /// Of your own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The guards that it lacks.
    pub variant: Vec<String>,
    /// The verdict.
    pub verdict: Word,
    /// The rest of the line for people.
    pub text: String,
    /// What is violated.
    pub property: Option<String>,
    /// How.
    pub detail: Option<String>,
    /// Whether it is the story of the file.
    pub story: Option<bool>,
    /// Witnesses that were not seen.
    pub unseen: Vec<String>,
    /// Holds, and nothing shows that a race was reached.
    #[serde(default, skip_serializing_if = "is_false")]
    pub vacuous: bool,
    /// Everything was explored.
    pub complete: bool,
    /// Missing guards of which the memory model shows nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unjudged: Vec<String>,
    /// The bound that was hit.
    pub reason: Option<String>,
    /// The memory model.
    pub model: String,
    /// Of the simulated machine only, as `transitions` and `depth_max`.
    pub states: Option<u64>,
    /// In place of the other numbers: there were more states than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub states_over: Option<u64>,
    /// How many executions there were.
    pub executions: Option<u64>,
    /// How many steps.
    pub transitions: Option<u64>,
    /// The longest execution.
    pub depth_max: Option<u32>,
    /// The violation to replay.
    pub schedule: Option<String>,
    /// The command that replays it.
    pub replay: Option<String>,
    /// Where its trace was written.
    pub trace: Option<String>,
    /// Of one part of a run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shard: Option<Placed>,
}

/// An exploration that failed to run, as a JSON line.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct ErrorLine {
    v: u32,
    r#type: String,
    /// The scenario's name.
    pub scenario: String,
    /// Of your own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The guards that it lacks.
    pub variant: Vec<String>,
    /// What is wrong.
    pub message: String,
    /// The next thing to try.
    pub help: String,
    /// Of one part of a run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shard: Option<Placed>,
}

/// A row of the table of counts that moved, as a JSON line.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct MovedLine {
    v: u32,
    r#type: String,
    /// What moved, and how.
    pub text: String,
    /// Of one part of a run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shard: Option<MovedFrom>,
}

/// Which row of the table moved. They are printed in this order.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[serde(deny_unknown_fields)]
pub struct MovedFrom {
    /// Not of the first table, but of that of the witnesses.
    pub witnesses: bool,
    /// The first columns of the row.
    pub key: [String; 2],
}

/// The last JSON line of a run.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct SummaryLine {
    v: u32,
    r#type: String,
    version: String,
    seed: u64,
    selected: usize,
    /// How many variants got which verdict.
    pub counts: Counts,
    /// Variants that were not run because nothing is expected of them; there is none of the
    /// simulated machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<usize>,
    /// A signal ended the run.
    pub interrupted: bool,
    /// The exit code.
    pub exit: Exit,
}

/// How many variants got which verdict.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Default, Debug)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// [`Word::Holds`].
    pub holds: usize,
    /// [`Word::Caught`].
    pub caught: usize,
    /// [`Word::Breaks`].
    pub breaks: usize,
    /// [`Word::Unjudged`].
    #[serde(default, skip_serializing_if = "is_none")]
    pub unjudged: usize,
    /// [`Word::Bound`].
    pub bound: usize,
    /// [`Word::Unexpected`].
    pub unexpected: usize,
    /// Variants that the tool failed to explore.
    pub errors: usize,
    /// Cycles of lock orders that only several scenarios together have.
    #[serde(default, skip_serializing_if = "is_none")]
    pub lock_cycles: usize,
}

/// True if it is not so, and need not be said.
fn is_false(said: &bool) -> bool {
    !said
}

/// True if there is nothing to say.
fn is_none(count: &usize) -> bool {
    *count == 0
}

/// True if there is nothing to say.
fn is_zero(count: &u16) -> bool {
    *count == 0
}

impl RunStart {
    /// The first line of a run of so many `variants` by this program.
    pub fn of(search: &Search, size: u8, variants: usize, model: &str) -> RunStart {
        RunStart {
            v: JSON_VERSION,
            r#type: "run-start".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            source_hash: env!("KVMMU_SOURCE_HASH").to_owned(),
            strategy: format!("{:?}", search.strategy).to_lowercase(),
            seed: search.seed,
            size,
            variants,
            model: model.to_owned(),
            shard: None,
        }
    }
}

impl VerdictLine {
    /// The verdict on a variant; what else there is to say of it is left out.
    fn new(variant: &Variant, word: Word, text: &str, model: &str) -> VerdictLine {
        VerdictLine {
            v: JSON_VERSION,
            r#type: "verdict".to_owned(),
            scenario: variant.scenario.name.clone(),
            file: variant.file.clone(),
            variant: guard_names(variant),
            verdict: word,
            text: text.to_owned(),
            property: None,
            detail: None,
            story: None,
            unseen: Vec::new(),
            vacuous: false,
            complete: false,
            unjudged: unjudged(variant),
            reason: None,
            model: model.to_owned(),
            states: None,
            states_over: None,
            executions: None,
            transitions: None,
            depth_max: None,
            schedule: None,
            replay: None,
            trace: None,
            shard: None,
        }
    }

    /// What the simulated machine found; `trace` says where its trace was written.
    pub fn of(variant: &Variant, judged: &Judged, model: &str, trace: Option<&str>) -> VerdictLine {
        let (found, stats) = (judged.found.as_ref(), &judged.stats);
        let number = |number: u64| (!judged.large).then_some(number);
        VerdictLine {
            property: found.map(|f| f.rule.name().to_owned()),
            detail: found.map(|f| f.detail.clone()),
            story: found.map(|f| f.story),
            unseen: judged.unseen.clone(),
            vacuous: judged.vacuous,
            complete: judged.complete,
            reason: judged.reason.map(|reason| reason_name(reason).to_owned()),
            states: number(stats.states),
            states_over: judged.large.then_some(LARGE),
            executions: number(stats.executions),
            transitions: number(stats.transitions),
            depth_max: (!judged.large).then_some(stats.depth_max),
            schedule: found.map(|f| variant.stamp(&f.schedule).to_string()),
            replay: found.map(|f| variant.replay_command(&f.schedule)),
            trace: trace.map(str::to_owned),
            ..VerdictLine::new(variant, judged.word, &judged.text, model)
        }
    }

    /// What loom or shuttle found. These have no schedule to replay and no trace: the same command
    /// finds the same again.
    #[cfg(feature = "engines")]
    pub fn of_engine(variant: &Variant, judged: &ByEngine, model: &str) -> VerdictLine {
        let mut line = VerdictLine::new(variant, judged.word, &judged.text, model);
        match &judged.outcome {
            EngineOutcome::Holds { executions, complete, unseen, .. } => {
                (line.executions, line.complete) = (Some(*executions), *complete);
                line.unseen.clone_from(unseen);
                let not = (!complete).then(|| reason_name(Reason::NotExhaustive));
                line.reason = not.map(str::to_owned);
            }
            EngineOutcome::Violated { property, detail, story_matched, executions, .. } => {
                line.property = Some(property.name().to_owned());
                line.detail = Some(detail.clone());
                (line.story, line.executions) = (Some(*story_matched), Some(*executions));
            }
            EngineOutcome::Inconclusive { reason, executions } => {
                (line.reason, line.executions) = (Some(reason.clone()), Some(*executions));
            }
        }
        line
    }
}

impl ErrorLine {
    /// A variant that could not be explored.
    pub fn of(variant: &Variant, message: &str, help: &str) -> ErrorLine {
        ErrorLine {
            v: JSON_VERSION,
            r#type: "error".to_owned(),
            scenario: variant.scenario.name.clone(),
            file: variant.file.clone(),
            variant: guard_names(variant),
            message: message.to_owned(),
            help: help.to_owned(),
            shard: None,
        }
    }
}

impl MovedLine {
    /// A row that moved.
    pub fn of(text: String, shard: Option<MovedFrom>) -> MovedLine {
        MovedLine { v: JSON_VERSION, r#type: "moved".to_owned(), text, shard }
    }
}

impl SummaryLine {
    /// The last line of the run that began with `start`.
    pub fn of(
        start: &RunStart,
        counts: Counts,
        skipped: Option<usize>,
        interrupted: bool,
        exit: Exit,
    ) -> SummaryLine {
        SummaryLine {
            v: JSON_VERSION,
            r#type: "summary".to_owned(),
            version: start.version.clone(),
            seed: start.seed,
            selected: start.variants,
            counts,
            skipped,
            interrupted,
            exit,
        }
    }
}

impl Counts {
    /// Counts one verdict.
    pub fn add(&mut self, word: Word) {
        *match word {
            Word::Holds => &mut self.holds,
            Word::Caught => &mut self.caught,
            Word::Breaks => &mut self.breaks,
            Word::Unjudged => &mut self.unjudged,
            Word::Bound => &mut self.bound,
            Word::Unexpected => &mut self.unexpected,
        } += 1;
    }

    /// How many there are.
    pub fn total(&self) -> usize {
        let verdicts = self.holds + self.caught + self.breaks + self.unjudged + self.bound;
        verdicts + self.unexpected + self.errors
    }
}

/// The guards that a variant lacks.
fn guard_names(variant: &Variant) -> Vec<String> {
    variant.without.iter().map(|g| g.info().name.to_owned()).collect()
}

/// Those of them of which the memory model shows nothing.
fn unjudged(variant: &Variant) -> Vec<String> {
    variant.without.unjudged_under_sc().iter().map(|g| g.info().name.to_owned()).collect()
}

/// The name of a bound in JSON.
pub fn reason_name(reason: Reason) -> &'static str {
    match reason {
        Reason::NotExhaustive => "not-exhaustive",
        Reason::Executions => "executions-max",
        Reason::States => "states-max",
        Reason::Memory => "memory-max",
        Reason::Steps => "steps-max",
        Reason::Time => "time-max",
        Reason::Switches => "switches-max",
        Reason::InternalError => "internal-error",
        Reason::Interrupted => "interrupted",
    }
}
