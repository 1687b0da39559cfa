//! Events in words: kernel-like statements for the table, one line each for `replay`.

use kvmmu_model::Tag;
use kvmmu_sim::event::{Event, What, Write as How};

use super::value::Values;
use crate::trace::tag_text;

/// What an event did, as a statement: `cmpxchg(spte[0][1]) = ok`.
pub fn statement(what: &What) -> String {
    match what {
        What::Load { object, .. } => format!("READ_ONCE({})", tag_text(*object)),
        What::Write { object, how, .. } => {
            let name = tag_text(*object);
            match how {
                How::Store => format!("WRITE_ONCE({name})"),
                How::Swap => format!("xchg({name})"),
                How::Cmpxchg => format!("cmpxchg({name}) = ok"),
                How::Or => format!("set_bit({name})"),
                How::And => format!("clear_bit({name})"),
                How::Add => format!("atomic_add({name})"),
                How::Hardware => format!("hw: {name}"),
            }
        }
        What::CmpxchgFailed { object, .. } => format!("cmpxchg({}) = lost", tag_text(*object)),
        What::Waited { object, .. } => format!("wait for {}", tag_text(*object)),
        What::Acquire { object } => format!("lock({})", tag_text(*object)),
        What::Release { object } => format!("unlock({})", tag_text(*object)),
        What::Fence => "smp_mb()".to_owned(),
        What::Call(name) => format!("{name} begins"),
        What::Return(name) => format!("{name} returns"),
        What::Mark(mark) => format!("({})", mark.name()),
        What::Note(text) => text.clone(),
        What::Violation { property, detail } => format!("VIOLATED {property}: {detail}"),
    }
}

/// What an event changed or saw: `spte: pfn1 r-x -> 0`, without the object's name.
pub fn delta(what: &What, values: &Values<'_>) -> Option<String> {
    match what {
        What::Load { object, value } | What::Waited { object, value } => {
            Some(format!("= {}", values.text(*object, *value)))
        }
        What::Write { object, old, new, .. } => {
            let (from, to) = (values.text(*object, *old), values.text(*object, *new));
            Some(if old == new { format!("stays {to}") } else { format!("{from} -> {to}") })
        }
        What::CmpxchgFailed { object, expected, found } => {
            let (wanted, found) = (values.text(*object, *expected), values.text(*object, *found));
            Some(format!("{found}, not {wanted}"))
        }
        _ => None,
    }
}

/// One line of `replay`: step, thread, function, what, place.
pub fn event_line(event: &Event, thread: &str, values: &Values<'_>) -> String {
    let function = event.stack.last().copied().unwrap_or("-");
    let what = match delta(&event.what, values) {
        Some(delta) => format!("{} {delta}", statement(&event.what)),
        None => statement(&event.what),
    };
    let locks: Vec<String> = event.held.iter().map(|t| tag_text(*t)).collect();
    let held = if locks.is_empty() { String::new() } else { format!("  [{}]", locks.join(",")) };
    let (step, file, line) = (event.step, event.file, event.line);
    format!("{step:>4} {thread:<6} {function:<32} {what}{held}  {file}:{line}")
}

/// The object of an event.
pub fn object(what: &What) -> Option<Tag> {
    match what {
        What::Load { object, .. }
        | What::Write { object, .. }
        | What::CmpxchgFailed { object, .. }
        | What::Waited { object, .. }
        | What::Acquire { object }
        | What::Release { object } => Some(*object),
        _ => None,
    }
}

/// The innermost kernel function of an event; the thread's name if it has none.
pub fn function<'a>(event: &Event, thread: &'a str) -> &'a str
where
    'static: 'a,
{
    event.stack.last().copied().unwrap_or(thread)
}
