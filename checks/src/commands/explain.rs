//! `kvmmu explain`: finds a counterexample, minimises it, and prints it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use kvmmu_model::GuardSet;
use kvmmu_scenarios::Property;
use kvmmu_scenarios::scenario::Expected;
use kvmmu_sim::outcome::{Found, Outcome, Reason, Stats, Verdict};

use crate::cli::args::{Common, ExplainArgs, ReportFormat};
use crate::cli::bounds;
use crate::cli::exit::{Exit, Failure};
use crate::cli::interrupt;
use crate::cli::progress::Progress as Bar;
use crate::cli::shown;
use crate::lab::judge::{bound, never_reached, next, unjudged};
use crate::lab::run::{MEMORY_MODEL, Machine, Progress, Simulated};
use crate::lab::search::Search;
use crate::lab::select::{self, Selected};
use crate::lab::variant::{Goal, Variant};
use crate::report::trace;
use crate::report::{self, Facts, Report, twin};

/// How a report is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// How to search, and how far.
    pub search: &'a Search,
    /// The form of the report.
    pub format: ReportFormat,
    /// Show every step.
    pub all: bool,
    /// Where the trace goes.
    pub trace_dir: &'a Path,
    /// No progress and no notes.
    pub quiet: bool,
}

/// Runs the command.
///
/// # Errors
///
/// Bad selections, no counterexample, and an output that cannot be written.
pub fn run(args: &ExplainArgs, common: &Common, to: &mut dyn Write) -> Result<Exit, Failure> {
    let without = args.without.as_deref().map(select::guards).transpose()?;
    let selected = select::scenario(&args.name, args.search.size)?;
    let variant = choose(&selected, without)?.lock_checks_off(args.search.no_lock_checks);
    bounds::note_foreign(&args.search, args.search.strategy(), common.quiet);
    interrupt::catch()?;
    let request = Request {
        search: &args.search.search(1),
        format: args.format,
        all: common.verbose,
        trace_dir: &args.trace_dir,
        quiet: common.quiet,
    };
    explain(&Simulated, &variant, &request, &interrupt::interrupted, to)
}

/// The variant to explain: the one that was asked for, else the scenario's first broken one.
fn choose(selected: &Selected, without: Option<GuardSet>) -> Result<Variant, Failure> {
    let scenario = &selected.scenario;
    let broken = || scenario.expects.iter().find(|e| e.verdict == Expected::Violated);
    let without = match without {
        Some(without) => without,
        None => match broken() {
            Some(expect) => expect.without,
            None => {
                return Err(Failure::usage(
                    format!("{} expects no variant to be violated", scenario.name),
                    "say which guards to take away with --without ('kvmmu guards' lists them); \
                     --without '' explains a violation with every guard",
                ));
            }
        },
    };
    Ok(selected.variant(without))
}

/// Finds, minimises and prints.
///
/// # Errors
///
/// No counterexample, and an output that cannot be written.
pub fn explain(
    machine: &dyn Machine,
    variant: &Variant,
    request: &Request<'_>,
    interrupted: &(dyn Fn() -> bool + Sync),
    to: &mut dyn Write,
) -> Result<Exit, Failure> {
    let Told { report, trace, cut } = tell(machine, variant, request, interrupted)?;
    match request.format {
        ReportFormat::Text => to.write_all(report::text::render(&report).as_bytes())?,
        ReportFormat::Rst => to.write_all(report::rst::render(&report).as_bytes())?,
        ReportFormat::Json => writeln!(to, "{}", shown::json(&report))?,
    }
    to.flush()?;
    if let Some(reason) = cut
        && !request.quiet
    {
        let (bound, next) = (bound(&request.search.minimising(), reason), next(reason));
        say!("note: this counterexample was not minimised to the end ({bound}); {next}");
    }
    trace.map(|_| match cut {
        Some(Reason::Interrupted) => interrupt::exit(),
        _ => Exit::Expected,
    })
}

/// A counterexample that was found and reported.
#[derive(Debug)]
pub struct Told {
    /// The report.
    pub report: Report,
    /// Where its trace is, or why it could not be written.
    pub trace: Result<PathBuf, Failure>,
    /// The bound that kept it from being as short as can be.
    pub cut: Option<Reason>,
}

/// Finds a counterexample, minimises it, writes its trace and builds its report.
///
/// # Errors
///
/// No counterexample.
pub fn tell(
    machine: &dyn Machine,
    variant: &Variant,
    request: &Request<'_>,
    interrupted: &(dyn Fn() -> bool + Sync),
) -> Result<Told, Failure> {
    let (goal, begun) = (variant.goal(), Instant::now());
    let progress = Bar::new(1, request.quiet);
    let name = variant.name();
    let tick = |stats: &Stats| {
        progress.tick(&name, stats);
        !interrupted()
    };
    let outcome = machine.explore(variant, &goal, request.search, &tick)?;
    let Verdict::Violated(found) = &outcome.verdict else {
        progress.finish();
        return Err(none(variant, request.search, &outcome));
    };
    // The bound on time is one for finding and making short.
    let time_max = request.search.time_max.map(|time| time.saturating_sub(begun.elapsed()));
    let search = &Search { time_max, ..request.search.clone() };
    let name = format!("{name}, made shorter");
    let tick = |stats: &Stats| {
        progress.tick(&name, stats);
        !interrupted()
    };
    if found.rule == Property::LockCycle.into() {
        let told = tell_cycle(machine, variant, request, search, &outcome, found, &tick);
        progress.finish();
        return told;
    }
    // A shorter way to something else would be another counterexample than the one that was found.
    let goal = Goal { rule: Some(found.rule), ..goal };
    let minimised = machine.minimise(variant, &goal, found, search, &tick)?;
    progress.finish();
    let replayed = machine.replay(variant, &minimised.found.schedule)?;
    let twin = match variant.without.is_empty() {
        true => None,
        false => {
            let whole = Variant { without: GuardSet::EMPTY, ..variant.clone() };
            Some(twin::follow(machine, &whole, &minimised.found.schedule, &replayed)?)
        }
    };
    let trace = trace::write(request.trace_dir, variant, &minimised.found.schedule, &replayed);
    let path = trace.as_ref().ok().map(|path| path.display().to_string());
    let report = report::build(&Facts {
        variant,
        goal: &goal,
        found: &minimised.found,
        run: &replayed,
        twin: twin.as_ref(),
        how: &how(request.search),
        stats: outcome.stats,
        steps_before: found.schedule.0.len(),
        exact: minimised.exact,
        trace: path.as_deref(),
        all: request.all,
    });
    Ok(Told { report, trace, cut: minimised.cut })
}

/// Tells a cycle of lock orders. It is not minimised as a whole: its nestings may come from
/// different executions, so there is a short run for each.
fn tell_cycle(
    machine: &dyn Machine,
    variant: &Variant,
    request: &Request<'_>,
    search: &Search,
    outcome: &Outcome,
    found: &Found,
    progress: Progress<'_>,
) -> Result<Told, Failure> {
    let cycle = outcome.locks.told(&found.detail).unwrap_or_default();
    let mut chain = Vec::new();
    for nesting in cycle {
        chain.push((nesting, machine.witness(variant, nesting, search, progress)?));
    }
    // The run of the nesting that closed the cycle has the trace.
    let closing = chain.first().and_then(|(_, witness)| witness.as_ref());
    let schedule = closing.map_or(&found.schedule, |witness| &witness.schedule);
    let replayed = machine.replay(variant, schedule)?;
    let trace = trace::write(request.trace_dir, variant, schedule, &replayed);
    let path = trace.as_ref().ok().map(|path| path.display().to_string());
    let facts = Facts {
        variant,
        goal: &variant.goal(),
        found,
        run: &replayed,
        twin: None,
        how: &how(request.search),
        stats: outcome.stats,
        steps_before: found.schedule.0.len(),
        exact: false,
        trace: path.as_deref(),
        all: request.all,
    };
    Ok(Told { report: report::build_cycle(&facts, &chain), trace, cut: None })
}

/// The strategy and the seed.
fn how(search: &Search) -> String {
    format!("{}, seed {}", format!("{:?}", search.strategy).to_lowercase(), search.seed)
}

/// There is no counterexample to print.
fn none(variant: &Variant, search: &Search, outcome: &Outcome) -> Failure {
    let name = variant.name();
    let others: Vec<&str> = outcome.others.iter().map(|o| o.rule.name()).collect();
    let other = match others.is_empty() {
        true => String::new(),
        false => format!(" (other violations were found: {})", others.join(", ")),
    };
    let idle = match never_reached(variant, &outcome.seen) {
        idle if idle.is_empty() => String::new(),
        idle => format!("; never reached: {}", idle.join(", ")),
    };
    let others = "take other guards away with --without; 'kvmmu guards' says which matter to a \
                  scenario";
    let help = match idle.is_empty() {
        true => others.to_owned(),
        false => format!("what this scenario runs does not come to that guard: {others}"),
    };
    match &outcome.verdict {
        Verdict::Inconclusive(Reason::Interrupted) => Failure::new(
            interrupt::exit(),
            format!("{name}: interrupted after {} states{other}", outcome.stats.states),
            "run it again and let it finish",
        ),
        Verdict::Inconclusive(reason) => Failure::new(
            Exit::Inconclusive,
            format!(
                "{name}: no counterexample before a bound was hit ({}){other}",
                bound(search, *reason)
            ),
            next(*reason),
        ),
        _ if let Some(unjudged) = unjudged(variant.without, MEMORY_MODEL) => Failure::new(
            Exit::Inconclusive,
            format!("{name}: there is no counterexample; {unjudged}{other}{idle}"),
            "only a memory model weaker than sequential consistency shows that a fence is missing; \
             'kvmmu guards' says which guards are fences",
        ),
        _ if !variant.lock_checks => Failure::new(
            Exit::Unexpected,
            format!("{name}: there is no counterexample; lock checks are off{other}"),
            "leave --no-lock-checks away",
        ),
        _ => Failure::new(
            Exit::Unexpected,
            format!("{name}: there is no counterexample; all was explored{other}{idle}"),
            help,
        ),
    }
}
