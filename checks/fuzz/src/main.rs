//! `cargo fuzzer`: hostile inputs for everything that the kvmmu command reads. docs/fuzzing.md.

mod corpus;
mod driver;
mod input;
mod mutate;
mod seal;
mod session;
mod targets;

use std::num::NonZero;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU8, AtomicUsize};
use std::thread::{available_parallelism, scope};

use clap::Parser;

use targets::Target;

/// Feeds changed inputs to what reads them, and keeps those that reach new code.
#[derive(Parser, Debug)]
struct Args {
    /// What reads the inputs; all of them if none is named
    target: Option<Target>,
    /// How many targets are tried at the same time; as many as there are CPUs without
    #[arg(long)]
    jobs: Option<NonZero<usize>>,
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
    let next = AtomicUsize::new(0);
    let worst = AtomicU8::new(0);
    let worker = || {
        while let Some(target) = targets.get(next.fetch_add(1, Relaxed)) {
            let code = session::run(*target, &args).map_or_else(
                |error| {
                    eprintln!("error: {target}: {error}");
                    2
                },
                |clean| u8::from(!clean),
            );
            worst.fetch_max(code, Relaxed);
        }
    };
    let jobs = args.jobs.or_else(|| available_parallelism().ok()).map_or(1, NonZero::get);
    scope(|threads| (0..jobs).for_each(|_| drop(threads.spawn(worker))));
    ExitCode::from(worst.into_inner())
}
