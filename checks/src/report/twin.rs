//! The broken run beside the correct one: where the correct protocol takes another way.

use kvmmu_sim::event::Event;

use super::Facts;
use super::phrase::{delta, function, object, statement};
use super::value::Values;

/// The first step that differs when the same schedule runs with every guard. Only accesses count:
/// what the model calls and marks on the way says little to a reader.
pub fn correct(facts: &Facts<'_>, names: &[String], values: &Values<'_>) -> Option<String> {
    let twin = facts.twin?;
    let accesses = |events: &[Event]| -> Vec<Event> {
        events.iter().filter(|e| e.step > 0 && object(&e.what).is_some()).cloned().collect()
    };
    let (broken_events, twin_events) = (accesses(facts.events), accesses(&twin.events));
    let same = |(a, b): (&Event, &Event)| a.thread == b.thread && a.what == b.what;
    let at = broken_events.iter().zip(&twin_events).take_while(|pair| same(*pair)).count();
    let broken = broken_events.get(at);
    let Some(other) = twin_events.get(at) else {
        let after = twin_events.last().map_or(0, |e| e.step);
        let next = broken.map(|e| name(e, names)).unwrap_or("it");
        let why = match &twin.stuck {
            Some((_, why)) => format!(" ({why})"),
            None => String::new(),
        };
        return Some(format!(
            "with every guard the same schedule goes no further than step {after}: {next} cannot \
             take the next step{why}."
        ));
    };
    let here = |e: &Event| {
        let name = name(e, names);
        let change = delta(&e.what, values).map_or(String::new(), |d| format!(" {d}"));
        format!("{name} does {}{change} in {}", statement(&e.what), function(e, name))
    };
    let place = format!("{}:{}", other.file, other.line);
    let instead = match broken {
        Some(e) => format!(", where the broken run's {}", here(e)),
        None => String::new(),
    };
    let step = other.step;
    Some(format!("with every guard step {step} is another: {} ({place}){instead}.", here(other)))
}

/// The name of an event's thread.
fn name<'a>(event: &Event, names: &'a [String]) -> &'a str {
    names.get(usize::from(event.thread)).map_or("stop", String::as_str)
}
