//! `kvmmu check --engine loom|shuttle`: variants, one after the other, on one of these tools.
//!
//! Guarantee: a process runs one tool, and standard output is a function of the input, the seed and
//! `--executions-max`. (`--time-max` and Ctrl-C are the exceptions.)

use std::io::Write;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use kvmmu_engines::{EngineOutcome, LOOM_MODEL, SHUTTLE_MODEL, shuttle};
use kvmmu_scenarios::scenario::{self, Arch, Expect, Expected};

use crate::cli::args::{CheckArgs, Engine};
use crate::cli::exit::{Exit, Failure, guarded};
use crate::cli::interrupt;
use crate::cli::lines::{Counts, ErrorLine, VerdictLine};
use crate::cli::output::Output;
use crate::cli::progress::Progress;
use crate::commands::plan::Plan;
use crate::lab::by_engine::{Judged, Limits, by_loom, by_shuttle};
use crate::lab::search::Strategy;
use crate::lab::variant::Variant;

/// How often progress is shown and Ctrl-C noticed.
const TICK: Duration = Duration::from_millis(100);

/// A tool, and how it is asked.
#[derive(Clone, Copy, Debug)]
struct Run {
    engine: &'static str,
    model: &'static str,
    explore: fn(&Variant, Limits) -> Judged,
    expected: fn(&Expect) -> scenario::Engine,
    limits: Limits,
    /// The variants are those of the command line, not those of the files: none is skipped.
    all: bool,
}

impl Run {
    /// As the command line says it.
    ///
    /// # Errors
    ///
    /// Options that the tool does not have.
    fn of(args: &CheckArgs) -> Result<Run, Failure> {
        let search = &args.search;
        let loom = args.engine == Engine::Loom;
        let engine = if loom { "loom" } else { "shuttle" };
        let strategy = match search.strategy() {
            Strategy::Auto => None,
            Strategy::Random if !loom => Some(shuttle::Strategy::Random),
            Strategy::Pct if !loom => Some(shuttle::Strategy::Pct),
            other => {
                let other = format!("{other:?}").to_lowercase();
                let possible = if loom {
                    "leave --strategy away: loom explores all executions in its own order"
                } else {
                    "shuttle has --strategy random, pct, and auto: pct, then random"
                };
                return Err(Failure::usage(
                    format!("--strategy {other} is not one of the engine {engine}"),
                    format!("{possible}; the engine sim has every strategy"),
                ));
            }
        };
        let foreign = [
            ("--states-max", search.states_max),
            ("--steps-max", search.steps_max.map(u64::from)),
            ("--memory-max", search.memory_max),
        ];
        if search.pct_depth.is_some() {
            return Err(Failure::usage(
                format!("--pct-depth has no effect on the engine {engine}"),
                "leave it away, or unset KVMMU_PCT_DEPTH; the engine sim has it",
            ));
        }
        if let Some((name, _)) = foreign.iter().find(|(_, value)| value.is_some()) {
            return Err(Failure::usage(
                format!("{name} does not bound the engine {engine}"),
                "use --executions-max or --time-max; the engine sim has all bounds",
            ));
        }
        let limits = Limits {
            seed: search.seed,
            strategy,
            executions_max: search.executions_max,
            time_max: search.time_max,
        };
        let all = !args.without.is_empty();
        Ok(match loom {
            true => {
                let expected = |e: &Expect| e.loom;
                Run { engine, model: LOOM_MODEL, explore: by_loom, expected, limits, all }
            }
            false => {
                let expected = |e: &Expect| e.shuttle;
                Run { engine, model: SHUTTLE_MODEL, explore: by_shuttle, expected, limits, all }
            }
        })
    }

    /// True if the tool has not the MMU of the variant, or if the file expects nothing of it here:
    /// whatever a search said would be neither right nor wrong. Of a file of the user's own, which
    /// is mostly silent about tools, correct variants are run all the same. Built-in ones are not:
    /// where they are marked `skip`, loom would search for hours.
    fn skips(&self, variant: &Variant) -> bool {
        is_foreign(variant)
            || !self.all
                && variant.expect.as_ref().is_some_and(|expect| {
                    let broken = expect.verdict == Expected::Violated;
                    (broken || variant.file.is_none())
                        && (self.expected)(expect) == scenario::Engine::Skip
                })
    }
}

/// These tools run the MMU of shadow pages.
fn is_foreign(variant: &Variant) -> bool {
    variant.scenario.profile.arch() != Arch::X86
}

/// Refuses options that the engine does not have.
///
/// # Errors
///
/// Such options.
pub fn refuse_foreign(args: &CheckArgs) -> Result<(), Failure> {
    match args.engine {
        Engine::Sim => Ok(()),
        Engine::Loom | Engine::Shuttle => Run::of(args).map(|_| ()),
    }
}

/// Explores the variants of `plan` as `args` say until all are done or `interrupted` says so.
///
/// # Errors
///
/// Options that the engine does not have, and an output that cannot be written.
pub fn run(
    args: &CheckArgs,
    plan: &Plan<'_>,
    interrupted: &dyn Fn() -> bool,
    to: &mut dyn Write,
) -> Result<Exit, Failure> {
    let run = &Run::of(args)?;
    if let Some(foreign) = plan.variants.iter().find(|v| is_foreign(v) && v.file.is_some()) {
        return Err(Failure::usage(
            format!(
                "{} is of arm64, and the engine {} has the MMU of x86 alone",
                foreign.name(),
                run.engine
            ),
            "leave --engine away: the engine sim has both",
        ));
    }
    let selected = plan.variants.len();
    let variants = plan.variants.iter().enumerate().filter(|(_, v)| !run.skips(v));
    let variants: Vec<(usize, &Variant)> = variants.collect();
    let width = variants.iter().map(|(_, v)| v.name().len()).max().unwrap_or(0).min(60);
    let progress = Progress::new(variants.len(), plan.quiet);
    let mut output = Output::new(to, plan.format, width, plan.start(run.model));
    output.skip(selected - variants.len(), run.engine);
    output.start()?;
    let mut counts = Counts::default();
    // A run of nothing is no success. Of one part of a run it is none of its concern.
    let nothing = variants.is_empty() && plan.part.is_none();
    let mut exit = if nothing { Exit::Nothing } else { Exit::Expected };
    // One at a time, whatever --jobs says: both tools keep the running execution in thread-local
    // state, and both need the panic hook, of which a process has one. What they cost one another
    // would show in --time-max, too.
    for (job, variant) in variants {
        let Some(result) = explore(run, variant, &progress, interrupted) else { break };
        match result {
            Ok(judged) => {
                counts.add(judged.word);
                exit = exit.worse(judged.word.exit());
                let placed = plan.placed(job, judged.word.exit());
                let line = VerdictLine::of_engine(variant, &judged, run.model);
                progress.done(0, || output.verdict(line, placed))?;
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
    }
    progress.finish();
    if interrupted() {
        exit = exit.worse(interrupt::exit());
    }
    output.summary(&counts, interrupted(), exit)?;
    Ok(exit)
}

/// Explores one variant; `None` after Ctrl-C. Neither tool can be asked to stop: the thread that it
/// runs on is then left behind, and ends with the process.
fn explore(
    run: &Run,
    variant: &Variant,
    progress: &Progress,
    interrupted: &dyn Fn() -> bool,
) -> Option<Result<Judged, Failure>> {
    let name = variant.name();
    let (send, receive) = mpsc::channel();
    let (variant, Run { explore, limits, .. }) = (variant.clone(), *run);
    thread::spawn(move || {
        let result = guarded(|| internal(explore(&variant, limits)));
        // Nobody listens after Ctrl-C.
        drop(send.send(result));
    });
    loop {
        if interrupted() {
            return None;
        }
        progress.busy(&name);
        match receive.recv_timeout(TICK) {
            Ok(result) => return Some(result),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Some(Err(Failure::internal("internal error: a search has vanished")));
            }
        }
    }
}

/// An internal error that the outcome reports in place of a verdict.
fn internal(judged: Judged) -> Result<Judged, Failure> {
    match &judged.outcome {
        EngineOutcome::Inconclusive { reason, .. } if reason.starts_with("internal error") => {
            Err(Failure::internal(reason.clone()))
        }
        _ => Ok(judged),
    }
}
