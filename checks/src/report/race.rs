//! The two steps that race: one relies on what the other changes.

use kvmmu_model::{Object, Tag};
use kvmmu_sim::event::{Event, What, Write as How};

use super::phrase::object;

/// Two racing steps, as indices of events, and the step that suffers, if there is one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Race {
    /// Relied on the object.
    pub first: usize,
    /// Changed it, in another thread.
    pub second: usize,
    /// Went on as if it had not, in the first thread.
    pub third: Option<usize>,
    /// What it is about.
    pub object: Tag,
    /// The third step found the bits of the first again, although the second wrote them.
    pub same_bits: bool,
}

/// The race that `moments`, the events of a story, show: what the first moment relied on, if its
/// thread went on as if nothing had changed; else what the thread of the last moment knew by then
/// and no longer held. Without a story the last conflict on an SPTE, else the last conflict.
pub fn find(events: &[Event], moments: &[usize]) -> Option<Race> {
    let of_first = moments.first().and_then(|first| of_moment(events, *first));
    if let Some(race) = of_first.filter(|race| race.third.is_some()) {
        return Some(race);
    }
    if let Some(race) = moments.last().and_then(|last| stale(events, *last)).or(of_first) {
        return Some(race);
    }
    let conflicts = |spte: bool| {
        let firsts = (0..events.len()).rev();
        firsts
            .filter(|i| shared(&events[*i]).is_some_and(|t| (t.object == Object::Spte) == spte))
            .find_map(|i| race_from(events, i))
    };
    conflicts(true).or_else(|| conflicts(false))
}

/// What the thread of the event `last` saw before it and another thread has changed since.
fn stale(events: &[Event], last: usize) -> Option<Race> {
    let known = |i: &usize| {
        events[*i].thread == events[last].thread
            && shared(&events[*i]).is_some_and(|t| {
                use Object::{DirtyBitmap, Gfns, NotifierSeq, Page, Spte};
                matches!(t.object, DirtyBitmap | Gfns | NotifierSeq | Page | Spte)
            })
    };
    let before = (0..last).rev().filter(known);
    before.filter_map(|i| race_from(events, i)).find(|race| race.second < last)
}

/// The race of the step in which the event `moment` happened.
fn of_moment(events: &[Event], moment: usize) -> Option<Race> {
    let step = (events[moment].step, events[moment].thread);
    let of_step = |i: &usize| (events[*i].step, events[*i].thread) == step;
    let before = (0..=moment).rev().take_while(of_step);
    let after = (moment + 1..events.len()).take_while(of_step);
    before.chain(after).find_map(|i| race_from(events, i))
}

/// The race in which the event `first` is the one that relies on what it saw.
fn race_from(events: &[Event], first: usize) -> Option<Race> {
    let tag = shared(&events[first])?;
    let thread = events[first].thread;
    let later = events.iter().enumerate().skip(first + 1);
    let mut second = None;
    let mut third = None;
    for (i, event) in later {
        if object(&event.what) != Some(tag) {
            continue;
        }
        if event.thread != thread {
            if event.thread != Event::STOP && changed(&event.what) {
                second = Some(i);
            }
        } else if second.is_some() {
            // Other operations take what they find.
            if let What::Write { how: How::Store | How::Cmpxchg, .. } | What::CmpxchgFailed { .. } =
                event.what
            {
                third = Some(i);
            }
            break;
        } else {
            return None;
        }
    }
    let second = second?;
    let same_bits = match third.map(|t| &events[t].what) {
        Some(What::Write { how: How::Cmpxchg, old, .. }) => {
            after(&events[second].what) == Some(*old)
        }
        _ => false,
    };
    Some(Race { first, second, third, object: tag, same_bits })
}

/// The object of an access of a word that threads share.
fn shared(event: &Event) -> Option<Tag> {
    let tag = match event.what {
        What::Load { object, .. } | What::Write { object, .. } => object,
        _ => return None,
    };
    let bookkeeping = matches!(tag.object, Object::TlbView | Object::Irq | Object::User);
    (!bookkeeping && event.thread != Event::STOP).then_some(tag)
}

/// True if the event gave its object another value.
fn changed(what: &What) -> bool {
    matches!(what, What::Write { old, new, .. } if old != new)
}

/// What the object holds after the event.
fn after(what: &What) -> Option<u64> {
    match what {
        What::Write { new, .. } => Some(*new),
        _ => None,
    }
}
