//! `kvmmu check`: explores variants on several threads and compares the verdicts with what is
//! expected.
//!
//! Guarantee: standard output is a function of the input, the seed and the bounds in steps, states
//! and executions. It does not depend on `--jobs`. (`--time-max`, `--memory-max` and Ctrl-C are the
//! exceptions: what ends there ends elsewhere in another run.) With the same exceptions [`merge`]
//! makes of the outputs of all shards what the run without `--shard` prints.
//!
//! [`merge`]: crate::commands::merge

use std::io::Write;

use kvmmu_model::GuardSet;
use kvmmu_scenarios::lockdep::LockOrders;
use kvmmu_sim::Cores;

use crate::cli::args::{CheckArgs, Common, ENVIRONMENT, Engine};
use crate::cli::bounds;
use crate::cli::exit::{Exit, Failure};
use crate::cli::interrupt;
use crate::cli::lines::{Counts, ErrorLine, Placed, VerdictLine};
use crate::cli::output::Output;
use crate::cli::progress::Progress;
use crate::cli::words::words;
use crate::commands::counts::{Pinned, Table, advice};
use crate::commands::engines;
use crate::commands::plan::{Part, Plan};
use crate::lab::judge::{Judged, Word, counted, is_canary, judge};
use crate::lab::kept::Kept;
use crate::lab::known::Known;
use crate::lab::memory::{jobs, size_text};
use crate::lab::orders;
use crate::lab::pool;
use crate::lab::run::{MEMORY_MODEL, Machine, Simulated};
use crate::lab::search::{LARGE, Strategy};
use crate::lab::select;
use crate::lab::together::Together;
use crate::lab::variant::Variant;
use crate::report::trace;

/// A variant that was explored.
struct Explored {
    judged: Judged,
    /// How many transitions were made for it: none if what it shows was known.
    transitions: u64,
    /// The orders in which it takes locks, if it lacks no guard and nothing is wrong.
    locks: Option<LockOrders>,
    trace: Option<Result<String, Failure>>,
}

impl Explored {
    /// How a run of this variant alone ends.
    fn exit(&self, strict: bool) -> Exit {
        let mut exit = self.judged.word.exit();
        if strict && self.judged.vacuous {
            exit = exit.worse(Exit::Unexpected);
        }
        match &self.trace {
            Some(Err(failure)) => exit.worse(failure.exit),
            _ => exit,
        }
    }
}

/// Runs the command.
///
/// # Errors
///
/// Bad selections, and an output that cannot be written.
pub fn run(args: &CheckArgs, common: &Common, to: &mut dyn Write) -> Result<Exit, Failure> {
    if args.resume.is_some() && args.engine != Engine::Sim {
        return Err(Failure::usage(
            "--resume keeps searches of the simulated machine",
            "leave --engine or --resume away",
        ));
    }
    engines::refuse_foreign(args)?;
    bounds::refuse_foreign(&args.search, args.search.strategy())?;
    if args.counts.is_some() && args.engine != Engine::Sim {
        return Err(Failure::usage(
            "--counts is a table of the simulated machine",
            "leave --engine or --counts away",
        ));
    }
    if let (Some(shard), true) = (args.shard, args.bless) {
        return Err(Failure::usage(
            format!("--bless writes the rows of a whole run, and shard {shard} is a part of one"),
            "leave --shard away to write them, or --bless to compare those of the shard",
        ));
    }
    let sets = args.without.iter().map(|text| select::guards(text));
    let sets: Vec<GuardSet> = sets.collect::<Result<_, _>>()?;
    let selected = select::scenarios(&args.select, args.search.size)?;
    let mut variants: Vec<Variant> =
        selected.iter().flat_map(|s| select::variants(s, &sets)).collect();
    if args.search.no_lock_checks {
        variants = variants.into_iter().map(|v| v.lock_checks_off(true)).collect();
    }
    // A run that does not catch the canary cannot be trusted with any other answer: it comes first.
    variants.sort_by_key(|variant| !is_canary(variant));
    if variants.is_empty() {
        return Err(Failure::new(
            Exit::Nothing,
            "no scenario was selected",
            "'kvmmu list' prints the scenarios",
        ));
    }
    let selected = variants.len();
    let part = args.shard.map(|shard| Part::take(shard, &mut variants, args));
    let jobs = jobs(args.jobs, common.quiet);
    let mut search = args.search.search(jobs);
    // Counts are those of one thread for each variant.
    if jobs > 1 && args.counts.is_none() {
        search.cores = Some(Box::leak(Box::new(Cores::new(0, LARGE))));
    }
    let read = |path| Pinned::read(path, args.bless, &search, &args.search);
    let counts = args.counts.as_deref().map(read).transpose()?;
    if !common.quiet {
        for name in ENVIRONMENT {
            if let Some(value) = std::env::var_os(name) {
                say!("note: {name}={} is set", value.to_string_lossy());
            }
        }
        let (version, seed, strategy) =
            (env!("CARGO_PKG_VERSION"), args.search.seed, args.search.strategy());
        let count = match args.shard {
            None => counted(selected as u64, "variant"),
            Some(shard) => {
                let (all, mine) = (counted(selected as u64, "variant"), variants.len());
                let mine = if mine == 0 { "none".to_owned() } else { mine.to_string() };
                format!("shard {shard} with {mine} of {all}")
            }
        };
        let strategy = format!("{strategy:?}").to_lowercase();
        let how = match args.engine {
            Engine::Sim => format!("jobs {jobs}"),
            engine => format!("engine {}, one at a time", format!("{engine:?}").to_lowercase()),
        };
        say!("kvmmu {version}: {count}, strategy {strategy}, seed {seed}, {how}");
        if common.verbose {
            say!("sources {}", env!("KVMMU_SOURCE_HASH"));
            let memory = search.memory.map_or("unknown".to_owned(), |m| size_text(m.max()));
            say!("memory for all searches together: {memory}");
        }
    }
    interrupt::catch()?;
    let kept = match (&args.resume, args.engine) {
        (_, Engine::Loom | Engine::Shuttle) => None,
        (Some(path), Engine::Sim) => Some(Kept::open(path, &variants, &search)?),
        (None, Engine::Sim) => Some(Kept::if_memory_ends(&args.trace_dir, &variants, &search)),
    };
    let plan = Plan {
        variants,
        search,
        size: args.search.size,
        jobs,
        strict: args.strict,
        format: args.message_format,
        counts,
        trace_dir: &args.trace_dir,
        quiet: common.quiet,
        kept,
        part,
    };
    match args.engine {
        Engine::Sim => run_kept(args, &plan, to),
        Engine::Loom | Engine::Shuttle => engines::run(args, &plan, &interrupt::interrupted, to),
    }
}

/// [`run_plan`] on the simulated machine, and says what is kept of the run.
fn run_kept(args: &CheckArgs, plan: &Plan<'_>, to: &mut dyn Write) -> Result<Exit, Failure> {
    let note = |said: Option<String>| {
        if let (Some(said), false) = (said, plan.quiet) {
            say!("note: {said}");
        }
    };
    note(plan.kept.as_ref().and_then(Kept::begun));
    let exit = run_plan(&Simulated, plan, &interrupt::interrupted, to)?;
    note(plan.kept.as_ref().and_then(|kept| kept.ended(&go_on(args))));
    Ok(match plan.kept.as_ref().and_then(Kept::failure) {
        Some(failure) => {
            say!("{failure}");
            exit.worse(failure.exit)
        }
        None => exit,
    })
}

/// The command that goes on with a run: without the bounds that may have ended it.
fn go_on(args: &CheckArgs) -> String {
    let mut args = args.clone();
    let search = &mut args.search;
    (search.time_max, search.memory_max, search.states_max) = (None, None, None);
    if !matches!(search.strategy(), Strategy::Random | Strategy::Pct) {
        search.executions_max = None;
    }
    let shard = args.shard.map(|shard| format!(" --shard {shard}"));
    words(&args) + &shard.unwrap_or_default()
}

/// Explores the variants of `plan` on `machine` until all are done or `interrupted` says so.
///
/// # Errors
///
/// An output that cannot be written.
pub fn run_plan(
    machine: &dyn Machine,
    plan: &Plan<'_>,
    interrupted: &(dyn Fn() -> bool + Sync),
    to: &mut dyn Write,
) -> Result<Exit, Failure> {
    let count = plan.variants.len();
    let width = plan.variants.iter().map(|v| v.name().len()).max().unwrap_or(0).min(60);
    let progress = Progress::new(count, plan.quiet);
    let mut output = Output::new(to, plan.format, width, plan.start(MEMORY_MODEL));
    output.start()?;
    let mut counts = Counts::default();
    let mut table = Table::new(&plan.search, plan.size);
    let mut exit = Exit::Expected;
    let mut together = Together::default();
    let known = Known::new(machine, plan.kept.as_ref());
    let work = |job: usize| match interrupted() {
        true => Ok(None),
        false => {
            let variant = &plan.variants[job];
            explore(machine, &known, plan, variant, &progress, interrupted).map(Some)
        }
    };
    let idle = || plan.search.cores.into_iter().for_each(Cores::give);
    pool::run(count, plan.jobs, plan.quiet, idle, work, |job, result| {
        let variant = &plan.variants[job];
        match result {
            Ok(None) => {}
            Ok(Some(explored)) => {
                if let Some(locks) = &explored.locks {
                    together.add(&variant.scenario.name, locks);
                }
                let judged = &explored.judged;
                counts.add(judged.word);
                table.add(variant, judged);
                let placed = Placed {
                    lumped: judged.stats.lumped,
                    locks: explored.locks.as_ref().map(orders::written),
                    ..plan.placed(job, explored.exit(plan.strict))
                };
                exit = exit.worse(placed.exit);
                let trace = explored.trace.as_ref().and_then(|t| t.as_deref().ok());
                let line = VerdictLine::of(variant, judged, MEMORY_MODEL, trace);
                progress.done(explored.transitions, || output.verdict(line, placed))?;
                if let Some(Err(failure)) = &explored.trace {
                    progress.done(0, || say!("{failure}"));
                }
            }
            Err(failure) => {
                counts.errors += 1;
                exit = exit.worse(failure.exit);
                let placed = plan.placed(job, failure.exit);
                progress.done(0, || {
                    say!("{}: {failure}", variant.name());
                    let line = ErrorLine::of(variant, &failure.message, &failure.help);
                    output.error(line, placed)
                })?;
            }
        }
        Ok(())
    })?;
    progress.finish();
    for cycle in together.cycles() {
        counts.lock_cycles += 1;
        exit = exit.worse(Exit::Unexpected);
        output.lock_cycle(&cycle)?;
    }
    if interrupted() {
        exit = exit.worse(interrupt::exit());
    }
    if let Some(pinned) = &plan.counts {
        let moved = pinned.settle(table, exit)?;
        if !moved.is_empty() {
            exit = exit.worse(Exit::Unexpected);
            output.moved(moved, &advice(&pinned.place(), plan.part.is_some()))?;
        }
    }
    output.summary(&counts, interrupted(), exit)?;
    Ok(exit)
}

/// Explores one variant, judges it, and writes the trace of what was not expected at once.
fn explore(
    machine: &dyn Machine,
    known: &Known<'_>,
    plan: &Plan<'_>,
    variant: &Variant,
    progress: &Progress,
    interrupted: &(dyn Fn() -> bool + Sync),
) -> Result<Explored, Failure> {
    let name = variant.name();
    let tick = |stats: &kvmmu_sim::outcome::Stats| {
        progress.tick(&name, stats);
        !interrupted()
    };
    let (outcome, was_known) = known.explore(variant, &plan.search, &tick)?;
    let judged = judge(variant, &plan.search, &outcome);
    let trace = match &judged.found {
        Some(found) if matches!(judged.word, Word::Unexpected | Word::Breaks) => {
            let replayed = machine.replay(variant, &found.schedule)?;
            let written = trace::write(plan.trace_dir, variant, &found.schedule, &replayed);
            Some(written.map(|path| path.display().to_string()))
        }
        _ => None,
    };
    let right = matches!(judged.word, Word::Holds | Word::Bound) && judged.found.is_none();
    let locks = (right && variant.without.is_empty()).then_some(outcome.locks);
    let transitions = if was_known { 0 } else { outcome.stats.transitions };
    Ok(Explored { judged, transitions, locks, trace })
}
