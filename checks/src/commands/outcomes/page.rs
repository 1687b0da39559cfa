//! Sets and comparisons as text, JSON lines and Markdown tables.

use std::collections::BTreeMap;
use std::io::Write;
use std::num::NonZeroU64;

use anstyle::{AnsiColor, Style};
use kvmmu_scenarios::outcome::{Line, Outcome, VERSION};
use serde::Serialize;

use super::Request;
use super::allowed::{Allowed, layout_of};
use super::compare::{Comparison, Group, Judged, is_open};
use super::words;
use crate::cli::args::OutcomesFormat;
use crate::cli::exit::Failure;
use crate::cli::lines::JSON_VERSION;
use crate::lab::judge::{bound, counted};
use crate::lab::run::MEMORY_MODEL;
use crate::lab::variant::{Variant, join};
use crate::report::wrap::wrap_after;

/// Sentences are broken into lines of this length. Outcomes are not: they must paste.
const WIDTH: usize = 98;

/// The extent of a set, as a JSON line.
#[derive(Serialize)]
struct SetLine<'a> {
    #[serde(rename = "kvmmu-outcomes")]
    version: u32,
    scenario: &'a str,
    without: Vec<&'a str>,
    spte: &'a str,
    model: &'a str,
    outcomes: usize,
    complete: bool,
    bound: Option<String>,
    /// Missing guards of which the set says nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    unjudged: Option<&'a str>,
    /// What ends executions before they have an outcome.
    broken: &'a [&'static str],
    states: u64,
}

/// The comparison of what one machine saw, as a JSON line.
#[derive(Serialize)]
struct GroupLine<'a> {
    v: u32,
    r#type: &'a str,
    scenario: &'a str,
    without: Vec<&'a str>,
    machine: &'a str,
    spte: &'a str,
    verdict: String,
    runs: u64,
    seen: usize,
    allowed: usize,
    complete: bool,
    model: &'a str,
    outside: Vec<OutsideLine>,
}

/// An outcome that is not allowed.
#[derive(Serialize)]
struct OutsideLine {
    outcome: String,
    count: u64,
    told: Vec<String>,
    nearest: Option<String>,
}

/// What stands before the sets.
///
/// # Errors
///
/// Those of the output.
pub fn set_head(format: OutcomesFormat, to: &mut dyn Write) -> Result<(), Failure> {
    if format == OutcomesFormat::Markdown {
        writeln!(to, "| scenario | without | SPTEs | outcomes | states |")?;
        writeln!(to, "|---|---|---|---|---|")?;
    }
    Ok(())
}

/// Prints a set.
///
/// # Errors
///
/// Those of the output.
pub fn set(
    variant: &Variant,
    allowed: &Allowed,
    request: &Request,
    to: &mut dyn Write,
) -> Result<(), Failure> {
    match request.format {
        OutcomesFormat::Text => set_text(variant, allowed, request, to)?,
        OutcomesFormat::Json => set_json(variant, allowed, request, to)?,
        OutcomesFormat::Markdown => {
            let (name, layout) = (&variant.scenario.name, layout_of(variant));
            let (without, size) = (guards(variant), size(allowed));
            let states = allowed.stats.states;
            writeln!(to, "| `{name}` | {without} | {layout} | {size} | {states} |")?;
        }
    }
    to.flush()?;
    Ok(())
}

fn set_text(
    variant: &Variant,
    allowed: &Allowed,
    request: &Request,
    to: &mut dyn Write,
) -> std::io::Result<()> {
    let (name, layout) = (variant.name(), layout_of(variant));
    let count = counted(allowed.outcomes.len() as u64, "outcome");
    let states = counted(allowed.stats.states, "state");
    let extent = match (allowed.cut, &allowed.unjudged) {
        (Some(reason), _) => format!("perhaps more: cut at {}", bound(&request.search, reason)),
        (None, Some(unjudged)) => format!("perhaps more: {unjudged}"),
        (None, None) => "all explored".to_owned(),
    };
    writeln!(to, "{name}: {count}, {extent} ({states}, {layout}, {MEMORY_MODEL})")?;
    for outcome in allowed.outcomes.keys() {
        writeln!(to, "  {outcome}")?;
    }
    if !allowed.broken.is_empty() {
        let broken = allowed.broken.join(", ");
        writeln!(to, "  (no outcome: executions that end in {broken})")?;
    }
    Ok(())
}

fn set_json(
    variant: &Variant,
    allowed: &Allowed,
    request: &Request,
    to: &mut dyn Write,
) -> std::io::Result<()> {
    let line = SetLine {
        version: VERSION,
        scenario: &variant.scenario.name,
        without: variant.without.iter().map(|g| g.info().name).collect(),
        spte: layout_of(variant),
        model: MEMORY_MODEL,
        outcomes: allowed.outcomes.len(),
        complete: allowed.is_complete(),
        bound: allowed.cut.map(|reason| bound(&request.search, reason)),
        unjudged: allowed.unjudged.as_deref(),
        broken: &allowed.broken,
        states: allowed.stats.states,
    };
    serde_json::to_writer(&mut *to, &line)?;
    writeln!(to)?;
    for (outcome, count) in &allowed.outcomes {
        let line = Line {
            machine: "sim",
            scenario: &variant.scenario.name,
            without: variant.without,
            spte: Some(layout_of(variant)),
            outcome,
            count: NonZeroU64::new(*count).unwrap_or(NonZeroU64::MIN),
        };
        writeln!(to, "{line}")?;
    }
    Ok(())
}

/// How many outcomes a set has.
fn size(allowed: &Allowed) -> String {
    let least = if allowed.is_complete() { "" } else { "at least " };
    format!("{least}{}", allowed.outcomes.len())
}

/// The guards that a variant lacks, for a table.
fn guards(variant: &Variant) -> String {
    match variant.without.is_empty() {
        true => String::new(),
        false => format!("`{}`", join(variant.without, "`, `")),
    }
}

/// Prints a comparison.
///
/// # Errors
///
/// Those of the output.
pub fn comparison(
    comparison: &Comparison,
    sets: &BTreeMap<usize, Allowed>,
    request: &Request,
    to: &mut dyn Write,
) -> Result<(), Failure> {
    match request.format {
        OutcomesFormat::Text => text(comparison, sets, request, to)?,
        OutcomesFormat::Json => json(comparison, sets, to)?,
        OutcomesFormat::Markdown => markdown(comparison, sets, to)?,
    }
    Ok(())
}

fn text(
    comparison: &Comparison,
    sets: &BTreeMap<usize, Allowed>,
    request: &Request,
    to: &mut dyn Write,
) -> std::io::Result<()> {
    let width = comparison.groups.iter().map(|g| comparison.variants[g.set].name().len()).max();
    let width = width.unwrap_or(0).min(60);
    let mut counts = [0_usize; 3];
    for group in &comparison.groups {
        let (variant, allowed) = (&comparison.variants[group.set], &sets[&group.set]);
        let judged = group.judge(allowed);
        counts[judged as usize] += 1;
        let (style, word, name) = (style(judged), judged.word(), variant.name());
        let (machine, layout, runs) = (group.machine, layout_of(variant), group.runs());
        let seen = share(group, allowed);
        let runs = counted(runs, "run");
        write!(to, "{style}{word:<7}{style:#} {name:<width$}  {machine}, {layout}: ")?;
        writeln!(to, "{seen} allowed outcomes seen in {runs}")?;
        if let Some((outcome, count)) = group.outside(allowed).next() {
            let others = group.outside(allowed).count() - 1;
            let why = match judged {
                Judged::Open => open(allowed, request),
                _ => "not allowed".to_owned(),
            };
            let others = if others == 0 { String::new() } else { format!(", and {others} more") };
            writeln!(to, "        {why}, seen in {}{others}:", counted(count, "run"))?;
            first(variant, allowed, outcome, to)?;
        }
    }
    let groups = counted(comparison.groups.len() as u64, "comparison");
    let [inside, outside, open] = counts;
    writeln!(to, "{groups}: {inside} inside, {outside} outside, {open} open; {MEMORY_MODEL}")
}

/// Why nothing can be said of what is not in the set.
fn open(allowed: &Allowed, request: &Request) -> String {
    match (allowed.cut, &allowed.unjudged) {
        (Some(reason), _) => {
            format!("not among those found before {}", bound(&request.search, reason))
        }
        (None, Some(unjudged)) => unjudged.clone(),
        (None, None) => "freed memory is used, which may leave anything".to_owned(),
    }
}

/// An outcome that is not in the set, in words and compared with the nearest that is.
fn first(
    variant: &Variant,
    allowed: &Allowed,
    outcome: &Outcome,
    to: &mut dyn Write,
) -> std::io::Result<()> {
    writeln!(to, "          {outcome}")?;
    for sentence in words::tell(&variant.scenario, outcome) {
        for line in wrap_after("          - ", "            ", &sentence, WIDTH) {
            writeln!(to, "{line}")?;
        }
    }
    if let Some(nearest) = words::nearest(outcome, allowed.outcomes.keys()) {
        let differs = words::differences(outcome, nearest).join(" ");
        writeln!(to, "        nearest allowed, without {differs}:")?;
        writeln!(to, "          {nearest}")?;
    }
    Ok(())
}

/// `2 of 3`: how many of the allowed outcomes were seen.
fn share(group: &Group, allowed: &Allowed) -> String {
    let inside = group.seen.len() - group.outside(allowed).count();
    format!("{inside} of {}", size(allowed))
}

fn json(
    comparison: &Comparison,
    sets: &BTreeMap<usize, Allowed>,
    to: &mut dyn Write,
) -> std::io::Result<()> {
    for group in &comparison.groups {
        let (variant, allowed) = (&comparison.variants[group.set], &sets[&group.set]);
        let outside = group.outside(allowed).map(|(outcome, count)| OutsideLine {
            outcome: outcome.to_string(),
            count,
            told: words::tell(&variant.scenario, outcome),
            nearest: words::nearest(outcome, allowed.outcomes.keys()).map(ToString::to_string),
        });
        let line = GroupLine {
            v: JSON_VERSION,
            r#type: "comparison",
            scenario: &variant.scenario.name,
            without: variant.without.iter().map(|g| g.info().name).collect(),
            machine: group.machine,
            spte: layout_of(variant),
            verdict: group.judge(allowed).word().to_lowercase(),
            runs: group.runs(),
            seen: group.seen.len(),
            allowed: allowed.outcomes.len(),
            complete: allowed.is_complete() && !is_open(allowed),
            model: MEMORY_MODEL,
            outside: outside.collect(),
        };
        serde_json::to_writer(&mut *to, &line)?;
        writeln!(to)?;
    }
    Ok(())
}

/// A table: a row for each variant, a column for each machine.
fn markdown(
    comparison: &Comparison,
    sets: &BTreeMap<usize, Allowed>,
    to: &mut dyn Write,
) -> std::io::Result<()> {
    let column = |g: &Group| (g.machine, layout_of(&comparison.variants[g.set]));
    let mut columns: Vec<(&str, &str)> = comparison.groups.iter().map(column).collect();
    columns.sort_unstable();
    columns.dedup();
    write!(to, "| scenario | without | sim allows |")?;
    for (machine, layout) in &columns {
        write!(to, " {machine}, {layout} |")?;
    }
    writeln!(to)?;
    writeln!(to, "|---|---|---|{}", "---|".repeat(columns.len()))?;
    for row in comparison.groups.chunk_by(|a, b| a.own == b.own) {
        let (variant, allowed) = (&comparison.variants[row[0].own], &sets[&row[0].own]);
        let (name, layout) = (&variant.scenario.name, layout_of(variant));
        write!(to, "| `{name}` | {} | {} ({layout}) |", guards(variant), size(allowed))?;
        for wanted in &columns {
            match row.iter().find(|g| column(g) == *wanted) {
                Some(group) => write!(to, " {} |", cell(group, &sets[&group.set]))?,
                None => write!(to, " |")?,
            }
        }
        writeln!(to)?;
    }
    Ok(())
}

fn cell(group: &Group, allowed: &Allowed) -> String {
    let word = match group.judge(allowed) {
        Judged::Inside => String::new(),
        Judged::Outside => format!("**{} OUTSIDE**, ", group.outside(allowed).count()),
        Judged::Open => format!("{} open, ", group.outside(allowed).count()),
    };
    format!("{word}{} in {}", share(group, allowed), counted(group.runs(), "run"))
}

/// The colour of a judgement. Never the only carrier of its meaning.
fn style(judged: Judged) -> Style {
    let color = match judged {
        Judged::Inside => AnsiColor::Green,
        Judged::Outside => AnsiColor::Red,
        Judged::Open => AnsiColor::Yellow,
    };
    color.on_default()
}
