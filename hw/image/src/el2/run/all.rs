//! The scenarios that fit: each forced into its stories, and stressed.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::num::NonZeroU64;

use kvmmu_model::{Guard, GuardSet};
use kvmmu_scenarios::Property;
use kvmmu_scenarios::mmu::format_of;
use kvmmu_scenarios::ops::{HostOp, Op};
use kvmmu_scenarios::outcome::Line;
use kvmmu_scenarios::scenario::{Arch, Expect, Expected, Format, Scenario};

use super::limits::{self, Limit};
use super::report::{Came, Report, Row};
use super::tally::Tally;
use super::tell::tell;
use super::{catalogue, once};
use crate::args::{Args, Mmu};
use crate::el2::cpu::console::say;
use crate::el2::cpu::smp;
use crate::el2::machine::platform;
use crate::el2::record::random::Random;
use crate::el2::record::story::{Force, Plan};

/// How many more runs look for a violation that is expected and was not seen.
const SEARCH_RUNS: u32 = 60;

/// True if a run of this may move a live mapping to another page without taking it away first,
/// which the architecture forbids (break-before-make): only QEMU takes it.
fn breaks_bbm(scenario: &Scenario) -> bool {
    let programs = scenario.threads.iter().flat_map(|thread| thread.run.ops());
    let mut ops = programs.chain(scenario.at_stop.ops());
    ops.any(|(_, op)| matches!(op, Op::Host(HostOp::ChangePte(..))))
}

/// True if runs of a variant would go on for ever, or do what the architecture forbids. Whether a
/// CPU keeps what denies an access is up to the CPU: for `relax-perms-local-flush` it is tried, for
/// the MMU of arm64 in QEMU alone, which keeps nothing.
fn is_left_out(scenario: &Scenario, expect: &Expect, is_qemu: bool) -> bool {
    let denied = Limit::of(scenario, expect) == Some(Limit::Denials) && is_qemu;
    if !is_qemu && limits::breaks_bbm(expect.without) {
        return true;
    }
    matches!(expect.property, Some(Property::Livelock | Property::Deadlock))
        && !expect.without.contains(Guard::RelaxPermsLocalFlush)
        && !denied
}

/// Runs one scenario or all; `without` was set before.
pub(crate) fn run(args: &Args<'_>, without: GuardSet, report: &mut Report) {
    let mut all = catalogue::builtin();
    all.retain(|scenario| is_of(args.mmu, scenario));
    let (mut selected, mut ran) = (0, 0);
    for scenario in all.iter().filter(|s| args.scenario.is_none_or(|name| s.name == name)) {
        selected += 1;
        if scenario.spte == Format::Stage2Hd && !smp::has_hardware_ad() {
            say!("{}: skipped: this core has no hardware dirty state", scenario.name);
            continue;
        }
        if scenario.profile.arch() == Arch::Arm64 && !smp::has_hardware_af() {
            say!("{}: skipped: this core does not set AF by itself", scenario.name);
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
        let left_out = |expect: &&Expect| is_left_out(scenario, expect, report.is_qemu());
        let (left, end): (Vec<&Expect>, Vec<&Expect>) = scenario.expects.iter().partition(left_out);
        for expect in left.iter().filter(|_| without.is_empty()) {
            let what = with(expect.without);
            say!("{}: skipped: {what} would hang, or breaks break-before-make", scenario.name);
            report.row(Row::not_run(&scenario.name, with(expect.without)));
        }
        let variants: Vec<GuardSet> = end.iter().map(|e| e.without).collect();
        for without in if without.is_empty() { &variants[..] } else { &alone } {
            let before = platform::set_without(*without);
            one(args, scenario, *without, report);
            ran += 1;
            platform::set_without(before);
        }
    }
    let vmids = catalogue::SEVERAL_VMIDS;
    if args.scenario.is_none() && args.mmu != Mmu::X86 {
        say!("{}: left out: they have several VMIDs, and the image has one", vmids.join(", "));
    }
    if selected == 0 {
        let name = args.scenario.unwrap_or_default();
        let names: Vec<&str> = all.iter().map(|s| s.name.as_str()).collect();
        report.select_nothing(match vmids.contains(&name) {
            true => format!("'{name}' has several VMIDs, and the image has one"),
            false => format!("there is no scenario '{name}'; there are {}", names.join(", ")),
        });
    } else if ran == 0 {
        report.select_nothing(String::from("every scenario was skipped"));
    }
}

/// True if a scenario is of the MMU that was asked for.
fn is_of(mmu: Mmu, scenario: &Scenario) -> bool {
    match mmu {
        Mmu::All => true,
        Mmu::X86 => scenario.profile.arch() == Arch::X86,
        Mmu::Arm64 => scenario.profile.arch() == Arch::Arm64,
    }
}

/// The names of what there is.
pub(crate) fn list(args: &Args<'_>) {
    for scenario in catalogue::builtin().iter().filter(|scenario| is_of(args.mmu, scenario)) {
        say!("{:24} {}", scenario.name, scenario.title);
    }
}

fn one(args: &Args<'_>, scenario: &Scenario, without: GuardSet, report: &mut Report) {
    let mut random = Random::new(args.seed);
    let mut tally = Tally::default();
    for i in 0..args.runs {
        let force = if i % 2 == 0 { Force::Nothing } else { Force::Delays };
        tally.add(once::run_once(scenario, Plan::free(force), &mut random));
    }
    let expect = scenario.expects.iter().find(|e| e.without == without);
    let limit = expect.and_then(|e| Limit::of(scenario, e)).filter(|_| report.is_qemu());
    // What must be seen at least once is what must be seen with every guard.
    let sometimes = if without.is_empty() { &scenario.sometimes[..] } else { &[] };
    let witnesses = sometimes.iter().map(|witness| (witness, None));
    let violation = expect.and_then(|e| Some((e.story.as_ref()?, e.property)));
    // Of a set of the user's own: what the file says of fewer of these guards.
    let fewer =
        |e: &&Expect| expect.is_none() && e.without.iter().all(|guard| without.contains(guard));
    let parts = scenario.expects.iter().filter(fewer);
    let parts = parts.filter_map(|e| Some((e.story.as_ref()?, e.property)));
    let stories: Vec<_> = witnesses.chain(violation).chain(parts).collect();
    let mut not_told = Vec::new();
    for (witness, wanted) in &stories {
        if !tell(scenario, witness, wanted.filter(|_| limit.is_none()), &mut random, &mut tally) {
            not_told.push(format!("'{}'", witness.text));
        }
    }
    let is_missing = |tally: &Tally| {
        violation.and_then(|(_, property)| property).is_some_and(|p| !tally.properties.contains(&p))
    };
    for _ in 0..SEARCH_RUNS {
        if limit.is_none() && is_missing(&tally) {
            tally.add(once::run_once(scenario, Plan::free(Force::Delays), &mut random));
        }
    }
    let forced = stories.len() - not_told.len();
    say!(
        "scenario {}, {}: {} runs, {} outcomes, {forced} stories told{}{}",
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
    let name = format!("{}, {}", scenario.name, with(without));
    let came = judge(&name, (scenario, expect), &tally, report);
    report.row(Row {
        scenario: scenario.name.clone(),
        variant: with(without),
        runs: tally.runs,
        stories: stories.len(),
        forced,
        came,
    });
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

/// A violation where none may be is unexpected. One that is expected of the MMU of x86 has to be
/// seen here only if its story can be forced, and one of arm64 unless it is known why QEMU does not
/// show it; where it was not seen, the report says so.
fn judge(
    name: &str,
    (scenario, expect): (&Scenario, Option<&Expect>),
    tally: &Tally,
    report: &mut Report,
) -> Came {
    let none = tally.violations.is_empty();
    match expect {
        Some(e) if e.verdict == Expected::Violated => {
            let limit = Limit::of(scenario, e).filter(|_| report.is_qemu());
            let expected = e.property.map_or("something", Property::name);
            let property = e.property.filter(|p| tally.properties.contains(p));
            // What cannot be seen itself may have consequences that can.
            let shows = limit.map_or(&[][..], Limit::shows);
            let consequence = tally.properties.iter().copied().find(|p| shows.contains(p));
            let other = tally.properties.iter().find(|p| Some(**p) != e.property);
            if let (Some(_), None, None, Some(other)) = (limit, property, consequence, other) {
                let other = other.name();
                report.unexpected(format!("{name}: {other} is violated, and not {expected}"));
                return Came::Violated;
            }
            let lost = property.or(consequence);
            if let Some(lost) = lost {
                let (lost, because) = (lost.name(), &e.because);
                report.expected(match property {
                    Some(_) => format!("{name}: {lost} is violated, as it must: {because}"),
                    None => format!("{name}: {lost} is violated, which follows: {because}"),
                });
                return Came::Lost(lost, tally.violated);
            }
            let unseen = format!("{name}: {expected} was not seen to be violated here");
            match limit {
                Some(limit) => {
                    report.note(format!("{unseen}: {}", limit.why()));
                    Came::Hidden(limit)
                }
                None => {
                    let must = report.is_qemu() && scenario.profile.arch() == Arch::Arm64;
                    if must {
                        report.unexpected(unseen)
                    } else {
                        report.note(unseen)
                    }
                    Came::NotSeen
                }
            }
        }
        Some(_) if none => {
            report.expected(format!("{name}: holds"));
            Came::Holds
        }
        Some(_) => {
            report.unexpected(format!("{name}: violated, and must hold"));
            Came::Violated
        }
        None if none => {
            report
                .note(format!("{name}: nothing was violated here; 'kvmmu check' says if it holds"));
            Came::NotSeen
        }
        None => {
            report.note(format!("{name}: violated without these guards"));
            Came::Lost(tally.properties[0].name(), tally.violated)
        }
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
