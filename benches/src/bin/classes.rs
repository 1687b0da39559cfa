//! How far the keys of states are from the best ones, scenario by scenario: `cargo run --release -p
//! kvmmu-benches --bin classes`. Counts, the same on every machine.

use std::process::ExitCode;

use clap::Parser;
use kvmmu_model::GuardSet;
use kvmmu_scenarios::{builtin, loader};
use kvmmu_sim::Limits;
use kvmmu_sim::classes::{Attribution, Classes};
use kvmmu_sim::outcome::Reason;
use kvmmu_sim::race::Race;

/// Scenarios with more states are left out if all are asked for by no name.
const STATES_MAX: u64 = 1_000_000;

/// Counts the states of built-in scenarios, with every guard, and the classes of states that no
/// future tells apart. For scenarios that are named: which parts of the state differ for nothing.
///
/// Each part is left out of the key after those above it, first the one that merges most states.
/// Two in a line merge little one by one. Figures: states left, how many times fewer than before,
/// and than with all parts; the bits of a word that differ. Below a part: where a thread stands in
/// most of the states that it merges, the thread that has the part or any.
///
/// Examples:
///   classes                       every scenario of up to a million states
///   classes --all                 every scenario, some minutes and some GiB
///   classes lost-dirty-update     one, and what its keys could do without
#[derive(Parser, Debug)]
#[command(verbatim_doc_comment)]
struct Args {
    /// Large scenarios, too
    #[arg(long)]
    all: bool,
    /// Names of built-in scenarios
    #[arg(value_name = "SCENARIO")]
    scenarios: Vec<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let name = |file: &'static str| file.trim_end_matches(".toml");
    let known = |wanted: &&String| builtin::FILES.iter().any(|(file, _)| name(file) == *wanted);
    if let Some(unknown) = args.scenarios.iter().find(|wanted| !known(wanted)) {
        eprintln!("error: no built-in scenario '{unknown}'");
        eprintln!("help: `kvmmu list` has their names");
        return ExitCode::from(2);
    }
    let named = !args.scenarios.is_empty();
    let states_max = if named || args.all { Limits::default().states_max } else { STATES_MAX };
    let limits = Limits { states_max, ..Limits::default() };
    println!("{:<26} {:>9} {:>11} {:>9} {:>7}", "", "states", "transitions", "classes", "factor");
    for (file, text) in builtin::FILES {
        let name = name(file);
        if named && !args.scenarios.iter().any(|wanted| wanted == name) {
            continue;
        }
        let scenario = match loader::load(file, text, 1) {
            Ok(scenario) => scenario,
            Err(error) => {
                eprintln!("error: {file}: {error}");
                return ExitCode::from(2);
            }
        };
        let race = Race::new(scenario, GuardSet::EMPTY);
        match Classes::of(&race, &race.goal(), &limits, named) {
            Ok(found) => print(name, &found),
            Err(Reason::States) => println!("{name:<26} more than {states_max} states"),
            Err(_) => println!("{name:<26} needs more memory than there is"),
        }
    }
    ExitCode::SUCCESS
}

fn print(name: &str, found: &Classes) {
    let Classes { states, transitions, classes, attribution } = found;
    let factor = *states as f64 / *classes as f64;
    println!("{name:<26} {states:>9} {transitions:>11} {classes:>9} {factor:>6.2}x");
    if let Some(attribution) = attribution {
        print_parts(*states, attribution);
    }
}

/// What the keys could do without.
fn print_parts(all: u64, Attribution { states, classes, keys, parts }: &Attribution) {
    if (*states as u64) < all {
        println!("  of which {states:>9} {:>11} {classes:>9}", "");
    }
    if keys < states {
        println!("  {keys} differ in the parts below; the others do in something else");
    }
    let mut before = *keys;
    for part in parts {
        let (step, sum) = (before as f64 / part.keys as f64, *keys as f64 / part.keys as f64);
        let bits = part.bits.map_or_else(String::new, |bits| format!(", bits {bits:#x}"));
        let names = part.names.join(" + ");
        println!("  {:>9} {step:>5.2}x {sum:>5.2}x  {names}{bits}", part.keys);
        for place in &part.places {
            println!("  {:>9} {:14}{}", place.merged, "", place.name);
        }
        before = part.keys;
    }
}
