//! `kvmmu replay`: one execution, from a trace file or a schedule.
//!
//! A replay that does not reproduce the recorded events byte by byte stops at the first difference.

use std::io::Write;
use std::path::Path;

use kvmmu_sim::event::Event;
use kvmmu_sim::schedule::StampedSchedule;

use crate::cli::args::ReplayArgs;
use crate::cli::exit::{Exit, Failure};
use crate::lab::replayed::{Replayed, violation};
use crate::lab::run::{Machine, Simulated};
use crate::lab::select;
use crate::lab::variant::fingerprint;
use crate::lab::variant::{Variant, join};
use crate::report::held::{held, held_words};
use crate::report::lockdep;
use crate::report::phrase::{event_line, list};
use crate::report::trace;
use crate::report::value::Values;

/// Runs the command.
///
/// # Errors
///
/// A trace or schedule that is wrong, made for something else, or does not replay.
pub fn run(args: &ReplayArgs, to: &mut dyn Write) -> Result<Exit, Failure> {
    let exit = replay(args, to)?;
    Ok(if args.exit_code { exit } else { Exit::Expected })
}

/// Replays, and gives [`Exit::Unexpected`] if something is violated.
fn replay(args: &ReplayArgs, to: &mut dyn Write) -> Result<Exit, Failure> {
    match &args.schedule {
        Some(schedule) => {
            let without = select::guards(args.without.as_deref().unwrap_or(""))?;
            let selected = select::scenario(&args.target, args.size)?;
            let variant = selected.variant(without).lock_checks_off(args.no_lock_checks);
            from_schedule(&Simulated, &variant, schedule, args.force, to)
        }
        None => from_file(args, to),
    }
}

/// Replays the schedule `text`.
///
/// # Errors
///
/// As [`run`].
pub fn from_schedule(
    machine: &dyn Machine,
    variant: &Variant,
    text: &str,
    force: bool,
    to: &mut dyn Write,
) -> Result<Exit, Failure> {
    let stamped = parse(text)?;
    accept(variant, stamped.fingerprint, force)?;
    let replayed = machine.replay(variant, &stamped.schedule)?;
    print(variant, &replayed, replayed.events.len(), to)?;
    finish(variant, &replayed, to)
}

/// What the steps of a schedule came to.
fn ending(variant: &Variant, replayed: &Replayed) -> String {
    match violation(&replayed.events).map(|(rule, _)| rule) {
        Some(rule) if lockdep::is(rule) => {
            format!("violated {rule}{}", asks(variant, replayed))
        }
        Some(rule) => format!("violated {rule}"),
        None => {
            let (asks, lap) = (asks(variant, replayed), replayed.lap);
            let lap = lap.map(|step| format!("; the state is that after step {step} again"));
            format!("nothing was violated in these steps{asks}{}", lap.unwrap_or_default())
        }
    }
}

/// The lock that the thread of the last step asks for, and what it holds.
fn asks(variant: &Variant, replayed: &Replayed) -> String {
    let last = replayed.events.last().map(|event| event.thread);
    let ask = replayed.asks.iter().find(|ask| Some(ask.thread) == last);
    let Some((ask, tag, mode)) = ask.and_then(|ask| Some((ask, ask.object?, ask.mode?))) else {
        return String::new();
    };
    let who = variant.scenario.threads.get(usize::from(ask.thread));
    let who = who.map_or("stop", |thread| thread.name.as_str());
    let held = held(&replayed.events, ask.thread);
    let held: Vec<String> =
        held.iter().map(|held| held_words(replayed, held.tag, held.mode)).collect();
    let inside = match held.is_empty() {
        true => String::new(),
        false => format!(" and holds {}", list(&held)),
    };
    format!("; {who} asks for {}{inside}", held_words(replayed, tag, mode))
}

/// Replays a trace file and compares.
fn from_file(args: &ReplayArgs, to: &mut dyn Write) -> Result<Exit, Failure> {
    let path = Path::new(&args.target);
    if !path.exists() && path.extension().is_none() {
        return Err(Failure::usage(
            format!("there is no trace file '{}'", args.target),
            format!(
                "to replay a scenario give a schedule: kvmmu replay {} --schedule S; \
                 'kvmmu explain {}' prints one",
                args.target, args.target
            ),
        ));
    }
    let trace = trace::read(path)?;
    let header = &trace.header;
    let without = select::guards(&header.without.join(","))?;
    let selected = match (&header.file, &header.text) {
        (Some(file), Some(text)) => select::text(file, text, header.size)?,
        (Some(file), None) => select::scenario(file, header.size)?,
        _ => select::scenario(&header.scenario, header.size)?,
    };
    let variant = selected.variant(without).lock_checks_off(args.no_lock_checks);
    compare(&Simulated, &variant, &trace, args.force, to)
}

/// Replays the schedule of `trace` and compares each event with the recorded one.
///
/// # Errors
///
/// As [`run`].
pub fn compare(
    machine: &dyn Machine,
    variant: &Variant,
    trace: &trace::Trace,
    force: bool,
    to: &mut dyn Write,
) -> Result<Exit, Failure> {
    let stamped = parse(&trace.header.schedule)?;
    accept(variant, stamped.fingerprint, force)?;
    let replayed = machine.replay(variant, &stamped.schedule)?;
    let lines: Vec<String> =
        (0..replayed.events.len()).map(|i| trace::event_json(&replayed, i)).collect();
    let recorded = trace.events.iter().map(|(_, line)| line);
    let same = lines.iter().zip(recorded).take_while(|(a, b)| a == b).count();
    if same == lines.len() && same == trace.events.len() {
        print(variant, &replayed, same, to)?;
        return finish(variant, &replayed, to);
    }
    print(variant, &replayed, same, to)?;
    let step = match (trace.events.get(same), replayed.events.get(same)) {
        (Some((step, _)), _) => *step,
        (None, Some(event)) => event.step,
        (None, None) => 0,
    };
    let end = "(nothing: it ended)";
    let before = trace.events.get(same).map_or(end, |(_, line)| line.as_str());
    let now = lines.get(same).map_or(end, String::as_str);
    let mut message = format!("the replay diverged at step {step}, event {}\n", same + 1);
    message += &format!("  recorded: {before}\n  replayed: {now}");
    if let Some((at, why)) = &replayed.stuck {
        message += &format!("\n  move {} could not be made: {why}", at + 1);
    }
    let help = "the trace was made by another build or for another scenario: make it again with \
                'kvmmu explain'";
    Err(Failure::new(Exit::Diverged, message, help))
}

/// Reads a schedule.
fn parse(text: &str) -> Result<StampedSchedule, Failure> {
    text.parse::<StampedSchedule>().map_err(|error| {
        let other = error.offset == 0
            && error
                .token
                .strip_prefix('v')
                .is_some_and(|v| v.trim_end_matches('-').parse::<u32>().is_ok_and(|v| v != 1));
        // A well-formed stamp of another version is no typing error.
        Failure::new(
            if other { Exit::Diverged } else { Exit::Usage },
            error.to_string(),
            "a schedule reads like v1-1a2b3c4d:0*3,1*7,0/2; 'kvmmu explain NAME' prints one",
        )
    })
}

/// Refuses a schedule that was made for something else.
fn accept(variant: &Variant, found: u32, force: bool) -> Result<(), Failure> {
    let wanted = fingerprint(&variant.scenario, variant.without);
    if found == wanted || force {
        return Ok(());
    }
    let guards = match variant.without.is_empty() {
        true => "every guard".to_owned(),
        false => format!("--without {}", join(variant.without, ",")),
    };
    Err(Failure::new(
        Exit::Diverged,
        format!(
            "the schedule is for {found:08x}, but {} with {guards} in this build is {wanted:08x}",
            variant.scenario.name
        ),
        "check the name and --without, use the build that made it, or try it anyway with --force",
    ))
}

/// The end of a replay whose events were all as they should be.
fn finish(variant: &Variant, replayed: &Replayed, to: &mut dyn Write) -> Result<Exit, Failure> {
    match &replayed.stuck {
        None => {
            writeln!(to, "end of the schedule: {}", ending(variant, replayed))?;
            Ok(match violation(&replayed.events) {
                Some(_) => Exit::Unexpected,
                None => Exit::Expected,
            })
        }
        Some((at, why)) => Err(Failure::new(
            Exit::Diverged,
            format!("move {} of the schedule could not be made: {why}", at + 1),
            "shorten the schedule before that move, or choose a thread that can go on",
        )),
    }
}

/// Prints the first `count` events, one per line.
fn print(
    variant: &Variant,
    replayed: &Replayed,
    count: usize,
    to: &mut dyn Write,
) -> Result<(), Failure> {
    let values = Values::new(&variant.scenario, &replayed.names);
    let thread = |event: &Event| match variant.scenario.threads.get(usize::from(event.thread)) {
        Some(thread) => thread.name.as_str(),
        None => "stop",
    };
    for (i, event) in replayed.events[..count].iter().enumerate() {
        writeln!(to, "{}", event_line(event, thread(event), values.at(i)))?;
    }
    Ok(())
}
