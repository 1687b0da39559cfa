//! Reads a scenario file: TOML in, a [`Scenario`] or a message with line, column and a hint out.
//!
//! The format is described for its users in `docs/scenario-format.md`; the tables there are made
//! from the ones here. The file is read as a tree that remembers the place of every key and value,
//! and that tree is walked by hand: each message can then name what is legal at its place.
//! No input makes the loader panic.

mod error;
mod expect;
mod locks;
pub mod manual;
mod map;
mod memory;
mod own_locks;
mod program;
mod table;
mod threads;

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use toml::de::DeTable;

pub use self::error::LoadError;
use self::error::Source;
use self::expect::{Cast, Check, Watched};
use self::map::Uses;
use self::memory::Memory;
use self::own_locks::OwnLocks;
pub use self::own_locks::own_lock;
use self::table::{Table, Text};
use crate::ops::{Address, HostOp, Op, SlotIndex, UserOp};
use crate::program::{OffVcpu, Steps};
use crate::property::Property;
use crate::scenario::{Format, IndirectFastFault, InitialSpte, Profile, Scenario, Thread};

/// The keys and tables of a file.
pub const KEYS: &[&str] = &[
    "title",
    "source",
    "about",
    "profile",
    "paging",
    "spte",
    "indirect-fast-fault",
    "unsync",
    "host",
    "slot",
    "guest",
    "map",
    "lock",
    "thread",
    "at-stop",
    "check",
    "expect",
];
const PROFILES: &[(&str, Profile)] = &[("fixed", Profile::Fixed), ("x86-v6.1", Profile::X86V6_1)];
/// The layouts of SPTEs, as files name them.
pub const FORMATS: &[(&str, Format)] = &[
    ("ept", Format::Ept),
    ("ept-no-ad", Format::EptNoAd),
    ("npt", Format::Npt),
    ("npt-v6.1", Format::NptV6_1),
    ("stage2", Format::Stage2),
    ("stage2-hd", Format::Stage2Hd),
];
const INDIRECT: &[(&str, IndirectFastFault)] = &[
    ("gfns", IndirectFastFault::Gfns),
    ("walk", IndirectFastFault::Walk),
    ("pinned", IndirectFastFault::Pinned),
];

/// The longest file that is read: far more than a scenario needs.
const BYTES_MAX: u64 = 1 << 20;

/// Reads a scenario file's text. `size` is 1 by default; larger ones add what the file says.
///
/// # Errors
///
/// The first thing in the text that is wrong.
pub fn load(file_name: &str, text: &str, size: u8) -> Result<Scenario, LoadError> {
    let source = Source { file: file_name, text };
    if size == 0 {
        return Err(source.error(0, "size 0", "sizes count from 1"));
    }
    let document = DeTable::parse(text).map_err(|e| {
        source.error(
            e.span().map_or(0, |s| s.start),
            format!("not TOML: {}", e.message().lines().next().unwrap_or("")),
            "see https://toml.io for the notation and docs/scenario-format.md for the keys",
        )
    })?;
    let root = Table::root(source, &document);
    root.only(KEYS)?;
    let title = prose(&root, "title", "title = \"One line\"")?;
    let origin = prose(&root, "source", "source = \"locking.rst v5.10 section 2\"")?;
    let about = prose(&root, "about", "about = \"What happens, in a few sentences\"")?;
    let profile = choice(&root, "profile", "profile", PROFILES, Profile::Fixed)?;
    let paging = root.need_text("paging", "paging = \"direct\"")?;
    let paging = paging.choose("paging mode", threads::PAGING)?;
    let spte = root.need_text("spte", "spte = \"ept\"")?.choose("SPTE format", FORMATS)?;
    let gfns = IndirectFastFault::Gfns;
    let indirect = choice(&root, "indirect-fast-fault", "indirect fast fault", INDIRECT, gfns)?;

    let mut memory = Memory { slots: memory::slots(&root)?, ..Memory::default() };
    memory::host(&root, &mut memory)?;
    memory::guest(&root, &mut memory)?;
    let drafts = threads::drafts(&root, paging, memory.guest_root.is_some())?;
    memory.vcpus = threads::vcpus(&drafts);
    let uses = threads::uses(&drafts);
    let unsync = root.flag("unsync")?.unwrap_or(false);
    if unsync {
        check_unsync(&root, profile, uses)?;
    }
    memory::check_pool(&root, &memory, uses.direct)?;
    let map = map::read(&root, &mut memory, spte, uses)?;
    memory.back_the_rest(&root)?;
    memory.locks = OwnLocks::read(&root, &name(file_name))?;
    let threads = threads::programs(&root, &drafts, &memory, size)?;
    let at_stop = threads::at_stop(&root, &memory)?;
    memory.locks.all_used(source)?;
    if indirect == IndirectFastFault::Pinned {
        check_pinned(&root, &threads)?;
    }
    let cast = Cast { drafts: &drafts, threads: &threads };
    let Check { always, sometimes, lock_checks } = expect::check(&root, cast)?;
    let watched = Watched { always: &always, lock_checks };
    let expects = expect::expects(&root, cast, watched, size)?;
    let has = |is: fn(UserOp) -> bool| {
        let programs = threads.iter().flat_map(|t| t.run.ops()).chain(at_stop.ops());
        programs.into_iter().any(|(_, op)| matches!(op, Op::User(op) if is(op)))
    };
    check_manual_protect(&root, has)?;
    check_slots_that_come(&root, &memory, &map, (&threads, &at_stop))?;
    if always.contains(&Property::MmioGeneration) && uses.shadow {
        return Err(root.source.error(
            root.place("check"),
            "'mmio-generation' is watched, and a vCPU shadows guest page tables",
            "their MMIO SPTEs are not modelled: set paging = \"direct\", or leave the property out",
        ));
    }
    if always.contains(&Property::Migration) {
        check_log_stays(&root, &threads, &at_stop)?;
    }
    let starts = |op| matches!(op, UserOp::StartDirtyLog(_) | UserOp::StartDirtyLogSet(_));
    let logs = memory.slots.iter().any(|slot| slot.log) || has(starts);
    if always.contains(&Property::Migration) {
        check_migration(&root, logs, &at_stop)?;
    }
    Ok(Scenario {
        name: name(file_name),
        title,
        source: origin,
        about,
        profile,
        paging,
        spte,
        indirect,
        unsync,
        slots: memory.slots,
        host_pages: memory.host_pages,
        backing: memory.backing,
        guest_tables: memory.guest_tables,
        guest_root: memory.guest_root,
        map,
        locks: memory.locks.classes(),
        threads,
        at_stop,
        always,
        sometimes,
        lock_checks,
        expects,
        size,
    })
}

/// Tables go out of sync where they are shadowed; how 6.1 does it is not modelled.
fn check_unsync(root: &Table<'_>, profile: Profile, uses: Uses) -> Result<(), LoadError> {
    let error = |what: &str, help: &str| Err(root.source.error(root.place("unsync"), what, help));
    if profile != Profile::Fixed {
        return error(
            "'unsync' with the algorithms of 6.1",
            "what goes out of sync, and how it is synchronised, is that of 5.10: remove 'profile'",
        );
    }
    if !uses.shadow {
        return error(
            "'unsync', and no vCPU shadows guest page tables",
            "set paging = \"shadow\", for the file or for a vCPU, or remove 'unsync'",
        );
    }
    Ok(())
}

/// The pin is made with interrupts off, as by `get_user_page_fast_only`, which takes no lock. Here
/// it takes that of the host's page table, and `change-pte` has KVM flush under it.
fn check_pinned(root: &Table<'_>, threads: &[Thread]) -> Result<(), LoadError> {
    let changes =
        |t: &&Thread| t.run.ops().any(|(_, op)| matches!(op, Op::Host(HostOp::ChangePte(..))));
    let Some(thread) = threads.iter().find(changes) else { return Ok(()) };
    Err(root.source.error(
        root.place("indirect-fast-fault"),
        format!("\"pinned\", and {} does change-pte", thread.name),
        "the model's pin takes the host's page-table lock, which change-pte holds while KVM \
         flushes: use ksm-merge or swap-out, or another indirect-fast-fault",
    ))
}

/// With manual protect GET_DIRTY_LOG is another ioctl, and that is so for the whole VM.
fn check_manual_protect(
    root: &Table<'_>,
    has: impl Fn(fn(UserOp) -> bool) -> bool,
) -> Result<(), LoadError> {
    use UserOp::{ClearDirtyLog, FetchDirtyLog, GetDirtyLog, StartDirtyLog, StartDirtyLogSet};
    let error = |what: &str, help: &str| Err(root.source.error(root.place("thread"), what, help));
    if has(|op| matches!(op, FetchDirtyLog(_) | ClearDirtyLog(_) | StartDirtyLogSet(_)))
        && has(|op| matches!(op, GetDirtyLog(_)))
    {
        return error(
            "get-dirty-log beside an operation of manual protect",
            "a VM has manual protect or not: take fetch-dirty-log and clear-dirty-log everywhere, \
             or, without start-dirty-log-set, nowhere",
        );
    }
    if has(|op| matches!(op, StartDirtyLogSet(_))) && has(|op| matches!(op, StartDirtyLog(_))) {
        return error(
            "start-dirty-log beside start-dirty-log-set",
            "KVM_DIRTY_LOG_INITIALLY_SET is of the whole VM: take one of the two",
        );
    }
    Ok(())
}

/// A slot that is not there at first is made by a program, and nothing is in it before. Only one
/// program makes a slot and deletes it, in turns: what is there is known when an ioctl returns.
fn check_slots_that_come(
    root: &Table<'_>,
    memory: &Memory,
    map: &[InitialSpte],
    (threads, at_stop): (&[Thread], &Steps<OffVcpu>),
) -> Result<(), LoadError> {
    let error =
        |key: &str, what: String, help: &str| Err(root.source.error(root.place(key), what, help));
    for (slot, index) in memory.slots.iter().zip(0..) {
        let change = |op: Op| match op {
            Op::User(UserOp::CreateMemslot(of)) if of == SlotIndex(index) => Some(true),
            Op::User(UserOp::DeleteMemslot(of)) if of == SlotIndex(index) => Some(false),
            _ => None,
        };
        let of_thread = |t: &Thread| t.run.ops().filter_map(|(_, op)| change(op)).collect();
        let mut programs: Vec<Vec<bool>> = threads.iter().map(of_thread).collect();
        programs.push(at_stop.ops().filter_map(|(_, op)| change(op)).collect());
        let created = programs.iter().flatten().any(|creates| *creates);
        if !slot.there && !created {
            return error(
                "slot",
                format!("slot{index} is not there at first, and nothing creates it"),
                "add create-memslot to a program of user space, or remove 'there'",
            );
        }
        let mut changing = programs.iter().filter(|changes| !changes.is_empty());
        let (changes, other) = (changing.next(), changing.next());
        if created && other.is_some() {
            return error(
                "thread",
                format!("two programs make or delete slot{index}"),
                "keep create-memslot and delete-memslot of a slot in one program",
            );
        }
        let mut there = slot.there;
        for creates in changes.into_iter().flatten().filter(|_| created) {
            if *creates == there {
                let (verb, is) = if *creates { ("create", "is") } else { ("delete", "is not") };
                return error(
                    "thread",
                    format!("{verb}-memslot slot{index}, which {is} there by then"),
                    "create-memslot and delete-memslot take turns; there = false for a [[slot]] \
                     that is created first",
                );
            }
            there = *creates;
        }
        if slot.there {
            continue;
        }
        let mapped = |spte: &&InitialSpte| match spte.address {
            Address::Gfn(gfn) => memory::contains(slot, gfn),
            Address::Gva(gva) => {
                memory.translate(gva).is_some_and(|(gfn, _)| memory::contains(slot, gfn))
            }
        };
        if let Some(spte) = map.iter().find(mapped) {
            return error(
                "map",
                format!("{} is in slot{index}, which is not there at first", spte.address),
                "take it out of [map], or remove 'there' from that [[slot]]",
            );
        }
        if let Some(table) = memory.guest_tables.iter().find(|t| memory::contains(slot, t.gfn)) {
            return error(
                "guest",
                format!("gfn{} is in slot{index}, which is not there at first", table.gfn.0),
                "keep guest page tables in a slot that is there",
            );
        }
    }
    Ok(())
}

/// Where a migration is watched, no program leaves a log off at its end: nobody would miss
/// anything.
fn check_log_stays(
    root: &Table<'_>,
    threads: &[Thread],
    at_stop: &Steps<OffVcpu>,
) -> Result<(), LoadError> {
    use UserOp::{StartDirtyLog, StartDirtyLogSet, StopDirtyLog};
    let stays_off = |ops: &mut dyn Iterator<Item = Op>| {
        let change = |op: Op| match op {
            Op::User(StartDirtyLog(slot) | StartDirtyLogSet(slot)) => Some((slot, true)),
            Op::User(StopDirtyLog(slot)) => Some((slot, false)),
            _ => None,
        };
        let mut off = Vec::new();
        for (slot, on) in ops.filter_map(change) {
            off.retain(|of| *of != slot);
            if !on {
                off.push(slot);
            }
        }
        !off.is_empty()
    };
    let programs = threads.iter().map(|thread| stays_off(&mut thread.run.ops().map(|(_, op)| op)));
    if programs.chain([stays_off(&mut at_stop.ops().map(|(_, op)| op))]).any(|off| off) {
        return Err(root.source.error(
            root.place("thread"),
            "'migration' is watched, and a program ends with a dirty log off",
            "add start-dirty-log after stop-dirty-log: a migration needs the log to its end",
        ));
    }
    Ok(())
}

/// A migration that is watched must have a log, and must end.
fn check_migration(
    root: &Table<'_>,
    logs: bool,
    at_stop: &Steps<OffVcpu>,
) -> Result<(), LoadError> {
    let last = |of: fn(UserOp) -> bool| {
        let is = |op| matches!(op, Op::User(op) if of(op));
        at_stop.ops().filter(|(_, op)| is(*op)).last().map(|(i, _)| i)
    };
    let harvest = last(|op| matches!(op, UserOp::GetDirtyLog(_) | UserOp::FetchDirtyLog(_)));
    // What was harvested must be copied; anything may follow.
    let ends = harvest.is_some() && last(|op| op == UserOp::CopyHarvested) > harvest;
    if !logs {
        return Err(root.source.error(
            root.place("check"),
            "'migration' is watched, and no slot has dirty logging",
            "add log = true to the [[slot]] whose pages are migrated, or start-dirty-log",
        ));
    }
    if !ends {
        return Err(root.source.error(
            root.place("at-stop"),
            "'migration' is watched, and [at-stop] does not harvest and copy what is left",
            "add [at-stop] with run = [\"get-dirty-log slot0\", \"copy-harvested\"]",
        ));
    }
    Ok(())
}

/// Reads a scenario file.
///
/// # Errors
///
/// The file cannot be read, or the first thing in it that is wrong.
pub fn load_path(path: &Path, size: u8) -> Result<Scenario, LoadError> {
    load(&path.display().to_string(), &read(path)?, size)
}

/// The text of a scenario file.
///
/// # Errors
///
/// A file that cannot be read, is not UTF-8 or too large.
pub fn read(path: &Path) -> Result<String, LoadError> {
    let file = path.display().to_string();
    let unread = |message: String| LoadError {
        file: file.clone(),
        line: 0,
        column: 0,
        message,
        hint: "name a file that ends in .toml; `kvmmu list` names the built-in scenarios".into(),
    };
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|f| f.take(BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|e| unread(format!("cannot be read: {e}")))?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(unread("is larger than 1 MiB: not a scenario".into()));
    }
    String::from_utf8(bytes).map_err(|e| {
        let good = String::from_utf8_lossy(&e.as_bytes()[..e.utf8_error().valid_up_to()]);
        let source = Source { file: &file, text: &good };
        source.error(good.len(), "not UTF-8", "save the file as UTF-8 text")
    })
}

/// `dir/my-race.toml` is `my-race`.
fn name(file_name: &str) -> String {
    let base = file_name.rsplit(['/', '\\']).next().unwrap_or(file_name);
    base.strip_suffix(".toml").unwrap_or(base).into()
}

/// A text that must be there and say something.
fn prose(root: &Table<'_>, key: &str, example: &str) -> Result<String, LoadError> {
    let text: Text<'_> = root.need_text(key, example)?;
    match text.value.trim() {
        "" => Err(text.error(format!("'{key}' is empty"), format!("such as: {example}"))),
        said => Ok(said.into()),
    }
}

fn choice<T: Copy>(
    root: &Table<'_>,
    key: &str,
    what: &str,
    choices: &[(&'static str, T)],
    default: T,
) -> Result<T, LoadError> {
    root.text(key)?.map_or(Ok(default), |text| text.choose(what, choices))
}
