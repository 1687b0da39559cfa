//! `kvmmu guards`: every protective step, what it prevents, and which scenarios fail without it.

use std::io::Write;
use std::sync::Arc;

use kvmmu_model::{Guard, GuardSet};
use kvmmu_scenarios::Scenario;
use kvmmu_scenarios::scenario::Expected;

use crate::args::GuardsArgs;
use crate::exit::{Exit, Failure};
use crate::list::field;
use crate::run;
use crate::variant::join;

/// A scenario that is expected to fail without some guards.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fails<'a> {
    /// The scenario.
    pub scenario: &'a str,
    /// What it lacks.
    pub without: GuardSet,
    /// The property that is violated.
    pub property: &'static str,
}

/// Runs the command.
///
/// # Errors
///
/// A built-in file that does not load, and an output that cannot be written.
pub fn run(args: &GuardsArgs, to: &mut dyn Write) -> Result<Exit, Failure> {
    let scenarios = run::builtin(1)?;
    if args.matrix { matrix(&scenarios, to) } else { table(&scenarios, to) }?;
    Ok(Exit::Expected)
}

/// The variants that are expected to fail and lack `guard`, those that lack nothing else first.
pub fn failing(scenarios: &[Arc<Scenario>], guard: Guard) -> Vec<Fails<'_>> {
    let mut found: Vec<Fails<'_>> = Vec::new();
    for scenario in scenarios {
        for expect in &scenario.expects {
            if expect.verdict == Expected::Violated && expect.without.contains(guard) {
                let property = expect.property.map_or("a violation", |p| p.name());
                let scenario = scenario.name.as_str();
                found.push(Fails { scenario, without: expect.without, property });
            }
        }
    }
    found.sort_by_key(|f| f.without.iter().count());
    found
}

/// One paragraph for each guard.
fn table(scenarios: &[Arc<Scenario>], to: &mut dyn Write) -> Result<(), Failure> {
    let mut redundant = 0;
    for guard in Guard::ALL {
        let info = guard.info();
        writeln!(to, "{}", info.name)?;
        field(to, "function", info.function)?;
        field(to, "since", &format!("{}; {}", info.since, info.source))?;
        field(to, "prevents", info.prevents)?;
        field(to, "without", info.without)?;
        let failing = failing(scenarios, *guard);
        let describe = |fails: &Fails<'_>| match fails.without == GuardSet::EMPTY.with(*guard) {
            true => format!("{} ({})", fails.scenario, fails.property),
            false => {
                let others = fails.without.iter().filter(|g| g != guard).collect();
                format!("{} ({}) with {}", fails.scenario, fails.property, join(others, " + "))
            }
        };
        let list: Vec<String> = failing.iter().map(describe).collect();
        match info.masked {
            Some(masked) => {
                redundant += 1;
                let set = match list.is_empty() {
                    true => "none".to_owned(),
                    false => list.join("; "),
                };
                let text = format!(
                    "masked by {} because {} (failing set: {set})",
                    masked.by, masked.because
                );
                field(to, "redundant:", &text)?;
            }
            None if list.is_empty() => field(to, "fails", "NOTHING: no scenario notices")?,
            None => field(to, "fails", &list.join("; "))?,
        }
        writeln!(to)?;
    }
    let count = Guard::ALL.len();
    writeln!(to, "{count} guards, {redundant} redundant; 'kvmmu check' proves each line within")?;
    writeln!(to, "its bounds. Try one: kvmmu explain NAME --without GUARD")?;
    Ok(())
}

/// Rows of guards, columns of scenarios.
fn matrix(scenarios: &[Arc<Scenario>], to: &mut dyn Write) -> Result<(), Failure> {
    for (i, scenario) in scenarios.iter().enumerate() {
        writeln!(to, "{:>2} {}", i + 1, scenario.name)?;
    }
    writeln!(to, "\nX fails without it, p fails without it and others, o holds without it")?;
    writeln!(to, "r redundant: fails in no scenario alone; the argument is in 'kvmmu guards'\n")?;
    let width = Guard::ALL.iter().map(|g| g.info().name.len()).max().unwrap_or(0);
    write!(to, "{:<width$}  ", "")?;
    for i in 1..=scenarios.len() {
        write!(to, " {i:>2}")?;
    }
    writeln!(to)?;
    for guard in Guard::ALL {
        let redundant = if guard.info().masked.is_some() { 'r' } else { ' ' };
        let mut line = format!("{:<width$} {redundant}", guard.info().name);
        for scenario in scenarios {
            line += &format!("  {}", cell(scenario, *guard));
        }
        writeln!(to, "{}", line.trim_end())?;
    }
    Ok(())
}

/// What a scenario expects of a guard.
fn cell(scenario: &Scenario, guard: Guard) -> char {
    let alone = GuardSet::EMPTY.with(guard);
    let has = |verdict, wanted: fn(GuardSet, GuardSet) -> bool| {
        scenario
            .expects
            .iter()
            .any(|e| e.without.contains(guard) && e.verdict == verdict && wanted(e.without, alone))
    };
    if has(Expected::Violated, |set, alone| set == alone) {
        'X'
    } else if has(Expected::Violated, |_, _| true) {
        'p'
    } else if has(Expected::Holds, |_, _| true) {
        'o'
    } else {
        '.'
    }
}
