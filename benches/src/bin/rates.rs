//! Counts, rates and ratios in one run on one core: `cargo run --release -p kvmmu-benches --bin
//! rates`. With the argument `lock-checks` just what these cost, with `first-bug` how soon bugs are
//! found, with `growth` how states grow with threads, up to sizes that take minutes.
//!
//! Absolute times vary from machine to machine and, on a shared one, from minute to minute. Compare
//! the ratios, which are taken one right after the other.

use std::time::{Duration, Instant};

use kvmmu_benches::Unchecked;
use kvmmu_benches::first_bug::{self, First};
use kvmmu_benches::growth::Growth;
use kvmmu_benches::on_stateright;
use kvmmu_benches::peer::{Peer, Rate, Subject, answer, measure};
use kvmmu_model::GuardSet;
use kvmmu_scenarios::{builtin, loader};
use kvmmu_sim::dpor::Dpor;
use kvmmu_sim::mini::{FastFault, LastZero, Simulated};
use kvmmu_sim::outcome::{Outcome, Verdict};
use kvmmu_sim::pct::Pct;
use kvmmu_sim::program::Program;
use kvmmu_sim::race::Race;
use kvmmu_sim::random::Random;
use kvmmu_sim::stateful::Stateful;
use kvmmu_sim::{Auto, Explorer, Goal, Limits};

/// A build of tests, whose figures say nothing: it has to get through.
const TRIED: bool = cfg!(debug_assertions);
/// How long a peer runs on a program that it cannot finish.
const PEER_TIME: Duration = Duration::from_millis(if TRIED { 300 } else { 3000 });
/// How often Stateright searches a program: the fastest counts, as of ours.
const PEER_RUNS: usize = if TRIED { 1 } else { 5 };
/// What loom did where the other tools were timed, executions a second: the worst and the best
/// program.
const LOOM_THEN: (f64, f64) = (7_000.0, 25_000.0);
/// What GenMC 0.11 needed there, in seconds.
const GENMC: [(Subject, f64); 2] =
    [(Subject::FastFault(2, 2), 2.5), (Subject::FastFault(3, 1), 9.5)];
/// Where a scenario is cut off.
const STATES_MAX: u64 = 500_000;
/// The scenarios on which lock checks are measured: with invalidations, with dirty logging, with
/// shadow paging and flushes, and the longest critical sections.
const CHECKED: [&str; 4] =
    ["notifier-retry", "lost-dirty-update", "stale-tlb-write-protect", "aba-indirect"];
/// How often each is run with lock checks and without, in turns, and for how long at least.
const TURNS: usize = if TRIED { 3 } else { 25 };
const TURN: Duration = Duration::from_millis(25);
/// Where an exploration there is cut off: states and executions.
const CHECKED_LIMITS: (u64, u64) = (50_000, 1_000);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if answer(&arguments) {
        return;
    }
    match arguments.as_slice() {
        [] => {}
        [section] if section == "lock-checks" => return lock_checks(),
        [section] if section == "first-bug" => return first_bug(),
        [section] if section == "growth" => {
            return growth(&[&Growth::SMALL[..], &Growth::LARGE].concat());
        }
        _ => {
            eprintln!(
                "rates takes no arguments, or lock-checks, first-bug or growth for one section"
            );
            std::process::exit(2);
        }
    }
    let loom = peers();
    verdicts(loom);
    small_states();
    scenario_states();
    lock_checks();
    first_bug();
    growth(&Growth::SMALL);
}

/// States, and the time of one engine and of two that share the search.
fn growth(sizes: &[Growth]) {
    println!("\nGrowth: all guards, few states, one engine; and two, which share from 250,000 on");
    println!("  {:34} {:>10} {:>11} {:>7} {:>7} {:>5}", "", "states", "transitions", "s", "s", "");
    for size in sizes {
        let (outcome, one) = size.explore(0);
        let (_, two) = size.explore(1);
        let (states, transitions) = (outcome.stats.states, outcome.stats.transitions);
        let ratio = one / two;
        println!("  {size:34} {states:>10} {transitions:>11} {one:>7.2} {two:>7.2} {ratio:>4.2}x");
    }
}

/// Explores a program and takes the time.
fn timed(program: &dyn Program, explorer: &mut dyn Explorer, limits: &Limits) -> (Outcome, f64) {
    let started = Instant::now();
    let outcome = explorer.explore(program, &Goal::ANY, limits, &|_| true);
    (outcome, started.elapsed().as_secs_f64())
}

fn on_sim(subject: Subject, explorer: &mut dyn Explorer) -> (Outcome, f64) {
    let limits = Limits::default();
    match subject {
        Subject::FastFault(vcpus, writes) => {
            timed(&Simulated(FastFault::new(vcpus, writes)), explorer, &limits)
        }
        Subject::LastZero(n) => timed(&Simulated(LastZero(n)), explorer, &limits),
    }
}

/// The fastest of some runs: others may be using the machine.
fn best(subject: Subject, explorer: &mut dyn Explorer) -> (Outcome, f64) {
    let mut best = on_sim(subject, explorer);
    for _ in 0..4 {
        let run = on_sim(subject, explorer);
        if run.1 < best.1 {
            best = run;
        }
    }
    best
}

/// dpor beside loom and shuttle. Returns loom's rate.
fn peers() -> f64 {
    println!(
        "executions, one core      dpor: complete + cut, rate      loom           shuttle DFS"
    );
    let mut loom_rate = f64::NAN;
    for subject in Subject::ALL {
        let loom = measure(Peer::Loom, subject, PEER_TIME);
        let (outcome, seconds) = best(subject, &mut Dpor::default());
        assert_eq!(outcome.verdict, Verdict::Holds);
        let stats = outcome.stats;
        let rate = stats.executions as f64 / seconds;
        let shuttle = measure(Peer::Shuttle, subject, PEER_TIME);
        let beside = |peer: Option<Rate>| match peer {
            None => "cannot run".to_string(),
            Some(peer) => {
                let end = if peer.complete { " (all)" } else { "" };
                let ratio = rate / peer.per_second();
                format!("{:.0}/s{end}, dpor is {ratio:.1}x", peer.per_second())
            }
        };
        println!(
            "{:<18} {:>9} + {:<9} {:.3} s, {:>9.0}/s   {:<28} {}",
            subject.name(),
            stats.executions,
            stats.blocked,
            seconds,
            rate,
            beside(loom),
            beside(shuttle),
        );
        if let (Subject::FastFault(2, 2), Some(loom)) = (subject, loom) {
            loom_rate = loom.per_second();
        }
    }
    loom_rate
}

/// Times to a full verdict, beside a tenth of GenMC's.
fn verdicts(loom: f64) {
    println!();
    println!("full verdict              dpor                  stateful    a tenth of GenMC's");
    for (subject, genmc) in GENMC {
        let (executions, dpor) = best(subject, &mut Dpor::default());
        let (states, stateful) = best(subject, &mut Stateful::default());
        assert_eq!(states.verdict, Verdict::Holds);
        println!(
            "{:<18} {:>9.3} s ({}) {:>9.4} s   {:.2} s there; {:.2}-{:.2} s here by loom",
            subject.name(),
            dpor,
            executions.stats.executions,
            stateful,
            genmc / 10.0,
            genmc / 10.0 * LOOM_THEN.0 / loom,
            genmc / 10.0 * LOOM_THEN.1 / loom,
        );
    }
}

fn print_states(name: &str, outcome: &Outcome, seconds: f64) {
    let stats = outcome.stats;
    let end = match outcome.verdict {
        Verdict::Holds => "all",
        Verdict::Violated(_) => "violated",
        Verdict::Inconclusive(_) => "cut off",
    };
    println!(
        "{name:<38} {:>9} states {:>9} transitions {seconds:>8.3} s  {:>6.2} M states/s  \
         {:>6.2} M transitions/s  {end}",
        stats.states,
        stats.transitions,
        stats.states as f64 / seconds / 1e6,
        stats.transitions as f64 / seconds / 1e6,
    );
}

/// stateful on the small programs, by all states and by those of few threads, beside Stateright.
fn small_states() {
    println!();
    println!("stateful, small programs");
    for subject in Subject::ALL {
        let Subject::FastFault(vcpus, writes) = subject else { continue };
        let runs = || on_stateright::run(FastFault::new(vcpus, writes));
        let peer = (0..PEER_RUNS).map(|_| runs()).min_by(|a, b| a.seconds.total_cmp(&b.seconds));
        let peer = peer.expect("it ran");
        let name = subject.name();
        println!("{name:<38} {:>9} states {:>33.4} s, Stateright", peer.unique, peer.seconds);
        for (reduced, how) in [(false, ""), (true, ", few threads")] {
            let mut explorer = Stateful { reduced, ..Stateful::default() };
            let (outcome, seconds) = best(subject, &mut explorer);
            print_states(&format!("{name}{how}"), &outcome, seconds);
            println!("{:38} {:.2} of Stateright's time", "", seconds / peer.seconds);
        }
    }
}

/// stateful on the built-in scenarios, no guard missing, by all states and by those of few threads.
fn scenario_states() {
    println!();
    println!("stateful, built-in scenarios with every guard");
    let limits = Limits { states_max: STATES_MAX, ..Limits::default() };
    for (file, text) in builtin::FILES {
        match loader::load(file, text, 1) {
            Ok(scenario) => {
                let race = Race::new(scenario, GuardSet::EMPTY);
                for (reduced, how) in [(false, ""), (true, ", few threads")] {
                    let mut explorer = Stateful { reduced, ..Stateful::default() };
                    let (outcome, seconds) = timed(&race, &mut explorer, &limits);
                    let name = format!("{}{how}", file.trim_end_matches(".toml"));
                    print_states(&name, &outcome, seconds);
                }
            }
            Err(error) => println!("{file}: {error}"),
        }
    }
}

/// What lock checks cost: the same exploration with them and without.
fn lock_checks() {
    println!();
    println!("lock checks                          on                off         cost");
    let (states_max, executions_max) = CHECKED_LIMITS;
    let stateful = Limits { states_max, ..Limits::default() };
    let executions = Limits { executions_max, ..Limits::default() };
    let mut costs = Vec::new();
    for name in CHECKED {
        let file = builtin::FILES.iter().find(|(file, _)| file.strip_suffix(".toml") == Some(name));
        let &(file, text) = file.expect("a built-in scenario");
        let on = loader::load(file, text, 1).expect("it is built in");
        let mut off = on.clone();
        off.lock_checks = false;
        let programs = [on, off].map(|scenario| Race::new(scenario, GuardSet::EMPTY));
        let [on, off] = &programs;
        let title = |how| format!("{how} {name}");
        costs.push(print_cost(&title("stateful"), on, off, &mut Stateful::default(), &stateful));
        costs.push(print_cost(&title("random"), on, off, &mut Random, &executions));
    }
    let on = Simulated(FastFault::new(2, 2));
    let (title, off) = ("dpor fast-fault-2x2", Unchecked(on));
    costs.push(print_cost(title, &on, &off, &mut Dpor::default(), &executions));
    let mean = costs.iter().sum::<f64>() / costs.len() as f64;
    println!("on the average {mean:.1} %");
}

/// Explores both programs in turns, prints the best rates, and returns what the first loses of the
/// second's, in percent: the median of the turns, because others may be using the machine.
fn print_cost(
    title: &str,
    on: &dyn Program,
    off: &dyn Program,
    explorer: &mut dyn Explorer,
    limits: &Limits,
) -> f64 {
    let mut best = [0.0_f64; 2];
    let mut costs = Vec::new();
    for _ in 0..TURNS {
        let rates = [on, off].map(|program| rate(program, explorer, limits));
        costs.push((1.0 - rates[0] / rates[1]) * 100.0);
        best = [best[0].max(rates[0]), best[1].max(rates[1])];
    }
    costs.sort_by(f64::total_cmp);
    let cost = costs[TURNS / 2];
    let [on, off] = best.map(|rate| rate / 1e6);
    println!("{title:<34} {on:>5.2} M steps/s  {off:>5.2} M steps/s  {cost:>5.1} %");
    cost
}

/// Explores a program for a turn: steps in a second.
fn rate(program: &dyn Program, explorer: &mut dyn Explorer, limits: &Limits) -> f64 {
    let started = Instant::now();
    let mut steps = 0;
    while started.elapsed() < TURN {
        let outcome = explorer.explore(program, &Goal::ANY, limits, &|_| true);
        assert!(!matches!(outcome.verdict, Verdict::Violated(_)), "{:?}", outcome.verdict);
        steps += outcome.stats.transitions;
    }
    steps as f64 / started.elapsed().as_secs_f64()
}

/// How many executions the samples take to the first bug.
fn first_bug() {
    println!();
    println!(
        "executions to the first bug, all broken variants, median of {} seeds each, at most {}",
        first_bug::SEEDS,
        first_bug::EXECUTIONS_MAX
    );
    let (executions, story_executions) = (u64::MAX, u64::MAX);
    let auto = move || Auto { executions, story_executions, ..Auto::default() };
    for name in ["random", "pct", "auto's samples"] {
        let found = first_bug::of_all(|| match name {
            "random" => Box::new(Random),
            "pct" => Box::new(Pct::default()),
            _ => Box::new(auto()),
        });
        let mut medians: Vec<u64> = found.iter().map(First::median).collect();
        medians.sort_unstable();
        let within = |n: u64| medians.iter().filter(|median| **median <= n).count();
        println!(
            "{name:<16} median {:>4}; of {} within 20: {}, 100: {}, 500: {}, 10000: {}",
            medians[medians.len() / 2],
            medians.len(),
            within(20),
            within(100),
            within(500),
            within(first_bug::EXECUTIONS_MAX),
        );
        for first in found.iter().filter(|first| first.median() > 500) {
            let count = |n: &u64| if *n == u64::MAX { "-".to_string() } else { n.to_string() };
            let executions: Vec<String> = first.executions.iter().map(count).collect();
            println!("    {}: {}", first.name, executions.join(", "));
        }
    }
}
