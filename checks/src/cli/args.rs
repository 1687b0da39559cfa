//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use kvmmu_scenarios::scenario::Format;

use crate::cli::help::help;
use crate::lab::layout::layout;
use crate::lab::memory;
use crate::lab::search::{Depths, Search, Strategy};
use crate::lab::shard::Shard;

pub use super::recordings::{ConformArgs, ConformFormat, StepsArgs};

/// The environment variables that mirror options.
pub const ENVIRONMENT: &[&str] = &[
    "KVMMU_COLOR",
    "KVMMU_ENGINE",
    "KVMMU_EXECUTIONS_MAX",
    "KVMMU_JOBS",
    "KVMMU_MEMORY_MAX",
    "KVMMU_MESSAGE_FORMAT",
    "KVMMU_NO_LOCK_CHECKS",
    "KVMMU_PCT_DEPTH",
    "KVMMU_SEED",
    "KVMMU_SIZE",
    "KVMMU_STATES_MAX",
    "KVMMU_STEPS_MAX",
    "KVMMU_STRATEGY",
    "KVMMU_TIME_MAX",
    "KVMMU_TRACE_DIR",
];

/// The whole command line.
#[derive(Parser, Debug)]
#[command(name = "kvmmu", version, override_help = help(), disable_help_subcommand = true)]
#[command(term_width = 98)]
pub struct Cli {
    /// What all commands share.
    #[command(flatten)]
    pub common: Common,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Args, Clone, Debug)]
pub struct Common {
    /// Colour: on terminals, always or never
    #[arg(long, global = true, value_name = "auto|always|never", default_value = "auto")]
    #[arg(env = "KVMMU_COLOR", hide_env = true, hide_possible_values = true)]
    pub color: Color,
    /// Say more
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    pub verbose: bool,
    /// No progress and no notes
    #[arg(short, long, global = true)]
    pub quiet: bool,
}

/// When to use colour.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Color {
    /// On terminals.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Explores scenarios and compares the verdicts with what is expected
    #[command(before_help = "Example: kvmmu check 'aba-*' --without fast-fault-cmpxchg --jobs 2")]
    Check(CheckArgs),
    /// Prints the parts of a check as the whole check would have printed them
    #[command(before_help = "Example: kvmmu merge part-*.jsonl")]
    Merge(MergeArgs),
    /// Lists the scenarios, their variants and properties
    List(ListArgs),
    /// Lists the guards: what each prevents, and which scenarios fail without it
    Guards(GuardsArgs),
    /// Finds a counterexample, minimises it and prints it as a two-column table
    #[command(before_help = "Example: kvmmu explain aba-indirect --format rst")]
    Explain(ExplainArgs),
    /// The locks and their orders: what the document says, and what is seen
    #[command(before_help = "Example: kvmmu locks --format rst")]
    Locks(LocksArgs),
    /// The outcomes that a scenario may have, and whether what machines saw is among them
    #[command(before_help = "Example: kvmmu outcomes --compare el2.jsonl")]
    Outcomes(OutcomesArgs),
    /// Checks what a real kernel did against the model
    #[command(before_help = "Example: kvmmu conform trace.jsonl")]
    Conform(ConformArgs),
    /// Checks every store of a real kernel to its page tables against the protocol
    #[command(before_help = "Example: kvmmu steps arm64-6.1.176-s3.steps")]
    Steps(StepsArgs),
    /// Runs one recorded or hand-written schedule
    #[command(before_help = "Example: kvmmu replay canary --schedule v1-1a2b3c4d:0*3,1*7,0/2")]
    Replay(ReplayArgs),
}

/// Options of `check`.
#[derive(Args, Clone, Debug)]
pub struct CheckArgs {
    /// Scenarios: a name, a pattern with * and ?, or a path that ends in .toml
    #[arg(value_name = "NAME|GLOB|FILE.toml")]
    pub select: Vec<String>,
    /// Remove these guards together, or those that a release lacks (x86-v5.10); repeat for more
    /// sets (default: as the file expects)
    #[arg(long, value_name = "G[,G]")]
    pub without: Vec<String>,
    /// Exit 1 if a scenario of your own holds and nothing shows that a race was reached
    #[arg(long)]
    pub strict: bool,
    /// What runs the scenario
    ///
    /// sim is the simulated machine: sequential consistency, everything explored. loom judges the
    /// C11 orderings of the core of the protocol; shuttle samples interleavings of all of it, with
    /// --strategy pct, random, or auto for both. Both are independent of the simulator, and
    /// need a build that has them:
    ///
    ///   cargo run --release --features engines -- check --engine loom
    ///
    /// Both explore one variant at a time, whatever --jobs says. They skip variants for which the
    /// scenario's file expects nothing of them, except correct ones of your own file; --without
    /// skips nothing.
    #[arg(long, value_name = "sim|loom|shuttle", default_value = "sim", env = "KVMMU_ENGINE")]
    #[arg(hide_env = true, hide_possible_values = true, verbatim_doc_comment)]
    pub engine: Engine,
    /// How to search, and how far
    #[command(flatten)]
    pub search: SearchArgs,
    /// How many threads explore at once (default: one per CPU)
    #[arg(long, value_name = "N", env = "KVMMU_JOBS", hide_env = true)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub jobs: Option<u16>,
    /// Text for people, or one JSON object per line
    #[arg(long, value_name = "human|json", default_value = "human")]
    #[arg(env = "KVMMU_MESSAGE_FORMAT", hide_env = true, hide_possible_values = true)]
    pub message_format: MessageFormat,
    /// Compare what each variant took and showed with its row in this table
    ///
    /// Exit 1, and a line that says what moved, if a row differs or there is none. With --bless the
    /// rows of what is explored are written, and the others stay. A table may have 4 MiB.
    #[arg(long, value_name = "FILE", conflicts_with = "time_max", hide_short_help = true)]
    pub counts: Option<PathBuf>,
    /// Write the rows of --counts instead
    ///
    /// None is written if a bound of the command line ended a search.
    #[arg(long, requires = "counts", hide_short_help = true)]
    pub bless: bool,
    /// Keep the run in FILE, and go on with what is kept there
    ///
    /// What is done is written to FILE, and every few seconds how far each search has come to a
    /// file next to it, so that the same command goes on after Ctrl-C, a bound, or a crash, and
    /// prints what it would have printed at once. Bounds of time, memory, states and executions may
    /// be others then, and --jobs too; a bound of time counts from the start of each run. The
    /// strategies dpor, random, pct and naive begin variants that are not done again.
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    pub resume: Option<PathBuf>,
    /// Where traces of unexpected runs go
    #[arg(long, value_name = "DIR", default_value = "target/kvmmu", env = "KVMMU_TRACE_DIR")]
    #[arg(hide_env = true, hide_short_help = true)]
    pub trace_dir: PathBuf,
    /// Explore only part I of N, 1 to N; together the parts explore each variant once
    ///
    /// Which part gets which variant depends on what is selected and on N. With --message-format
    /// json 'kvmmu merge' makes one output of the parts.
    #[arg(long, value_name = "I/N", hide_short_help = true)]
    pub shard: Option<Shard>,
}

/// Options of `merge`.
#[derive(Args, Clone, Debug)]
pub struct MergeArgs {
    /// What each 'kvmmu check --shard I/N --message-format json' printed, in any order
    ///
    /// Of a part 256 MiB are read at most, and 16 MiB of a line.
    #[arg(value_name = "PART")]
    pub parts: Vec<PathBuf>,
    /// Text for people, or one JSON object per line
    #[arg(long, value_name = "human|json", default_value = "human")]
    #[arg(env = "KVMMU_MESSAGE_FORMAT", hide_env = true, hide_possible_values = true)]
    pub message_format: MessageFormat,
}

/// Options of a search.
#[derive(Args, Clone, Debug)]
pub struct SearchArgs {
    /// auto (but for 'locks' the default), dpor, stateful, random, pct or naive
    ///
    /// auto samples first, and then explores everything: of states where one thread is enough that
    /// thread alone (docs/engine.md). stateful visits every state, dpor every order of dependent
    /// steps, naive every execution; random and pct sample.
    #[arg(long, value_name = "STRATEGY", env = "KVMMU_STRATEGY")]
    #[arg(hide_env = true, hide_possible_values = true)]
    pub strategy: Option<Strategy>,
    /// Seed of all random choices
    #[arg(long, value_name = "N", default_value_t = 1, env = "KVMMU_SEED", hide_env = true)]
    pub seed: u64,
    /// Give up a variant after this long: 30s, 5m, 500ms
    #[arg(long, value_name = "T", value_parser = duration, env = "KVMMU_TIME_MAX")]
    #[arg(hide_env = true)]
    pub time_max: Option<Duration>,
    /// Give up a variant when all searches together would take more memory: 800M, 4G
    ///
    /// The default is 80 % of what the machine, the control groups of the process and its limits
    /// (ulimit) leave when it starts.
    #[arg(long, value_name = "SIZE", value_parser = memory::size, env = "KVMMU_MEMORY_MAX")]
    #[arg(hide_env = true)]
    pub memory_max: Option<u64>,
    /// The size at which scenarios are loaded, 1 to 9
    #[arg(long, value_name = "N", default_value_t = 1, env = "KVMMU_SIZE", hide_env = true)]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=9))]
    pub size: u8,
    /// Give up a variant after this many states
    ///
    /// The strategies auto, stateful and naive count states, the others do not. Minimising a
    /// counterexample obeys it with every strategy.
    #[arg(long, value_name = "N", env = "KVMMU_STATES_MAX", hide_env = true)]
    #[arg(hide_short_help = true)]
    pub states_max: Option<u64>,
    /// Give up a variant after this many executions
    ///
    /// Complete ones count. With auto and stateful they are few: an execution that reaches a known
    /// state is not continued.
    #[arg(long, value_name = "N", env = "KVMMU_EXECUTIONS_MAX", hide_env = true)]
    #[arg(hide_short_help = true)]
    pub executions_max: Option<u64>,
    /// Give up a variant when one execution grows longer than this many steps
    #[arg(long, value_name = "N", env = "KVMMU_STEPS_MAX", hide_env = true)]
    #[arg(hide_short_help = true)]
    pub steps_max: Option<u32>,
    /// How many ordered steps the bugs need that PCT looks for: 3, or 2-5 in turn
    ///
    /// Of the strategies auto, whose samples are half PCT, and pct. The default is 3-5. Priorities
    /// change once less in an execution.
    #[arg(long, value_name = "N[-M]", env = "KVMMU_PCT_DEPTH", hide_env = true)]
    #[arg(hide_short_help = true)]
    pub pct_depth: Option<Depths>,
    /// Do not check how locks are used; deadlocks are still found
    ///
    /// Variants that expect a violation of lock-order, lock-cycle and so on are unexpected then.
    #[arg(long, env = "KVMMU_NO_LOCK_CHECKS", hide_env = true, hide_short_help = true)]
    #[arg(value_parser = switch)]
    pub no_lock_checks: bool,
}

impl SearchArgs {
    /// How to search, where exhaustive searches are the default.
    pub fn strategy(&self) -> Strategy {
        self.strategy.unwrap_or(Strategy::Auto)
    }

    /// The search that they name, for so many at the same time.
    pub fn search(&self, jobs: usize) -> Search {
        let (strategy, default) = (self.strategy(), Search::default());
        let executions = match strategy {
            Strategy::Random | Strategy::Pct => 100_000,
            _ => default.executions_max,
        };
        Search {
            strategy,
            seed: self.seed,
            time_max: self.time_max,
            states_max: self.states_max.unwrap_or(default.states_max),
            executions_max: self.executions_max.unwrap_or(executions),
            steps_max: self.steps_max.unwrap_or(default.steps_max),
            memory: memory::bound(self.memory_max, jobs),
            cores: None,
            pct: self.pct_depth.unwrap_or_default(),
        }
    }
}

/// What runs a scenario.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Engine {
    /// The simulated machine
    Sim,
    /// loom: C11 orderings of the core
    Loom,
    /// shuttle: seeded random and PCT
    Shuttle,
}

/// How results are printed.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum MessageFormat {
    /// One line per variant
    Human,
    /// One JSON object per line
    Json,
}

/// Options of `list`.
#[derive(Args, Clone, Debug)]
pub struct ListArgs {
    /// Variants, properties and the kernel reference too
    #[arg(long)]
    pub long: bool,
}

/// Options of `guards`.
#[derive(Args, Clone, Debug)]
pub struct GuardsArgs {
    /// A table of guards and scenarios
    #[arg(long)]
    pub matrix: bool,
}

/// Options of `locks`.
#[derive(Args, Clone, Debug)]
pub struct LocksArgs {
    /// Where orders are looked for: a name, a pattern with * and ?, or a path that ends in .toml
    #[arg(value_name = "NAME|GLOB|FILE.toml")]
    pub select: Vec<String>,
    /// The form: text, rst, json, or dot, a graph of the orders
    #[arg(long, value_name = "text|rst|json|dot", default_value = "text")]
    #[arg(hide_possible_values = true)]
    pub format: LocksFormat,
    /// How to search, and how far (default: random, 2000 executions for each scenario)
    #[command(flatten)]
    pub search: SearchArgs,
    /// How many threads explore at once (default: one per CPU)
    #[arg(long, value_name = "N", env = "KVMMU_JOBS", hide_env = true)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub jobs: Option<u16>,
}

/// The form of the table of locks.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum LocksFormat {
    /// Plain text
    Text,
    /// reStructuredText, for Documentation/
    Rst,
    /// JSON
    Json,
    /// A graph, for Graphviz
    Dot,
}

/// Options of `outcomes`.
#[derive(Args, Clone, Debug)]
pub struct OutcomesArgs {
    /// Scenarios: a name, a pattern with * and ?, or a path that ends in .toml
    #[arg(value_name = "NAME|GLOB|FILE.toml")]
    pub select: Vec<String>,
    /// Remove these guards together; repeat for more sets
    #[arg(long, value_name = "G[,G]", conflicts_with = "compare")]
    pub without: Vec<String>,
    /// The layout of SPTEs, such as stage2 (default: as the file says)
    #[arg(long, value_name = "LAYOUT", value_parser = layout)]
    #[arg(conflicts_with = "compare")]
    pub spte: Option<Format>,
    /// Judge the outcomes in this file; repeat for more files
    ///
    /// A file has one JSON object per line, as docs/outcomes.md says, and 64 MiB at most. It names
    /// scenarios: those of your own must be given as well. Exit 0: all are allowed; 1: some are
    /// not; 3: some are not among those that were found before a bound.
    #[arg(long, value_name = "FILE", conflicts_with = "random")]
    pub compare: Vec<PathBuf>,
    /// Make random workloads of the seed, which other machines can run too, in --emit DIR
    #[arg(long, value_name = "N", requires = "emit", conflicts_with_all = ["select", "without"])]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=999))]
    pub random: Option<u16>,
    /// Where random workloads go
    #[arg(long, value_name = "DIR", requires = "random", hide_short_help = true)]
    pub emit: Option<PathBuf>,
    /// Overwrite random workloads that exist already
    #[arg(long, requires = "emit", hide_short_help = true)]
    pub force: bool,
    /// The form: text, json or markdown, a table
    #[arg(long, value_name = "text|json|markdown", default_value = "text")]
    #[arg(hide_possible_values = true)]
    pub format: OutcomesFormat,
    /// How to search, and how far (default: stateful)
    #[command(flatten)]
    pub search: SearchArgs,
    /// How many threads explore at once (default: one per CPU)
    #[arg(long, value_name = "N", env = "KVMMU_JOBS", hide_env = true)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub jobs: Option<u16>,
}

/// The form of outcomes.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum OutcomesFormat {
    /// One outcome per line
    Text,
    /// One JSON object per line
    Json,
    /// A table for a document
    Markdown,
}

/// Options of `explain`.
#[derive(Args, Clone, Debug)]
pub struct ExplainArgs {
    /// The scenario: a name, or a path that ends in .toml
    pub name: String,
    /// The guards to remove (default: the scenario's first broken variant)
    #[arg(long, value_name = "G[,G]")]
    pub without: Option<String>,
    /// The form of the report
    #[arg(long, value_name = "text|rst|json", default_value = "text")]
    #[arg(hide_possible_values = true)]
    pub format: ReportFormat,
    /// How to search, and how far
    #[command(flatten)]
    pub search: SearchArgs,
    /// Where the trace goes
    #[arg(long, value_name = "DIR", default_value = "target/kvmmu", env = "KVMMU_TRACE_DIR")]
    #[arg(hide_env = true, hide_short_help = true)]
    pub trace_dir: PathBuf,
}

/// The form of a report.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReportFormat {
    /// Plain text, for mail and commit messages
    Text,
    /// reStructuredText, for Documentation/
    Rst,
    /// JSON
    Json,
}

/// Options of `replay`.
#[derive(Args, Clone, Debug)]
pub struct ReplayArgs {
    /// A trace file, or with --schedule the name of a scenario or a .toml file
    ///
    /// A trace may have 256 MiB, and a line of it 16 MiB: of a larger one replay the schedule.
    #[arg(value_name = "FILE|NAME")]
    pub target: String,
    /// The guards that are removed
    #[arg(long, value_name = "G[,G]", requires = "schedule")]
    pub without: Option<String>,
    /// The schedule, such as v1-1a2b3c4d:0*3,1*7,0/2
    #[arg(long, value_name = "S")]
    pub schedule: Option<String>,
    /// The size that the scenario was loaded at
    #[arg(long, value_name = "N", default_value_t = 1, requires = "schedule")]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=9))]
    pub size: u8,
    /// Try a schedule or trace that was made for something else
    #[arg(long)]
    pub force: bool,
    /// Exit 1 if the run violates something
    ///
    /// Without it a run that goes as it was recorded is exit 0, whatever it shows. For git bisect,
    /// to which 0 is good, 125 cannot be tested, and all other codes are bad:
    ///
    ///   git bisect run sh -c 'cargo build --release || exit 125
    ///     target/release/kvmmu replay TRACE --force --exit-code; r=$?
    ///     [ $r -le 1 ] && exit $r; exit 125'
    #[arg(long, verbatim_doc_comment)]
    pub exit_code: bool,
    /// Do not check how locks are used
    #[arg(long, env = "KVMMU_NO_LOCK_CHECKS", hide_env = true)]
    #[arg(value_parser = switch)]
    pub no_lock_checks: bool,
}

/// The names of the subcommands.
pub const COMMANDS: &[&str] = &[
    "check", "merge", "list", "guards", "locks", "explain", "outcomes", "conform", "steps",
    "replay",
];

/// Puts `check` before the first word that is not a subcommand, so that `kvmmu aba-direct` works.
pub fn with_default_command(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let mut at = 1;
    while let Some(argument) = arguments.get(at) {
        let text = argument.to_string_lossy();
        match text.as_ref() {
            "-v" | "--verbose" | "-q" | "--quiet" => at += 1,
            "--color" => at += 2,
            "-h" | "--help" | "-V" | "--version" => return arguments,
            "help" => return helped(arguments, at),
            _ if text.starts_with("--color=") => at += 1,
            _ if COMMANDS.contains(&text.as_ref()) => return arguments,
            _ => break,
        }
    }
    let at = at.min(arguments.len());
    arguments.insert(at, OsString::from("check"));
    arguments
}

/// `kvmmu help` is `kvmmu --help`, and `kvmmu help explain` is `kvmmu explain --help`.
fn helped(mut arguments: Vec<OsString>, at: usize) -> Vec<OsString> {
    arguments.remove(at);
    let named = arguments.get(at).is_some_and(|word| COMMANDS.iter().any(|name| word == name));
    arguments.truncate(at + usize::from(named));
    arguments.push(OsString::from("--help"));
    arguments
}

/// What an environment variable may say for an option that is there or not; nothing is `false`.
fn switch(text: &str) -> Result<bool, String> {
    match text.to_lowercase().as_str() {
        "1" | "true" | "yes" | "on" | "y" | "t" => Ok(true),
        "0" | "false" | "no" | "off" | "n" | "f" | "" => Ok(false),
        _ => Err("neither true, yes, on or 1 nor false, no, off or 0".to_owned()),
    }
}

/// `30s`, `5m`, `500ms`, `2h` or a plain number of seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| "not a time; try 30s, 5m or 500ms".to_owned())?;
    let milliseconds = match unit {
        "ms" => Some(number),
        "" | "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        _ => return Err(format!("'{unit}' is not a unit of time; try ms, s, m or h")),
    };
    milliseconds.map(Duration::from_millis).ok_or_else(|| "too long a time".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        let words = line.split(' ').map(OsString::from).collect();
        Cli::try_parse_from(with_default_command(words))
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn check_is_the_default_command() {
        for line in ["kvmmu", "kvmmu aba-*", "kvmmu --seed 3", "kvmmu -v --color never a b"] {
            assert!(matches!(parse(line).unwrap().command, Command::Check(_)), "{line}");
        }
        assert!(matches!(parse("kvmmu --color never list").unwrap().command, Command::List(_)));
        assert!(matches!(parse("kvmmu -q guards").unwrap().command, Command::Guards(_)));
    }

    #[test]
    fn the_short_help_fits_a_screen_and_names_everything() {
        let help = help();
        assert!(help.lines().count() <= 24, "{} lines", help.lines().count());
        assert!(help.lines().all(|line| line.len() <= 98));
        for word in COMMANDS {
            assert!(help.contains(word), "{word}");
        }
        for name in COMMANDS {
            let mut command = Cli::command();
            let text = command.find_subcommand_mut(name).unwrap().render_help().to_string();
            assert!(text.lines().count() <= 24, "{name} -h has {}", text.lines().count());
        }
    }

    #[test]
    fn times_have_units() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert!(duration("5y").unwrap_err().contains("try ms"));
        assert!(duration("x").is_err() && duration("").is_err());
        assert!(
            duration("99999999999999999999").is_err() && duration("9999999999999999999h").is_err()
        );
    }
}
