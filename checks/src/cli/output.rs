//! Lines on standard output: for people, or one JSON object each.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use kvmmu_scenarios::Property;
use kvmmu_scenarios::lockdep::{held_text, nesting_text, wanted_text};
use serde::Serialize;

use crate::cli::args::MessageFormat;
use crate::cli::exit::Exit;
use crate::cli::lines::{
    Counts, ErrorLine, JSON_VERSION, MovedFrom, MovedLine, Placed, RunStart, SummaryLine,
    VerdictLine,
};
use crate::cli::shown::{self, shown};
use crate::lab::judge::{Word, counted};
use crate::lab::together::{Cycle, Part};

/// A cycle of lock orders that only several scenarios together have, as a JSON line.
#[derive(Serialize, Debug)]
struct CycleLine<'a> {
    v: u32,
    r#type: &'a str,
    verdict: &'a str,
    property: &'a str,
    nestings: Vec<NestingLine<'a>>,
}

/// A nesting of a cycle.
#[derive(Serialize, Debug)]
struct NestingLine<'a> {
    outer: String,
    inner: String,
    scenario: &'a str,
}

/// What to do about a verdict that nothing stands behind.
const VACUOUS: [&str; 2] = [
    "note:   nothing shows that a race was reached",
    "add:    sometimes = [\"MARK@THREAD < MARK@THREAD\"] to [check], or a violated [[expect]]",
];

/// Writes the results of a run, one line at a time.
#[derive(Debug)]
pub struct Output<W> {
    to: W,
    format: MessageFormat,
    width: usize,
    start: RunStart,
    skipped: Option<(usize, String)>,
}

impl<W: Write> Output<W> {
    /// Writes to `to` what comes of the run that begins with `start`; names are padded to `width`.
    pub fn new(to: W, format: MessageFormat, width: usize, start: RunStart) -> Output<W> {
        Output { to, format, width, start, skipped: None }
    }

    /// `count` of the selected variants are not run: the files expect nothing of `engine` there.
    pub fn skip(&mut self, count: usize, engine: &str) {
        self.skipped = Some((count, engine.to_owned()));
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
    pub fn start(&mut self) -> io::Result<()> {
        if self.format == MessageFormat::Human {
            return Ok(());
        }
        writeln!(self.to, "{}", shown::json(&self.start))?;
        self.to.flush()
    }

    /// A verdict on the variant that is `placed` so.
    ///
    /// # Errors
    ///
    /// Those of the output.
    pub fn verdict(&mut self, mut line: VerdictLine, placed: Placed) -> io::Result<()> {
        if self.format == MessageFormat::Json {
            line.shard = self.start.shard.is_some().then_some(placed);
            return self.json(&line);
        }
        let (style, word) = (style(line.verdict), line.verdict.text());
        self.line(style, word, &placed.name, &shown(&line.text))?;
        if let n @ 1.. = placed.lumped {
            writeln!(
                self.to,
                "        note:   dpor takes {n} shared objects for one and explores more; try \
                 --strategy stateful"
            )?;
        }
        if line.vacuous {
            for line in VACUOUS {
                writeln!(self.to, "        {line}")?;
            }
        }
        if matches!(line.verdict, Word::Unexpected | Word::Breaks)
            && let Some(replay) = &line.replay
        {
            writeln!(self.to, "        replay: {}", shown(replay))?;
            if let Some(trace) = &line.trace {
                writeln!(self.to, "        trace:  {}", shown(trace))?;
            }
        }
        self.to.flush()
    }

    /// The line of a variant, for people.
    fn line(&mut self, style: Style, word: &str, name: &str, text: &str) -> io::Result<()> {
        let (name, width) = (shown(name), self.width);
        writeln!(self.to, "{style}{word:<7}{style:#} {name:<width$}  {text}")
    }

    /// The variant that is `placed` so could not be explored.
    ///
    /// # Errors
    ///
    /// Those of the output.
    pub fn error(&mut self, mut line: ErrorLine, placed: Placed) -> io::Result<()> {
        if self.format == MessageFormat::Json {
            line.shard = self.start.shard.is_some().then_some(placed);
            return self.json(&line);
        }
        let text = shown::shown_lines(&line.message);
        self.line(style(Word::Unexpected), "ERROR", &placed.name, &text)?;
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
            let lines = cycle.iter().map(|Part { nesting, scenario }| NestingLine {
                outer: held_text(nesting.outer),
                inner: wanted_text(nesting.inner),
                scenario,
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
        for Part { nesting, scenario } in cycle {
            let (text, scenario) = (nesting_text(*nesting), shown(scenario));
            match scenario.as_str() {
                "" => writeln!(self.to, "        {text}: declared, see 'kvmmu locks'")?,
                _ => writeln!(self.to, "        {text}: {scenario}")?,
            }
        }
        self.to.flush()
    }

    /// Rows of the table of counts moved; `advice` says what to do about it.
    ///
    /// # Errors
    ///
    /// Those of the output.
    pub fn moved(&mut self, moved: Vec<(MovedFrom, String)>, advice: &str) -> io::Result<()> {
        if self.format == MessageFormat::Json {
            let of_shard = self.start.shard.is_some();
            return moved.into_iter().try_for_each(|(from, text)| {
                self.json(&MovedLine::of(text, of_shard.then_some(from)))
            });
        }
        let style = style(Word::Unexpected);
        for (_, text) in moved {
            writeln!(self.to, "{style}MOVED  {style:#} {}", shown(&text))?;
        }
        writeln!(self.to, "        {}", shown(advice))?;
        self.to.flush()
    }

    /// The run ends, after `counts.total()` of the selected variants.
    ///
    /// # Errors
    ///
    /// Those of the output.
    pub fn summary(&mut self, counts: &Counts, interrupted: bool, exit: Exit) -> io::Result<()> {
        if self.format == MessageFormat::Json {
            let skipped = self.skipped.as_ref().map(|(count, _)| *count);
            let line = SummaryLine::of(&self.start, *counts, skipped, interrupted, exit);
            return self.json(&line);
        }
        if let Some(shard) = &self.start.shard {
            write!(self.to, "shard {}/{}: ", shard.index, shard.of)?;
        }
        let selected = self.start.variants;
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
        if let Some((count @ 1.., engine)) = &self.skipped {
            let engine = shown(engine);
            write!(self.to, "{count} skipped: the files expect nothing of {engine} there; ")?;
        }
        if counts.lock_cycles != 0 {
            let cycles = counted(counts.lock_cycles as u64, "lock cycle");
            write!(self.to, "{cycles} across scenarios; ")?;
        }
        let cut = if interrupted { "; interrupted" } else { "" };
        writeln!(self.to, "{}, seed {}{cut}", shown(&self.start.model), self.start.seed)?;
        self.to.flush()
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
