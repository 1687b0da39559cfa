//! `kvmmu locks`: the document's reference table made again from the data of the model, and the
//! orders in which locks are taken: those that the document names, those that it does not, and
//! which of them anything exercises.
//!
//! Guarantee: standard output is a function of the input, the seed and the bounds in steps, states
//! and executions. It does not depend on `--jobs`.

pub mod dot;
pub mod page;
pub mod survey;

use std::io::Write;

use kvmmu_model::GuardSet;
use kvmmu_sim::outcome::{Outcome, Reason, Stats, Verdict};

use crate::cli::args::{Common, LocksArgs, LocksFormat};
use crate::cli::bounds;
use crate::cli::exit::{Exit, Failure};
use crate::cli::interrupt;
use crate::cli::progress::Progress;
use crate::lab::judge::is_canary;
use crate::lab::memory::jobs;
use crate::lab::pool;
use crate::lab::run::{Machine, Simulated};
use crate::lab::search::Search;
use crate::lab::search::Strategy;
use crate::lab::select;
use crate::lab::together::Together;
use crate::lab::variant::Variant;
use survey::{Survey, Violated};

/// How many random executions of each scenario there are, unless the command line says.
pub const EXECUTIONS: u64 = 2_000;

/// How the orders are looked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// How to search, and how far.
    pub search: Search,
    /// On how many threads.
    pub jobs: usize,
    /// The form of the output.
    pub format: LocksFormat,
    /// Everything, even what follows from something else.
    pub all: bool,
    /// No progress and no notes.
    pub quiet: bool,
}

/// Runs the command.
///
/// # Errors
///
/// Bad selections, and an output that cannot be written.
pub fn run(args: &LocksArgs, common: &Common, to: &mut dyn Write) -> Result<Exit, Failure> {
    if args.search.no_lock_checks {
        return Err(Failure::usage(
            "without lock checks no order of locks is seen",
            "leave --no-lock-checks away, and unset KVMMU_NO_LOCK_CHECKS",
        ));
    }
    let selected = select::scenarios(&args.select, args.search.size)?;
    let of = |s: &select::Selected| s.variant(GuardSet::EMPTY);
    let variants: Vec<Variant> = selected.iter().map(of).collect();
    interrupt::catch()?;
    let jobs = jobs(args.jobs, common.quiet);
    let mut search = args.search.search(jobs);
    if args.search.strategy.is_none() {
        search.strategy = Strategy::Random;
    }
    if args.search.executions_max.is_none() && search.samples() {
        search.executions_max = EXECUTIONS;
    }
    bounds::note_foreign(&args.search, search.strategy, common.quiet);
    let (format, all, quiet) = (args.format, common.verbose, common.quiet);
    let request = Request { search, jobs, format, all, quiet };
    look(&Simulated, &variants, &request, &interrupt::interrupted, to)
}

/// Explores `variants` on `machine` and prints locks and orders. Canaries are left out: they are
/// violated on purpose.
///
/// # Errors
///
/// Those of the engine, an output that cannot be written, an interruption.
pub fn look(
    machine: &dyn Machine,
    variants: &[Variant],
    request: &Request,
    interrupted: &(dyn Fn() -> bool + Sync),
    to: &mut dyn Write,
) -> Result<Exit, Failure> {
    let shows = |v: &&Variant| !is_canary(v) && v.scenario.lock_checks;
    let left_out: Vec<String> = variants.iter().filter(|v| !shows(v)).map(Variant::name).collect();
    let variants: Vec<&Variant> = variants.iter().filter(shows).collect();
    if !left_out.is_empty() && !request.quiet {
        let names = left_out.join(", ");
        say!("left out, because violated on purpose or with lock checks off: {names}");
    }
    let progress = Progress::new(variants.len(), request.quiet);
    let mut together = Together::default();
    let (mut violations, mut cut) = (Vec::new(), 0);
    let (mut exit, mut cut_short) = (Exit::Expected, false);
    let work = |job: usize| {
        let name = variants[job].name();
        let tick = |stats: &Stats| {
            progress.tick(&name, stats);
            !interrupted()
        };
        machine.explore(variants[job], &variants[job].goal(), &request.search, &tick)
    };
    pool::run(
        variants.len(),
        request.jobs,
        request.quiet,
        || {},
        work,
        |job, result| {
            let name = &variants[job].scenario.name;
            let Outcome { verdict, locks, stats, .. } = result?;
            progress.done(stats.transitions, || ());
            together.add(name, &locks);
            match verdict {
                Verdict::Violated(found) => {
                    let (scenario, property) = (name.clone(), found.rule.name());
                    violations.push(Violated { scenario, property, detail: found.detail });
                }
                Verdict::Holds | Verdict::Inconclusive(Reason::NotExhaustive) => {}
                Verdict::Inconclusive(Reason::Interrupted) => cut_short = true,
                Verdict::Inconclusive(_) => {
                    cut += 1;
                    exit = exit.worse(Exit::Inconclusive);
                }
            }
            Ok(())
        },
    )?;
    progress.finish();
    if interrupted() || cut_short {
        return Err(Failure::new(
            interrupt::exit(),
            "interrupted before all scenarios were explored",
            "run it again and let it finish, or name fewer scenarios",
        ));
    }
    let survey = Survey::new(&together, violations, &request.search, cut);
    if !survey.cycles.is_empty() || !survey.violations.is_empty() {
        exit = exit.worse(Exit::Unexpected);
    }
    let text = match request.format {
        LocksFormat::Text => page::text(&survey, request.all),
        LocksFormat::Rst => page::rst(&survey, request.all),
        LocksFormat::Dot => dot::graph(&survey, request.all),
        LocksFormat::Json => serde_json::to_string(&survey).map_err(std::io::Error::from)? + "\n",
    };
    to.write_all(text.as_bytes())?;
    to.flush()?;
    Ok(exit)
}
