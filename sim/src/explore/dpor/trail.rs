//! The execution so far: its steps, what they touched, and which happened before which.

use crate::explore::trace_hash::{Clock, join};
use crate::machine::ACTORS_MAX;
use crate::machine::footprint::{Footprint, Sketch};
use crate::record::schedule::Move;

/// A step that was taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event {
    pub(super) footprint: Footprint,
    /// For each actor, how many of its steps happened before, this one included.
    pub(super) clock: Clock,
    pub(super) step: Move,
    /// Its number among the steps of its actor, from 1.
    pub(super) number: u16,
    /// Where the actor's step before it is, plus 1; 0: nowhere.
    before: u32,
}

/// What is looked at first of a step that was taken: for most of them it is enough.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) sketch: Sketch,
    number: u16,
    actor: u8,
}

impl Head {
    /// True if it happened before what has this clock.
    #[inline(always)]
    pub(super) fn is_before(&self, clock: &Clock) -> bool {
        self.number <= clock[usize::from(self.actor) % ACTORS_MAX]
    }
}

impl Event {
    /// The index of its actor.
    #[inline(always)]
    pub(super) fn actor(&self) -> usize {
        self.step.actor.index() % ACTORS_MAX
    }

    /// True if it happened before what has this clock.
    #[inline(always)]
    pub(super) fn is_before(&self, clock: &Clock) -> bool {
        self.number <= clock[self.actor()]
    }
}

/// The steps of an execution.
#[derive(Debug, Default)]
pub(super) struct Trail {
    pub(super) events: Vec<Event>,
    /// For each of them.
    pub(super) heads: Vec<Head>,
    /// Where the last step of each actor is, plus 1; 0: nowhere.
    last: [u32; ACTORS_MAX],
}

impl Trail {
    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    /// The clock of the last step of an actor.
    #[inline(always)]
    pub(super) fn clock(&self, actor: usize) -> Clock {
        match self.last[actor] {
            0 => [0; ACTORS_MAX],
            last => self.events[last as usize - 1].clock,
        }
    }

    /// How many steps there were when the actor published what it will do next.
    #[inline(always)]
    pub(super) fn published(&self, actor: usize) -> usize {
        self.last[actor] as usize
    }

    /// Appends a step. `past` is what happened before it.
    #[inline(always)]
    pub(super) fn push(&mut self, step: Move, footprint: Footprint, past: Clock) {
        let actor = step.actor.index() % ACTORS_MAX;
        let before = self.last[actor];
        // All of it at once: a change of one count, then a copy of all, would stall the CPU.
        let clock: Clock = core::array::from_fn(|t| past[t] + u16::from(t == actor));
        let number = match before {
            0 => 1,
            before => self.events[before as usize - 1].number + 1,
        };
        self.events.push(Event { footprint, clock, step, number, before });
        self.heads.push(Head { sketch: footprint.sketch(), number, actor: actor as u8 });
        self.last[actor] = self.events.len() as u32;
    }

    /// Takes the last step off.
    #[inline(always)]
    pub(super) fn pop(&mut self) -> Option<Event> {
        let event = self.events.pop()?;
        self.heads.pop();
        self.last[event.actor()] = event.before;
        Some(event)
    }

    /// The last step that touched one of these locks, and the last that acquired one.
    pub(super) fn lock_steps(&self, locks: u64) -> (Option<usize>, Option<usize>) {
        let touched = |e: &Event| e.footprint.locks() & locks != 0;
        let acquired = |e: &Event| e.footprint.acquired & locks != 0;
        let Some(last) = self.events.iter().rposition(touched) else { return (None, None) };
        (Some(last), self.events[..=last].iter().rposition(acquired))
    }

    /// Adds to `past` what happened before the step at `at`, and that step.
    #[inline(always)]
    pub(super) fn join(&self, past: &mut Clock, at: usize) {
        join(past, &self.events[at].clock);
    }
}
