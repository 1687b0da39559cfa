//! Which event of a thread comes before and after which: the bounds of when its steps happened.
//!
//! A tracepoint comes after the step that it reports, and reads the SPTE later still. All that is
//! certain is the order in one thread.

use crate::event::{END, Event, Pos};

/// For each event, the neighbours in its thread.
#[derive(Clone, Debug)]
pub struct Threads {
    before: Vec<Pos>,
    after: Vec<Pos>,
}

impl Threads {
    /// Of a trace.
    pub fn of(events: &[Event]) -> Threads {
        let mut before = vec![0; events.len()];
        let mut after = vec![END; events.len()];
        let mut last: Vec<Option<usize>> = Vec::new();
        for (i, event) in events.iter().enumerate() {
            let thread = event.thread as usize;
            if last.len() <= thread {
                last.resize(thread + 1, None);
            }
            if let Some(previous) = last[thread].replace(i) {
                before[i] = previous as Pos + 1;
                after[previous] = i as Pos + 1;
            }
        }
        Threads { before, after }
    }

    /// Where the thread's event before event `i` stands, or 0.
    pub fn before(&self, i: usize) -> Pos {
        self.before[i]
    }

    /// Where the thread's event after event `i` stands, or [`END`].
    pub fn after(&self, i: usize) -> Pos {
        self.after[i]
    }

    /// The thread's event before event `i`.
    pub fn previous(&self, i: usize) -> Option<usize> {
        (self.before[i] as usize).checked_sub(1)
    }

    /// The thread's event after event `i`.
    pub fn next(&self, i: usize) -> Option<usize> {
        (self.after[i] != END).then(|| self.after[i] as usize - 1)
    }
}
