//! `kvmmu merge`: what the parts of a run printed, as the whole run would have printed it.
//!
//! Guarantee: standard output and exit code are those of the same `kvmmu check` without `--shard`,
//! whatever the order of the parts, apart from what is chance in that run too: where `--time-max`,
//! `--memory-max` and full disks end something, and where a part put its traces.

pub mod part;

use std::io::Write;

use crate::cli::args::{MergeArgs, MessageFormat};
use crate::cli::exit::{Exit, Failure};
use crate::cli::lines::{Counts, MovedFrom};
use crate::cli::output::Output;
use crate::commands::counts::advice;
use crate::commands::merge::part::{Part, Said, read};
use crate::lab::shard::Shard;
use crate::lab::together::Together;

/// Runs the command.
///
/// # Errors
///
/// Files that are not the parts of one run, each once, and an output that cannot be written.
pub fn run(args: &MergeArgs, to: &mut dyn Write) -> Result<Exit, Failure> {
    let mut parts: Vec<Part> = Vec::new();
    for path in &args.parts {
        let part = read(path)?;
        for other in &parts {
            refuse_foreign(other, &part)?;
        }
        parts.push(part);
    }
    refuse_missing(&parts)?;
    print(parts, args.message_format, to)
}

/// Refuses a part of another run than that of `first`, and one that is there already.
fn refuse_foreign(first: &Part, part: &Part) -> Result<(), Failure> {
    let (place, other) = (part.place(1), first.place(1));
    let refused = |what: String, help: &str| Err(Failure::usage(format!("{place}: {what}"), help));
    let (mine, its) = (&part.run, &first.run);
    if part.shard.of != first.shard.of {
        return refused(
            format!("this is shard {}, and {other} is {}", part.shard, first.shard),
            "the parts of one run have one N: give merge all parts of one run, and no other file",
        );
    }
    if mine.command != its.command {
        return refused(
            format!("this part is of '{}', and {other} is of '{}'", mine.command, its.command),
            "all parts need the same words and KVMMU_* variables, but for --shard: run those \
             again that differ",
        );
    }
    if (&mine.selection, mine.selected) != (&its.selection, its.selected) {
        return refused(
            format!("this part is of other variants than {other}: the scenario files differ"),
            "run the parts again with the same files",
        );
    }
    // With the same words only a line that was edited differs in anything else.
    let mut start = part.start.clone();
    start.variants = first.start.variants;
    if mine != its || start != first.start {
        return refused(format!("this line says something else than {other}"), part::EDITED);
    }
    if part.shard == first.shard {
        return refused(
            format!("this is shard {}, and so is {other}", part.shard),
            "give merge each part once: leave one of the two files away",
        );
    }
    Ok(())
}

/// Refuses parts that are not all of a run.
fn refuse_missing(parts: &[Part]) -> Result<(), Failure> {
    let Some(first) = parts.first() else {
        return Err(Failure::usage(
            "no file was given",
            "name what all parts of a run have printed: 'kvmmu merge part-*.jsonl'",
        ));
    };
    let of = first.shard.of;
    let mut missing = (1..=of).filter(|i| parts.iter().all(|part| part.shard.index != *i));
    let Some(index) = missing.next() else {
        let all: u128 = parts.iter().map(|part| part.start.variants as u128).sum();
        let selected = first.run.selected;
        return match all == selected as u128 {
            true => Ok(()),
            false => Err(Failure::usage(
                format!("{}: the parts have {all} of {selected} variants", first.place(1)),
                part::EDITED,
            )),
        };
    };
    let (one, more) = (Shard { index, of }, missing.count());
    let more = if more == 0 { String::new() } else { format!(" (and {more} more)") };
    Err(Failure::usage(
        format!("{}: shard {one}{more} of the same run is missing", first.place(1)),
        format!("name its file, too; '{} >FILE' makes it", part::command(&first.run, one)),
    ))
}

/// Prints the parts of a run.
fn print(parts: Vec<Part>, format: MessageFormat, to: &mut dyn Write) -> Result<Exit, Failure> {
    let (mut start, run) = (parts[0].start.clone(), parts[0].run.clone());
    let mut skipped: Option<usize> = None;
    let (mut moved, mut entries) = (Vec::<(MovedFrom, String)>::new(), Vec::new());
    for part in parts {
        if let Some(count) = part.skipped {
            *skipped.get_or_insert(0) += count;
        }
        let path = part.path;
        entries.extend(part.entries.into_iter().map(|entry| (path.clone(), entry)));
        moved.extend(part.moved);
    }
    entries.sort_by_key(|(_, entry)| entry.placed.index);
    for pair in entries.windows(2) {
        let [(path, first), (again, second)] = pair else { continue };
        if first.placed.index == second.placed.index {
            let message =
                format!("{again}:{}: this variant is at {path}:{}, too", second.line, first.line);
            return Err(Failure::usage(message, part::EDITED));
        }
    }
    let width = entries.iter().map(|(_, entry)| entry.placed.name.len()).max().unwrap_or(0).min(60);
    start.variants = run.selected;
    let mut output = Output::new(to, format, width, start);
    if let Some(count) = skipped {
        output.skip(count, &run.engine);
    }
    output.start()?;
    let mut counts = Counts::default();
    let mut together = Together::default();
    let mut exit = if entries.is_empty() { Exit::Nothing } else { Exit::Expected };
    for (_, entry) in entries {
        exit = exit.worse(entry.placed.exit);
        match entry.said {
            Said::Verdict(line) => {
                if let Some(locks) = &entry.locks {
                    together.add(&line.scenario, locks);
                }
                counts.add(line.verdict);
                output.verdict(*line, entry.placed)?;
            }
            Said::Error(line) => {
                counts.errors += 1;
                output.error(*line, entry.placed)?;
            }
        }
    }
    for cycle in together.cycles() {
        counts.lock_cycles += 1;
        exit = exit.worse(Exit::Unexpected);
        output.lock_cycle(&cycle)?;
    }
    // Variants of one scenario in several parts all say that its witnesses are others.
    moved.sort();
    moved.dedup();
    if let (Some(place), false) = (&run.counts, moved.is_empty()) {
        exit = exit.worse(Exit::Unexpected);
        output.moved(moved, &advice(place, false))?;
    }
    output.summary(&counts, false, exit)?;
    Ok(exit)
}
