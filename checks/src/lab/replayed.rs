//! What happened in a run: that of a schedule, or that of a way to two locks.

use kvmmu_sim::event::{Event, What};
use kvmmu_sim::names::{Names, Wait};
use kvmmu_sim::replay::Replay;
use kvmmu_sim::rule::Rule;
use kvmmu_sim::schedule::Schedule;

/// A replayed schedule.
#[derive(Clone, Debug, Default)]
pub struct Replayed {
    /// What happened.
    pub events: Vec<Event>,
    /// What the objects of the events are called.
    pub names: Names,
    /// What threads wait for after the last step.
    pub waits: Vec<Wait>,
    /// The locks that threads ask for after the last step and do not have yet; after a violation by
    /// an acquisition that one alone.
    pub asks: Vec<Wait>,
    /// The step after which the state was the last one already, if there is one: the steps from
    /// there on go round.
    pub lap: Option<usize>,
    /// Steps that are no moves of the schedule but were put in, as `report::twin` does.
    pub extra: Vec<u32>,
    /// The first move that could not be made, by index, and why.
    pub stuck: Option<(usize, String)>,
}

impl From<Replay> for Replayed {
    fn from(run: Replay) -> Replayed {
        let Replay { events, names, waits, asks, keys, violation, .. } = run;
        let before = keys.split_last().filter(|_| violation.is_none());
        let lap = before.and_then(|(last, before)| before.iter().position(|key| key == last));
        Replayed { events, names, waits, asks, lap: lap.map(|i| i + 1), ..Replayed::default() }
    }
}

/// A shortest way to a nesting of two locks.
#[derive(Clone, Debug)]
pub struct Example {
    /// The way there.
    pub schedule: Schedule,
    /// What happens on it. It ends where the inner lock is asked for, which is the one of
    /// [`Replayed::asks`].
    pub run: Replayed,
}

/// The property that the events violate, and what is wrong, in words. What comes after the first
/// violation is no behaviour any more.
pub fn violation(events: &[Event]) -> Option<(Rule, &str)> {
    events.iter().find_map(|event| match &event.what {
        What::Violation { rule, detail } => Some((*rule, detail.as_str())),
        _ => None,
    })
}
