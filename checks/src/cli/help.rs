//! What `kvmmu -h` prints.

use crate::cli::exit::Exit;

/// What `-h` prints: examples first, at most 24 lines.
pub fn help() -> String {
    format!("{HELP}\n{}", Exit::help(98))
}

/// The help, but for the exit codes.
const HELP: &str = "\
Explores every interleaving of the KVM MMU's locking protocol, with and without its guards.

Examples:
  kvmmu                            check every built-in scenario and all its variants
  kvmmu check 'aba-*' my-race.toml check scenarios by name, pattern or file
  kvmmu check aba-direct --without fast-fault-cmpxchg
  kvmmu explain aba-indirect       a counterexample as a two-column table
  kvmmu replay target/kvmmu/canary/all-guards/trace.jsonl

Usage: kvmmu [COMMAND] [OPTIONS]
Commands:
  check    [NAME|GLOB|FILE.toml]... explore and compare with what is expected (the default)
  list     the scenarios   guards   the protective steps   merge    PART... of check --shard
  locks    [NAME...]  locks, their orders   conform  TRACE of a real kernel against the model
  explain  NAME  find, minimise and print   replay   FILE, or NAME --schedule S
  outcomes [NAME...]  what may be seen at the end   steps    FILE  a real kernel's stores, judged

Options of check:
  --without G[,G]  --strategy S  --engine E  --seed N  --jobs N  --time-max T  --size N
  --memory-max SIZE  --message-format human|json  --strict  --shard I/N  --resume FILE
Options of all: --color auto|always|never, -v, -q, -h, -V;  'kvmmu check --help' says more";
