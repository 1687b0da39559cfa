//! ABA, forced step by step: an SPTE is read, removed and built again before the compare and
//! exchange that judges it by its value.

use alloc::format;
use alloc::vec::Vec;

use kvmmu_model::{Guard, GuardSet, Mark};
use kvmmu_scenarios::scenario::Scenario;

use crate::el2::cpu::smp;
use crate::el2::machine::platform;
use crate::el2::record::random::Random;
use crate::el2::record::story::{Force, Hold, Moment, Plan};
use crate::el2::run::report::Report;
use crate::el2::run::{all, catalogue, once};

/// The threads of `aba-direct`.
const VCPU0: usize = 0;
const VCPU1: usize = 1;
const USER: usize = 2;

/// How often a schedule is tried: a host that is busy may not run a CPU in time.
const TRIES: usize = 10;

/// A schedule, and what must come of it.
struct Case {
    without: &'static [Guard],
    force: Force,
    schedule: &'static [(Mark, usize)],
    lost: bool,
    said: &'static str,
}

const CASES: [Case; 3] = [
    Case {
        without: &[],
        force: Force::AtMarks,
        schedule: &[
            (Mark::FastFaultRead, VCPU0),
            (Mark::SpteZapped, USER),
            (Mark::FastFaultLost, VCPU0),
        ],
        lost: false,
        said: "vcpu0 read the SPTE, user zapped it, vcpu0's cmpxchg met another value",
    },
    Case {
        without: &[Guard::LocklessWalkMode],
        force: Force::WithoutLocks,
        schedule: &[
            (Mark::FastFaultRead, VCPU0),
            (Mark::RangeEnded, USER),
            (Mark::SpteSet, VCPU1),
            (Mark::WriteProtected, USER),
            (Mark::FastFaultFixed, VCPU0),
        ],
        lost: false,
        said: "vcpu0 read the SPTE, user zapped it, vcpu1 mapped the page again, user harvested: \
               the same value; vcpu0's cmpxchg succeeded, and the frame that it marks is the right \
               one, because the page is direct",
    },
    Case {
        without: &[Guard::FastFaultCmpxchg],
        force: Force::AtMarks,
        schedule: &[
            (Mark::FastFaultRead, VCPU0),
            (Mark::SpteZapped, USER),
            (Mark::FastFaultFixed, VCPU0),
        ],
        lost: true,
        said: "vcpu0 read the SPTE, user zapped it, vcpu0's plain store put it back",
    },
];

/// Runs all of them.
pub(crate) fn run(report: &mut Report) {
    let scenarios = catalogue::builtin();
    let Some(scenario) = scenarios.iter().find(|s| s.name == "aba-direct") else { return };
    if smp::workers() < scenario.threads.len() {
        report.note(format!("aba: skipped: {} CPUs are needed", scenario.threads.len()));
        return;
    }
    for case in &CASES {
        one(scenario, case, report);
    }
}

fn one(scenario: &Scenario, case: &Case, report: &mut Report) {
    let without: GuardSet = case.without.iter().copied().collect();
    let with = all::with(without);
    let schedule: Vec<Moment> = case
        .schedule
        .iter()
        .map(|(mark, thread)| Moment { thread: *thread, mark: *mark })
        .collect();
    let plan = || Plan::forced(schedule.clone(), Hold::at(case.force));
    let before = platform::set_without(without);
    let mut random = Random::new(1);
    let mut runs = (0..TRIES).map(|_| once::run_once(scenario, plan(), &mut random));
    // The schedule to its end; and what it leads to, where that depends on what comes after.
    let told = runs.find(|ran| ran.stopped_at.is_none() && ran.violation.is_some() == case.lost);
    platform::set_without(before);
    match told {
        Some(ran) => {
            let end = match ran.violation {
                Some(violation) => format!("{}: {}", violation.property.name(), violation.detail),
                None => "nothing is lost".into(),
            };
            report.expected(format!("aba, {with}: {}; {end}", case.said));
        }
        None => report.unexpected(format!(
            "aba, {with}: the schedule did not come to its end in {TRIES} tries, or {}",
            if case.lost { "nothing was lost" } else { "something was lost" }
        )),
    }
}
