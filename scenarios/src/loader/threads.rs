//! `[[thread]]` and `[at-stop]`: who does what.

use alloc::format;
use alloc::vec::Vec;

use kvmmu_model::mmu::VCPUS;

use super::error::{LoadError, listed, quoted};
use super::map::Uses;
use super::memory::Memory;
use super::program;
use super::table::{Table, Text};
use crate::scenario::{Op, Paging, Thread, ThreadKind};

const THREADS: usize = 6;
const OPS: usize = 16;

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
    /// It exists from this size on.
    pub(super) from_size: u8,
}

/// Reads everything of the threads but their programs.
pub(super) fn drafts<'a>(
    root: &Table<'a>,
    paging: Paging,
    has_guest: bool,
) -> Result<Vec<Draft<'a>>, LoadError> {
    let mut drafts: Vec<Draft<'a>> = Vec::new();
    for table in root.tables("thread", "a [[thread]]")? {
        table.only(&["name", "paging", "from-size", "run", "more"])?;
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
            Some(text) => text.choose("paging mode", PAGING)?,
            None => paging,
        };
        if own == Paging::Shadow && kind == ThreadKind::Vcpu && !has_guest {
            return Err(name.error(
                format!("{} shadows guest page tables, and there are none", quoted(name.value)),
                "add [guest] with root = \"gfnN\" and the tables' entries",
            ));
        }
        let from_size = table.small("from-size", 1..=u8::MAX)?.map_or(1, |n| n.value);
        drafts.push(Draft { table, name, kind, paging: own, from_size });
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

/// The threads that exist at this size, with their programs. All programs are checked.
pub(super) fn programs(
    root: &Table<'_>,
    drafts: &[Draft<'_>],
    memory: &Memory,
    size: u8,
) -> Result<Vec<Thread>, LoadError> {
    let mut threads: Vec<Thread> = Vec::new();
    for draft in drafts {
        let Draft { table, name, kind, paging, from_size } = draft;
        let mut run = Vec::new();
        for text in table.texts("run")? {
            run.push(program::parse(&text, *kind, *paging, memory)?);
        }
        if run.is_empty() {
            return Err(root.source.error(
                table.place("run"),
                format!("{} does nothing", quoted(name.value)),
                "give it a program: run = [\"write gfn0\"]",
            ));
        }
        if run.len() > OPS {
            return Err(too_long(table, "run", run.len()));
        }
        let mut more = Vec::new();
        for text in table.texts("more")? {
            more.push(program::parse(&text, *kind, *paging, memory)?);
        }
        if *from_size > size {
            continue;
        }
        if run.len() + more.len() * usize::from(size - 1) > OPS {
            return Err(too_long(table, "more", run.len() + more.len() * usize::from(size - 1)));
        }
        for _ in 1..size {
            run.extend_from_slice(&more);
        }
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

fn too_long(table: &Table<'_>, key: &str, ops: usize) -> LoadError {
    table.source.error(
        table.place(key),
        format!("a program of {ops} operations"),
        format!("at most {OPS} fit: shorten it, or choose a smaller size"),
    )
}

/// `[at-stop]`
pub(super) fn at_stop(root: &Table<'_>, memory: &Memory) -> Result<Vec<Op>, LoadError> {
    let Some(table) = root.table("at-stop", "[at-stop]")? else { return Ok(Vec::new()) };
    table.only(&["run"])?;
    let mut run = Vec::new();
    for text in table.texts("run")? {
        run.push(program::parse(&text, ThreadKind::User, Paging::Direct, memory)?);
    }
    if run.len() > OPS {
        return Err(too_long(&table, "run", run.len()));
    }
    Ok(run)
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
