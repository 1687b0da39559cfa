//! `kvmmu outcomes --compare`: checks outcomes that machines saw against the simulator's sets.
//!
//! A machine that sees less than is allowed is right; one that sees more shows a bug of the model
//! or of the kernel. Where a set is not complete, what is not in it is not said to be outside.

use std::collections::BTreeMap;
use std::io::Write;

use kvmmu_model::GuardSet;
use kvmmu_scenarios::mmu::format_of;
use kvmmu_scenarios::outcome::Outcome;
use kvmmu_scenarios::scenario::{Arch, Format, Scenario};
use kvmmu_sim::rule::Rule;

use super::allowed::{self, Allowed, layout_of};
use super::file::{self, Seen};
use super::{Request, page, random, words};
use crate::cli::args::{OutcomesArgs, OutcomesFormat};
use crate::cli::exit::{Exit, Failure};
use crate::cli::interrupt;
use crate::lab::load;
use crate::lab::select::{self, Selected};
use crate::lab::variant::Variant;

/// What one machine saw of one variant, and what it may see.
#[derive(Debug)]
pub struct Group {
    /// The variant on the machine's layout, by index.
    pub set: usize,
    /// The variant on its own layout, by index: tables of all machines show it, too.
    pub own: usize,
    /// Who saw it.
    pub machine: &'static str,
    /// Each outcome and how often it was seen.
    pub seen: BTreeMap<Outcome, u64>,
}

/// What is to be said of a [`Group`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Judged {
    /// Everything that was seen is allowed.
    Inside,
    /// Something that was seen is not.
    Outside,
    /// Something that was seen is not in a set that is not complete.
    Open,
}

/// Outcomes that were seen, by what they are outcomes of.
#[derive(Debug, Default)]
pub struct Comparison {
    /// What has to be collected.
    pub variants: Vec<Variant>,
    /// In order of scenario, guards, machine and layout.
    pub groups: Vec<Group>,
}

impl Group {
    /// How often anything was seen.
    pub fn runs(&self) -> u64 {
        self.seen.values().fold(0, |runs, count| runs.saturating_add(*count))
    }

    /// What was seen and is not in the set.
    pub fn outside<'a>(&'a self, allowed: &'a Allowed) -> impl Iterator<Item = (&'a Outcome, u64)> {
        let outside = self.seen.iter().filter(|(o, _)| !allowed.outcomes.contains_key(*o));
        outside.map(|(outcome, count)| (outcome, *count))
    }

    /// Whether what was seen is in the set.
    pub fn judge(&self, allowed: &Allowed) -> Judged {
        match self.outside(allowed).next() {
            None => Judged::Inside,
            Some(_) if allowed.is_complete() && !is_open(allowed) => Judged::Outside,
            Some(_) => Judged::Open,
        }
    }
}

/// True if executions of the set touch freed memory: they may leave anything.
pub fn is_open(allowed: &Allowed) -> bool {
    allowed.broken.contains(&Rule::USE_AFTER_FREE.name())
}

impl Judged {
    /// The word that reports use.
    pub fn word(self) -> &'static str {
        match self {
            Judged::Inside => "inside",
            Judged::Outside => "OUTSIDE",
            Judged::Open => "open",
        }
    }

    /// The exit code that it calls for.
    pub fn exit(self) -> Exit {
        match self {
            Judged::Inside => Exit::Expected,
            Judged::Outside => Exit::Unexpected,
            Judged::Open => Exit::Inconclusive,
        }
    }
}

/// Runs the command.
///
/// # Errors
///
/// Bad files, bad selections, those of the engine, an output that cannot be written.
pub fn run(
    args: &OutcomesArgs,
    request: &Request,
    interrupted: &(dyn Fn() -> bool + Sync),
    to: &mut dyn Write,
) -> Result<Exit, Failure> {
    let mut seen = Vec::new();
    for path in &args.compare {
        seen.extend(file::read(path)?);
    }
    let selected = match args.select.is_empty() {
        true => None,
        false => Some(select::scenarios(&args.select, args.search.size)?),
    };
    let (comparison, left_out) = group(seen, selected.as_deref(), args.search.size)?;
    if left_out != 0 && !request.quiet {
        say!("left out: {left_out} lines of scenarios that were not named");
    }
    if comparison.groups.is_empty() {
        return Err(Failure::new(
            Exit::Nothing,
            "there is no outcome to compare",
            "did the machine run anything? Name its scenarios, or none for all in the file",
        ));
    }
    judge(&comparison, request, interrupted, to)
}

/// Puts together what belongs together. Also: how many lines are of scenarios that are not in
/// `selected`.
///
/// # Errors
///
/// A line of an unknown scenario, or with an outcome that its scenario cannot have in any version
/// that is here.
pub fn group(
    seen: Vec<Seen>,
    selected: Option<&[Selected]>,
    size: u8,
) -> Result<(Comparison, usize), Failure> {
    let mut left_out = 0;
    type Key = (String, GuardSet, &'static str, &'static str);
    let mut known: BTreeMap<String, Option<Selected>> = BTreeMap::new();
    let mut groups: BTreeMap<Key, (Variant, Format, BTreeMap<Outcome, u64>)> = BTreeMap::new();
    for one in seen {
        if !known.contains_key(&one.scenario) {
            let found = find(&one, selected, size)?;
            known.insert(one.scenario.clone(), found);
        }
        let Some(scenario) = &known[&one.scenario] else {
            left_out += 1;
            continue;
        };
        if !words::fits(&scenario.scenario, &one.outcome) {
            return Err(Failure::new(
                Exit::Diverged,
                format!("{}: '{}' has no such outcome: {}", one.place, one.scenario, one.outcome),
                "its frames or harvests are others: was the file made with another version of \
                 the scenario?",
            ));
        }
        let spte = layout(&scenario.scenario, &one)?;
        let key = (one.scenario, one.without, one.machine, format_of(spte).name);
        let (_, _, outcomes) = groups.entry(key).or_insert_with(|| {
            let file = scenario.file.as_deref();
            let variant = Variant::of(&scenario.scenario, file, one.without);
            (variant, spte, BTreeMap::new())
        });
        let count = outcomes.entry(one.outcome).or_insert(0_u64);
        *count = count.saturating_add(one.count);
    }
    let mut comparison = Comparison::default();
    for ((_, _, machine, _), (variant, spte, seen)) in groups {
        let set = comparison.index(allowed::on(variant.clone(), Some(spte)));
        let own = comparison.index(variant);
        comparison.groups.push(Group { set, own, machine, seen });
    }
    Ok((comparison, left_out))
}

impl Comparison {
    /// The place of a variant among those that have to be collected.
    fn index(&mut self, variant: Variant) -> usize {
        let key = |v: &Variant| (v.name(), layout_of(v));
        let known = self.variants.iter().position(|v| key(v) == key(&variant));
        known.unwrap_or_else(|| {
            self.variants.push(variant);
            self.variants.len() - 1
        })
    }
}

/// The layout of the SPTEs of what a line is about.
///
/// # Errors
///
/// It is of the other MMU.
fn layout(scenario: &Scenario, seen: &Seen) -> Result<Format, Failure> {
    let arch = |spte| if spte == Format::Arm64 { Arch::Arm64 } else { Arch::X86 };
    match seen.spte {
        Some(spte) if arch(spte) != scenario.profile.arch() => Err(Failure::new(
            Exit::Diverged,
            format!(
                "{}: '{}' is of another MMU than the layout '{}'",
                seen.place,
                scenario.name,
                format_of(spte).name
            ),
            "was the file made with another version of the scenario?",
        )),
        Some(spte) => Ok(spte),
        // What runs at EL2 has stage-2 tables, whatever the scenario's own layout.
        None if seen.machine == "el2" && arch(scenario.spte) == Arch::X86 => Ok(Format::Stage2),
        None => Ok(scenario.spte),
    }
}

/// The scenario of a line; `None`: it is not one of those that were selected.
fn find(seen: &Seen, selected: Option<&[Selected]>, size: u8) -> Result<Option<Selected>, Failure> {
    let Some(selected) = selected else {
        if let Some(scenario) = random::named(&seen.scenario)? {
            return Ok(Some(Selected::builtin(scenario)));
        }
        let scenario = load::builtin_named(&seen.scenario, size).map_err(|error| {
            let help = format!(
                "'kvmmu list' prints the scenarios; if it is in a file of its own, name that too: \
                 kvmmu outcomes --compare FILE {}.toml",
                seen.scenario
            );
            Failure { message: format!("{}: {}", seen.place, error.message), help, ..error }
        })?;
        return Ok(Some(Selected::builtin(scenario)));
    };
    let mut matching = selected.iter().filter(|s| s.scenario.name == seen.scenario);
    match (matching.next(), matching.next()) {
        (one, None) => Ok(one.cloned()),
        (_, Some(_)) => Err(Failure::usage(
            format!("{}: several scenarios are called '{}'", seen.place, seen.scenario),
            "name the one that the machine ran",
        )),
    }
}

/// Collects the sets and says of each group whether it is inside.
///
/// # Errors
///
/// Those of the engine, an output that cannot be written, an interruption.
pub fn judge(
    comparison: &Comparison,
    request: &Request,
    interrupted: &(dyn Fn() -> bool + Sync),
    to: &mut dyn Write,
) -> Result<Exit, Failure> {
    let mut sets: Vec<Allowed> = Vec::new();
    // Sets that only tables show are not collected for the other forms.
    let table = request.format == OutcomesFormat::Markdown;
    let needed = |set: usize| table || comparison.groups.iter().any(|g| g.set == set);
    let wanted: Vec<usize> = (0..comparison.variants.len()).filter(|set| needed(*set)).collect();
    let variants: Vec<Variant> = wanted.iter().map(|i| comparison.variants[*i].clone()).collect();
    allowed::collect_all(&variants, request, interrupted, |_, allowed| {
        sets.push(allowed);
        Ok(())
    })?;
    if interrupted() {
        return Err(Failure::new(
            interrupt::exit(),
            "interrupted before all sets were collected",
            "run it again and let it finish, or name fewer scenarios",
        ));
    }
    let sets: BTreeMap<usize, Allowed> = wanted.into_iter().zip(sets).collect();
    let exits = comparison.groups.iter().map(|g| g.judge(&sets[&g.set]).exit());
    let exit = exits.fold(Exit::Expected, Exit::worse);
    page::comparison(comparison, &sets, request, to)?;
    to.flush()?;
    Ok(exit)
}
