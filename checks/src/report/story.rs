//! Where in a run the moments of a story happened.

use kvmmu_scenarios::Story;
use kvmmu_sim::event::{Event, What};

/// The index of the event of each moment. Shorter than the story if the run does not pass it.
pub fn moments(story: &Story, events: &[Event]) -> Vec<usize> {
    let marked = |(i, event): (usize, &Event)| match event.what {
        What::Mark(mark) => Some((i, (mark, event.thread))),
        _ => None,
    };
    let (at, marks): (Vec<usize>, Vec<_>) = events.iter().enumerate().filter_map(marked).unzip();
    story.find(marks).into_iter().map(|mark| at[mark]).collect()
}
