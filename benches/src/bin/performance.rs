//! What the protocol costs on this machine, as a table and a plot per question: `cargo run
//! --release -p kvmmu-benches --bin performance`.
//!
//! What is compared is measured in turns in this run. Others may be using the machine: a time is
//! what a tenth of the turns stays below, where threads contend of those in which each thread had
//! its CPU; the ratio of the generic core is a median. `cargo bench -p kvmmu-benches` has the same
//! subjects with criterion's statistics.

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path as FilePath, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use kvmmu_benches::perf::bout::{self, Who};
use kvmmu_benches::perf::chain::{self, Chains};
use kvmmu_benches::perf::contention::{Contention, Measured, Pages, Path};
use kvmmu_benches::perf::cpu::Machine;
use kvmmu_benches::perf::flush::Flush;
use kvmmu_benches::perf::harvest::{self, Guests};
use kvmmu_benches::perf::plot::{self, Group, Line, Words};
use kvmmu_benches::perf::stat;
use kvmmu_benches::perf::table::Table;
use kvmmu_benches::perf::track::Aged;
use kvmmu_model::virt::VCPUS;

/// The most that the generic core may cost, beside a hand-written one.
const RATIO_MAX: f64 = 1.10;
/// From this ratio on the fast path pays: below it is noise.
const PAYS: f64 = 1.1;
/// How long a point of the comparison of paths is measured, at most, if there are turns enough:
/// where others use the CPUs, threads that wait for one another take long.
const POINT_TIME: Duration = Duration::from_secs(6);
const TURNS_MIN: usize = 20;
/// The file of the tables.
const TABLE: &str = "table.md";

/// Measures the protocol on real threads, and draws what it finds.
///
/// Examples:
///   performance                              everything, some 20 seconds
///   KVMMU_CLUSTER=little performance         on the little cluster of a board
///   performance --quick --out figures        a short run, into another folder
#[derive(Parser, Debug)]
#[command(verbatim_doc_comment)]
struct Args {
    /// A tenth of the work: to see that it works, not for figures.
    #[arg(long)]
    quick: bool,
    /// Where the table and the plots go.
    #[arg(long, value_name = "DIR", default_value = "target/kvmmu/performance")]
    out: PathBuf,
}

/// How much is measured.
#[derive(Clone, Copy)]
struct Effort {
    /// Turns of each measurement.
    turns: usize,
    /// Faults of each vCPU in a turn.
    faults: u64,
    /// Turns of the short measurements.
    short: usize,
}

/// What was measured with some threads and pages.
struct Point {
    threads: usize,
    pages: Pages,
    harvester: bool,
    /// The fast path, and the locked one.
    fast: Measured,
    locked: Measured,
    /// Others used the CPUs nearly all of the time.
    disturbed: bool,
}

impl Point {
    /// How many times as long the locked path takes.
    fn ratio(&self) -> f64 {
        self.locked.nanoseconds / self.fast.nanoseconds
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let machine = match Machine::detect() {
        Ok(machine) => machine,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    match run(&args, &machine) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}: {error}", args.out.display());
            eprintln!("help: choose a folder that can be written, with --out");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args, machine: &Machine) -> Result<(), Box<dyn Error>> {
    let effort = match args.quick {
        false => Effort { turns: 401, faults: 1_000, short: 1001 },
        true => Effort { turns: 9, faults: 500, short: 51 },
    };
    fs::create_dir_all(&args.out)?;
    let mut text = format!("Machine: {machine}.\n\n");
    show(&mut text, &core(machine, effort));
    let points = faults(machine, effort);
    show(&mut text, &fault_table(&points));
    show(&mut text, &steps(machine, effort));
    show(&mut text, &flushes(machine, effort));
    if args.quick {
        show(&mut text, "A quick run: not for figures.\n");
    }
    draw(&args.out, machine, &points)?;
    fs::write(args.out.join(TABLE), &text)?;
    println!("written: {}", args.out.display());
    Ok(())
}

/// Prints a part and keeps it.
fn show(text: &mut String, part: &str) {
    println!("{part}");
    text.push_str(part);
    text.push('\n');
}

/// The generic core beside a hand-written compare-exchange.
fn core(machine: &Machine, effort: Effort) -> String {
    machine.pin(0);
    let bouts = bout::copies();
    bout::ratio(&bouts, effort.short / 8, Who::Hand);
    let head = ["the generic core beside", "generic ns", "other ns", "ratio", "of copies"];
    let mut table = Table::new(&head);
    let same = bout::ratio(&bouts, effort.short, Who::Hand);
    let narrow = bout::ratio(&bouts, effort.short, Who::OneLayout);
    for (name, ratio) in
        [("the same written by hand", &same), ("and for one layout of SPTEs only", &narrow)]
    {
        let [generic, hand] = ratio.nanoseconds;
        let (low, high) = (ratio.copies.first(), ratio.copies.last());
        table.row([
            name.to_string(),
            format!("{generic:.1}"),
            format!("{hand:.1}"),
            format!("{:.3}", ratio.median()),
            format!("{:.3} to {:.3}", low.unwrap_or(&0.0), high.unwrap_or(&0.0)),
        ]);
    }
    let verdict = if same.median() <= RATIO_MAX { "kept" } else { "NOT kept" };
    format!("{table}\nThe bound of {:.2} beside the first: {verdict}.\n", RATIO_MAX)
}

/// Fast fault against the locked path, as far as there is a CPU for each thread: a kernel does not
/// take the CPU away from who holds a spinlock, and user space cannot say so.
fn faults(machine: &Machine, effort: Effort) -> Vec<Point> {
    let mut points = Vec::new();
    for pages in Pages::ALL {
        for threads in 1..=VCPUS {
            for harvester in [false, true] {
                let subject = Contention { path: Path::Fast, threads, pages, harvester };
                if !machine.is_oversubscribed(subject.busy()) {
                    points.push(point(machine, effort, subject));
                }
            }
        }
    }
    points
}

fn point(machine: &Machine, effort: Effort, subject: Contention) -> Point {
    let on = |path| Contention { path, ..subject }.run(machine, effort.faults);
    let (mut fast, mut locked) = (Vec::new(), Vec::new());
    let started = Instant::now();
    for turn in 0..effort.turns {
        if turn >= TURNS_MIN && started.elapsed() > POINT_TIME {
            break;
        }
        // Each goes first in half of the turns.
        if turn % 2 == 0 {
            fast.push(on(Path::Fast));
            locked.push(on(Path::Locked));
        } else {
            locked.push(on(Path::Locked));
            fast.push(on(Path::Fast));
        }
    }
    let Contention { threads, pages, harvester, .. } = subject;
    let (fast, fast_ok) = undisturbed(fast);
    let (locked, locked_ok) = undisturbed(locked);
    Point { threads, pages, harvester, disturbed: !(fast_ok && locked_ok), fast, locked }
}

/// A turn that took less time than nine tenths of those in which every thread had its CPU. False:
/// there were too few of these, and it is one of all.
fn undisturbed(turns: Vec<Measured>) -> (Measured, bool) {
    let mut kept: Vec<Measured> = turns.iter().filter(|t| t.is_contended()).copied().collect();
    let enough = kept.len() >= TURNS_MIN.min(turns.len());
    if !enough {
        kept = turns;
    }
    kept.sort_by(|a, b| a.nanoseconds.total_cmp(&b.nanoseconds));
    (kept.swap_remove(kept.len() / 10), enough)
}

fn fault_table(points: &[Point]) -> String {
    let mut table = Table::new(&[
        "write-protect, then fault",
        "vCPUs",
        "harvester",
        "fast ns",
        "locked ns",
        "locked/fast",
        "fast M/s",
        "locked M/s",
        "spurious",
    ]);
    for p in points {
        table.row([
            format!("{}{}", p.pages.name(), if p.disturbed { " (disturbed)" } else { "" }),
            p.threads.to_string(),
            if p.harvester { "on" } else { "off" }.to_string(),
            format!("{:.0}", p.fast.nanoseconds),
            format!("{:.0}", p.locked.nanoseconds),
            format!("{:.2}", p.ratio()),
            format!("{:.1}", p.fast.throughput),
            format!("{:.1}", p.locked.throughput),
            format!("{:.0} %", p.fast.spurious * 100.0),
        ]);
    }
    table.to_string()
}

/// What a tenth of so many turns stays below, in nanoseconds.
fn nanoseconds(turns: usize, mut turn: impl FnMut() -> Duration) -> f64 {
    turn();
    let times: Vec<f64> = (0..turns).map(|_| turn().as_secs_f64() * 1e9).collect();
    stat::quantile(&times, 0.1)
}

/// Single steps on one CPU.
fn steps(machine: &Machine, effort: Effort) -> String {
    machine.pin(0);
    let mut table = Table::new(&["step, on one CPU", "ns", "per"]);
    let alone = Contention { path: Path::None, threads: 1, pages: Pages::Spread, harvester: false };
    let rearm: Vec<f64> =
        (0..effort.turns).map(|_| alone.run(machine, effort.faults).nanoseconds).collect();
    let mut row = |what: &str, ns: f64, per: &str| {
        table.row([what.to_string(), format!("{ns:.1}"), per.to_string()]);
    };
    row("the write-protection before each fault, alone", stat::quantile(&rearm, 0.1), "page");
    let aged = Aged::new();
    for path in [Path::Fast, Path::Locked] {
        let ns = nanoseconds(effort.short, || aged.turn(path == Path::Fast));
        let what = format!("access-track restore, {}", path.name());
        row(&what, ns / Aged::faults() as f64, "fault");
    }
    harvests(effort, &mut row);
    let chains: Vec<(f64, f64)> = [1, 2, 4, 8, chain::LENGTH_MAX]
        .into_iter()
        .map(|length| {
            let chains = Chains::new(length);
            let ns = nanoseconds(effort.short, || chains.turn()) / Chains::harvests() as f64;
            row(&format!("rmap write protection, chain of {length}"), ns, "harvest of a page");
            (length as f64, ns)
        })
        .collect();
    let (slope, base) = stat::line(&chains);
    row("  of which each SPTE of the chain", slope, "SPTE");
    row("  of which the harvest itself", base, "harvest");
    table.to_string()
}

/// The harvest of 2^16 pages, and what its parts are.
fn harvests(effort: Effort, row: &mut impl FnMut(&str, f64, &str)) {
    let guests = Guests::new(harvest::PAGES);
    let mut by_dirty = Vec::new();
    for dirty in 1..=harvest::SLOT_PAGES {
        let ns = nanoseconds(effort.turns, || guests.turn(dirty));
        by_dirty.push((dirty as f64, ns / guests.harvests() as f64));
        if dirty == harvest::SLOT_PAGES {
            row("harvest of 65536 dirty pages, 4 at a time", ns / harvest::PAGES as f64, "page");
        }
    }
    let (slope, base) = stat::line(&by_dirty);
    row("  of which each page", slope, "page");
    row("  of which locks, bitmap, request to flush", base, "harvest of a slot");
}

fn flushes(machine: &Machine, effort: Effort) -> String {
    let mut table = Table::new(&["flush of all TLBs", "vCPUs", "in the guest", "ns"]);
    for subject in Flush::all(machine.cpus.len()) {
        let flushes = effort.faults / if subject.in_guest > 0 { 4 } else { 1 };
        let ns = nanoseconds(effort.turns, || subject.run(machine, flushes)) / flushes as f64;
        table.row([
            "request, kick, wait".to_string(),
            subject.vcpus.to_string(),
            subject.in_guest.to_string(),
            format!("{ns:.0}"),
        ]);
    }
    let mut text = table.to_string();
    let most = VCPUS.min(machine.cpus.len().saturating_sub(1));
    if most < VCPUS {
        let cpus = machine.cpus.len();
        let _ = writeln!(text, "\nMore than {most} in the guest: not measured with {cpus} CPUs.");
    }
    text
}

/// One plot for each question.
fn draw(out: &FilePath, machine: &Machine, points: &[Point]) -> Result<(), Box<dyn Error>> {
    let disturbed =
        if points.iter().any(|p| p.disturbed) { "; disturbed by other programs" } else { "" };
    let words = |question: &str, answer: String, y: &str, x: &str| Words {
        question: question.to_string(),
        answer,
        y: y.to_string(),
        x: x.to_string(),
        machine: format!("{}, {}{disturbed}", machine.model, machine.atomics),
    };
    let spread = || points.iter().filter(|p| p.pages == Pages::Spread);
    worth_it(&out.join("worth-it.svg"), spread(), &words)?;
    how_many(&out.join("how-many-threads.svg"), spread(), &words)?;
    hot_page(&out.join("hot-page.svg"), points, &words)
}

type WordsOf<'a> = &'a dyn Fn(&str, String, &str, &str) -> Words;

fn worth_it<'a>(
    file: &FilePath,
    points: impl Iterator<Item = &'a Point>,
    words: WordsOf<'_>,
) -> Result<(), Box<dyn Error>> {
    let own: Vec<&Point> = points.collect();
    let groups: Vec<Group> = own
        .iter()
        .map(|p| Group {
            name: situation(p),
            values: vec![p.fast.nanoseconds, p.locked.nanoseconds],
        })
        .collect();
    let ratios: Vec<String> = own
        .iter()
        .enumerate()
        .map(|(i, p)| {
            let times = if i == 0 { " times as long" } else { "" };
            format!("{:.1}{times} with {}", p.ratio(), situation(p))
        })
        .collect();
    let answer = format!("The locked path takes {}.", ratios.join(", "));
    let words = words("Is the fast path worth it?", answer, "ns per fault (lower is better)", "");
    plot::bars(file, &words, &["fast path", "locked path"], &groups)
}

fn situation(p: &Point) -> String {
    let vcpus = if p.threads == 1 { "1 vCPU".to_string() } else { format!("{} vCPUs", p.threads) };
    if p.harvester { format!("{vcpus} + harvester") } else { vcpus }
}

fn how_many<'a>(
    file: &FilePath,
    points: impl Iterator<Item = &'a Point>,
    words: WordsOf<'_>,
) -> Result<(), Box<dyn Error>> {
    let alone: Vec<&Point> = points.filter(|p| !p.harvester).collect();
    let line = |name: &str, of: fn(&Point) -> f64| Line {
        name: name.to_string(),
        points: alone.iter().map(|p| (p.threads as f64, of(p))).collect(),
    };
    let lines =
        [line("fast path", |p| p.fast.throughput), line("locked path", |p| p.locked.throughput)];
    let ahead = alone.iter().find(|p| p.ratio() > PAYS);
    let answer = match ahead {
        Some(p) if p.threads == 1 => "From the first one.".to_string(),
        Some(p) => format!("From {} on.", p.threads),
        None => "Not with as many as there are CPUs.".to_string(),
    };
    let question = "From how many threads on does the fast path pay?";
    let words = words(question, answer, "million faults a second, all vCPUs", "vCPUs, own pages");
    plot::lines(file, &words, &lines)
}

fn hot_page(file: &FilePath, points: &[Point], words: WordsOf<'_>) -> Result<(), Box<dyn Error>> {
    let alone = || points.iter().filter(|p| !p.harvester);
    let threads = alone().map(|p| p.threads).max().unwrap_or(1);
    let at_most: Vec<&Point> = alone().filter(|p| p.threads == threads).collect();
    let groups: Vec<Group> = at_most
        .iter()
        .map(|p| Group {
            name: p.pages.name().to_string(),
            values: vec![p.fast.nanoseconds, p.locked.nanoseconds],
        })
        .collect();
    let of =
        |pages| at_most.iter().find(|p| p.pages == pages).map_or(f64::NAN, |p| p.fast.nanoseconds);
    let answer = format!(
        "With {threads} vCPUs on one page a fast fault takes {:.1} times as long as with pages of \
         their own.",
        of(Pages::OneHot) / of(Pages::Spread)
    );
    let words = words("What does a hot page cost?", answer, "ns per fault (lower is better)", "");
    plot::bars(file, &words, &["fast path", "locked path"], &groups)
}
