//! The locks that programs name, and what a program holds.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use kvmmu_model::virt::VCPUS;
use kvmmu_model::{LockClass, LockKind, Mode};

use super::error::{LoadError, Source, listed, quoted};
use super::own_locks::OwnLocks;
use super::program::numbered;
use super::table::{Text, Word};
use crate::interpret::locks::ABSENT;
use crate::ops::{LockOp, LockRef, Op, Verb};

/// Refuses an operation of this verb on a lock that is not taken in this way. `word` names it.
pub(super) fn check_mode(
    source: Source<'_>,
    verb: &Verb,
    op: LockOp,
    word: Word<'_>,
    own: &OwnLocks,
) -> Result<(), LoadError> {
    let (lock, mode) = op.lock();
    let kind = lock.class.info().kind;
    let fits = match mode {
        Mode::Exclusive => !kind.has_sections(),
        Mode::Read => kind.has_sections() || kind.has_readers(),
        Mode::Synchronize => kind.has_sections(),
    };
    if fits {
        return Ok(());
    }
    let hint = match (mode, kind) {
        (Mode::Exclusive, _) => {
            "readers begin and end by read-lock and read-unlock; synchronize waits for them".into()
        }
        (Mode::Read, _) => {
            format!("only its owner has {}: write lock and unlock", a_kind(kind))
        }
        (Mode::Synchronize, _) => {
            let domains = own.classes().into_iter().chain(all());
            let domains = domains.filter(|class| class.info().kind.has_sections());
            format!("only SRCU and RCU have grace periods: {}", listed(domains.map(text)))
        }
    };
    let message = format!("'{}' on {}, {}", verb.name, quoted(word.text), a_kind(kind));
    Err(source.error(word.at, message, hint))
}

/// Reads the name of a lock, one of the file's own or KVM's, the short or the full one:
/// `vcpu0->mutex`, `kvm->lock`, `slots_lock`.
pub(super) fn named(
    source: Source<'_>,
    word: Word<'_>,
    own: &OwnLocks,
) -> Result<LockRef, LoadError> {
    if let Some(lock) = own.named(word.text) {
        return Ok(lock);
    }
    for class in all() {
        let Some((stem, rest)) = LockRef::around(class) else { continue };
        let index = word.text.strip_suffix(rest).and_then(|owner| numbered(owner, stem));
        match index {
            None => {}
            Some(index) if index < VCPUS as u64 => {
                return Ok(LockRef { class, index: u8::try_from(index).unwrap_or(0) });
            }
            Some(_) => {
                return Err(source.error(
                    word.at,
                    format!("{} is out of range", quoted(word.text)),
                    format!("{stem}0 to {stem}{} have one", VCPUS - 1),
                ));
            }
        }
    }
    match LockClass::by_name(word.text).filter(|class| exists(*class)) {
        Some(class) if is_row(class) => Err(source.error(
            word.at,
            format!("{}: there are several", quoted(word.text)),
            format!("say whose: {}", text(class)),
        )),
        Some(class) => Ok(LockRef { class, index: 0 }),
        None => {
            // Near to what was meant: full names have an arrow, short ones mostly not.
            let full = word.text.contains("->");
            let name = |class: LockClass| match full && !class.info().name.contains(' ') {
                true if !is_row(class) => class.info().name.to_string(),
                _ => text(class),
            };
            let names: Vec<String> =
                own.classes().into_iter().map(text).chain(all().map(name)).collect();
            let legal: Vec<&str> = names.iter().map(String::as_str).collect();
            Err(source.unknown(word.at, "lock", word.text, &legal))
        }
    }
}

/// The locks that programs may name, in the order of the table.
pub(super) fn all() -> impl Iterator<Item = LockClass> {
    LockClass::ALL.iter().copied().filter(|class| exists(*class))
}

/// A lock by the name that traces have for it, the first of several.
pub(super) fn text(class: LockClass) -> String {
    LockRef { class, index: 0 }.to_string()
}

/// True if this is the name of a lock of the table that programs may name, whether this machine
/// has it or not.
pub(super) fn is_taken(name: &str) -> bool {
    let of_row = |class| {
        LockRef::around(class).is_some_and(|(stem, rest)| {
            name.strip_suffix(rest).and_then(|owner| numbered(owner, stem)).is_some()
        })
    };
    LockClass::by_name(name).is_some_and(exists) || all().any(of_row)
}

/// True if programs may name locks of this class.
fn exists(class: LockClass) -> bool {
    !ABSENT.contains(&class)
}

/// True if the class has a lock for each vCPU or CPU.
fn is_row(class: LockClass) -> bool {
    LockRef::around(class).is_some()
}

fn a_kind(kind: LockKind) -> &'static str {
    match kind {
        LockKind::Mutex => "a mutex",
        LockKind::Spinlock | LockKind::RawSpinlock => "a spinlock",
        LockKind::Rwlock | LockKind::RwSemaphore | LockKind::PercpuRwSemaphore => {
            "a read-write lock"
        }
        LockKind::Srcu => "an SRCU",
        LockKind::Rcu => "an RCU domain",
    }
}

/// What a program holds, operation by operation.
#[derive(Clone, Debug, Default)]
pub(super) struct Holding {
    held: Vec<(LockRef, Mode)>,
}

impl Holding {
    /// The program goes on with this operation, which `text` says.
    pub(super) fn step(&mut self, op: Op, text: &Text<'_>) -> Result<(), LoadError> {
        let Op::Lock(op) = op else { return Ok(()) };
        let (lock, mode) = op.lock();
        match op {
            LockOp::Lock(_) | LockOp::ReadLock(_) => self.held.push((lock, mode)),
            LockOp::Unlock(_) | LockOp::ReadUnlock(_) => {
                let Some(i) = self.held.iter().position(|held| *held == (lock, mode)) else {
                    return Err(self.not_held(lock, mode, text));
                };
                self.held.swap_remove(i);
            }
            LockOp::Synchronize(_) => {}
        }
        Ok(())
    }

    fn not_held(&self, lock: LockRef, mode: Mode, text: &Text<'_>) -> LoadError {
        let (verb, taker) = match mode {
            Mode::Read => ("read-unlock", "read-lock"),
            _ => ("unlock", "lock"),
        };
        let words = text.words();
        let (name, at) = words.get(1).map_or((text.value, text.at(0)), |word| (word.text, word.at));
        let hint = match self.held.iter().any(|(held, _)| *held == lock) {
            true if mode == Mode::Read => "it is held by lock: write unlock".into(),
            true => "it is held by read-lock: write read-unlock".into(),
            false => format!("this program has to take it before: {taker} {name}"),
        };
        let message = format!("'{verb}' of {}, which is not held here", quoted(name));
        text.source.error(at, message, hint)
    }
}
