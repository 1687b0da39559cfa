//! The scenarios that fit: each forced into its stories, and stressed.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::num::NonZeroU64;

use kvmmu_model::{Guard, GuardSet, Mark};
use kvmmu_scenarios::Property;
use kvmmu_scenarios::mmu::format_of;
use kvmmu_scenarios::ops::{HostOp, Op, VcpuOp};
use kvmmu_scenarios::outcome::{Line, Outcome};
use kvmmu_scenarios::scenario::{Expect, Expected, Format, Scenario, Witness};

use super::catalogue;
use super::once::{self, Ran};
use super::report::Report;
use crate::args::Args;
use crate::el2::cpu::console::say;
use crate::el2::cpu::smp;
use crate::el2::machine::platform;
use crate::el2::record::random::Random;
use crate::el2::record::story::{Force, Moment};

/// How many more runs look for a violation that is expected and was not seen.
const SEARCH_RUNS: u32 = 60;

/// What the runs of a scenario gave.
#[derive(Default)]
struct Tally {
    outcomes: BTreeMap<Outcome, u64>,
    /// Violations, by what was said, and how often.
    violations: BTreeMap<String, u64>,
    /// The properties that were violated.
    properties: Vec<Property>,
    /// How often each witness of the scenario was seen.
    seen: Vec<u64>,
    runs: u64,
}

impl Tally {
    fn add(&mut self, scenario: &Scenario, ran: Ran) {
        self.runs += 1;
        *self.outcomes.entry(ran.outcome).or_default() += 1;
        self.seen.resize(scenario.sometimes.len(), 0);
        for (seen, witness) in self.seen.iter_mut().zip(&scenario.sometimes) {
            *seen += u64::from(once::was_seen(witness, &ran.marks));
        }
        if let Some(violation) = ran.violation {
            let said = format!("{}: {}", violation.property.name(), violation.detail);
            *self.violations.entry(said).or_default() += 1;
            if !self.properties.contains(&violation.property) {
                self.properties.push(violation.property);
            }
        }
    }
}

/// True if a run of this may move a live mapping to another page without taking it away first,
/// which the architecture forbids (break-before-make): only QEMU takes it.
fn breaks_bbm(scenario: &Scenario) -> bool {
    let programs = scenario.threads.iter().flat_map(|thread| thread.run.ops());
    let mut ops = programs.chain(scenario.at_stop.ops());
    ops.any(|(_, op)| matches!(op, Op::Host(HostOp::ChangePte(..))))
}

/// True if runs of a variant are expected to go on for ever: nobody ends them here. Whether a CPU
/// keeps what denies an access, it decides, and is asked.
fn hangs(expect: &Expect) -> bool {
    matches!(expect.property, Some(Property::Livelock | Property::Deadlock))
        && !expect.without.contains(Guard::RelaxPermsLocalFlush)
}

/// Runs one scenario or all; `without` was set before.
pub(crate) fn run(args: &Args<'_>, without: GuardSet, report: &mut Report) {
    let all = catalogue::builtin();
    let mut selected = 0;
    for scenario in all.iter().filter(|s| args.scenario.is_none_or(|name| s.name == name)) {
        selected += 1;
        if scenario.spte == Format::Stage2Hd && !smp::has_hardware_ad() {
            say!("{}: skipped: this core has no hardware dirty state", scenario.name);
            continue;
        }
        if breaks_bbm(scenario) && !report.is_qemu() {
            say!("{}: skipped: it breaks break-before-make", scenario.name);
            continue;
        }
        if scenario.threads.len() > smp::workers() {
            say!("{}: skipped: it has {} threads", scenario.name, scenario.threads.len());
            continue;
        }
        // Without guards of the user's own choice: each variant that the file speaks of.
        let alone = [without];
        let (hang, end): (Vec<&Expect>, Vec<&Expect>) =
            scenario.expects.iter().partition(|expect| hangs(expect));
        if without.is_empty() && !hang.is_empty() {
            say!("{}: skipped: {} that would hang", scenario.name, hang.len());
        }
        let variants: Vec<GuardSet> = end.iter().map(|e| e.without).collect();
        for without in if without.is_empty() { &variants[..] } else { &alone } {
            let before = platform::set_without(*without);
            one(args, scenario, *without, report);
            platform::set_without(before);
        }
    }
    if selected == 0 {
        let names: Vec<&str> = all.iter().map(|s| s.name.as_str()).collect();
        report.select_nothing(format!(
            "there is no scenario '{}'; there are {}",
            args.scenario.unwrap_or_default(),
            names.join(", ")
        ));
    }
}

/// The names of what there is.
pub(crate) fn list() {
    for scenario in catalogue::builtin() {
        say!("{:24} {}", scenario.name, scenario.title);
    }
}

fn one(args: &Args<'_>, scenario: &Scenario, without: GuardSet, report: &mut Report) {
    let mut random = Random::new(args.seed);
    let mut tally = Tally::default();
    for i in 0..args.runs {
        let force = if i % 2 == 0 { Force::Nothing } else { Force::Delays };
        tally.add(scenario, once::run_once(scenario, &[], force, &mut random));
    }
    let expect = scenario.expects.iter().find(|e| e.without == without);
    let mut told = 0;
    let mut not_told = Vec::new();
    // What must be seen at least once is what must be seen with every guard.
    let sometimes = if without.is_empty() { &scenario.sometimes[..] } else { &[] };
    let witnesses = sometimes.iter().map(|witness| (witness, None));
    let violation = expect.and_then(|e| Some((e.story.as_ref()?, e.property)));
    for (witness, wanted) in witnesses.chain(violation) {
        if tell(scenario, witness, wanted, &mut random, &mut tally) {
            told += 1;
        } else {
            not_told.push(format!("'{}'", witness.text));
        }
    }
    let is_missing = |tally: &Tally| {
        violation.and_then(|(_, property)| property).is_some_and(|p| !tally.properties.contains(&p))
    };
    for _ in 0..SEARCH_RUNS {
        if is_missing(&tally) {
            tally.add(scenario, once::run_once(scenario, &[], Force::Delays, &mut random));
        }
    }
    say!(
        "scenario {}, {}: {} runs, {} outcomes, {told} stories told{}{}",
        scenario.name,
        with(without),
        tally.runs,
        tally.outcomes.len(),
        if not_told.is_empty() { "" } else { ", not: " },
        not_told.join(", ")
    );
    for (said, count) in &tally.violations {
        say!(
            "scenario {}, {}: VIOLATED in {count} of {} runs: {said}",
            scenario.name,
            with(without),
            tally.runs
        );
    }
    judge(&format!("{}, {}", scenario.name, with(without)), expect, &tally, report);
    for (outcome, count) in &tally.outcomes {
        let line = Line {
            machine: "el2",
            scenario: &scenario.name,
            without,
            spte: Some(format_of(scenario.spte).name),
            outcome,
            count: NonZeroU64::new(*count).unwrap_or(NonZeroU64::MIN),
        };
        say!("{line}");
    }
}

/// Forces a story, in each way that there is, until it was told. Where it is about a violation it
/// is told on until that was seen. True if it was told.
fn tell(
    scenario: &Scenario,
    witness: &Witness,
    wanted: Option<Property>,
    random: &mut Random,
    tally: &mut Tally,
) -> bool {
    let Some(moments) = once::story(witness) else { return false };
    let mut versions = vec![moments.clone()];
    versions.extend(with_stores(&moments));
    if wanted.is_some() {
        versions.extend(at_last_store(scenario, &moments));
    }
    let mut told = false;
    for moments in &versions {
        for force in WAYS {
            let ran = once::run_once(scenario, moments, force, random);
            told |= once::was_seen(witness, &ran.marks);
            tally.add(scenario, ran);
            if told && wanted.is_none_or(|property| tally.properties.contains(&property)) {
                return true;
            }
        }
    }
    told
}

/// The ways to force a story.
const WAYS: [Force; 6] = [
    Force::AtMarks,
    Force::WithoutLocks,
    Force::WithoutSections,
    Force::BeforeEffects,
    Force::AtSections,
    Force::Delays,
];

/// The same story, but a vCPU that has repaired its fault goes on to its store before it is another
/// thread's turn: that is mostly what the story is about. `None`: nobody does that in it.
fn with_stores(moments: &[Moment]) -> Option<Vec<Moment>> {
    let mut changed = moments.to_vec();
    for i in 0..moments.len().saturating_sub(1) {
        let repaired = matches!(
            moments[i].mark,
            Mark::FastFaultFixed | Mark::FastFaultWritable | Mark::AccessTrackRestored
        );
        if repaired && moments[i + 1].thread != moments[i].thread {
            changed[i].mark = Mark::GuestWrite;
        }
    }
    (changed != moments).then_some(changed)
}

/// The same story, told of the last store of the vCPU whose moment it ends with: what is lost
/// before is found again by what comes after. `None`: it has no other stores.
fn at_last_store(scenario: &Scenario, moments: &[Moment]) -> Option<Vec<Moment>> {
    let thread = moments.last()?.thread;
    let is_store = |op| matches!(op, Op::Vcpu(VcpuOp::Write(_)));
    let stores = scenario.threads[thread].run.ops().filter(|(_, op)| is_store(*op)).count();
    let before = vec![Moment { thread, mark: Mark::GuestWrite }; stores.saturating_sub(1)];
    (!before.is_empty()).then(|| before.into_iter().chain(moments.iter().copied()).collect())
}

/// A violation where none may be is unexpected. One that is expected has to be seen here only if
/// its story can be forced; where it was not seen, the report says so.
fn judge(name: &str, expect: Option<&Expect>, tally: &Tally, report: &mut Report) {
    match expect {
        Some(e) if e.verdict == Expected::Violated => {
            let caught = e.property.is_some_and(|p| tally.properties.contains(&p));
            let property = e.property.map_or("something", |p| p.name());
            if caught {
                report
                    .expected(format!("{name}: {property} is violated, as it must: {}", e.because));
            } else {
                report.note(format!("{name}: {property} was not seen to be violated here"));
            }
        }
        Some(_) if tally.violations.is_empty() => report.expected(format!("{name}: holds")),
        Some(_) => report.unexpected(format!("{name}: violated, and must hold")),
        None if tally.violations.is_empty() => report.note(format!("{name}: nothing violated")),
        None => report.note(format!("{name}: violated without these guards")),
    }
}

/// How reports name a set of guards that are removed.
pub(crate) fn with(without: GuardSet) -> String {
    if without.is_empty() {
        return String::from("every guard");
    }
    let names: Vec<&str> = without.iter().map(|guard| guard.info().name).collect();
    format!("without {}", names.join(","))
}

/// Sets the guards that are removed; names one that does not exist.
pub(crate) fn set_without(names: &str) -> Result<GuardSet, &str> {
    let mut set = GuardSet::EMPTY;
    for name in names.split(',').filter(|name| !name.is_empty()) {
        let guard = Guard::ALL.iter().find(|guard| guard.info().name == name);
        set = set.with(*guard.ok_or(name)?);
    }
    platform::set_without(set);
    Ok(set)
}
