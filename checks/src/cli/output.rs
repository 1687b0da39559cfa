//! Lines on standard output: for people, or one JSON object each.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
#[cfg(feature = "engines")]
use kvmmu_engines::EngineOutcome;
use kvmmu_scenarios::Property;
use kvmmu_scenarios::lockdep::{held_text, nesting_text, wanted_text};
use kvmmu_sim::outcome::Reason;
use serde::Serialize;

use crate::cli::args::MessageFormat;
use crate::cli::shown;
#[cfg(feature = "engines")]
use crate::lab::by_engine::Judged as ByEngine;
use crate::lab::judge::{Judged, Word, counted};
use crate::lab::search::Search;
use crate::lab::together::{Cycle, Part};
use crate::lab::variant::Variant;

/// The version of the JSON lines.
pub const JSON_VERSION: u32 = 1;

/// The first JSON line of a run.
#[derive(Serialize, Debug)]
struct RunStart<'a> {
    v: u32,
    r#type: &'a str,
    version: &'a str,
    source_hash: &'a str,
    strategy: String,
    seed: u64,
    size: u8,
    variants: usize,
    model: &'a str,
}

/// A verdict as a JSON line.
#[derive(Serialize, Debug)]
struct VerdictLine<'a> {
    v: u32,
    r#type: &'a str,
    scenario: &'a str,
    /// Of your own.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
    variant: Vec<&'a str>,
    verdict: &'a str,
    text: &'a str,
    property: Option<&'a str>,
    detail: Option<&'a str>,
    story: Option<bool>,
    unseen: &'a [String],
    /// Holds, and nothing shows that a race was reached.
    #[serde(skip_serializing_if = "is_false")]
    vacuous: bool,
    complete: bool,
    /// Missing guards of which the memory model shows nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unjudged: Vec<&'a str>,
    reason: Option<&'a str>,
    model: &'a str,
    /// Of the simulated machine only, as `transitions` and `depth_max`.
    states: Option<u64>,
    executions: u64,
    transitions: Option<u64>,
    depth_max: Option<u32>,
    schedule: Option<String>,
    replay: Option<String>,
    trace: Option<&'a str>,
}

/// An exploration that failed to run, as a JSON line.
#[derive(Serialize, Debug)]
struct ErrorLine<'a> {
    v: u32,
    r#type: &'a str,
    scenario: &'a str,
    /// Of your own.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
    variant: Vec<&'a str>,
    message: &'a str,
    help: &'a str,
}

/// A cycle of lock orders that only several scenarios together have, as a JSON line.
#[derive(Serialize, Debug)]
struct CycleLine<'a> {
    v: u32,
    r#type: &'a str,
    verdict: &'a str,
    property: &'a str,
    nestings: Vec<NestingLine<'a>>,
}

/// A row of the table of counts that moved, as a JSON line.
#[derive(Serialize, Debug)]
struct MovedLine<'a> {
    v: u32,
    r#type: &'a str,
    text: &'a str,
}

/// A nesting of a cycle.
#[derive(Serialize, Debug)]
struct NestingLine<'a> {
    outer: String,
    inner: String,
    scenario: &'a str,
    times: u64,
}

/// The last JSON line of a run.
#[derive(Serialize, Debug)]
struct SummaryLine<'a> {
    v: u32,
    r#type: &'a str,
    version: &'a str,
    seed: u64,
    selected: usize,
    counts: Counts,
    /// Variants that were not run because nothing is expected of them; there is none of the
    /// simulated machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    skipped: Option<usize>,
    interrupted: bool,
    exit: u8,
}

/// How many variants got which verdict.
#[derive(Serialize, Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// [`Word::Holds`].
    pub holds: usize,
    /// [`Word::Caught`].
    pub caught: usize,
    /// [`Word::Breaks`].
    pub breaks: usize,
    /// [`Word::Unjudged`].
    #[serde(skip_serializing_if = "is_zero")]
    pub unjudged: usize,
    /// [`Word::Bound`].
    pub bound: usize,
    /// [`Word::Unexpected`].
    pub unexpected: usize,
    /// Variants that the tool failed to explore.
    pub errors: usize,
    /// Cycles of lock orders that only several scenarios together have.
    #[serde(skip_serializing_if = "is_zero")]
    pub lock_cycles: usize,
}

/// True if it is not so, and need not be said.
fn is_false(said: &bool) -> bool {
    !said
}

/// What to do about a verdict that nothing stands behind.
const VACUOUS: [&str; 2] = [
    "note:   nothing shows that a race was reached",
    "add:    sometimes = [\"MARK@THREAD < MARK@THREAD\"] to [check], or a violated [[expect]]",
];

/// True if there is nothing to say.
fn is_zero(count: &usize) -> bool {
    *count == 0
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

/// Writes the results of a run, one line at a time.
#[derive(Debug)]
pub struct Output<W> {
    to: W,
    format: MessageFormat,
    width: usize,
    model: &'static str,
    skipped: Option<(usize, &'static str)>,
}

impl<W: Write> Output<W> {
    /// Writes to `to`; names are padded to `width`. Verdicts are under the memory model `model`.
    pub fn new(to: W, format: MessageFormat, width: usize, model: &'static str) -> Output<W> {
        Output { to, format, width, model, skipped: None }
    }

    /// `count` of the selected variants are not run: the files expect nothing of `engine` there.
    pub fn skip(&mut self, count: usize, engine: &'static str) {
        self.skipped = Some((count, engine));
    }

    fn json(&mut self, line: &impl Serialize) -> io::Result<()> {
        writeln!(self.to, "{}", shown::json(line))?;
        self.to.flush()
    }

    /// The run begins.
    ///
    /// # Errors
    ///
    /// Those of the output.
    pub fn start(&mut self, search: &Search, size: u8, variants: usize) -> io::Result<()> {
        if self.format == MessageFormat::Human {
            return Ok(());
        }
        self.json(&RunStart {
            v: JSON_VERSION,
            r#type: "run-start",
            version: env!("CARGO_PKG_VERSION"),
            source_hash: env!("KVMMU_SOURCE_HASH"),
            strategy: format!("{:?}", search.strategy).to_lowercase(),
            seed: search.seed,
            size,
            variants,
            model: self.model,
        })
    }

    /// A verdict; `trace` says where its trace was written.
    ///
    /// # Errors
    ///
    /// Those of the output.
    pub fn verdict(
        &mut self,
        variant: &Variant,
        judged: &Judged,
        trace: Option<&str>,
    ) -> io::Result<()> {
        let found = judged.found.as_ref();
        let replay = found.map(|f| variant.replay_command(&f.schedule));
        if self.format == MessageFormat::Json {
            return self.json(&VerdictLine {
                v: JSON_VERSION,
                r#type: "verdict",
                scenario: &variant.scenario.name,
                file: variant.file.as_deref(),
                variant: guard_names(variant),
                verdict: &judged.word.text().to_lowercase(),
                text: &judged.text,
                property: found.map(|f| f.rule.name()),
                detail: found.map(|f| f.detail.as_str()),
                story: found.map(|f| f.story),
                unseen: &judged.unseen,
                vacuous: judged.vacuous,
                complete: judged.complete,
                unjudged: unjudged(variant),
                reason: judged.reason.map(reason_name),
                model: self.model,
                states: Some(judged.stats.states),
                executions: judged.stats.executions,
                transitions: Some(judged.stats.transitions),
                depth_max: Some(judged.stats.depth_max),
                schedule: found.map(|f| variant.stamp(&f.schedule).to_string()),
                replay,
                trace,
            });
        }
        self.line(variant, judged.word, &judged.text)?;
        if let n @ 1.. = judged.stats.lumped {
            writeln!(
                self.to,
                "        note:   dpor takes {n} shared objects for one and explores more; try \
                 --strategy stateful"
            )?;
        }
        if judged.vacuous {
            for line in VACUOUS {
                writeln!(self.to, "        {line}")?;
            }
        }
        if matches!(judged.word, Word::Unexpected | Word::Breaks)
            && let Some(replay) = replay
        {
            writeln!(self.to, "        replay: {replay}")?;
            if let Some(trace) = trace {
                writeln!(self.to, "        trace:  {trace}")?;
            }
        }
        self.to.flush()
    }

    /// A verdict of loom or shuttle. These have no schedule to replay and no trace: the same
    /// command finds the same again.
    ///
    /// # Errors
    ///
    /// Those of the output.
    #[cfg(feature = "engines")]
    pub fn engine_verdict(&mut self, variant: &Variant, judged: &ByEngine) -> io::Result<()> {
        if self.format == MessageFormat::Human {
            self.line(variant, judged.word, &judged.text)?;
            return self.to.flush();
        }
        let mut line = VerdictLine {
            v: JSON_VERSION,
            r#type: "verdict",
            scenario: &variant.scenario.name,
            file: variant.file.as_deref(),
            variant: guard_names(variant),
            verdict: &judged.word.text().to_lowercase(),
            text: &judged.text,
            property: None,
            detail: None,
            story: None,
            unseen: &[],
            vacuous: false,
            complete: false,
            unjudged: unjudged(variant),
            reason: None,
            model: self.model,
            states: None,
            executions: 0,
            transitions: None,
            depth_max: None,
            schedule: None,
            replay: None,
            trace: None,
        };
        match &judged.outcome {
            EngineOutcome::Holds { executions, complete, unseen, .. } => {
                (line.executions, line.complete, line.unseen) = (*executions, *complete, unseen);
                line.reason = (!complete).then(|| reason_name(Reason::NotExhaustive));
            }
            EngineOutcome::Violated { property, detail, story_matched, executions, .. } => {
                (line.property, line.detail) = (Some(property.name()), Some(detail.as_str()));
                (line.story, line.executions) = (Some(*story_matched), *executions);
            }
            EngineOutcome::Inconclusive { reason, executions } => {
                (line.reason, line.executions) = (Some(reason.as_str()), *executions);
            }
        }
        self.json(&line)
    }

    /// The line of a verdict, for people.
    fn line(&mut self, variant: &Variant, word: Word, text: &str) -> io::Result<()> {
        let style = style(word);
        let (name, word, width) = (variant.name(), word.text(), self.width);
        writeln!(self.to, "{style}{word:<7}{style:#} {name:<width$}  {text}")
    }

    /// A variant that could not be explored.
    ///
    /// # Errors
    ///
    /// Those of the output.
    pub fn error(&mut self, variant: &Variant, message: &str, help: &str) -> io::Result<()> {
        if self.format == MessageFormat::Json {
            return self.json(&ErrorLine {
                v: JSON_VERSION,
                r#type: "error",
                scenario: &variant.scenario.name,
                file: variant.file.as_deref(),
                variant: guard_names(variant),
                message,
                help,
            });
        }
        let style = style(Word::Unexpected);
        let (name, width) = (variant.name(), self.width);
        writeln!(
            self.to,
            "{style}ERROR  {style:#} {name:<width$}  {}",
            shown::shown_lines(message)
        )?;
        self.to.flush()
    }

    /// The scenarios together have a cycle of lock orders that none has alone.
    ///
    /// # Errors
    ///
    /// Those of the output.
    pub fn lock_cycle(&mut self, cycle: &Cycle) -> io::Result<()> {
        let property = Property::LockCycle.name();
        if self.format == MessageFormat::Json {
            let lines = cycle.iter().map(|Part { nesting, scenario, times }| NestingLine {
                outer: held_text(nesting.outer),
                inner: wanted_text(nesting.inner),
                scenario,
                times: *times,
            });
            let nestings = lines.collect();
            let (r#type, verdict) = ("lock-cycle", "unexpected");
            return self.json(&CycleLine { v: JSON_VERSION, r#type, verdict, property, nestings });
        }
        let style = style(Word::Unexpected);
        let word = Word::Unexpected.text();
        writeln!(
            self.to,
            "{style}{word}{style:#} {property} of several scenarios, or with declared orders:"
        )?;
        for Part { nesting, scenario, times } in cycle {
            let text = nesting_text(*nesting);
            match scenario.as_str() {
                "" => writeln!(self.to, "        {text}: declared, see 'kvmmu locks'")?,
                _ => writeln!(self.to, "        {text}: {scenario}, {}", counted(*times, "time"))?,
            }
        }
        self.to.flush()
    }

    /// Rows of the table of counts moved; `advice` says what to do about it.
    ///
    /// # Errors
    ///
    /// Those of the output.
    pub fn moved(&mut self, moved: &[String], advice: &str) -> io::Result<()> {
        if self.format == MessageFormat::Json {
            let line = |text| MovedLine { v: JSON_VERSION, r#type: "moved", text };
            return moved.iter().try_for_each(|text| self.json(&line(text)));
        }
        let style = style(Word::Unexpected);
        for text in moved {
            writeln!(self.to, "{style}MOVED  {style:#} {text}")?;
        }
        writeln!(self.to, "        {advice}")?;
        self.to.flush()
    }

    /// The run ends, after `counts.total()` of `selected` variants.
    ///
    /// # Errors
    ///
    /// Those of the output.
    pub fn summary(
        &mut self,
        counts: &Counts,
        selected: usize,
        search: &Search,
        interrupted: bool,
        exit: u8,
    ) -> io::Result<()> {
        if self.format == MessageFormat::Json {
            return self.json(&SummaryLine {
                v: JSON_VERSION,
                r#type: "summary",
                version: env!("CARGO_PKG_VERSION"),
                seed: search.seed,
                selected,
                counts: *counts,
                skipped: self.skipped.map(|(count, _)| count),
                interrupted,
                exit,
            });
        }
        let of = match counts.total() == selected {
            true if selected == 1 => "1 variant".to_owned(),
            true => format!("{selected} variants"),
            false => format!("{} of {selected} variants", counts.total()),
        };
        write!(self.to, "{of}: {} hold, {} caught, ", counts.holds, counts.caught)?;
        let rare = [
            (counts.breaks, "break"),
            (counts.unjudged, "not judged"),
            (counts.errors, "with errors"),
        ];
        for (count, what) in rare {
            if count != 0 {
                write!(self.to, "{count} {what}, ")?;
            }
        }
        write!(self.to, "{} bound, {} unexpected; ", counts.bound, counts.unexpected)?;
        if let Some((count @ 1.., engine)) = self.skipped {
            write!(self.to, "{count} skipped: the files expect nothing of {engine} there; ")?;
        }
        if counts.lock_cycles != 0 {
            let cycles = counted(counts.lock_cycles as u64, "lock cycle");
            write!(self.to, "{cycles} across scenarios; ")?;
        }
        let cut = if interrupted { "; interrupted" } else { "" };
        writeln!(self.to, "{}, seed {}{cut}", self.model, search.seed)?;
        self.to.flush()
    }
}

/// The guards that a variant lacks.
fn guard_names(variant: &Variant) -> Vec<&'static str> {
    variant.without.iter().map(|g| g.info().name).collect()
}

/// Those of them of which the memory model shows nothing.
fn unjudged(variant: &Variant) -> Vec<&'static str> {
    variant.without.unjudged_under_sc().iter().map(|g| g.info().name).collect()
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

/// The colour of a verdict. Never the only carrier of its meaning.
fn style(word: Word) -> Style {
    let color = match word {
        Word::Holds | Word::Caught => AnsiColor::Green,
        Word::Breaks => AnsiColor::Cyan,
        Word::Unjudged | Word::Bound => AnsiColor::Yellow,
        Word::Unexpected => AnsiColor::Red,
    };
    color.on_default()
}
