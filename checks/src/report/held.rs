//! Which locks a thread holds at some point of a run, how, and where it took them.

use kvmmu_model::{LockClass, Mode, Object, Tag};
use kvmmu_sim::event::{Event, What};

use crate::lab::replayed::Replayed;
use crate::report::trace::object_text;

/// A lock that is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    /// Which one.
    pub tag: Tag,
    /// How.
    pub mode: Mode,
    /// The event that took it, by index.
    pub event: usize,
}

/// The locks that `thread` holds after the last event, in the order in which it took them.
pub fn held(events: &[Event], thread: u8) -> Vec<Held> {
    let mut held: Vec<Held> = Vec::new();
    for (i, event) in events.iter().enumerate().filter(|(_, e)| e.thread == thread) {
        match event.what {
            What::Acquire { object, mode } => held.push(Held { tag: object, mode, event: i }),
            What::Release { object } => {
                if let Some(at) = held.iter().rposition(|h| h.tag == object) {
                    held.remove(at);
                }
            }
            _ => {}
        }
    }
    held
}

/// The class of a lock; `None`: it is something else.
pub fn class(tag: Tag) -> Option<LockClass> {
    match tag.object {
        Object::Lock(class) => Some(class),
        _ => None,
    }
}

/// A lock that is held, in words: `slots_lock`, `a read section of srcu`, `mmap_lock for reading`.
pub fn held_words(run: &Replayed, tag: Tag, mode: Mode) -> String {
    let name = object_text(&run.names, run.events.len(), tag);
    match (class(tag).map(|class| class.info().kind), mode) {
        (Some(kind), Mode::Read) if kind.has_sections() => format!("a read section of {name}"),
        (Some(kind), _) if kind.has_sections() => format!("a grace period of {name}"),
        (Some(kind), Mode::Read) if kind.has_readers() => format!("{name} for reading"),
        (Some(kind), _) if kind.has_readers() => format!("{name} for writing"),
        _ => name,
    }
}

/// Taking a lock, as lockdep writes it: `lock(slots_lock)`, `synchronize_srcu(srcu)`.
pub fn call(class: LockClass, mode: Mode) -> String {
    let info = class.info();
    match (info.kind, mode) {
        (kind, Mode::Read) if kind.has_sections() => {
            format!("{}_read_lock({})", kind.name(), info.short)
        }
        (kind, _) if kind.has_sections() => format!("synchronize_{}({})", kind.name(), info.short),
        (_, Mode::Read) => format!("read_lock({})", info.short),
        _ => format!("lock({})", info.short),
    }
}
