//! `check --counts FILE`: a table of what each variant took and showed, pinned in a file.
//!
//! One row for each variant, for people to read and for every later run to be compared with: what
//! changes a row was not meant to, or says why.

use std::collections::BTreeMap;
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use kvmmu_sim::outcome::Reason;

use crate::cli::args::SearchArgs;
use crate::cli::bounds::{self, Asked};
use crate::cli::exit::{Exit, Failure};
use crate::cli::files::{self, Existing};
use crate::cli::input::{self, Limit, Unread};
use crate::cli::lines::{MovedFrom, reason_name};
use crate::lab::judge::{Judged, Word};
use crate::lab::search::Search;
use crate::lab::variant::{Variant, join};

/// What a row says, in its order. Only the last may have spaces.
pub const COLUMNS: [&str; 9] = [
    "scenario",
    "without",
    "states",
    "transitions",
    "executions",
    "verdict",
    "property",
    "sometimes",
    "story",
];

/// The columns that name a variant; the others are what was found.
const KEY: usize = 2;

/// The columns of the second table.
const WITNESS: [&str; 3] = ["scenario", "sometimes", "witness"];

/// What stands for nothing.
const NONE: &str = "-";

/// A table of the built-in variants has a hundredth of that.
const LIMIT: Limit = Limit { file: 4 << 20, line: 64 << 10 };

/// How every such file begins; what follows says how the search was done.
const TITLE: &str = "# What kvmmu check counts: ";

/// How to read one.
const LEGEND: &str = "\
# One row for each variant. 'states' is 0 if the violation was found among the seeded samples, which
# are not counted as states. 'sometimes' numbers the witnesses that were seen; they are below.";

/// A table of counts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Table {
    /// How the search was done: the rows of another are no measure.
    pub conditions: String,
    /// Rows, by what names the variant.
    pub rows: BTreeMap<[String; KEY], Row>,
    /// The witnesses that numbers stand for, by scenario.
    pub witnesses: BTreeMap<String, Vec<String>>,
}

/// What was found of a variant: the columns after those of the key.
pub type Row = [String; COLUMNS.len() - KEY];

impl Table {
    /// A table without rows.
    pub fn new(search: &Search, size: u8) -> Table {
        let strategy = format!("{:?}", search.strategy).to_lowercase();
        let conditions = format!("strategy {strategy}, seed {}, size {size}", search.seed);
        Table { conditions, rows: BTreeMap::new(), witnesses: BTreeMap::new() }
    }

    /// What names a variant in a table.
    pub fn key(variant: &Variant) -> [String; KEY] {
        let scenario: Vec<&str> = variant.scenario.name.split_whitespace().collect();
        [scenario.join("_"), or_none(join(variant.without, "+"))]
    }

    /// Adds what was found of `variant`, unless a signal or the clock ended it.
    pub fn add(&mut self, variant: &Variant, judged: &Judged) {
        // How far it came then is chance.
        if matches!(judged.reason, Some(Reason::Interrupted | Reason::Time)) {
            return;
        }
        let key = Table::key(variant);
        let texts = variant.scenario.sometimes.iter().map(|witness| witness.text.clone());
        self.witnesses.insert(key[0].clone(), texts.collect());
        let stats = &judged.stats;
        let property = match (&judged.found, judged.reason) {
            (_, Some(reason)) => reason_name(reason),
            (Some(found), None) => found.rule.name(),
            (None, None) => "",
        };
        let told = judged.found.as_ref().is_some_and(|found| found.story);
        let story = match variant.goal().story {
            Some(story) if told => story.text,
            _ if judged.idle.is_empty() => String::new(),
            _ => format!("never reached: {}", judged.idle.join(", ")),
        };
        let row = [
            stats.states.to_string(),
            stats.transitions.to_string(),
            stats.executions.to_string(),
            judged.word.text().to_owned(),
            or_none(property.to_owned()),
            or_none(ranges(&judged.seen)),
            or_none(story),
        ];
        self.rows.insert(key, row);
    }

    /// The table that a file has.
    ///
    /// # Errors
    ///
    /// The number of the first line that is not one of a table, and what is wrong with it.
    pub fn parse(text: &str) -> Result<Table, (usize, &'static str)> {
        let mut lines = text.lines().enumerate();
        let first = lines.next().and_then(|(_, line)| line.strip_prefix(TITLE));
        let conditions = first.ok_or((1, "this is no table of counts"))?.to_owned();
        let (mut rows, mut witnesses) = (BTreeMap::new(), BTreeMap::<String, Vec<String>>::new());
        let mut numbers = false;
        for (i, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            let fields = fields::<{ WITNESS.len() }>(line);
            if fields.as_ref().is_some_and(|fields| fields == &WITNESS) {
                numbers = true;
            } else if numbers {
                let [scenario, number, text] = fields.ok_or((i + 1, "a witness has 3 columns"))?;
                let texts = witnesses.entry(scenario).or_default();
                texts.push(text);
                if number != texts.len().to_string() {
                    return Err((i + 1, "witnesses are numbered from 1 on"));
                }
            } else {
                let wrong = (i + 1, "a row has 9 columns");
                let fields = self::fields::<{ COLUMNS.len() }>(line).ok_or(wrong)?;
                let [scenario, without, row @ ..] = fields;
                if row.iter().eq(&COLUMNS[KEY..]) {
                    continue;
                }
                if rows.insert([scenario, without], row).is_some() {
                    return Err((i + 1, "this variant has a row already"));
                }
            }
        }
        Ok(Table { conditions, rows, witnesses })
    }

    /// What each variant of `fresh` has in another way than this table says, one line each.
    pub fn moved(&self, fresh: &Table) -> Vec<(MovedFrom, String)> {
        let mut moved = Vec::new();
        let from = |key: &[String; KEY]| MovedFrom { witnesses: false, key: key.clone() };
        for (key, new) in &fresh.rows {
            let name = name(key);
            let Some(old) = self.rows.get(key) else {
                moved.push((from(key), format!("{name}: has no row")));
                continue;
            };
            let columns = COLUMNS[KEY..].iter().zip(old.iter().zip(new));
            let changes = columns.filter(|(_, (old, new))| old != new);
            let changes: Vec<String> =
                changes.map(|(column, (old, new))| format!("{column} {old} -> {new}")).collect();
            if !changes.is_empty() {
                moved.push((from(key), format!("{name}: {}", changes.join(", "))));
            }
        }
        for (scenario, new) in &fresh.witnesses {
            if self.witnesses.get(scenario).is_some_and(|old| old != new) {
                let key = [scenario.clone(), NONE.to_owned()];
                let from = MovedFrom { witnesses: true, key };
                moved.push((from, format!("{scenario}: other witnesses")));
            }
        }
        moved
    }

    /// Takes over what `fresh` has.
    pub fn bless(&mut self, fresh: Table) {
        self.rows.extend(fresh.rows);
        self.witnesses.extend(fresh.witnesses);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{TITLE}{}\n{LEGEND}", self.conditions)?;
        let head = COLUMNS.map(str::to_owned);
        let rows = self.rows.iter().map(|(key, row)| key.iter().chain(row).cloned().collect());
        let rows: Vec<Vec<String>> = [head.to_vec()].into_iter().chain(rows).collect();
        aligned(f, &rows)?;
        writeln!(f)?;
        let numbered = |(scenario, texts): (&String, &Vec<String>)| -> Vec<Vec<String>> {
            let line = |(i, text): (usize, &String)| {
                vec![scenario.clone(), (i + 1).to_string(), text.clone()]
            };
            texts.iter().enumerate().map(line).collect()
        };
        let head = WITNESS.map(str::to_owned).to_vec();
        let rows: Vec<Vec<String>> =
            [head].into_iter().chain(self.witnesses.iter().flat_map(numbered)).collect();
        aligned(f, &rows)
    }
}

/// Prints rows of equal length below each other, the first of which names the columns.
fn aligned(f: &mut fmt::Formatter<'_>, rows: &[Vec<String>]) -> fmt::Result {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let last = rows[0].len() - 1;
    let widths: Vec<usize> = (0..last).map(width).collect();
    for row in rows {
        for ((cell, width), column) in row.iter().zip(&widths).zip(&rows[0]) {
            match ["states", "transitions", "executions"].contains(&column.as_str()) {
                // Wide enough for what is to come: a number that grows changes its own row only.
                true => write!(f, "{cell:>11}  ")?,
                false => write!(f, "{cell:<width$}  ")?,
            }
        }
        writeln!(f, "{}", row[last])?;
    }
    Ok(())
}

/// The columns of a line; all but the last are words.
fn fields<const N: usize>(line: &str) -> Option<[String; N]> {
    let mut rest = line.trim();
    let mut fields = Vec::new();
    for _ in 1..N {
        let (word, after) = rest.split_once(char::is_whitespace)?;
        fields.push(word.to_owned());
        rest = after.trim_start();
    }
    fields.push(rest.to_owned());
    (!rest.is_empty()).then(|| fields.try_into().ok()).flatten()
}

/// `1-3,5` of rising numbers.
fn ranges(numbers: &[usize]) -> String {
    let runs = numbers.chunk_by(|a, b| a + 1 == *b).map(|run| match run {
        [first, .., last] => format!("{first}-{last}"),
        _ => run[0].to_string(),
    });
    runs.collect::<Vec<_>>().join(",")
}

/// A variant as people write it.
fn name([scenario, without]: &[String; KEY]) -> String {
    match without.as_str() {
        NONE => scenario.clone(),
        _ => format!("{scenario} without {}", without.replace('+', " + ")),
    }
}

/// `text`, or what stands for nothing.
fn or_none(text: String) -> String {
    if text.is_empty() { NONE.to_owned() } else { text }
}

/// The table in a file that a run is compared with, or whose rows it writes.
#[derive(Clone, Debug)]
pub struct Pinned {
    path: PathBuf,
    table: Table,
    bless: bool,
    /// The bounds that are no part of the table's conditions.
    asked: Vec<Asked>,
}

impl Pinned {
    /// Reads the table, before anything is explored. With `bless` it need not be there.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, is no table or is that of another search.
    pub fn read(
        path: &Path,
        bless: bool,
        search: &Search,
        args: &SearchArgs,
    ) -> Result<Pinned, Failure> {
        let place = path.display();
        let wanted = Table::new(search, args.size);
        let pinned =
            |table| Pinned { path: path.to_owned(), table, bless, asked: bounds::asked(args) };
        let help =
            "--counts takes a file that --counts FILE --bless has written; nothing was changed";
        let text = match input::read(path, LIMIT) {
            Ok(text) => text,
            Err(Unread::System(error)) if bless && error.kind() == ErrorKind::NotFound => {
                return Ok(pinned(wanted));
            }
            Err(Unread::System(error)) => {
                return Err(Failure::usage(
                    format!("cannot read the counts in {place}: {error}"),
                    "--bless writes them",
                ));
            }
            Err(Unread::Large(why)) => {
                return Err(Failure::usage(
                    format!("{place}{why}: this is no table of counts"),
                    help,
                ));
            }
        };
        let text = String::from_utf8(text).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            Failure::usage(format!("{place}: byte {at} is not UTF-8: this is no table"), help)
        })?;
        let table = Table::parse(&text)
            .map_err(|(line, what)| Failure::usage(format!("{place}:{line}: {what}"), help))?;
        if table.conditions != wanted.conditions {
            return Err(Failure::usage(
                format!("{place} is for {}, this run has {}", table.conditions, wanted.conditions),
                "leave the options away that make the difference, or name another file",
            ));
        }
        Ok(pinned(table))
    }

    /// Says in lines what moved, or writes the rows of `fresh` if that was asked for. The run would
    /// end with `exit`.
    ///
    /// # Errors
    ///
    /// A file that cannot be written, and rows that are not to be.
    pub fn settle(&self, fresh: Table, exit: Exit) -> Result<Vec<(MovedFrom, String)>, Failure> {
        let moved = self.table.moved(&fresh);
        if !self.bless {
            return Ok(moved);
        }
        let place = self.path.display();
        if !matches!(exit, Exit::Expected | Exit::Inconclusive) {
            say!("note: not everything is as expected: {place} is left as it is");
            return Ok(Vec::new());
        }
        self.refuse_cut(&fresh)?;
        let mut table = self.table.clone();
        table.bless(fresh);
        files::write(&self.path, &table.to_string(), Existing::Replace).map_err(|error| {
            Failure::usage(
                format!("cannot write the counts to {place}: {error}"),
                "make room or name another file, then run the command again",
            )
        })?;
        for (_, line) in moved {
            say!("blessed: {line}");
        }
        Ok(Vec::new())
    }

    /// Refuses rows that say how far a bound of this command line let a search come: no other run
    /// would count that.
    fn refuse_cut(&self, fresh: &Table) -> Result<(), Failure> {
        let by = |row: &Row| {
            let [_, _, _, verdict, reason, ..] = row;
            let is_it = |asked: &&Asked| reason == reason_name(asked.reason);
            self.asked.iter().find(is_it).filter(|_| verdict == Word::Bound.text())
        };
        let mut cut = fresh.rows.iter().filter_map(|(key, row)| Some((key, by(row)?.option)));
        let Some((key, option)) = cut.next() else { return Ok(()) };
        let others = match cut.count() {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        Err(Failure::usage(
            format!(
                "{}{others}: {option} ended the search: {} is left as it is",
                name(key),
                self.path.display()
            ),
            format!("leave {option} away, or raise it until the search comes to a verdict"),
        ))
    }

    /// The file, as it is named.
    pub fn place(&self) -> String {
        self.path.display().to_string()
    }
}

/// What to do about rows of the table at `place` that moved, in one part of a run or a whole one.
pub fn advice(place: &str, of_shard: bool) -> String {
    let how = if of_shard { "without --shard, with --bless," } else { "with --bless" };
    format!("if that was meant, repeat the command {how} and commit {place}")
}
