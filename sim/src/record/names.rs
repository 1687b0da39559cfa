//! What readers call the objects of a run: `spte[gfn1]` rather than a place in a pool.

use kvmmu_model::{Mode, Tag};

/// The names of objects, as they change in the course of a run.
///
/// Guarantee: a function of the program and of the schedule, like the events.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Names(Vec<(usize, Vec<(Tag, String)>)>);

impl Names {
    /// What the object is called in the event with this index; `None`: nothing better than its
    /// place.
    pub fn of(&self, event: usize, tag: Tag) -> Option<&str> {
        let before = self.0.iter().rev().filter(|(from, _)| *from <= event);
        let mut named = before.flat_map(|(_, names)| names);
        named.find(|(named, _)| *named == tag).map(|(_, name)| name.as_str())
    }

    /// Every object that has a name in the event with this index, and that name.
    pub fn all(&self, event: usize) -> impl Iterator<Item = (Tag, &str)> {
        let before = self.0.iter().rev().filter(move |(from, _)| *from <= event);
        before.flat_map(|(_, names)| names).map(|(tag, name)| (*tag, name.as_str()))
    }

    /// The names from the event with this index on. What is not among them keeps its name.
    pub fn from(&mut self, event: usize, names: Vec<(Tag, String)>) {
        self.0.push((event, names));
    }
}

/// What a thread waits for, or is about to take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wait {
    /// The thread.
    pub thread: u8,
    /// What it waits for; `None`: for anything to change, before it retries.
    pub object: Option<Tag>,
    /// How, if it is a lock; a grace period of an SRCU is [`Mode::Synchronize`].
    pub mode: Option<Mode>,
    /// Where in the model's source.
    pub file: &'static str,
    /// See [`Wait::file`].
    pub line: u32,
}
