//! What reads inputs. A fault is a panic, so that libFuzzer stops at it: in the code that is tried,
//! or here, where that code says that it is broken or does not do what it promises.

mod conform;
mod merge;
mod outcomes;
mod scenario;
mod schedule;
mod steps;
mod trace;

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use kvmmu::cli::args::{Cli, Command};
use kvmmu::cli::exit::{Exit, Failure};
use kvmmu::lab::load;
use kvmmu::lab::search::Search;
use kvmmu_scenarios::Scenario;

use crate::input;

/// What reads an input.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// Scenario files: loaded, explored within small bounds, a violation replayed
    Scenario,
    /// Schedules: read, printed, read again, replayed
    Schedule,
    /// Trace files, as `kvmmu replay` reads them
    Trace,
    /// Recordings of a kernel's MMU, as `kvmmu conform` reads them
    Conform,
    /// Files of outcomes, as `kvmmu outcomes --compare` reads them
    Outcomes,
    /// What one part of a check printed, as `kvmmu merge` reads it
    Merge,
    /// Recordings of every step of a kernel, as `kvmmu steps` reads them
    Steps,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl Target {
    /// Every target.
    pub const ALL: [Target; 7] = [
        Target::Scenario,
        Target::Schedule,
        Target::Trace,
        Target::Conform,
        Target::Outcomes,
        Target::Merge,
        Target::Steps,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Target::Scenario => "scenario",
            Target::Schedule => "schedule",
            Target::Trace => "trace",
            Target::Conform => "conform",
            Target::Outcomes => "outcomes",
            Target::Merge => "merge",
            Target::Steps => "steps",
        }
    }

    /// How many inputs take a few seconds.
    pub fn runs(self) -> u64 {
        match self {
            Target::Scenario => 5_000,
            Target::Schedule => 20_000,
            Target::Trace => 500,
            Target::Conform => 2_000,
            Target::Outcomes => 4_000,
            Target::Merge => 5_000,
            Target::Steps => 2_000,
        }
    }

    /// No input is longer.
    pub fn length_max(self) -> usize {
        match self {
            Target::Schedule => 4 << 10,
            Target::Outcomes => 8 << 10,
            Target::Scenario | Target::Merge => 16 << 10,
            Target::Trace | Target::Conform | Target::Steps => 48 << 10,
        }
    }
}

static CHOSEN: OnceLock<Target> = OnceLock::new();

/// This process tries inputs of `target`.
pub fn choose(target: Target) {
    let _ = CHOSEN.set(target);
}

/// Tries one input.
pub fn try_input(data: &[u8]) {
    let Some((knobs, text)) = input::split(data) else { return };
    match CHOSEN.get() {
        Some(Target::Scenario) => scenario::run(knobs, text),
        Some(Target::Schedule) => schedule::run(knobs, text),
        Some(Target::Trace) => trace::run(knobs, text),
        Some(Target::Conform) => conform::run(knobs, text),
        Some(Target::Outcomes) => outcomes::run(knobs, text),
        Some(Target::Merge) => merge::run(knobs, text),
        Some(Target::Steps) => steps::run(knobs, text),
        None => {}
    }
}

/// A refusal is what bad inputs deserve; a tool that calls itself broken is a fault.
fn no_internal_error<T>(result: Result<T, impl Into<Failure>>) -> Option<T> {
    match result.map_err(Into::into) {
        Ok(value) => Some(value),
        Err(failure) => {
            assert!(failure.exit != Exit::Internal, "an internal error: {failure}");
            None
        }
    }
}

/// What the command makes of these words. It takes longer than most inputs: once for each process.
pub fn command(words: &[&str]) -> Cli {
    use clap::Parser;
    Cli::try_parse_from(std::iter::once(&"kvmmu").chain(words)).expect("the words are right")
}

/// Bounds that take milliseconds, and no time: what an input does depends on nothing else.
pub fn search(knob: u8) -> &'static Search {
    const STRATEGIES: [&str; 6] = ["auto", "dpor", "stateful", "random", "pct", "naive"];
    static ALL: OnceLock<Vec<Search>> = OnceLock::new();
    let of = |strategy: &str| {
        let words = ["check", "--strategy", strategy, "--states-max", "400"];
        let more = ["--executions-max", "8", "--steps-max", "600", "--seed", "7"];
        let Command::Check(args) = command(&[&words[..], &more].concat()).command else {
            unreachable!("it is 'check'")
        };
        args.search.search(1)
    };
    &ALL.get_or_init(|| STRATEGIES.map(of).to_vec())[usize::from(knob) % STRATEGIES.len()]
}

/// Small built-in scenarios.
pub const BUILTINS: [&str; 4] = ["canary", "change-pte", "lock-avic-window", "access-track-vs-zap"];

/// The built-in that a knob chooses.
pub fn builtin(knob: u8) -> Arc<Scenario> {
    static LOADED: OnceLock<Vec<Arc<Scenario>>> = OnceLock::new();
    let load = |name: &&str| load::builtin_named(name, 1).expect("it is built in");
    LOADED.get_or_init(|| BUILTINS.iter().map(load).collect())[usize::from(knob) % BUILTINS.len()]
        .clone()
}

/// The file with what is tried, in memory if there is a place for that. One for each process.
fn file() -> &'static str {
    static PLACE: OnceLock<String> = OnceLock::new();
    PLACE.get_or_init(|| {
        let memory = PathBuf::from("/dev/shm");
        let place = if memory.is_dir() { memory } else { std::env::temp_dir() };
        place.join(format!("kvmmu-fuzz-{}", std::process::id())).display().to_string()
    })
}

/// Puts this text into the file.
fn write(text: &[u8]) -> &'static str {
    fs::write(file(), text).expect("a file can be written");
    file()
}
