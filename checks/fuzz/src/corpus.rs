//! What the changes begin with: the repository's own files, and what the command makes of them.

use std::fs;
use std::path::{Path, PathBuf};

use kvmmu::cli::args::{Command, MessageFormat};
use kvmmu::commands::check::run_plan;
use kvmmu::commands::plan::{Part, Plan};
use kvmmu::lab::run::{Machine, Simulated};
use kvmmu::lab::search::Search;
use kvmmu::lab::select::{Selected, variants};
use kvmmu::lab::shard::Shard;
use kvmmu::lab::variant::{Goal, Variant};
use kvmmu::report::trace;
use kvmmu_model::{Guard, GuardSet};
use kvmmu_scenarios::builtin;
use kvmmu_sim::outcome::Verdict;
use kvmmu_steps::file::Reader;

use crate::input::{Knobs, join};
use crate::targets::{self, BUILTINS, Target};

/// Events of a recording that one seed has.
const EVENTS: usize = 60;
/// Outcomes that one seed has.
const OUTCOMES: usize = 6;

/// The inputs that those of `target` are made of.
pub fn seeds(target: Target) -> Vec<Vec<u8>> {
    match target {
        Target::Scenario => scenarios(),
        Target::Schedule => violations().into_iter().map(|found| found.schedule).collect(),
        Target::Trace => violations().into_iter().map(|found| found.trace).collect(),
        Target::Conform => recordings(),
        Target::Outcomes => outcomes(),
        Target::Merge => parts(),
        Target::Steps => steps(),
    }
}

/// The files of a directory of the repository with this extension, by name.
fn paths(directory: &str, extension: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(directory);
    let entries = fs::read_dir(&root).expect("the directory can be read");
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| entry.expect("an entry can be read").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == extension));
    paths.sort();
    assert!(!paths.is_empty(), "no .{extension} in {}", root.display());
    paths
}

/// What they contain.
fn files(directory: &str, extension: &str) -> Vec<String> {
    let paths = paths(directory, extension);
    paths.iter().map(|path| fs::read_to_string(path).expect("a file is UTF-8")).collect()
}

/// Each scenario with every guard, by the strategy that is the default, and without one guard.
fn scenarios() -> Vec<Vec<u8>> {
    let knobs = |i: usize| [[0, 0, 0, 0], [1 + (i % 5) as u8, 1 + (i % 50) as u8, 0, 0]];
    builtin::FILES
        .iter()
        .enumerate()
        .flat_map(|(i, (_, text))| knobs(i).map(|knobs| join(knobs, text.as_bytes())))
        .collect()
}

/// A violation of a small built-in.
struct Found {
    schedule: Vec<u8>,
    trace: Vec<u8>,
}

/// What each guard's absence does to the small built-ins.
fn violations() -> Vec<Found> {
    let mut all = Vec::new();
    for i in 0..BUILTINS.len() {
        let scenario = targets::builtin(i as u8);
        for (guard, missing) in Guard::ALL.iter().enumerate() {
            let without = GuardSet::EMPTY.with(*missing);
            let variant = Variant::of(&scenario, None, without);
            let search = Search { states_max: 3_000, ..targets::search(0).clone() };
            let goal = Goal::default();
            let Ok(outcome) = Simulated.explore(&variant, &goal, &search, &|_| true) else {
                continue;
            };
            let Verdict::Violated(found) = outcome.verdict else { continue };
            let Ok(replayed) = Simulated.replay(&variant, &found.schedule) else { continue };
            let schedule = variant.stamp(&found.schedule).to_string();
            let text = trace::text(&variant, &schedule, &replayed);
            let knobs: Knobs = [i as u8, 1 + guard as u8, 0, 0];
            all.push(Found {
                schedule: join(knobs, schedule.as_bytes()),
                trace: join([0; 4], text.as_bytes()),
            });
        }
    }
    assert!(!all.is_empty(), "no guard's absence is seen");
    all
}

/// The beginnings of the recordings, and the first events of each kind.
fn recordings() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for text in files("checks/conform/tests/traces", "jsonl") {
        let (header, events) = text.split_once('\n').unwrap_or((&text, ""));
        for skip in [0, 40, 200, 500] {
            let some: Vec<&str> = events.lines().skip(skip).take(EVENTS).collect();
            all.push(join([0; 4], format!("{header}\n{}\n", some.join("\n")).as_bytes()));
        }
    }
    all
}

/// The beginnings of recordings of steps, and later pieces of them, as lines of JSON.
fn steps() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for path in paths("checks/steps/tests/recordings", "steps") {
        let reader = Reader::open(&path).expect("it is a recording");
        let mut events = reader.events().expect("it can be read");
        let mut lines = Vec::new();
        while let Ok(Some((_, event))) = events.read() {
            lines.push(json(&event));
        }
        let sites: Vec<String> = events.sites().iter().map(json).collect();
        let begin = [&[json(reader.header())], &sites[..], &lines[..1]].concat();
        let pieces = lines[1..].chunks(EVENTS).step_by(lines.len() / EVENTS / 8 + 1);
        all.extend(pieces.map(|piece| {
            let text = [&begin, piece].concat().join("\n") + "\n";
            join([0; 4], text.as_bytes())
        }));
    }
    all
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("it is plain data")
}

/// Files of outcomes, cut in pieces.
fn outcomes() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for text in files("checks/tests/seen", "jsonl") {
        let lines: Vec<&str> = text.lines().collect();
        let pieces = lines.chunks(OUTCOMES).map(|some| some.join("\n") + "\n");
        all.extend(pieces.map(|piece| join([0; 4], piece.as_bytes())));
    }
    all
}

/// What the only part of a check of each small built-in prints.
fn parts() -> Vec<Vec<u8>> {
    let Command::Check(args) = targets::command(&["check"]).command else {
        unreachable!("it is 'check'")
    };
    let part = |i: usize| {
        let selected = Selected::builtin(targets::builtin(i as u8));
        let mut variants = variants(&selected, &[]);
        let only = Shard { index: 1, of: 1 };
        let plan = Plan {
            part: Some(Part::take(only, &mut variants, &args)),
            variants,
            search: targets::search(0).clone(),
            size: 1,
            jobs: 1,
            strict: false,
            format: MessageFormat::Json,
            counts: None,
            trace_dir: Path::new("target/fuzz/traces"),
            quiet: true,
            kept: None,
        };
        let mut text = Vec::new();
        run_plan(&Simulated, &plan, &|| false, &mut text).expect("a Vec can be written");
        join([0; 4], &text)
    };
    (0..BUILTINS.len()).map(part).collect()
}
