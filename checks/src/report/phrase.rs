//! Events in words: kernel-like statements for the table, one line each for `replay`.

use kvmmu_model::{LockKind, Mode, Object, Tag};
use kvmmu_sim::event::{Event, What, Write as How};

use super::value::Values;

/// What an event did, as a statement: `cmpxchg(spte[gfn1]) = ok`.
pub fn statement(what: &What, values: Values<'_>) -> String {
    let name = |tag: &Tag| values.name(*tag);
    match what {
        What::Load { object, .. } => format!("READ_ONCE({})", name(object)),
        What::Write { object, how, old, new } => {
            let name = name(object);
            match how {
                How::Store => format!("WRITE_ONCE({name})"),
                How::Swap => format!("xchg({name})"),
                How::Cmpxchg => format!("cmpxchg({name}) = ok"),
                How::Or => format!("set_bit({name})"),
                How::And => format!("clear_bit({name})"),
                How::Add if *new == old.wrapping_add(1) => format!("{name}++"),
                How::Add if *new == old.wrapping_sub(1) => format!("{name}--"),
                How::Add => format!("atomic_add({name})"),
                How::Hardware => format!("hw: {name}"),
            }
        }
        What::CmpxchgFailed { object, .. } => format!("cmpxchg({}) = lost", name(object)),
        What::Waited { object, .. } => format!("wait for {}", name(object)),
        What::Acquire { object, mode } => match (is_srcu(*object), mode) {
            (true, _) => format!("srcu_read_lock({})", name(object)),
            (false, Mode::Read) => format!("read_lock({})", name(object)),
            (false, _) => format!("lock({})", name(object)),
        },
        What::Release { object } if is_srcu(*object) => {
            format!("srcu_read_unlock({})", name(object))
        }
        What::Release { object } => format!("unlock({})", name(object)),
        What::GracePeriod { object, over: false } => {
            format!("synchronize_srcu({}) begins", name(object))
        }
        What::GracePeriod { object, over: true } => format!("synchronize_srcu({})", name(object)),
        What::Fence => "smp_mb()".to_owned(),
        What::Call(name) => format!("{name} begins"),
        What::Return(name) => format!("{name} returns"),
        What::Mark(mark) => format!("({})", mark.name()),
        What::Note(text) => text.clone(),
        What::Violation { rule, detail } => format!("VIOLATED {rule}: {detail}"),
    }
}

fn is_srcu(tag: Tag) -> bool {
    matches!(tag.object, Object::Lock(class) if class.info().kind == LockKind::Srcu)
}

/// What an event changed or saw: `pfn1 r-x HM -> 0`, without the object's name.
pub fn delta(what: &What, values: Values<'_>) -> Option<String> {
    match what {
        What::Load { object, value } | What::Waited { object, value } => {
            Some(format!("= {}", values.text(*object, *value)))
        }
        What::Write { object, old, new, .. } => {
            let (from, to) = (values.text(*object, *old), values.text(*object, *new));
            let to = shorter(object.object, &from, &to);
            Some(if old == new { format!("stays {from}") } else { format!("{from} -> {to}") })
        }
        What::CmpxchgFailed { object, expected, found } => {
            let (wanted, found) = (values.text(*object, *expected), values.text(*object, *found));
            Some(format!("{found}, not {wanted}"))
        }
        _ => None,
    }
}

/// The new value of an SPTE without the page, if it is the old value's.
fn shorter<'a>(object: Object, from: &str, to: &'a str) -> &'a str {
    match (from.split_once(' '), to.split_once(' ')) {
        (Some((old, _)), Some((new, rest))) if object == Object::Spte && old == new => rest,
        _ => to,
    }
}

/// One line of `replay`: step, thread, function, what, place. A vCPU's own mutex, which it holds in
/// all that it does, is not among the locks.
pub fn event_line(event: &Event, thread: &str, values: Values<'_>) -> String {
    let function = event.stack.last().copied().unwrap_or("-");
    let what = match delta(&event.what, values) {
        Some(delta) => format!("{} {delta}", statement(&event.what, values)),
        None => statement(&event.what, values),
    };
    let own = format!("{thread}->mutex");
    let locks = event.held.iter().map(|t| values.name(*t)).filter(|name| *name != own);
    let locks: Vec<String> = locks.collect();
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
        | What::Acquire { object, .. }
        | What::GracePeriod { object, .. }
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

/// The name of a function as prose has it: `fast_page_fault()`, but `swap-out`.
pub fn called(name: &str) -> String {
    let kernel = name.contains('_') && !name.ends_with(')');
    format!("{name}{}", if kernel { "()" } else { "" })
}

/// The name of an event's thread.
pub fn thread<'a>(event: &Event, threads: &'a [String]) -> &'a str {
    threads.get(usize::from(event.thread)).map_or("stop", String::as_str)
}

/// `18`, `18 and 62`, `18, 62 and 79`.
pub fn list(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}
