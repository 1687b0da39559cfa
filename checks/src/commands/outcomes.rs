//! `kvmmu outcomes`: what the simulated machine allows, and whether what other machines saw is
//! among it.
//!
//! Guarantee: standard output is a function of the input, the seed and the bounds in steps, states
//! and executions. It does not depend on `--jobs`. A set that a bound has cut is printed as such,
//! and nothing is said to be outside of it.

pub mod allowed;
pub mod compare;
pub mod file;
pub mod page;
pub mod random;
pub mod words;

use std::io::Write;

use kvmmu_model::GuardSet;

use crate::cli::args::{Common, OutcomesArgs, OutcomesFormat};
use crate::cli::bounds;
use crate::cli::exit::{Exit, Failure};
use crate::cli::files::Existing;
use crate::cli::interrupt;
use crate::lab::memory::jobs;
use crate::lab::search::Search;
use crate::lab::search::Strategy;
use crate::lab::select;
use crate::lab::variant::Variant;

/// How sets are collected, and how results are printed.
#[derive(Clone, Debug)]
pub struct Request {
    /// How to search, and how far.
    pub search: Search,
    /// On how many threads.
    pub jobs: usize,
    /// The form of the output.
    pub format: OutcomesFormat,
    /// No progress and no notes.
    pub quiet: bool,
}

/// Runs the command.
///
/// # Errors
///
/// Bad selections, bad files of outcomes, and an output that cannot be written.
pub fn run(args: &OutcomesArgs, common: &Common, to: &mut dyn Write) -> Result<Exit, Failure> {
    bounds::refuse_foreign(&args.search, args.search.strategy())?;
    let jobs = jobs(args.jobs, common.quiet);
    let mut search = args.search.search(jobs);
    if search.strategy == Strategy::Auto {
        // What is looked for are sets: the short searches that find violations first have no use.
        search.strategy = Strategy::Stateful;
    }
    let request = Request { search, jobs, format: args.format, quiet: common.quiet };
    interrupt::catch()?;
    if let (Some(count), Some(directory)) = (args.random, &args.emit) {
        let existing = if args.force { Existing::Replace } else { Existing::Keep };
        let plan = random::Plan { count, seed: args.search.seed, directory, existing };
        return random::emit(&plan, &interrupt::interrupted, to);
    }
    if !args.compare.is_empty() {
        return compare::run(args, &request, &interrupt::interrupted, to);
    }
    let sets = args.without.iter().map(|text| select::guards(text));
    let sets: Vec<GuardSet> = sets.collect::<Result<_, _>>()?;
    let sets = if sets.is_empty() { vec![GuardSet::EMPTY] } else { sets };
    let selected = select::scenarios(&args.select, args.search.size)?;
    let variants = selected.iter().flat_map(|s| select::variants(s, &sets));
    let variants: Vec<Variant> = variants.map(|v| allowed::on(v, args.spte)).collect();
    print(&variants, &request, &interrupt::interrupted, to)
}

/// Collects the outcomes of `variants` and prints them.
///
/// # Errors
///
/// Those of the engine, a scenario with too many harvests, an output that cannot be written.
pub fn print(
    variants: &[Variant],
    request: &Request,
    interrupted: &(dyn Fn() -> bool + Sync),
    to: &mut dyn Write,
) -> Result<Exit, Failure> {
    let mut exit = Exit::Expected;
    page::set_head(request.format, to)?;
    allowed::collect_all(variants, request, interrupted, |job, allowed| {
        if !allowed.is_complete() {
            exit = exit.worse(Exit::Inconclusive);
        }
        page::set(&variants[job], &allowed, request, to)
    })?;
    if interrupted() {
        exit = exit.worse(interrupt::exit());
    }
    to.flush()?;
    Ok(exit)
}
