//! `[[thread]]` and `[at-stop]`: who does what.

use alloc::format;
use alloc::vec::Vec;

use kvmmu_model::virt::VCPUS;

use super::arch;
use super::error::{LoadError, listed, quoted};
use super::locks::Holding;
use super::map::Uses;
use super::memory::Memory;
use super::program::parse;
use super::table::{self, Table, Text};
use crate::ops::{LockOp, Op};
use crate::program::{OffVcpu, Program, Runs, Step, Steps};
use crate::scenario::{Arch, Paging, Thread, ThreadKind};

const THREADS: usize = 6;
/// Operations of a program, a choice counted as one.
const OPS: usize = crate::interpret::locks::HELD;
/// Operations to choose from, of all choices of a program.
const ALTERNATIVES: usize = 32;

/// `paging = ...`
pub(super) const PAGING: &[(&str, Paging)] =
    &[("direct", Paging::Direct), ("shadow", Paging::Shadow)];

/// A thread whose program is still text.
#[derive(Clone, Debug)]
pub(super) struct Draft<'a> {
    table: Table<'a>,
    pub(super) name: Text<'a>,
    kind: ThreadKind,
    paging: Paging,
    /// The VM that it is of.
    pub(super) vm: u8,
    /// It exists from this size on.
    pub(super) from_size: u8,
}

impl<'a> Draft<'a> {
    pub(super) const fn table(&self) -> &Table<'a> {
        &self.table
    }
    pub(super) fn is_vcpu(&self) -> bool {
        self.kind == ThreadKind::Vcpu
    }
}

/// Reads everything of the threads but their programs.
pub(super) fn drafts<'a>(
    root: &Table<'a>,
    arch: Arch,
    paging: Paging,
    has_guest: bool,
) -> Result<Vec<Draft<'a>>, LoadError> {
    let mut drafts: Vec<Draft<'a>> = Vec::new();
    for table in root.tables("thread", "a [[thread]]")? {
        table.only(&["name", "paging", "vm", "from-size", "run", "more"])?;
        let name = table.need_text("name", "name = \"vcpu0\"")?;
        let kind = kind(&name)?;
        if drafts.iter().any(|d| d.name.value == name.value) {
            let hint = "names are how schedules and reports tell threads apart: choose another";
            return Err(name.error(format!("a second thread {}", quoted(name.value)), hint));
        }
        if let Some(before) = drafts.last().filter(|d| d.kind as u8 > kind as u8) {
            return Err(name.error(
                format!("{} stands after {}", quoted(name.value), quoted(before.name.value)),
                "threads are numbered vCPUs first, then host, then user: move it up",
            ));
        }
        let expected = format!("vcpu{}", drafts.len());
        if kind == ThreadKind::Vcpu && name.value != expected {
            return Err(name.error(
                format!("{} is vCPU number {}", quoted(name.value), drafts.len()),
                format!("vCPUs are numbered from 0 in the order of the file: call it {expected}"),
            ));
        }
        let own = match table.text("paging")? {
            Some(text) if kind != ThreadKind::Vcpu => {
                return Err(text.error(
                    format!("{} does not translate addresses", quoted(name.value)),
                    "only vCPUs have 'paging': remove the line",
                ));
            }
            Some(_) => arch::paging(&table, arch, PAGING)?,
            None => paging,
        };
        if own == Paging::Shadow && kind == ThreadKind::Vcpu && !has_guest {
            return Err(name.error(
                format!("{} shadows guest page tables, and there are none", quoted(name.value)),
                "add [guest] with root = \"gfnN\" and the tables' entries",
            ));
        }
        let vm = table.small("vm", 0..=1)?.map_or(0, |n| n.value);
        let from_size = table.small("from-size", 1..=SIZE_MAX)?.map_or(1, |n| n.value);
        drafts.push(Draft { table, name, kind, paging: own, vm, from_size });
    }
    if drafts.iter().all(|d| d.from_size > 1) {
        return Err(root.missing("thread", "[[thread]] with name = \"vcpu0\""));
    }
    Ok(drafts)
}

fn kind(name: &Text<'_>) -> Result<ThreadKind, LoadError> {
    let stem = name.value.trim_end_matches(|c: char| c.is_ascii_digit());
    match (stem, stem.len() == name.value.len()) {
        ("vcpu", false) => Ok(ThreadKind::Vcpu),
        ("host", _) => Ok(ThreadKind::Host),
        ("user", _) => Ok(ThreadKind::User),
        _ => Err(name.error(
            format!("{} is no name of a thread", quoted(name.value)),
            "the name gives the kind: vcpu0, vcpu1, ..., host, host1, ..., user, user1, ...",
        )),
    }
}

/// Which translations the vCPUs use, at any size.
pub(super) fn uses(drafts: &[Draft<'_>]) -> Uses {
    let any = |paging| drafts.iter().any(|d| d.kind == ThreadKind::Vcpu && d.paging == paging);
    Uses { direct: any(Paging::Direct), shadow: any(Paging::Shadow) }
}

/// The largest size at which a command loads a file.
const SIZE_MAX: u8 = 9;

/// How many vCPUs there are at every size.
pub(super) fn vcpus(drafts: &[Draft<'_>]) -> u8 {
    let always = |d: &&Draft<'_>| d.kind == ThreadKind::Vcpu && d.from_size == 1;
    u8::try_from(drafts.iter().filter(always).count()).unwrap_or(u8::MAX)
}

/// The threads that exist at this size, with their programs. All programs are checked.
pub(super) fn programs(
    root: &Table<'_>,
    drafts: &[Draft<'_>],
    memory: &Memory,
    size: u8,
) -> Result<Vec<Thread>, LoadError> {
    let mut threads: Vec<Thread> = Vec::new();
    for draft in drafts {
        let program = match draft.kind {
            ThreadKind::Vcpu => program(root, draft, memory, size)?.map(Program::Vcpu),
            ThreadKind::Host | ThreadKind::User => {
                program(root, draft, memory, size)?.map(Program::Other)
            }
        };
        let Some(run) = program else { continue };
        let Draft { name, kind, paging, .. } = draft;
        let vcpus = threads.iter().filter(|t| t.kind == ThreadKind::Vcpu).count();
        if *kind == ThreadKind::Vcpu && vcpus == VCPUS {
            return Err(name.error(
                format!("too many CPUs: {} is vCPU number {}", quoted(name.value), vcpus + 1),
                format!("at most {VCPUS} vCPUs fit: remove some, or choose a smaller size"),
            ));
        }
        if threads.len() == THREADS {
            return Err(name.error(
                format!("too many threads: {} is number {}", quoted(name.value), THREADS + 1),
                format!("at most {THREADS} threads fit: remove some, or choose a smaller size"),
            ));
        }
        threads.push(Thread { name: name.value.into(), kind: *kind, paging: *paging, run });
    }
    Ok(threads)
}

/// The program of a thread. `None`: the thread does not exist at this size.
fn program<T: Runs>(
    root: &Table<'_>,
    draft: &Draft<'_>,
    memory: &Memory,
    size: u8,
) -> Result<Option<Steps<T>>, LoadError> {
    let Draft { table, name, kind, paging, from_size, .. } = draft;
    let Part { mut steps, mut length, texts } = part::<T>(table, "run", *kind, *paging, memory)?;
    if steps.is_empty() {
        return Err(root.source.error(
            table.place("run"),
            format!("{} does nothing", quoted(name.value)),
            "give it a program: run = [\"write gfn0\"]",
        ));
    }
    length.check(table, "run")?;
    let more = part(table, "more", *kind, *paging, memory)?;
    length = length.plus(more.length, size - 1);
    let mut holding = Holding::default();
    let again = (1..size.max(2)).flat_map(|_| &more.texts);
    for (op, text) in texts.iter().chain(again) {
        holding.step((*op).into(), text)?;
    }
    if *from_size > size {
        return Ok(None);
    }
    length.check(table, "more")?;
    for _ in 1..size {
        steps.extend_from_slice(&more.steps);
    }
    Ok(Some(Steps(steps)))
}

/// `run` or `more`.
struct Part<'a, T> {
    steps: Vec<Step<T>>,
    length: Length,
    /// Each operation that is no choice and in none, and where it stands.
    texts: Vec<(T, Text<'a>)>,
}

/// Reads a part of a program.
fn part<'a, T: Runs>(
    table: &Table<'a>,
    key: &str,
    kind: ThreadKind,
    paging: Paging,
    memory: &Memory,
) -> Result<Part<'a, T>, LoadError> {
    let mut part = Part { steps: Vec::new(), length: Length::default(), texts: Vec::new() };
    for step in table.program(key)? {
        part.length.ops += 1;
        match step {
            table::Step::One(text) => {
                let op = parse(&text, kind, paging, memory)?;
                part.steps.push(Step::One(op));
                part.texts.push((op, text));
            }
            table::Step::OneOf(choice) => {
                part.length.alternatives += choice.value.len();
                let ops = choice.value.iter().map(|text| alternative(text, kind, paging, memory));
                part.steps.push(Step::OneOf(ops.collect::<Result<_, _>>()?));
            }
        }
    }
    Ok(part)
}

/// Reads one of the operations of a choice.
fn alternative<T: Runs>(
    text: &Text<'_>,
    kind: ThreadKind,
    paging: Paging,
    memory: &Memory,
) -> Result<T, LoadError> {
    let op: T = parse(text, kind, paging, memory)?;
    if let Op::Lock(op) = op.into()
        && !matches!(op, LockOp::Synchronize(_))
    {
        return Err(text.error(
            format!("{} in a choice", quoted(text.value)),
            "what is held after it would depend on the choice: move it out of the brackets",
        ));
    }
    Ok(op)
}

/// How long a program is.
#[derive(Clone, Copy, Default)]
struct Length {
    ops: usize,
    alternatives: usize,
}

impl Length {
    /// This, and so many times the other.
    fn plus(self, other: Length, times: u8) -> Length {
        let sum = |a: usize, b: usize| a + b * usize::from(times);
        Length {
            ops: sum(self.ops, other.ops),
            alternatives: sum(self.alternatives, other.alternatives),
        }
    }

    /// Refuses a program that is too long.
    fn check(self, table: &Table<'_>, key: &str) -> Result<(), LoadError> {
        let (message, most) = if self.ops > OPS {
            (format!("a program of {} operations", self.ops), OPS)
        } else if self.alternatives > ALTERNATIVES {
            (format!("a program of {} operations to choose from", self.alternatives), ALTERNATIVES)
        } else {
            return Ok(());
        };
        let hint = format!("at most {most} fit: shorten it, or choose a smaller size");
        Err(table.source.error(table.place(key), message, hint))
    }
}

/// `[at-stop]`
pub(super) fn at_stop(root: &Table<'_>, memory: &Memory) -> Result<Steps<OffVcpu>, LoadError> {
    let Some(table) = root.table("at-stop", "[at-stop]")? else { return Ok(Steps::default()) };
    table.only(&["run"])?;
    for step in table.program("run")? {
        if let table::Step::OneOf(choice) = step {
            return Err(table.source.error(
                choice.at,
                "a choice in [at-stop]",
                "nothing runs beside it, so nobody chooses: write one operation",
            ));
        }
    }
    let Part { steps, length, texts } =
        part(&table, "run", ThreadKind::User, Paging::Direct, memory)?;
    length.check(&table, "run")?;
    let mut holding = Holding::default();
    for (op, text) in &texts {
        holding.step(Op::from(*op), text)?;
    }
    Ok(Steps(steps))
}

/// The thread that a witness names, by its index among `threads`, those of this size.
pub(super) fn index(
    name: &Text<'_>,
    drafts: &[Draft<'_>],
    threads: &[Thread],
) -> Result<u8, LoadError> {
    let always: Vec<&str> =
        drafts.iter().filter(|d| d.from_size == 1).map(|d| d.name.value).collect();
    if let Some(late) = drafts.iter().find(|d| d.name.value == name.value && d.from_size > 1) {
        return Err(name.error(
            format!("{} exists only from size {} on", quoted(name.value), late.from_size),
            format!("name one of: {}", listed(always)),
        ));
    }
    threads
        .iter()
        .position(|t| t.name == name.value)
        .and_then(|i| u8::try_from(i).ok())
        .ok_or_else(|| name.source.unknown(name.at(0), "thread", name.value, &always))
}
