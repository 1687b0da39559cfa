//! Events in words: kernel-like statements for the table, one line each for `replay`.

use kvmmu_model::{Mode, Object, Tag};
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
        What::Acquire { object, mode } => match (sections(*object), mode) {
            (Some(kind), _) => format!("{kind}_read_lock({})", name(object)),
            (None, Mode::Read) => format!("read_lock({})", name(object)),
            (None, _) => format!("lock({})", name(object)),
        },
        What::Release { object } => match sections(*object) {
            Some(kind) => format!("{kind}_read_unlock({})", name(object)),
            None => format!("unlock({})", name(object)),
        },
        What::GracePeriod { object, over } => {
            let kind = sections(*object).unwrap_or_default();
            let begins = if *over { "" } else { " begins" };
            format!("synchronize_{kind}({}){begins}", name(object))
        }
        What::CallRcu { object, callback } => format!("call_rcu({}, {callback})", name(object)),
        What::Callback { object, callback: Some(callback) } => {
            format!("rcu_core({}): callback {callback}", name(object))
        }
        What::Callback { object, callback: None } => {
            format!("rcu_core({}): nothing is left", name(object))
        }
        What::Fence => "smp_mb()".to_owned(),
        What::Call(name) => format!("{name} begins"),
        What::Return(name) => format!("{name} returns"),
        What::Mark(mark) => format!("({})", mark.name()),
        What::Note(text) => text.clone(),
        What::Violation { rule, detail } => format!("VIOLATED {rule}: {detail}"),
    }
}

/// `srcu` or `rcu`, if it is one.
fn sections(tag: Tag) -> Option<&'static str> {
    let Object::Lock(class) = tag.object else { return None };
    let kind = class.info().kind;
    kind.has_sections().then(|| kind.name())
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
        | What::CallRcu { object, .. }
        | What::Callback { object, .. }
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

#[cfg(test)]
mod tests {
    use kvmmu_model::LockClass;
    use kvmmu_sim::names::Names;

    use super::*;

    #[test]
    fn sections_grace_periods_and_callbacks_have_the_kernels_names() {
        let scenarios = crate::lab::load::builtin(1).expect("built-in files load");
        let names = Names::default();
        let values = Values::new(&scenarios[0], &names);
        let says = |class: LockClass| {
            let object = Tag::lock(class.one());
            [
                What::Acquire { object, mode: Mode::Read },
                What::Release { object },
                What::GracePeriod { object, over: false },
                What::GracePeriod { object, over: true },
                What::CallRcu { object, callback: 7 },
                What::Callback { object, callback: Some(7) },
                What::Callback { object, callback: None },
            ]
            .map(|what| statement(&what, values))
        };
        let rcu = says(LockClass::VarRcu);
        let words = [
            "rcu_read_lock(X)",
            "rcu_read_unlock(X)",
            "synchronize_rcu(X) begins",
            "synchronize_rcu(X)",
            "call_rcu(X, 7)",
            "rcu_core(X): callback 7",
            "rcu_core(X): nothing is left",
        ];
        let name = values.name(Tag::lock(LockClass::VarRcu.one()));
        assert_eq!(rcu, words.map(|word| word.replace('X', &name)));
        let srcu = says(LockClass::KvmSrcu);
        assert_eq!(srcu[0], "srcu_read_lock(srcu)");
        assert_eq!(srcu[3], "synchronize_srcu(srcu)");
    }
}
