//! Trace files: a header line, one line per event with the hash of all lines so far, an end line.
//!
//! Guarantee: a file that was cut short or edited is not taken for a replay that diverged.

use std::path::{Path, PathBuf};

use kvmmu_model::{Mode, Tag};
use kvmmu_sim::event::{What, Write as How};
use kvmmu_sim::names::Names;
use serde::{Deserialize, Serialize};

use crate::cli::exit::{Exit, Failure};
use crate::cli::files::{self, Existing};
use crate::cli::input::{self, Limit, Unread};
use crate::lab::replayed::Replayed;
use crate::lab::variant::Variant;

/// The version of the file format.
///
/// 2: the header has the text of the scenario file. 1 had its path only.
pub const VERSION: u32 = 2;

/// How far a trace that is read may go. One of the longest run without options has a twentieth; a
/// first line has the text of a scenario file (1 MiB, or several as JSON) and the schedule.
const LIMIT: Limit = Limit { file: 256 << 20, line: 16 << 20 };

/// The first line of a trace file.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// [`VERSION`].
    pub v: u32,
    /// `trace`.
    pub r#type: String,
    /// The scenario's name.
    pub scenario: String,
    /// The scenario's file; absent if it is built in.
    pub file: Option<String>,
    /// The text of that file: a replay of the trace does not need the file.
    pub text: Option<String>,
    /// The size that it was loaded at.
    pub size: u8,
    /// The guards that were removed.
    pub without: Vec<String>,
    /// What the schedule was made for.
    pub fingerprint: String,
    /// The schedule, with its fingerprint.
    pub schedule: String,
    /// The property that was violated.
    pub property: Option<String>,
    /// What was wrong, in words.
    pub detail: Option<String>,
}

/// An event as a line.
#[derive(Serialize, Debug)]
struct EventLine<'a> {
    v: u32,
    r#type: &'a str,
    step: u32,
    thread: u8,
    stack: &'a [&'static str],
    file: &'a str,
    line: u32,
    held: Vec<String>,
    kind: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    old: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    new: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
}

/// The parts of an event line that reading it needs.
#[derive(Deserialize, Debug)]
struct Stamp {
    step: u32,
    hash: String,
}

/// The last line.
#[derive(Serialize, Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct End {
    v: u32,
    r#type: String,
    events: usize,
    hash: String,
}

/// A trace file that was read and is whole.
#[derive(Clone, Debug)]
pub struct Trace {
    /// Its first line.
    pub header: Header,
    /// The step and the line of each event.
    pub events: Vec<(u32, String)>,
}

/// An object by its place: `mmu_lock`, `vcpu0->mode`, `page[pfn1]`, `spte[0][1]`.
pub fn tag_text(tag: Tag) -> String {
    let name = tag.object.name();
    use kvmmu_model::lock::Section;
    use kvmmu_model::{LockClass as C, Object as O};
    match tag.object {
        O::Spte | O::Gfns => format!("{name}[{}][{}]", tag.index[0], tag.index[1]),
        O::Lock(C::VcpuMutex) => format!("vcpu{}->mutex", tag.index[0]),
        O::Lock(C::BlockedVcpuOnCpuLock) => format!("cpu{}.{name}", tag.index[0]),
        O::Lock(class) if class.info().section != Section::Test => name.to_owned(),
        O::NotifierSeq | O::IndirectShadowPages | O::PageFlags => name.to_owned(),
        O::VcpuMode => format!("vcpu{}->mode", tag.index[0]),
        O::VcpuRequests => format!("vcpu{}->requests", tag.index[0]),
        O::GfnTrack => format!("{name}[gfn{}]", tag.index[0]),
        O::Page => format!("{name}[pfn{}]", tag.index[0]),
        O::Irq => format!("cpu{}.{name}", tag.index[0]),
        _ if tag.index[1] != 0 => format!("{name}[{}][{}]", tag.index[0], tag.index[1]),
        _ => format!("{name}[{}]", tag.index[0]),
    }
}

/// The name of a way of writing.
pub fn how_text(how: How) -> &'static str {
    match how {
        How::Store => "store",
        How::Swap => "xchg",
        How::Cmpxchg => "cmpxchg",
        How::Or => "or",
        How::And => "and",
        How::Add => "add",
        How::Hardware => "hardware",
    }
}

/// The name of a way of holding or wanting a lock.
pub fn mode_text(mode: Mode) -> &'static str {
    match mode {
        Mode::Exclusive => "exclusive",
        Mode::Read => "read",
        Mode::Synchronize => "grace-period",
    }
}

/// What an object is called in the event with this index: by what it maps where that is known.
pub fn object_text(names: &Names, event: usize, tag: Tag) -> String {
    names.of(event, tag).map_or_else(|| tag_text(tag), str::to_owned)
}

/// The `i`-th event of a run as one line of JSON, without the hash.
pub fn event_json(replayed: &Replayed, i: usize) -> String {
    let event = &replayed.events[i];
    let hex = |value: &u64| Some(format!("{value:#x}"));
    let name = |object: Tag| object_text(&replayed.names, i, object);
    let tag = |object: &Tag| Some(name(*object));
    let (kind, object, old, new, text) = match &event.what {
        What::Load { object, value } => ("load", tag(object), hex(value), None, None),
        What::Write { object, how, old, new } => {
            (how_text(*how), tag(object), hex(old), hex(new), None)
        }
        What::CmpxchgFailed { object, expected, found } => {
            ("cmpxchg-failed", tag(object), hex(expected), hex(found), None)
        }
        What::Waited { object, value } => ("waited", tag(object), hex(value), None, None),
        What::Acquire { object, .. } => ("acquire", tag(object), None, None, None),
        What::GracePeriod { object, over } => {
            let text = if *over { "over" } else { "begins" };
            ("grace-period", tag(object), None, None, Some(text))
        }
        What::CallRcu { object, callback } => ("call-rcu", tag(object), None, hex(callback), None),
        What::Callback { object, callback } => {
            ("callback", tag(object), callback.as_ref().and_then(hex), None, None)
        }
        What::Release { object } => ("release", tag(object), None, None, None),
        What::Fence => ("fence", None, None, None, None),
        What::Call(name) => ("call", None, None, None, Some(*name)),
        What::Return(name) => ("return", None, None, None, Some(*name)),
        What::Mark(mark) => ("mark", None, None, None, Some(mark.name())),
        What::Note(text) => ("note", None, None, None, Some(text.as_str())),
        What::Violation { rule, detail } => {
            ("violation", Some(rule.to_string()), None, None, Some(detail.as_str()))
        }
    };
    let mode = match event.what {
        What::Acquire { mode, .. } => Some(mode_text(mode)),
        _ => None,
    };
    let line = EventLine {
        v: VERSION,
        r#type: "step",
        step: event.step,
        thread: event.thread,
        stack: &event.stack,
        file: event.file,
        line: event.line,
        held: event.held.iter().map(|t| name(*t)).collect(),
        kind,
        object,
        mode,
        old,
        new,
        text,
    };
    serde_json::to_string(&line).expect("strings and numbers are JSON")
}

/// 64-bit FNV-1a.
fn hash(seed: u64, text: &str) -> u64 {
    text.bytes().fold(seed, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// The lines of events, each with the hash of all lines up to and with it.
fn event_lines(header: &str, replayed: &Replayed) -> (Vec<String>, u64) {
    let mut sum = hash(0xcbf2_9ce4_8422_2325, header);
    let mut lines = Vec::with_capacity(replayed.events.len());
    for i in 0..replayed.events.len() {
        let line = event_json(replayed, i);
        sum = hash(sum, &line);
        lines.push(with_hash(&line, sum));
    }
    (lines, sum)
}

/// A JSON object with a last field `hash`.
fn with_hash(line: &str, sum: u64) -> String {
    format!("{},\"hash\":\"{sum:016x}\"}}", &line[..line.len() - 1])
}

/// The whole text of a trace file.
pub fn text(variant: &Variant, schedule: &str, replayed: &Replayed) -> String {
    let violation = crate::lab::replayed::violation(&replayed.events);
    let (property, detail) = violation.map(|(rule, d)| (rule.to_string(), d.to_owned())).unzip();
    let header = Header {
        v: VERSION,
        r#type: "trace".to_owned(),
        scenario: variant.scenario.name.clone(),
        file: variant.file.clone(),
        text: variant.text.as_deref().map(str::to_owned),
        size: variant.scenario.size,
        without: variant.without.iter().map(|g| g.info().name.to_owned()).collect(),
        fingerprint: format!(
            "{:08x}",
            crate::lab::variant::fingerprint(&variant.scenario, variant.without)
        ),
        schedule: schedule.to_owned(),
        property,
        detail,
    };
    let header = serde_json::to_string(&header).expect("strings and numbers are JSON");
    let (mut lines, sum) = event_lines(&header, replayed);
    let end = End {
        v: VERSION,
        r#type: "end".to_owned(),
        events: lines.len(),
        hash: format!("{sum:016x}"),
    };
    lines.insert(0, header);
    lines.push(serde_json::to_string(&end).expect("strings and numbers are JSON"));
    lines.join("\n") + "\n"
}

/// Writes the trace of a schedule below `directory`; gives the file's path.
///
/// # Errors
///
/// A directory or file that cannot be written; the message has the command that replays the
/// schedule, so that nothing is lost.
pub fn write(
    directory: &Path,
    variant: &Variant,
    schedule: &kvmmu_sim::schedule::Schedule,
    replayed: &Replayed,
) -> Result<PathBuf, Failure> {
    let path = directory.join(variant.directory()).join("trace.jsonl");
    let body = text(variant, &variant.stamp(schedule).to_string(), replayed);
    match files::write(&path, &body, Existing::Replace) {
        Ok(()) => Ok(path),
        Err(error) => Err(Failure::usage(
            format!("cannot write the trace {}: {error}", path.display()),
            format!(
                "nothing is lost: '{}' makes it again; --trace-dir names another place",
                variant.replay_command(schedule)
            ),
        )),
    }
}

/// Reads a trace file.
///
/// # Errors
///
/// A file that cannot be read, is too large or cut short, was edited or has another format version.
pub fn read(path: &Path) -> Result<Trace, Failure> {
    let name = path.display();
    let text = input::read(path, LIMIT).map_err(|unread| match unread {
        Unread::System(error) => Failure::usage(
            format!("cannot read the trace {name}: {error}"),
            "'kvmmu explain NAME' writes a trace; 'kvmmu replay NAME --schedule S' needs none",
        ),
        Unread::Large(why) => bad(&format!("{name}{why}: not a trace that can be read")),
    })?;
    let text = String::from_utf8(text).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        bad(&format!("{name}: not a trace: byte {at} is not UTF-8"))
    })?;
    parse(&name.to_string(), &text)
}

/// Another attempt with a file that is not whole.
fn bad(message: &str) -> Failure {
    Failure::usage(
        message,
        "make the trace again with 'kvmmu explain', or replay the schedule of its first line with \
         'kvmmu replay NAME --schedule S'",
    )
}

/// Reads the text of the trace file called `name`.
fn parse(name: &str, text: &str) -> Result<Trace, Failure> {
    let mut lines: Vec<&str> = text.lines().collect();
    let Some(first) = lines.first().copied() else {
        return Err(bad(&format!("{name}:1:1: the trace is empty")));
    };
    let header = header(name, first)?;
    let last = lines.pop().filter(|_| lines.len() > 1 || text.lines().count() > 1);
    let end: Option<End> = last.and_then(|l| serde_json::from_str(l).ok());
    let Some(end) = end.filter(|e| e.r#type == "end" && text.ends_with('\n')) else {
        let at = text.lines().count();
        return Err(bad(&format!(
            "{name}:{at}:1: the trace is cut short: its last line is missing"
        )));
    };
    let mut sum = hash(0xcbf2_9ce4_8422_2325, first);
    let mut events = Vec::new();
    for (number, line) in lines.iter().enumerate().skip(1) {
        let number = number + 1;
        let stamp: Stamp = serde_json::from_str(line).map_err(|error| {
            bad(&format!("{name}:{number}:{}: not an event: {error}", error.column()))
        })?;
        let body = line.rsplit_once(",\"hash\":").map(|(body, _)| format!("{body}}}"));
        let body = body.ok_or_else(|| bad(&format!("{name}:{number}:1: an event without hash")))?;
        sum = hash(sum, &body);
        if stamp.hash != format!("{sum:016x}") {
            let message = format!("{name}:{number}:1: this line or one before it was edited");
            return Err(bad(&message));
        }
        events.push((stamp.step, body));
    }
    if end.events != events.len() || end.hash != format!("{sum:016x}") {
        let at = text.lines().count();
        return Err(bad(&format!("{name}:{at}:1: lines before the last were taken out or edited")));
    }
    Ok(Trace { header, events })
}

/// Reads the first line, the version before all else.
fn header(name: &str, line: &str) -> Result<Header, Failure> {
    let value: serde_json::Value = serde_json::from_str(line).map_err(|error| {
        bad(&format!("{name}:1:{}: not the first line of a trace: {error}", error.column()))
    })?;
    if value.get("type").and_then(serde_json::Value::as_str) != Some("trace") {
        return Err(bad(&format!("{name}:1:1: not the first line of a trace")));
    }
    let version = value.get("v").and_then(serde_json::Value::as_u64);
    if version != Some(u64::from(VERSION)) {
        let found = version.map_or("none".to_owned(), |v| v.to_string());
        return Err(Failure::new(
            Exit::Diverged,
            format!("{name}:1:1: trace format {found}; this version reads format {VERSION}"),
            "replay it with the version that made it, replay the schedule of its first line with \
             'kvmmu replay NAME --schedule S', or make it again with 'kvmmu explain'",
        ));
    }
    serde_json::from_value(value)
        .map_err(|error| bad(&format!("{name}:1:1: the first line is not complete: {error}")))
}
