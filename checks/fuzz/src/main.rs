//! `cargo fuzzer`: hostile inputs for everything that the kvmmu command reads. docs/fuzzing.md.

mod corpus;
mod driver;
mod input;
mod mutate;
mod seal;
mod session;
mod targets;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use targets::Target;

/// Feeds changed inputs to what reads them, and keeps those that reach new code.
#[derive(Parser, Debug)]
struct Args {
    /// What reads the inputs; all of them one after the other if none is named
    target: Option<Target>,
    /// How many inputs for each target; without it and without --time a small number of its own
    #[arg(long)]
    runs: Option<u64>,
    /// How many seconds for each target, and what was learnt is kept for the next time
    #[arg(long)]
    time: Option<u64>,
    /// The seed of all choices
    #[arg(long, default_value_t = 1)]
    seed: u32,
    /// Runs this one input, as it was found
    #[arg(long, value_name = "FILE", requires = "target")]
    alone: Option<PathBuf>,
    /// Is the process that is tried: the arguments are libFuzzer's
    #[arg(long, hide = true, num_args = 0.., allow_hyphen_values = true)]
    child: Option<Vec<String>>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let (Some(child), Some(target)) = (&args.child, args.target) {
        targets::choose(target);
        return driver::run(child);
    }
    let targets = args.target.map_or_else(|| Target::ALL.to_vec(), |target| vec![target]);
    let mut faults = false;
    for target in targets {
        faults |= match session::run(target, &args) {
            Ok(clean) => !clean,
            Err(error) => {
                eprintln!("error: {target}: {error}");
                return ExitCode::from(2);
            }
        };
    }
    ExitCode::from(u8::from(faults))
}
