//! The commands.

use std::path::Path;
use std::time::Duration;

use kvmmu_qemu::{Exit, Failure, interrupt};

use crate::cli::{CheckArgs, Cli, Command, Common, SizeArgs, SuiteArgs};
use crate::cluster;
use crate::events::Event;
use crate::guest::{self, DATA, LOW_SIZE, Mode, Stores};
use crate::harvest::Broken;
use crate::job::{self, Job, Outcome, Places};
use crate::kernel::Kernel;
use crate::memory::PAGE;
use crate::report::{self, Report, RunLine};
use crate::trace::{self, Header, Marker, Session, SlotLine};
use crate::vm::{DATA_SLOT, DirtyLog, LOW_SLOT};

/// A negative control is tried so often: a wrong order need not lose a page every time.
const CONTROL_TRIES: u32 = 5;

/// How much more it has to do each time.
const CONTROL_GROWS: u32 = 4;

/// Runs what the command line says.
///
/// # Errors
///
/// What keeps it from a verdict.
pub fn run(cli: &Cli) -> Result<Exit, Failure> {
    interrupt::catch()?;
    let report = Report { format: cli.common.format };
    match &cli.command {
        None => suite(&default_suite(), &cli.common, report),
        Some(Command::Suite(args)) => suite(args, &cli.common, report),
        Some(Command::Check(args)) => {
            report.kernel(&Kernel::running());
            check(args, &cli.common, report).map(|(exit, _)| exit)
        }
        Some(Command::Run(args)) => crate::scenario::run(args, &cli.common, report),
        Some(Command::VmaSize(args)) => crate::vma_size::run(args, report),
        Some(Command::Info) => crate::info::print(report),
    }
}

fn default_suite() -> SuiteArgs {
    use clap::Parser;
    let cli = Cli::parse_from(["kvmmu-live", "suite"]);
    match cli.command {
        Some(Command::Suite(args)) => args,
        _ => unreachable!("the command line above is a suite"),
    }
}

/// Every dirty log, every event, every negative control.
fn suite(args: &SuiteArgs, common: &Common, report: Report) -> Result<Exit, Failure> {
    report.kernel(&Kernel::running());
    let mut exit = Exit::Nothing;
    let mut fast = None;
    for mode in guest::MODES.iter().filter(|mode| args.mode.is_none_or(|only| only == **mode)) {
        for check in suite_of(*mode, args) {
            match self::check(&check, common, report) {
                Ok((one, count)) => {
                    fast = count.map(|n| n + fast.unwrap_or(0)).or(fast);
                    exit = match (exit, one) {
                        (Exit::Nothing, Exit::Expected) => Exit::Expected,
                        (exit, Exit::Expected) => exit,
                        (_, unexpected) => unexpected,
                    };
                }
                Err(failure) if failure.exit == Exit::Nothing => {
                    report.skipped(&name_of(&check), &failure.message);
                }
                Err(failure) => return Err(failure),
            }
        }
    }
    if let Some(note) = note_on(fast) {
        report.say("note", &note, note);
    }
    Ok(exit)
}

/// What must not be read into the result.
fn note_on(fast: Option<u64>) -> Option<&'static str> {
    match fast {
        None => Some(
            "fast page faults could not be counted here: nothing above says that one was taken",
        ),
        Some(0) => Some(
            "no fast page fault was taken: what was checked is the dirty log, not the fast path",
        ),
        Some(_) => None,
    }
}

/// The runs of the suite for guests of one kind.
fn suite_of(mode: Mode, args: &SuiteArgs) -> Vec<CheckArgs> {
    let base = CheckArgs {
        size: args.size.clone(),
        mode,
        log: DirtyLog::Get,
        event: None,
        event_period: crate::cli::Milliseconds(Duration::from_millis(10)),
        broken: None,
        window: 8,
        slide: 8,
        pages: 8192,
        trace: None,
    };
    let log = |log| CheckArgs { log, ..base.clone() };
    let event = |event| CheckArgs { event: Some(event), ..base.clone() };
    let broken = |log, broken| CheckArgs { log, broken: Some(broken), ..base.clone() };
    if args.quick {
        return vec![log(DirtyLog::Get), broken(DirtyLog::Get, Broken::CopyBeforeGet)];
    }
    let mut checks: Vec<_> = DirtyLog::ALL.iter().map(|l| log(*l)).collect();
    checks.extend(Event::ALL.iter().map(|e| event(*e)));
    checks.push(broken(DirtyLog::Get, Broken::CopyBeforeGet));
    checks.push(broken(DirtyLog::Clear, Broken::ClearLate));
    checks.push(broken(DirtyLog::Ring, Broken::ClearLate));
    checks
}

/// One run, and its line; also returns how many fast faults it took, where they can be counted.
fn check(
    args: &CheckArgs,
    common: &Common,
    report: Report,
) -> Result<(Exit, Option<u64>), Failure> {
    let mut job = job_of(args, common)?;
    let tries = if job.broken.is_some() { CONTROL_TRIES } else { 1 };
    let mut attempts = 0;
    let (outcome, verdict, exit) = loop {
        attempts += 1;
        let outcome = match &args.trace {
            Some(file) => traced(&job, file, report)?,
            None => job::run(&job, &Marker::default())?,
        };
        let (verdict, exit) = report::verdict(&job, &outcome);
        if verdict != "MISSED" || attempts == tries {
            break (outcome, verdict, exit);
        }
        // A fast machine is done before a harvest comes in between.
        job.stores.count = job.stores.count.saturating_mul(CONTROL_GROWS);
    };
    report.run(&RunLine {
        name: &name_of(args),
        guest: job.mode.name(),
        paging: Kernel::running().paging(job.mode),
        log: job.log.name(),
        event: job.event.map(Event::name),
        broken: job.broken.map(Broken::name),
        outcome: &outcome,
        verdict,
        attempts,
    });
    Ok((exit, outcome.paths.fast))
}

/// What a run is called.
fn name_of(args: &CheckArgs) -> String {
    let mut name = format!("{} {}", args.mode.name(), args.log.name());
    for more in [args.event.map(Event::name), args.broken.map(Broken::name)].into_iter().flatten() {
        name.push(' ');
        name.push_str(more);
    }
    name
}

/// The job that the arguments describe.
fn job_of(args: &CheckArgs, common: &Common) -> Result<Job, Failure> {
    if let Some(broken) = args.broken.filter(|broken| !broken.applies_to(args.log)) {
        return Err(Failure::usage(
            format!("--broken {} says nothing about --log {}", broken.name(), args.log.name()),
            "copy-before-get goes with --log get, clear-late with the others",
        ));
    }
    if !guest::MODES.contains(&args.mode) {
        return Err(Failure::usage(
            format!("this architecture has no {} guest", args.mode.name()),
            "use --mode paged",
        ));
    }
    if args.window > args.pages {
        return Err(Failure::usage("the window is larger than memory", "lower --window"));
    }
    let SizeArgs { vcpus, stores, period, seed, ref cpus } = args.size;
    Ok(Job {
        mode: args.mode,
        vcpus: vcpus.into(),
        stores: Stores {
            count: stores,
            window: args.window,
            slide: args.slide,
            pages: args.pages,
            seed,
        },
        log: args.log,
        period: period.0,
        event: args.event,
        event_period: args.event_period.0,
        broken: args.broken,
        cpus: chosen_cpus(cpus)?,
        limit: common.limit.0,
    })
}

/// The CPUs for vCPUs; none: all of them.
fn chosen_cpus(text: &str) -> Result<Vec<usize>, Failure> {
    match text {
        "all" => Ok(Vec::new()),
        "auto" => {
            let clusters = cluster::clusters();
            let fastest = clusters.first().filter(|_| clusters.len() > 1);
            Ok(fastest.map(|cluster| cluster.cpus.clone()).unwrap_or_default())
        }
        list => cluster::parse_list(list).ok_or_else(|| {
            Failure::usage(format!("'{list}' is no list of CPUs"), "write it like --cpus 4-7")
        }),
    }
}

/// Runs a job and records what the kernel's MMU did.
fn traced(job: &Job, file: &Path, report: Report) -> Result<Outcome, Failure> {
    let session = Session::start()?;
    let marker = session.marker();
    let (outcome, places) = job::run_at(job, &marker)?;
    drop(marker);
    let recorded = session.finish(&header(job, places), file)?;
    #[derive(serde::Serialize)]
    struct TraceLine<'a> {
        file: &'a Path,
        events: u64,
        lost: u64,
    }
    let trace::Recorded { events, lost } = recorded;
    let human = format!("{}: {events} events, {lost} lost", file.display());
    report.say("trace", &TraceLine { file, events, lost }, &human);
    Ok(outcome)
}

/// The first line of the trace of a job.
fn header(job: &Job, places: Places) -> Header {
    let kernel = Kernel::running();
    let slot = |slot, base: u64, bytes: usize, hva: usize, log| SlotLine {
        slot,
        hva: format!("{hva:#x}"),
        base_gfn: format!("{:#x}", base / PAGE as u64),
        pages: bytes / PAGE,
        log,
    };
    Header {
        version: 1,
        format: kernel.spte_format(),
        mode: trace::Mode {
            npt: kernel.npt.map(u8::from),
            tdp_mmu: kernel.tdp_mmu.map(u8::from),
            paging: kernel.paging(job.mode),
        },
        kernel: kernel.version,
        release: kernel.release,
        arch: if cfg!(target_arch = "aarch64") { "arm64" } else { "x86-64" },
        vcpus: job.vcpus,
        slots: vec![
            slot(LOW_SLOT, guest::BASE, LOW_SIZE, places.low, false),
            slot(DATA_SLOT, DATA, job.stores.pages as usize * PAGE, places.data, true),
        ],
        seed: job.stores.seed,
        clock: "counter",
    }
}
