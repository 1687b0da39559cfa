//! Which steps of a run the table shows, and in which words.

use kvmmu_model::{LockClass, Mark, Object};
use kvmmu_sim::event::{Event, What};
use kvmmu_sim::rule::Rule;

use super::lockdep;
use super::phrase::{delta, function, object, statement, thread};
use super::value::{Values, child_of};

/// The most numbered steps that a table has, unless everything is asked for.
pub const STEPS_MAX: usize = 20;

/// A table with as many steps leaves out what is aside.
const STEPS_ENOUGH: usize = 8;

/// A step in words.
#[derive(Clone, PartialEq, Eq, serde::Serialize, Debug)]
pub struct Step {
    /// Its number in the run.
    pub number: u32,
    /// The thread that took it.
    pub thread: u8,
    /// The kernel function.
    pub function: String,
    /// What it did.
    pub text: String,
    /// True if mmu_lock was held.
    pub locked: bool,
    /// What it changed.
    pub deltas: Vec<String>,
    /// Where in the model's source.
    pub file: String,
    /// See [`Step::file`].
    pub line: u32,
}

/// What decides which steps are shown.
#[derive(Clone, Copy, Debug)]
pub struct Keep<'a> {
    /// Indices of events that must be shown: story moments and racing steps.
    pub events: &'a [usize],
    /// Indices of the events of the story's moments.
    pub moments: &'a [usize],
    /// The rule that is violated.
    pub rule: Rule,
    /// Show all.
    pub all: bool,
}

/// How much a step matters; 0 must be shown, [`LOCAL`] and above is folded.
type Weight = u8;

/// What is reported only where little else is.
const ASIDE: Weight = 3;
/// Local steps, vm-entry and exit, flushes and locks.
const LOCAL: Weight = 4;

/// The steps to show, in order.
pub fn steps(events: &[Event], keep: Keep<'_>, names: &[String], values: Values<'_>) -> Vec<Step> {
    let mut groups: Vec<(Weight, std::ops::Range<usize>)> = Vec::new();
    let mut start = 0;
    while start < events.len() {
        let key = (events[start].step, events[start].thread);
        let rest = &events[start..];
        let length = rest.iter().take_while(|e| (e.step, e.thread) == key).count();
        let range = start..start + length;
        start = range.end;
        // Step 0 is what happens before the first step: the beginnings of the threads' programs.
        if key.0 > 0 {
            groups.push((weight(events, &range, keep), range));
        }
    }
    if !keep.all {
        let few = groups.iter().filter(|(weight, _)| *weight < ASIDE).count() < STEPS_ENOUGH;
        groups.retain(|(weight, _)| *weight < if few { LOCAL } else { ASIDE });
        while groups.len() > STEPS_MAX {
            let heaviest = groups.iter().map(|(w, _)| *w).max().unwrap_or(0);
            let Some(at) = groups.iter().position(|(w, _)| *w == heaviest) else { break };
            groups.remove(at);
        }
    }
    groups.into_iter().map(|(_, range)| step(events, range, keep, names, values)).collect()
}

/// How much the step that consists of `range` matters.
fn weight(events: &[Event], range: &std::ops::Range<usize>, keep: Keep<'_>) -> Weight {
    if keep.events.iter().any(|i| range.contains(i)) {
        return 0;
    }
    if keep.rule == Rule::USE_AFTER_FREE && events[range.clone()].iter().any(frees) {
        return 0;
    }
    let locks = keep.rule.is_stuck() || lockdep::is(keep.rule);
    let of_step = &events[range.clone()];
    let local =
        of_step.iter().any(|e| matches!(&e.what, What::Mark(m) if mark_weight(*m) == LOCAL));
    let weights = of_step.iter().enumerate().map(|(i, event)| match &event.what {
        // What is violated is reported below the table.
        What::Violation { .. } if locks => LOCAL,
        What::Violation { .. } => 0,
        What::Write { object, old, new, .. } if old != new => match object.object {
            Object::Spte if child_of(*new).is_some() => ASIDE,
            Object::Spte | Object::DirtyBitmap => 1,
            Object::Gfns | Object::NotifierSeq | Object::Page => 2,
            Object::Var => 2,
            _ => LOCAL,
        },
        What::CmpxchgFailed { object, .. } if object.object == Object::Spte => 1,
        What::Note(_) => {
            if local {
                LOCAL
            } else {
                2
            }
        }
        // The read of an empty entry: the fast fault gives up.
        What::Mark(Mark::FastFaultRead) if empty(of_step) => ASIDE,
        What::Mark(mark) => mark_weight(*mark),
        // A lock that was released since blocks no thread.
        What::Acquire { .. } | What::GracePeriod { .. } if locks => {
            if ended(event, &events[range.start + i + 1..]) { LOCAL } else { 1 }
        }
        What::Waited { .. } if locks => 1,
        What::CallRcu { .. } | What::Callback { .. } => 1,
        _ => LOCAL,
    });
    weights.min().unwrap_or(LOCAL)
}

/// True if the lock that `event` took was given back in one of the events that follow, or the grace
/// period that it began was over.
fn ended(event: &Event, after: &[Event]) -> bool {
    let of = object(&event.what);
    let ends = |e: &&Event| e.thread == event.thread && object(&e.what) == of;
    after
        .iter()
        .filter(ends)
        .any(|e| matches!(e.what, What::Release { .. } | What::GracePeriod { over: true, .. }))
        || matches!(event.what, What::GracePeriod { over: true, .. })
}

/// True if the step saw an SPTE that is 0.
fn empty(of_step: &[Event]) -> bool {
    of_step.iter().any(|event| match event.what {
        What::Load { object, value } => object.object == Object::Spte && value == 0,
        _ => false,
    })
}

/// True if something is freed. What that is may be used by others still.
fn frees(event: &Event) -> bool {
    use Mark::{BusFreed, IrqRoutingFreed, MemslotsFreed, ShadowPageFreed};
    matches!(event.what, What::Mark(BusFreed | IrqRoutingFreed | MemslotsFreed | ShadowPageFreed))
}

/// How much a mark matters that is no moment of the story.
fn mark_weight(mark: Mark) -> Weight {
    match mark {
        Mark::GuestWrite
        | Mark::PageCopied
        | Mark::ReclaimedClean
        | Mark::SwappedOutDirty
        | Mark::PageAllocated
        | Mark::HostUnmapped
        | Mark::ShadowPageFreed
        | Mark::MemslotsFreed
        | Mark::BusFreed
        | Mark::IrqRoutingFreed
        | Mark::StaleTranslation
        | Mark::GuestPtWrite => 1,
        Mark::FastFaultRead | Mark::JudgedNotVolatile | Mark::NoFlushOwed => 2,
        Mark::Gup | Mark::Harvest => 2,
        Mark::GuestEntered
        | Mark::FlushRequested
        | Mark::FlushDone
        | Mark::TlbFlushed
        | Mark::LocklessWalkStep => LOCAL,
        _ => ASIDE,
    }
}

/// The words of the step that consists of `range`.
fn step(
    events: &[Event],
    range: std::ops::Range<usize>,
    keep: Keep<'_>,
    names: &[String],
    values: Values<'_>,
) -> Step {
    let of_step = &events[range.clone()];
    let (main, _) = of_step
        .iter()
        .enumerate()
        .min_by_key(|(i, event)| (interest(&event.what), *i))
        .expect("a step has an event");
    let event = &of_step[main];
    let thread = thread(event, names);
    let here = |i: usize| values.at(range.start + i);
    let mut deltas: Vec<String> = delta(&event.what, here(main)).into_iter().collect();
    for (i, other) in of_step.iter().enumerate() {
        if i == main {
            continue;
        }
        match &other.what {
            What::Write { object, old, new, .. } if old != new && told(object.object) => {
                let change = delta(&other.what, here(i)).unwrap_or_default();
                deltas.push(format!("{}: {change}", here(i).name(*object)));
            }
            What::Note(text) => deltas.push(said(text, thread).to_owned()),
            What::Mark(Mark::NoFlushOwed) => deltas.push("<- no-flush-owed".to_owned()),
            What::Mark(mark) if frees(other) && !keep.moments.contains(&(range.start + i)) => {
                deltas.push(mark.name().replace('-', " "));
            }
            What::Mark(mark) if keep.moments.contains(&(range.start + i)) => {
                deltas.push(format!("<- {}", mark.name()));
            }
            What::Load { object, value } if keep.events.contains(&(range.start + i)) => {
                let (name, value) = (here(i).name(*object), here(i).text(*object, *value));
                deltas.push(format!("{name} = {value}"));
            }
            _ => {}
        }
    }
    let words = match &event.what {
        What::Mark(mark) => mark.name().replace('-', " "),
        What::Violation { rule, .. } => format!("violates {rule}"),
        what => said(&statement(what, here(main)), thread).to_owned(),
    };
    Step {
        number: event.step,
        thread: event.thread,
        function: function(event, thread).to_owned(),
        text: words + if code(&event.what) { ";" } else { "" },
        locked: event.held.iter().any(|t| t.object == Object::Lock(LockClass::MmuLock)),
        deltas,
        file: event.file.to_owned(),
        line: event.line,
    }
}

/// A note without the name of its thread, which the table says already.
fn said<'a>(text: &'a str, thread: &str) -> &'a str {
    text.strip_prefix(thread).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(text)
}

/// True if a change is shown as well as the one that names a step; the rest is bookkeeping.
fn told(object: Object) -> bool {
    use Object::{DirtyBitmap, Gfns, NotifierSeq, Spte, Var};
    matches!(object, DirtyBitmap | Gfns | NotifierSeq | Spte | Var)
}

/// Which event of a step gives it its words: the smallest number.
fn interest(what: &What) -> u8 {
    use Object::{Gfns, NotifierSeq, SpHeader, Var};
    match what {
        What::Write { object, old, new, .. } if old != new => match object.object {
            Object::Spte | Object::DirtyBitmap => 0,
            Object::Page => 3,
            SpHeader | Gfns | NotifierSeq | Var => 2,
            _ => 5,
        },
        What::Note(_) => 1,
        What::CmpxchgFailed { object, .. } if object.object == Object::Spte => 0,
        What::Load { object, .. } if object.object == Object::Spte => 2,
        What::Write { .. } | What::Load { .. } => 5,
        What::CmpxchgFailed { .. } | What::Waited { .. } => 5,
        What::Mark(mark) if mark_weight(*mark) < LOCAL => 4,
        // What a free was for says why it happened when it did.
        What::CallRcu { .. } | What::Callback { .. } => 2,
        What::Acquire { .. } | What::GracePeriod { .. } => 6,
        What::Release { .. } => 7,
        What::Violation { .. } | What::Fence => 8,
        What::Mark(_) => 9,
        What::Call(_) | What::Return(_) => 10,
    }
}

/// True if an event reads as a statement of code rather than as words.
fn code(what: &What) -> bool {
    object(what).is_some() && !matches!(what, What::Waited { .. })
}
