//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::events::Event;
use crate::guest::Mode;
use crate::harvest::Broken;
use crate::vm::DirtyLog;

/// What `-h` prints: examples first.
pub const HELP: &str = "\
Checks the promises of the KVM MMU on a live /dev/kvm: no dirty page is ever lost.

Examples:
  kvmmu-live                                the whole suite, negative controls included
  kvmmu-live check --log chunks --event fork
  kvmmu-live check --broken copy-before-get    must lose pages: exit 0 if it does
  kvmmu-live check --trace run.jsonl        and record what the kernel's MMU did (root, x86)
  kvmmu-live run mark-dirty-order --times 1000 --outcomes seen.jsonl
  kvmmu-live vma-size                       does a fault use the size of a VMA that is gone?
  kvmmu-live info                           what this /dev/kvm offers

Commands:
  suite (the default), check, run NAME|FILE.toml, vma-size, info
  'kvmmu-live check --help' says more
Options of all:
  --format human|json  --limit SECONDS
As /init of a kernel it mounts what it needs, takes its commands from its arguments (commas for
  spaces) or from /jobs, and powers off.
Exit: 0 as expected, 1 a page was lost or reached or a broken order was not caught, 2 bad usage
  or no /dev/kvm, 3 time limit, 4 not offered by this kernel, 5 another KVM interface, 70
  internal, 130 Ctrl-C";

/// The whole command line.
#[derive(Parser, Clone, Debug)]
#[command(name = "kvmmu-live", version, override_help = HELP, disable_help_subcommand = true)]
pub struct Cli {
    /// What all commands share
    #[command(flatten)]
    pub common: Common,
    /// What to do
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Options of every command.
#[derive(Args, Clone, Debug)]
pub struct Common {
    /// For people, or one JSON object a line
    #[arg(long, global = true, default_value = "human", value_name = "human|json")]
    #[arg(env = "KVMMU_FORMAT", hide_env = true, hide_possible_values = true)]
    pub format: Format,
    /// How long one run may take
    #[arg(long, global = true, default_value = "60", value_name = "SECONDS")]
    pub limit: Seconds,
}

/// How results are printed.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// What to do.
#[derive(Subcommand, Clone, Debug)]
pub enum Command {
    /// Every dirty log, every host event, every negative control
    Suite(SuiteArgs),
    /// One run
    #[command(before_help = "Example: kvmmu-live check --log chunks --event fork --vcpus 2")]
    Check(CheckArgs),
    /// Runs a scenario of kvmmu and writes down its outcomes
    Run(RunArgs),
    /// Replaces a VMA of hugetlbfs by small pages while a guest reads it
    VmaSize(VmaSizeArgs),
    /// What this /dev/kvm offers
    Info,
}

/// The size of a run.
#[derive(Args, Clone, Debug)]
pub struct SizeArgs {
    /// vCPUs
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub vcpus: u8,
    /// Stores of each vCPU
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub stores: u32,
    /// Milliseconds between two rounds of the harvester
    #[arg(long, default_value = "2", value_name = "MS")]
    pub period: Milliseconds,
    /// What the order of stores depends on
    #[arg(long, default_value_t = 0x0123_4567)]
    #[arg(env = "KVMMU_SEED", hide_env = true)]
    pub seed: u32,
    /// The CPUs for vCPUs: `auto` (the fastest cluster, where there are several), `all`, or a list
    #[arg(long, default_value = "auto", value_name = "auto|all|LIST")]
    pub cpus: String,
}

/// Options of `suite`.
#[derive(Args, Clone, Debug)]
pub struct SuiteArgs {
    /// The size of each run
    #[command(flatten)]
    pub size: SizeArgs,
    /// Only guests of this kind
    #[arg(long)]
    pub mode: Option<Mode>,
    /// One log, one negative control
    #[arg(long)]
    pub quick: bool,
}

/// Options of `check`.
#[derive(Args, Clone, Debug)]
pub struct CheckArgs {
    /// Its size
    #[command(flatten)]
    pub size: SizeArgs,
    /// The guests' paging
    #[arg(long, default_value = "paged")]
    pub mode: Mode,
    /// How dirty pages are learnt of
    #[arg(long, default_value = "get")]
    pub log: DirtyLog,
    /// What the host does meanwhile
    #[arg(long)]
    pub event: Option<Event>,
    /// Milliseconds between two events
    #[arg(long, default_value = "10", value_name = "MS")]
    pub event_period: Milliseconds,
    /// A wrong order, which must be seen to lose pages
    #[arg(long)]
    pub broken: Option<Broken>,
    /// Pages of the window that is stored to; a power of two
    #[arg(long, default_value_t = 8, value_parser = power_of_two)]
    pub window: u32,
    /// The window moves on by a page every 2^N stores
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u8).range(0..=31))]
    pub slide: u8,
    /// Data pages; a power of two
    #[arg(long, default_value_t = 8192, value_parser = power_of_two)]
    pub pages: u32,
    /// Record the kernel's MMU tracepoints into this file
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
}

/// Options of `run`.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// A built-in scenario, or a path that ends in .toml
    #[arg(value_name = "NAME|FILE.toml", required_unless_present = "all")]
    pub select: Vec<String>,
    /// Every built-in scenario that fits
    #[arg(long, conflicts_with = "select")]
    pub all: bool,
    /// How often
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub times: u32,
    /// What the random delays depend on
    #[arg(long, default_value_t = 1)]
    #[arg(env = "KVMMU_SEED", hide_env = true)]
    pub seed: u64,
    /// Append the outcomes to this file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    pub outcomes: Option<PathBuf>,
}

/// Options of `vma-size`.
#[derive(Args, Clone, Debug)]
pub struct VmaSizeArgs {
    /// How often the VMA is replaced
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
}

/// A time in seconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seconds(pub Duration);

/// A time in milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Milliseconds(pub Duration);

impl std::str::FromStr for Seconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Seconds, String> {
        duration(text, 1.0).map(Seconds)
    }
}

impl std::str::FromStr for Milliseconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Milliseconds, String> {
        duration(text, 1e-3).map(Milliseconds)
    }
}

fn duration(text: &str, unit: f64) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| "a number is wanted".to_owned())?;
    Duration::try_from_secs_f64(number * unit).map_err(|error| error.to_string())
}

fn power_of_two(text: &str) -> Result<u32, String> {
    let number: u32 = text.parse().map_err(|_| "a number is wanted".to_owned())?;
    // 2^18 pages are one GiB: what the paged guest maps.
    if number.is_power_of_two() && number <= 1 << 17 {
        Ok(number)
    } else {
        Err("a power of two up to 131072 is wanted".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
        assert!(HELP.lines().all(|line| line.len() <= 98));
    }

    #[test]
    fn numbers_that_make_no_sense_are_refused() {
        let parse = |args: &[&str]| Cli::try_parse_from([&["kvmmu-live", "check"], args].concat());
        assert!(parse(&["--window", "7"]).is_err());
        assert!(parse(&["--vcpus", "0"]).is_err());
        assert!(parse(&["--period", "-1"]).is_err());
        assert!(parse(&["--period", "0.5", "--limit", "1.5"]).is_ok());
    }
}
