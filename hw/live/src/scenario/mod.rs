//! Scenario files on a live KVM: the same race, run very often, and what came out of it.
//!
//! A scenario fits if a user program can bring about each of its operations (see `plan.rs`). Its
//! programs start together, with random delays; the outcomes are counted and written down in the
//! form that `kvmmu outcomes --compare` reads. Nothing is judged here but the two properties that a
//! user can see, migration and swap: their violation would be a lost page.

mod machine;
mod places;
mod plan;

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::num::NonZeroU64;
use std::path::Path;

use kvmmu_model::GuardSet;
use kvmmu_qemu::{Exit, Failure, interrupt};
use kvmmu_scenarios::builtin;
use kvmmu_scenarios::loader;
use kvmmu_scenarios::mmu::format_of;
use kvmmu_scenarios::outcome::{Line, Outcome};
use kvmmu_scenarios::scenario::{Arch, Profile, Scenario};

use crate::cli::{Common, RunArgs};
use crate::counters::Paths;
use crate::kernel::Kernel;
use crate::report::Report;
use machine::Machine;
use plan::Plan;

/// The machine's name in files of outcomes.
const MACHINE: &str = "live";

/// Runs scenarios.
///
/// # Errors
///
/// When one cannot be loaded, or does not fit, or does not end.
pub fn run(args: &RunArgs, common: &Common, report: Report) -> Result<Exit, Failure> {
    report.kernel(&Kernel::running());
    let mut exit = Exit::Nothing;
    for scenario in selected(args)? {
        // Of all those of this machine's own MMU; one that is named is compared as it is.
        if let Some(why) = other_mmu(&scenario).filter(|_| args.all) {
            report.skipped(&scenario.name, &why);
            continue;
        }
        let plan = match Plan::new(&scenario) {
            Ok(plan) => plan,
            Err(why) if args.all => {
                report.skipped(&scenario.name, &why);
                continue;
            }
            Err(why) => {
                let message = format!("{} does not fit a live KVM: {why}", scenario.name);
                let help = "'kvmmu check' explores it; 'kvmmu-live run --all' runs what fits";
                return Err(Failure::new(Exit::Nothing, message, help));
            }
        };
        let exit_of_one = match run_one(&scenario, &plan, args, common, report) {
            // This kernel has no such dirty log.
            Err(failure) if args.all && failure.exit == Exit::Nothing => {
                report.skipped(&scenario.name, &failure.message);
                continue;
            }
            other => other?,
        };
        match exit_of_one {
            Exit::Expected if exit == Exit::Nothing => exit = Exit::Expected,
            Exit::Expected => {}
            other => exit = other,
        }
    }
    Ok(exit)
}

/// Why a scenario is not of the MMU that runs here, in the version that runs here.
fn other_mmu(scenario: &Scenario) -> Option<String> {
    let own = if cfg!(target_arch = "aarch64") { Arch::Arm64 } else { Arch::X86 };
    if scenario.profile.arch() != own {
        return Some("it is of the MMU of another architecture".to_owned());
    }
    let kernel = Kernel::running();
    let version = match scenario.profile {
        Profile::Fixed | Profile::X86V6_1 => return None,
        Profile::Arm64V5_10 => (5, 10),
        Profile::Arm64V6_1 => (6, 1),
        Profile::Arm64V6_12 => (6, 12),
    };
    let (major, minor) = version;
    let other = kernel.numbers() != version;
    other.then(|| format!("it is of Linux {major}.{minor}, and this is {}", kernel.version))
}

/// The scenarios that the command line names.
fn selected(args: &RunArgs) -> Result<Vec<Scenario>, Failure> {
    let help = "see docs/scenario-format.md";
    let load = |name: &str, text: &str| {
        loader::load(name, text, 1).map_err(|error| Failure::usage(error.to_string(), help))
    };
    if args.all {
        return builtin::FILES.iter().map(|(name, text)| load(name, text)).collect();
    }
    let one = |name: &String| {
        if name.ends_with(".toml") {
            return loader::load_path(Path::new(name), 1)
                .map_err(|error| Failure::usage(error.to_string(), help));
        }
        let file = format!("{name}.toml");
        let found = builtin::FILES.iter().find(|(known, _)| *known == file);
        let (name, text) = found.ok_or_else(|| {
            Failure::new(
                Exit::Nothing,
                format!("no scenario is called '{name}'"),
                "'kvmmu list' names them; a path ends in .toml",
            )
        })?;
        load(name, text)
    };
    args.select.iter().map(one).collect()
}

/// Runs one scenario so often.
fn run_one(
    scenario: &Scenario,
    plan: &Plan,
    args: &RunArgs,
    common: &Common,
    report: Report,
) -> Result<Exit, Failure> {
    let mut machine = Machine::new(scenario, plan, args.seed, common.limit.0)?;
    let mut seen: BTreeMap<String, (Outcome, u64)> = BTreeMap::new();
    let mut lost = 0;
    for _ in 0..args.times {
        if interrupt::interrupted() {
            return Err(Failure::interrupted());
        }
        let outcome = machine.once()?;
        lost += u64::from(has_lost(&outcome));
        seen.entry(outcome.to_string()).or_insert((outcome, 0)).1 += 1;
    }
    let paths = machine.finish()?;
    write_outcomes(scenario, &seen, args, report)?;
    let (verdict, exit) =
        if lost == 0 { ("ok", Exit::Expected) } else { ("LOST", Exit::Unexpected) };
    say(&scenario.name, args.times, seen.len(), lost, verdict, &paths, report);
    Ok(exit)
}

/// True if a page is lost for a user who stops the guest and goes on with the copy. Every scenario
/// that harvests in its stop phase copies there, too.
fn has_lost(outcome: &Outcome) -> bool {
    let stopped = outcome.harvests().iter().any(|h| h.to == kvmmu_scenarios::outcome::Asker::Stop);
    stopped && outcome.frames().iter().any(|f| f.copy.is_some_and(|copy| copy != f.content))
}

/// Writes a line for each outcome: to the file that was asked for, and as /init to the console.
fn write_outcomes(
    scenario: &Scenario,
    seen: &BTreeMap<String, (Outcome, u64)>,
    args: &RunArgs,
    report: Report,
) -> Result<(), Failure> {
    let layout = layout(scenario);
    let lines = seen.values().filter_map(|(outcome, count)| {
        let line = Line {
            machine: MACHINE,
            scenario: &scenario.name,
            without: GuardSet::EMPTY,
            spte: layout,
            outcome,
            count: NonZeroU64::new(*count)?,
        };
        Some(line.to_string())
    });
    let lines: Vec<String> = lines.collect();
    if let Some(file) = &args.outcomes {
        let write = || {
            let mut file = OpenOptions::new().create(true).append(true).open(file)?;
            lines.iter().try_for_each(|line| writeln!(file, "{line}"))
        };
        write().map_err(|error: std::io::Error| {
            let message = format!("cannot write {}: {error}", file.display());
            Failure::usage(message, "name another file")
        })?;
    }
    // As /init there is no other way out but the console.
    if args.outcomes.is_none() {
        report.lines(&lines);
    }
    Ok(())
}

/// The layout of this machine's SPTEs, as scenario files name it.
fn layout(scenario: &Scenario) -> Option<&'static str> {
    if scenario.profile.arch() == Arch::Arm64 {
        return Some(format_of(scenario.spte).name);
    }
    if cfg!(target_arch = "aarch64") {
        return Some("stage2");
    }
    match Kernel::running().spte_format().as_str() {
        "npt-v5.10" => Some("npt"),
        "npt-v6.1" => Some("npt-v6.1"),
        // That of the scenario will do: a user sees no SPTEs.
        _ => None,
    }
}

/// The line of a scenario.
fn say(
    name: &str,
    times: u32,
    outcomes: usize,
    lost: u64,
    verdict: &str,
    paths: &Paths,
    report: Report,
) {
    #[derive(serde::Serialize)]
    struct ScenarioLine<'a> {
        name: &'a str,
        times: u32,
        outcomes: usize,
        lost: u64,
        verdict: &'a str,
        paths: &'a Paths,
    }
    let fast = paths.fast.map_or("not counted".to_owned(), |n| n.to_string());
    let human = format!(
        "{name:<34} {verdict:<7} {times} times, {outcomes} outcomes, lost {lost}, \
         fast faults {fast}"
    );
    let line = ScenarioLine { name, times, outcomes, lost, verdict, paths };
    report.say("scenario", &line, &human);
}
