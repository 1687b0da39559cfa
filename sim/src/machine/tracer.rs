//! Collects events while tracing is on. Not part of the state: traces are taken from a reset on.

use core::cell::{Cell, RefCell};
use core::panic::Location;
use kvmmu_model::{Object, Tag};

use super::THREADS_MAX;
use crate::record::event::{Event, What};
use crate::record::names::Wait;

/// The events of the current execution.
#[derive(Debug, Default)]
pub(crate) struct Tracer {
    on: Cell<bool>,
    pub(crate) step: Cell<u32>,
    /// The acquisition that was a violation.
    pub(crate) refused: Cell<Option<Wait>>,
    events: RefCell<Vec<Event>>,
    stacks: RefCell<[Vec<&'static str>; THREADS_MAX + 1]>,
    held: RefCell<[Vec<Tag>; THREADS_MAX + 1]>,
}

impl Tracer {
    #[inline(always)]
    pub(crate) fn on(&self) -> bool {
        self.on.get()
    }

    /// Forgets everything and starts or stops collecting.
    pub(crate) fn restart(&self, on: bool) {
        self.on.set(on);
        self.step.set(0);
        self.refused.set(None);
        self.events.borrow_mut().clear();
        self.stacks.borrow_mut().iter_mut().for_each(Vec::clear);
        self.held.borrow_mut().iter_mut().for_each(Vec::clear);
    }

    pub(crate) fn take(&self) -> Vec<Event> {
        self.events.take()
    }

    /// How many events there are.
    pub(crate) fn count(&self) -> usize {
        self.events.borrow().len()
    }

    /// True if one of the events from the `from`-th on wrote an object of this kind.
    pub(crate) fn wrote(&self, from: usize, object: Object) -> bool {
        let wrote =
            |e: &Event| matches!(&e.what, What::Write { object: o, .. } if o.object == object);
        self.events.borrow()[from..].iter().any(wrote)
    }

    /// Records an event of `thread`, which is [`THREADS_MAX`] for the stop phase.
    #[cold]
    pub(crate) fn record(&self, thread: u8, site: &'static Location<'static>, what: What) {
        let slot = thread as usize;
        match &what {
            What::Acquire { object, .. } => self.held.borrow_mut()[slot].push(*object),
            What::Release { object } => {
                let held = &mut self.held.borrow_mut()[slot];
                if let Some(at) = held.iter().rposition(|tag| tag == object) {
                    held.remove(at);
                }
            }
            What::Return(_) => {
                self.stacks.borrow_mut()[slot].pop();
            }
            _ => {}
        }
        self.events.borrow_mut().push(Event {
            step: self.step.get(),
            thread: if slot == THREADS_MAX { Event::STOP } else { thread },
            stack: self.stacks.borrow()[slot].clone(),
            file: site.file(),
            line: site.line(),
            held: self.held.borrow()[slot].clone(),
            what: what.clone(),
        });
        if let What::Call(name) = what {
            self.stacks.borrow_mut()[slot].push(name);
        }
    }
}
