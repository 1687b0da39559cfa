//! Where in a run the moments of a story happened.

use kvmmu_scenarios::scenario::Witness;
use kvmmu_sim::event::{Event, What};

/// The index of the event of each moment, as the engine matches them: greedily, and the first
/// moment seen again starts over. Shorter than the story if the run does not pass it.
pub fn moments(story: &Witness, events: &[Event]) -> Vec<usize> {
    let mut matched: Vec<usize> = Vec::new();
    for (i, event) in events.iter().enumerate() {
        let What::Mark(mark) = event.what else { continue };
        let is = |index: usize| {
            story.moments.get(index).is_some_and(|moment| {
                moment.mark == mark && moment.thread.is_none_or(|t| t == event.thread)
            })
        };
        if is(matched.len()) {
            matched.push(i);
        } else if is(0) {
            matched = vec![i];
        }
        if matched.len() == story.moments.len() {
            break;
        }
    }
    matched
}
