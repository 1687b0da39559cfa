//! Files of outcomes that machines have seen: JSON lines, as
//! [`kvmmu_scenarios::outcome`] says.

use std::path::Path;

use kvmmu_model::GuardSet;
use kvmmu_scenarios::mmu::format_of;
use kvmmu_scenarios::outcome::{Outcome, VERSION};
use kvmmu_scenarios::scenario::Format;
use serde::Deserialize;

use crate::cli::exit::{Exit, Failure};
use crate::cli::input::{self, Limit, Unread};
use crate::lab::layout::layout;
use crate::lab::variant::parse_guards;

/// An outcome is far shorter than such a line, and no machine has seen so many.
const LIMIT: Limit = Limit { file: 64 << 20, line: 64 << 10 };

/// Who may have seen an outcome.
const MACHINES: [&str; 3] = ["sim", "el2", "live"];

/// What a machine saw.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    /// The file and the line.
    pub place: String,
    /// The machine.
    pub machine: &'static str,
    /// The scenario's name.
    pub scenario: String,
    /// The guards that the machine ran without.
    pub without: GuardSet,
    /// Its layout of SPTEs, if it says.
    pub spte: Option<Format>,
    /// What it saw.
    pub outcome: Outcome,
    /// How often.
    pub count: u64,
}

/// The part of a line that says what it is.
#[derive(Deserialize)]
struct Head {
    #[serde(rename = "kvmmu-outcome")]
    version: Option<u32>,
    #[serde(rename = "kvmmu-outcomes")]
    set: Option<u32>,
}

/// A line. Others than these keys are left to those who wrote them.
#[derive(Deserialize)]
struct Line {
    machine: String,
    scenario: String,
    without: Vec<String>,
    spte: Option<String>,
    outcome: String,
    count: u64,
}

/// Reads the lines of a file.
///
/// # Errors
///
/// A file that cannot be read, or the first line that is no outcome of this version: its place and
/// what to try.
pub fn read(path: &Path) -> Result<Vec<Seen>, Failure> {
    let name = path.display().to_string();
    let bytes = input::read(path, LIMIT).map_err(|unread| {
        let message = match unread {
            Unread::System(error) => format!("cannot read {name}: {error}"),
            Unread::Large(why) => format!("{name}{why}: no file of outcomes that can be read"),
        };
        let help = "give --compare a file of outcomes that kvmmu-live or the EL2 image has written";
        Failure::usage(message, help)
    })?;
    let mut seen = Vec::new();
    for (i, text) in bytes.split(|byte| *byte == b'\n').enumerate() {
        seen.extend(line(text, &format!("{name}:{}", i + 1))?);
    }
    Ok(seen)
}

/// Reads a line; `None`: there is nothing on it, or the extent of a set, which `kvmmu outcomes`
/// itself writes.
fn line(text: &[u8], place: &str) -> Result<Option<Seen>, Failure> {
    let whole = "each line is one JSON object; was the file cut short, or something else written \
                 between the lines?";
    let Ok(text) = str::from_utf8(text) else {
        return Err(Failure::usage(format!("{place}: this line is not UTF-8"), whole));
    };
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    let wrong = |error: serde_json::Error| {
        Failure::usage(format!("{place}: this line is no outcome: {error}"), whole)
    };
    let head: Head = serde_json::from_str(text).map_err(wrong)?;
    match (head.version, head.set) {
        (Some(VERSION), _) => {}
        (Some(version), _) | (None, Some(version)) if version != VERSION => {
            return Err(Failure::new(
                Exit::Diverged,
                format!("{place}: this is version {version} of the format; here it is {VERSION}"),
                "make the file again with tools of this version of kvmmu",
            ));
        }
        (_, Some(_)) => return Ok(None),
        (_, None) => {
            return Err(Failure::usage(
                format!("{place}: this line is no outcome: it has no \"kvmmu-outcome\""),
                "give --compare the file of outcomes, not one of results or of a trace",
            ));
        }
    }
    let line: Line = serde_json::from_str(text).map_err(wrong)?;
    of(line, place).map(Some)
}

fn of(line: Line, place: &str) -> Result<Seen, Failure> {
    let wrong = |what: String, help: &str| Failure::usage(format!("{place}: {what}"), help);
    let Some(machine) = MACHINES.into_iter().find(|m| *m == line.machine) else {
        let what = format!("unknown machine '{}'", line.machine);
        return Err(wrong(what, &format!("machines are {}", MACHINES.join(", "))));
    };
    let without = parse_guards(&line.without.join(",")).map_err(|name| {
        wrong(format!("unknown guard '{name}' in \"without\""), "'kvmmu guards' lists all of them")
    })?;
    let spte = line.spte.as_deref().map(any_layout).transpose().map_err(|layouts| {
        let name = line.spte.as_deref().unwrap_or_default();
        wrong(format!("unknown layout '{name}' in \"spte\""), &layouts)
    })?;
    let outcome = line.outcome.parse().map_err(|error| {
        let form = "docs/outcomes.md has the form of an outcome";
        wrong(format!("'{}' is no outcome: {error}", line.outcome), form)
    })?;
    if line.count == 0 {
        let help = "leave out what was not seen";
        return Err(wrong("\"count\" is 0".to_owned(), help));
    }
    let Line { scenario, count, .. } = line;
    Ok(Seen { place: place.to_owned(), machine, scenario, without, spte, outcome, count })
}

/// As [`layout`], and the descriptors of Linux for arm64, which nobody may ask for.
fn any_layout(name: &str) -> Result<Format, String> {
    if name == format_of(Format::Arm64).name { Ok(Format::Arm64) } else { layout(name) }
}
