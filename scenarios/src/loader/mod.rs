//! Reads a scenario file: TOML in, a [`Scenario`] or a message with line, column and a hint out.
//!
//! The format is described for its users in `docs/scenario-format.md`; the tables there are made
//! from the ones here. The file is read as a tree that remembers the place of every key and value,
//! and that tree is walked by hand: each message can then name what is legal at its place.
//! No input makes the loader panic.

mod arch;
mod error;
mod expect;
mod locks;
pub mod manual;
mod map;
mod memory;
mod own_locks;
mod profile;
mod program;
mod table;
mod teardown;
mod threads;
mod together;
mod vmid;

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
use self::memory::Memory;
use self::own_locks::OwnLocks;
pub use self::own_locks::own_lock;
use self::profile::Chosen;
pub use self::profile::names;
use self::table::{Table, Text};
use crate::scenario::{Arch, Format, IndirectFastFault, Profile, Scenario};

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
    "pml",
    "apic-page",
    "early-completion",
    "vmid",
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
/// Whose algorithms a scenario has, as files name them.
const PROFILES: [(&str, Profile); 5] = [
    ("fixed", Profile::Fixed),
    ("x86-v6.1", Profile::X86V6_1),
    ("arm64-v5.10", Profile::Arm64V5_10),
    ("arm64-v6.1", Profile::Arm64V6_1),
    ("arm64-v6.12", Profile::Arm64V6_12),
];
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

/// Reads a scenario file's text. `size` is 1 by default; larger ones add what the file says. Of a
/// file of several profiles, the scenario that `file_name` names: see [`names`].
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
    let Chosen { profile, of, file } = profile::choose(&root, file_name)?;
    let source = Source { file: &file, text };
    let root = Table::root(source, &document);
    let title = prose(&root, "title", "title = \"One line\"")?;
    let origin = prose(&root, "source", "source = \"locking.rst v5.10 section 2\"")?;
    let about = prose(&root, "about", "about = \"What happens, in a few sentences\"")?;
    let arch = profile.arch();
    arch::check_keys(&root, arch)?;
    let paging = arch::paging(&root, arch, threads::PAGING)?;
    let spte = match arch {
        Arch::X86 => root.need_text("spte", "spte = \"ept\"")?.choose("SPTE format", FORMATS)?,
        Arch::Arm64 => Format::Arm64,
    };
    let gfns = IndirectFastFault::Gfns;
    let indirect = choice(&root, "indirect-fast-fault", "indirect fast fault", INDIRECT, gfns)?;

    let mut memory = Memory { arch, slots: memory::slots(&root)?, ..Memory::default() };
    memory::host(&root, &mut memory)?;
    memory::guest(&root, &mut memory)?;
    let drafts = threads::drafts(&root, arch, paging, memory.guest_root.is_some())?;
    memory.vcpus = threads::vcpus(&drafts);
    let uses = threads::uses(&drafts);
    let unsync = root.flag("unsync")?.unwrap_or(false);
    let pml = root.flag("pml")?.unwrap_or(false);
    let apic_page = root.text("apic-page")?.map(|t| memory::frame(&t, &memory)).transpose()?;
    let early_completion = root.flag("early-completion")?.unwrap_or(false);
    let vmid = vmid::read(&root, &drafts)?;
    let map = map::read(&root, &mut memory, spte, uses)?;
    memory.back_the_rest(&root)?;
    memory.locks = OwnLocks::read(&root, &name(file_name))?;
    let threads = threads::programs(&root, &drafts, &memory, size)?;
    let at_stop = threads::at_stop(&root, &memory)?;
    memory.locks.all_used(source)?;
    let cast = Cast { arch, profile, of: &of, drafts: &drafts, threads: &threads };
    let Check { always, sometimes, lock_checks } = expect::check(&root, cast)?;
    let watched = Watched { arch, always: &always, lock_checks };
    let expects = expect::expects(&root, cast, watched, size)?;
    let scenario = Scenario {
        name: name(file_name),
        title,
        source: origin,
        about,
        profile,
        paging,
        spte,
        indirect,
        unsync,
        pml,
        apic_page,
        early_completion,
        vmid,
        slots: memory.slots,
        host_pages: memory.host_pages,
        backing: memory.backing,
        huge: memory.huge,
        hugetlb: memory.hugetlb,
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
    };
    together::check(&root, &scenario, uses)?;
    vmid::check(&root, &scenario)?;
    teardown::check(&root, &scenario)?;
    Ok(scenario)
}

/// Reads a scenario file.
///
/// # Errors
///
/// The file cannot be read, or the first thing in it that is wrong.
pub fn load_path(path: &Path, size: u8) -> Result<Scenario, LoadError> {
    let (file, text) = (path.display().to_string(), read(path)?);
    names(&file, &text)?;
    load(&file, &text, size)
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
