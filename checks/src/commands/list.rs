//! `kvmmu list`: the scenarios, their variants, properties and kernel reference.

use std::io::Write;

use kvmmu_scenarios::Scenario;
use kvmmu_scenarios::scenario::Expected;

use crate::cli::args::ListArgs;
use crate::cli::exit::{Exit, Failure};
use crate::lab::load;
use crate::lab::variant::join;
use crate::report::begin;
use crate::report::wrap::wrap;

/// Runs the command.
///
/// # Errors
///
/// A built-in file that does not load, and an output that cannot be written.
pub fn run(args: &ListArgs, to: &mut dyn Write) -> Result<Exit, Failure> {
    let scenarios = load::builtin(1)?;
    let width = scenarios.iter().map(|s| s.name.len()).max().unwrap_or(0);
    for (i, scenario) in scenarios.iter().enumerate() {
        if args.long {
            if i > 0 {
                writeln!(to)?;
            }
            long(scenario, to)?;
        } else {
            let (name, variants) = (&scenario.name, scenario.expects.len().max(1));
            writeln!(to, "{name:<width$} {variants:>2} {}", scenario.title)?;
        }
    }
    if !args.long {
        let variants: usize = scenarios.iter().map(|s| s.expects.len().max(1)).sum();
        let count = scenarios.len();
        writeln!(
            to,
            "{count} scenarios, {variants} variants (how many: before each title); --long says more"
        )?;
    }
    Ok(Exit::Expected)
}

/// Everything about one scenario.
fn long(scenario: &Scenario, to: &mut dyn Write) -> Result<(), Failure> {
    writeln!(to, "{}", scenario.name)?;
    field(to, "title", &scenario.title)?;
    let always: Vec<&str> = scenario.always.iter().map(|p| p.name()).collect();
    field(to, "kernel", &scenario.source)?;
    field(to, "about", &scenario.about)?;
    let machine = format!("{}, {}", begin::paging(scenario), begin::format(scenario));
    field(to, "machine", &machine)?;
    for thread in &scenario.threads {
        field(to, "thread", &format!("{}: {}", thread.name, thread.run))?;
    }
    if !scenario.at_stop.is_empty() {
        field(to, "at stop", &format!("user: {}", scenario.at_stop))?;
    }
    field(to, "always", &always.join(", "))?;
    for witness in &scenario.sometimes {
        field(to, "sometimes", &witness.text)?;
    }
    for expect in &scenario.expects {
        let who = match expect.without.is_empty() {
            true => "every guard".to_owned(),
            false => format!("without {}", join(expect.without, " + ")),
        };
        let verdict = match (expect.verdict, expect.property) {
            (Expected::Holds, _) => "holds".to_owned(),
            (Expected::Violated, Some(property)) => format!("violates {}", property.name()),
            (Expected::Violated, None) => "is violated".to_owned(),
        };
        field(to, "expect", &format!("{who}: {verdict}"))?;
        if let Some(story) = &expect.story {
            field(to, "", &format!("story: {}", story.text))?;
        }
        if !expect.because.is_empty() {
            field(to, "", &format!("because: {}", expect.because))?;
        }
    }
    Ok(())
}

/// A name and its text, in two columns.
///
/// # Errors
///
/// Those of the output.
pub fn field(to: &mut dyn Write, name: &str, text: &str) -> Result<(), Failure> {
    let mut name = name;
    for line in wrap(text, 65) {
        writeln!(to, "  {name:<10} {line}")?;
        name = "";
    }
    Ok(())
}
