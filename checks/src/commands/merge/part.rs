//! What one part of a run printed, from a file.

use std::path::Path;

use kvmmu_scenarios::lockdep::LockOrders;
use serde::Deserialize;

use crate::cli::exit::{Exit, Failure};
use crate::cli::input::{self, Limit, Unread};
use crate::cli::lines::{
    Counts, ErrorLine, JSON_VERSION, MovedFrom, MovedLine, Placed, RunStart, ShardStart,
    SummaryLine, VerdictLine,
};
use crate::lab::orders;
use crate::lab::shard::Shard;

/// As for traces: a verdict has the schedule of one, and is far shorter.
const LIMIT: Limit = Limit { file: 256 << 20, line: 16 << 20 };

/// What to do with a file that is none.
const OTHER: &str = "give merge what 'kvmmu check --shard I/N --message-format json' printed: one \
                     file for each part, without what went to standard error";

/// What to do with a file whose lines contradict each other.
pub const EDITED: &str = "was the file edited, or are two outputs in it? Run that part again";

/// One part of a run.
#[derive(Debug)]
pub struct Part {
    /// The file, as it is named.
    pub path: String,
    /// Which part.
    pub shard: Shard,
    /// How the run was started: the same in all of its parts.
    pub run: ShardStart,
    /// Its first line, without `shard`.
    pub start: RunStart,
    /// The verdicts and errors, in the order of the run.
    pub entries: Vec<Entry>,
    /// Rows of the table of counts that moved.
    pub moved: Vec<(MovedFrom, String)>,
    /// How many variants the engine skipped.
    pub skipped: Option<usize>,
}

/// What is said of one variant.
#[derive(Debug)]
pub struct Entry {
    /// The number of its line.
    pub line: usize,
    /// Its place, and what people read.
    pub placed: Placed,
    /// The orders in which it takes locks, if they count.
    pub locks: Option<LockOrders>,
    /// What is said.
    pub said: Said,
}

/// A verdict, or why there is none.
#[derive(Debug)]
pub enum Said {
    /// A verdict.
    Verdict(Box<VerdictLine>),
    /// An error.
    Error(Box<ErrorLine>),
}

impl Part {
    /// A line of the file.
    pub fn place(&self, line: usize) -> String {
        format!("{}:{line}", self.path)
    }
}

/// The command that makes this part of a run.
pub fn command(run: &ShardStart, shard: Shard) -> String {
    format!("{} --shard {shard} --message-format json", run.command)
}

/// The part of a line that says what it is.
#[derive(Deserialize)]
struct Head {
    v: u32,
    r#type: String,
}

/// The part of a first line that says which program wrote it.
#[derive(Deserialize)]
struct Origin {
    version: String,
    source_hash: String,
}

/// Reads a part.
///
/// # Errors
///
/// A file that cannot be read, is none of a part, was cut short or edited, or is of another version
/// of this program; a part that was interrupted.
pub fn read(path: &Path) -> Result<Part, Failure> {
    let name = path.display().to_string();
    let bytes = input::read(path, LIMIT).map_err(|unread| match unread {
        Unread::System(error) => Failure::usage(format!("cannot read {name}: {error}"), OTHER),
        Unread::Large(why) => {
            Failure::usage(format!("{name}{why}: this is no part of a check"), OTHER)
        }
    })?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
        Failure::usage(format!("{name}:{line}: this line is not UTF-8"), OTHER)
    })?;
    parse(name, &text)
}

/// Reads the text of the part in the file `path`.
fn parse(path: String, text: &str) -> Result<Part, Failure> {
    let mut lines = text.split_inclusive('\n').zip(1..);
    let first = lines.next().map_or("", |(line, _)| line);
    let (start, run, shard) = start(&path, first)?;
    let selected = run.selected;
    let again = format!("run that part again: '{}'", command(&run, shard));
    let mut part =
        Part { path, shard, run, start, entries: Vec::new(), moved: Vec::new(), skipped: None };
    let (mut counts, mut end, mut last) = (Counts::default(), None, 1);
    for (line, number) in lines {
        last = number;
        let place = part.place(number);
        let refused =
            |what: &str, help: &str| Err(Failure::usage(format!("{place}: {what}"), help));
        let wrong = |error: serde_json::Error| {
            let message = format!("{place}: not a line of a check: {}", why(&error));
            Failure::usage(message, EDITED)
        };
        if end.is_some() {
            return refused("something follows the summary", EDITED);
        }
        if !line.ends_with('\n') {
            return refused("the file is cut short in this line", &again);
        }
        let head: Head = serde_json::from_str(line).map_err(wrong)?;
        if head.v != JSON_VERSION {
            return refused(&format!("a line of version {}", head.v), EDITED);
        }
        let (placed, said) = match head.r#type.as_str() {
            "verdict" => {
                let mut line: VerdictLine = serde_json::from_str(line).map_err(wrong)?;
                counts.add(line.verdict);
                (line.shard.take(), Said::Verdict(Box::new(line)))
            }
            "error" => {
                let mut line: ErrorLine = serde_json::from_str(line).map_err(wrong)?;
                counts.errors += 1;
                (line.shard.take(), Said::Error(Box::new(line)))
            }
            "moved" => {
                let line: MovedLine = serde_json::from_str(line).map_err(wrong)?;
                let (Some(from), Some(_)) = (line.shard, &part.run.counts) else {
                    return refused("this line is not of a part with --counts", EDITED);
                };
                part.moved.push((from, line.text));
                continue;
            }
            // Those of all parts together are found again.
            "lock-cycle" => continue,
            "summary" => {
                end = Some(serde_json::from_str::<SummaryLine>(line).map_err(wrong)?);
                continue;
            }
            "run-start" => return refused("another output begins here", EDITED),
            other => return refused(&format!("no line of a check has the type '{other}'"), EDITED),
        };
        let Some(placed) = placed else { return refused("this line is not of a part", EDITED) };
        let before = part.entries.last().map(|entry: &Entry| entry.placed.index);
        if before >= Some(placed.index) || placed.index >= selected {
            return refused("this variant is not in its place", EDITED);
        }
        let locks = placed.locks.as_deref().map(orders::read).transpose();
        let locks = locks.map_err(|what| Failure::usage(format!("{place}: {what}"), EDITED))?;
        part.entries.push(Entry { line: number, placed, locks, said });
    }
    let place = part.place(last);
    let Some(end) = end else {
        let message =
            format!("{place}: the file is cut short: its last line, the summary, is missing");
        return Err(Failure::usage(message, again));
    };
    if end.interrupted {
        let message = format!("{place}: shard {shard} was interrupted: not all of it was explored");
        return Err(Failure::usage(message, format!("{again}, and let it finish")));
    }
    // Cycles are counted of all parts.
    let counted = Counts { lock_cycles: 0, ..end.counts };
    let all = counts.total().checked_add(end.skipped.unwrap_or(0));
    if counted != counts || all != Some(part.start.variants) || part.start.variants > selected {
        let message = format!("{place}: the summary counts other lines than there are");
        return Err(Failure::usage(message, EDITED));
    }
    part.skipped = end.skipped;
    Ok(part)
}

/// What is wrong with a line, and with which character of it.
fn why(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or_default();
    format!("{what} at column {}", error.column())
}

/// Reads the first line of the file `path`.
fn start(path: &str, line: &str) -> Result<(RunStart, ShardStart, Shard), Failure> {
    let refused = |what: &str, help: &str| Failure::usage(format!("{path}:1: {what}"), help);
    let other =
        |what: &str| refused(&format!("not what a part of a check begins with: {what}"), OTHER);
    if line.is_empty() {
        return Err(refused("the file is empty", "did that part end with an error? Run it again"));
    }
    let json = |error: serde_json::Error| match error.is_eof() && line.starts_with('{') {
        true => refused("the file is cut short in this line", "run that part again"),
        false => other(&why(&error)),
    };
    let head: Head = serde_json::from_str(line).map_err(json)?;
    if head.r#type != "run-start" {
        return Err(other(&format!("its type is '{}'", head.r#type)));
    }
    let foreign = |what: String| {
        let help = "run all parts and merge by one version of kvmmu";
        Failure::new(Exit::Diverged, format!("{path}:1: {what}"), help)
    };
    if head.v != JSON_VERSION {
        return Err(foreign(format!("lines of version {}, not {JSON_VERSION}", head.v)));
    }
    let origin: Origin = serde_json::from_str(line).map_err(json)?;
    let (version, sources) = (env!("CARGO_PKG_VERSION"), env!("KVMMU_SOURCE_HASH"));
    if origin.version != version {
        return Err(foreign(format!(
            "kvmmu {} made this part, and this is {version}",
            origin.version
        )));
    }
    if origin.source_hash != sources {
        let its = origin.source_hash;
        return Err(foreign(format!(
            "this part is of the sources {its}, and this kvmmu of {sources}"
        )));
    }
    let mut start: RunStart = serde_json::from_str(line).map_err(json)?;
    let Some(run) = start.shard.take() else {
        return Err(refused(
            "this is the output of a whole check, and not of a part",
            "nothing has to be merged with it; 'kvmmu check --shard I/N' makes parts",
        ));
    };
    let Some(shard) = Shard::new(run.index, run.of) else {
        return Err(refused(&format!("there is no shard {}/{}", run.index, run.of), EDITED));
    };
    // The rest is the same in all parts.
    Ok((start, ShardStart { index: 0, ..run }, shard))
}
