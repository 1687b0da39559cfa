//! `kvmmu guards`: every protective step, what it prevents, and which scenarios fail without it.

use std::io::Write;
use std::sync::Arc;

use kvmmu_model::{Guard, GuardSet, Release};
use kvmmu_scenarios::Scenario;
use kvmmu_scenarios::scenario::Expected;

use crate::cli::args::GuardsArgs;
use crate::cli::exit::{Exit, Failure};
use crate::commands::list::field;
use crate::lab::load;
use crate::lab::variant::join;

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
    let scenarios = load::builtin(1)?;
    if args.matrix { matrix(&scenarios, to) } else { table(&scenarios, to) }?;
    Ok(Exit::Expected)
}

/// The variants that are expected to fail and lack `guard`, those that lack nothing else first.
pub fn failing(scenarios: &[Arc<Scenario>], guard: Guard) -> Vec<Fails<'_>> {
    let mut found: Vec<Fails<'_>> = Vec::new();
    for scenario in scenarios {
        for expect in &scenario.expects {
            let named = Release::that_lacks(expect.without).is_none();
            if named && expect.verdict == Expected::Violated && expect.without.contains(guard) {
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
    let (mut redundant, mut unjudged) = (0, 0);
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
                format!(
                    "{} ({}), together with {}",
                    fails.scenario,
                    fails.property,
                    join(others, " + ")
                )
            }
        };
        let list: Vec<String> = failing.iter().map(describe).collect();
        let list = list.join("; ");
        match (info.masked, list.is_empty()) {
            (Some(masked), none) => {
                redundant += 1;
                field(to, "redundant", &format!("masked by {}", masked.by))?;
                field(to, "because", masked.because)?;
                let list = if none { "no set of guards that a scenario names" } else { &list };
                field(to, "fails", list)?;
            }
            (None, _) if !guard.is_judged_under_sc() => {
                unjudged += 1;
                let why = "not judged under SC: only a weaker memory model shows it missing";
                field(to, "fails", why)?;
            }
            (None, true) => field(to, "fails", "NOTHING: no scenario notices")?,
            (None, false) => field(to, "fails", &list)?,
        }
        writeln!(to)?;
    }
    for release in Release::ALL {
        writeln!(to, "{}", release.name)?;
        let names: Vec<&str> = release.lacks().iter().map(|guard| guard.info().name).collect();
        field(to, "lacks", &names.join(", "))?;
        writeln!(to)?;
    }
    let count = Guard::ALL.len();
    writeln!(
        to,
        "{count} guards, {redundant} of them redundant, {unjudged} not judged under SC. \
         'kvmmu check' shows"
    )?;
    writeln!(
        to,
        "each 'fails', within its bounds; see one by 'kvmmu explain SCENARIO --without GUARD,...'"
    )?;
    Ok(())
}

/// Rows of guards, columns of scenarios.
fn matrix(scenarios: &[Arc<Scenario>], to: &mut dyn Write) -> Result<(), Failure> {
    for (i, scenario) in scenarios.iter().enumerate() {
        writeln!(to, "{:>2} {}", i + 1, scenario.name)?;
    }
    writeln!(to, "\nX fails without it, p fails without it and others, o holds, . not tried")?;
    writeln!(to, "r redundant: missing alone it is not missed; 'kvmmu guards' says why")?;
    writeln!(to, "w not judged under SC: only a weaker memory model shows it missing\n")?;
    let width = Guard::ALL.iter().map(|g| g.info().name.len()).max().unwrap_or(0);
    // A column for each scenario: its number is written downwards.
    for digit in [|i: usize| i / 10, |i: usize| i % 10] {
        let column = |i: usize| format!(" {}", digit(i));
        let columns: String = (1..=scenarios.len()).map(column).collect();
        writeln!(to, "{:<width$}   {}", "", columns.trim_end())?;
    }
    for guard in Guard::ALL {
        let kind = match guard.info().masked {
            Some(_) => 'r',
            None if !guard.is_judged_under_sc() => 'w',
            None => ' ',
        };
        let mut line = format!("{:<width$} {kind} ", guard.info().name);
        for scenario in scenarios {
            line += &format!(" {}", cell(scenario, *guard));
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
