//! `[[lock]]`: the locks of a file's own.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::Cell;
use std::sync::{Mutex, PoisonError};

use kvmmu_model::lock::{Arch, LockInfo, Section};
use kvmmu_model::{LockClass, LockKind};

use super::error::{LoadError, Source, quoted};
use super::locks::is_taken;
use super::table::{Table, Text};
use crate::ops::LockRef;

/// How many locks of its own a file may have. Machines have 62 bits for what a thread holds, two
/// for a read-write lock, and KVM's locks take about half of them.
const LOCKS: usize = 8;
/// How long their names may be: reports have columns.
const NAME_LENGTH: usize = 32;

/// The locks of a file's own, in its order.
#[derive(Clone, Debug, Default)]
pub(super) struct OwnLocks(Vec<OwnLock>);

#[derive(Clone, Debug)]
struct OwnLock {
    info: &'static LockInfo,
    /// Where its name is.
    at: usize,
    /// A program names it.
    used: Cell<bool>,
}

impl OwnLocks {
    /// Reads those of the file that is called so.
    pub(super) fn read(root: &Table<'_>, file: &str) -> Result<OwnLocks, LoadError> {
        let mut locks = OwnLocks::default();
        for table in root.tables("lock", "a [[lock]]")? {
            table.only(&["name", "type"])?;
            let name = table.need_text("name", "name = \"my_lock\"")?;
            locks.check_name(&name)?;
            let kinds = LockKind::ALL.map(|kind| (kind.name(), kind));
            let kind = table.need_text("type", "type = \"mutex\"")?;
            let kind = kind.choose("type of lock", &kinds)?;
            if locks.0.len() == LOCKS {
                return Err(name.error(
                    format!("too many locks: {} is number {}", quoted(name.value), LOCKS + 1),
                    format!("a file may declare {LOCKS}: take KVM's own, or remove some"),
                ));
            }
            let info = entry(name.value, kind, file);
            locks.0.push(OwnLock { info, at: name.at(0), used: Cell::new(false) });
        }
        Ok(locks)
    }

    fn check_name(&self, name: &Text<'_>) -> Result<(), LoadError> {
        let said = quoted(name.value);
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '>' | '.');
        let begins = name.value.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !begins || !name.value.chars().all(good) || name.value.len() > NAME_LENGTH {
            return Err(name.error(
                format!("{said} is no name of a lock"),
                format!(
                    "a letter first, then letters, digits, '_', '-', '>' and '.', at most \
                     {NAME_LENGTH} characters: my_lock, dev->lock"
                ),
            ));
        }
        if is_taken(name.value) {
            return Err(name.error(
                format!("{said} is the name of a lock of KVM or of the host"),
                "programs take that one without a [[lock]]; call a lock of your own something else",
            ));
        }
        if self.named(name.value).is_some() {
            let hint = "programs and reports go by the names: choose another";
            return Err(name.error(format!("a second lock {said}"), hint));
        }
        Ok(())
    }

    /// The lock of this name, which a program names.
    pub(super) fn named(&self, name: &str) -> Option<LockRef> {
        let index = self.0.iter().position(|lock| lock.info.name == name)?;
        self.0[index].used.set(true);
        Some(LockRef { class: LockClass::Own(self.0[index].info), index: index as u8 })
    }

    /// Refuses a lock that no program names, at any size.
    pub(super) fn all_used(&self, source: Source<'_>) -> Result<(), LoadError> {
        let Some(lock) = self.0.iter().find(|lock| !lock.used.get()) else { return Ok(()) };
        let LockInfo { name, kind, .. } = lock.info;
        let verbs = match kind {
            kind if kind.has_sections() => {
                format!("read-lock {name}, read-unlock {name} or synchronize {name}")
            }
            _ => format!("lock {name} and unlock {name}"),
        };
        Err(source.error(
            lock.at,
            format!("no program takes {}", quoted(name)),
            format!("write {verbs} in a program, or remove this [[lock]]"),
        ))
    }

    /// Their classes.
    pub(super) fn classes(&self) -> Vec<LockClass> {
        self.0.iter().map(|lock| LockClass::Own(lock.info)).collect()
    }
}

/// The lock of this name and type that the scenario file of this name declares.
pub fn own_lock(name: &str, kind: LockKind, file: &str) -> LockClass {
    LockClass::Own(entry(name, kind, file))
}

/// Entries by name, type and file.
type Entries = BTreeMap<(String, LockKind, String), &'static LockInfo>;

/// The entry of a lock. Machines and reports keep classes for as long as they like, so entries are
/// never freed; a file that is read again gets those that it had.
fn entry(name: &str, kind: LockKind, file: &str) -> &'static LockInfo {
    static ENTRIES: Mutex<Entries> = Mutex::new(BTreeMap::new());
    let mut entries = ENTRIES.lock().unwrap_or_else(PoisonError::into_inner);
    entries.entry((name.into(), kind, file.into())).or_insert_with(|| {
        let kept = |text: &str| -> &'static str { Box::leak(Box::<str>::from(text)) };
        let name = kept(name);
        Box::leak(Box::new(LockInfo {
            name,
            short: name,
            kind,
            arch: Arch::Any,
            section: Section::File(kept(file)),
            leaf: false,
            protects: &[],
            comment: "",
        }))
    })
}
