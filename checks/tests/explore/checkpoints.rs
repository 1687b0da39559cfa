//! Goal: each checkpoint of the model merges states: one that merges none is a line of the tool in
//! the way of who reads the protocol. Method: each is left out alone, and the states of the small
//! built-in variants are counted with it and without it until one has other numbers.

use std::fs;
use std::path::{Path, PathBuf};

use kvmmu::lab::load::builtin;
use kvmmu_sim::outcome::Verdict;
use kvmmu_sim::race::Race;
use kvmmu_sim::rule::Rule;
use kvmmu_sim::stateful::Stateful;
use kvmmu_sim::{Explorer, Goal, Limits};

/// Larger variants are left out: each checkpoint shows itself in a small one.
const STATES_MAX: u64 = 100_000;

/// Files and lines with a checkpoint.
fn checkpoints() -> Vec<(&'static str, u32)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = Vec::new();
    for path in sources(&root.join("model/src")) {
        let text = fs::read_to_string(&path).expect("a source file");
        let file = path.strip_prefix(&root).expect("a file of the project");
        let is_call = |line: &str| line.contains(".checkpoint(") && !line.contains("//");
        let lines = text.lines().zip(1..).filter(|(line, _)| is_call(line));
        let file: &'static str = file.to_string_lossy().into_owned().leak();
        found.extend(lines.map(|(_, number)| (file, number)));
    }
    found
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// States and transitions of everything that a program can do, if there are few.
fn counted(race: &Race) -> Option<(u64, u64)> {
    let limits = Limits { states_max: STATES_MAX, ..Limits::default() };
    let goal = Goal::of(Rule::Own("no-such-rule"));
    let outcome = Stateful::default().explore(race, &goal, &limits, &|_| true);
    let whole = matches!(outcome.verdict, Verdict::Holds);
    whole.then_some((outcome.stats.states, outcome.stats.transitions))
}

#[test]
fn each_checkpoint_merges_states_of_some_small_variant() {
    let scenarios = builtin(1).expect("built-in files load");
    let races = scenarios.iter().flat_map(|scenario| {
        scenario.expects.iter().map(|e| Race::new(scenario.as_ref().clone(), e.without))
    });
    let mut small: Vec<_> = races.filter_map(|race| Some((counted(&race)?, race))).collect();
    small.sort_by_key(|(counts, _)| *counts);
    let checkpoints = checkpoints();
    assert!(checkpoints.len() > 3, "{checkpoints:?}");
    let merges = |(file, line): &(&'static str, u32)| {
        let other = |(counts, race): &((u64, u64), Race)| {
            let race = race.clone().ignoring_checkpoint(file, *line);
            // Without it there may be more than are looked at.
            counted(&race) != Some(*counts)
        };
        small.iter().any(other)
    };
    let idle: Vec<_> = checkpoints.iter().filter(|checkpoint| !merges(checkpoint)).collect();
    assert!(idle.is_empty(), "these checkpoints merge nothing: remove them: {idle:#?}");
}
