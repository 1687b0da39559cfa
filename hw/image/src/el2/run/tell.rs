//! Forcing the story of a witness.

use alloc::vec;
use alloc::vec::Vec;

use kvmmu_model::Mark;
use kvmmu_scenarios::Property;
use kvmmu_scenarios::ops::{Op, VcpuOp};
use kvmmu_scenarios::scenario::{Scenario, Witness};

use super::tally::Tally;
use super::{once, schedules};
use crate::el2::record::random::Random;
use crate::el2::record::story::{Force, Hold, Moment, Plan};

/// Forces a story, by its own schedule and in each way that there is, until it was told. Where it
/// is about a violation it is told on until that was seen. True if it was told.
pub(super) fn tell(
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
    let ways = versions
        .iter()
        .flat_map(|moments| WAYS.iter().map(|hold| Plan::forced(moments.clone(), *hold)));
    let mut told = false;
    for plan in schedules::of(scenario, witness).chain(ways) {
        let ran = once::run_once(scenario, plan, random);
        told |= once::was_seen(witness, &ran.marks);
        tally.add(ran);
        if told && wanted.is_none_or(|property| tally.properties.contains(&property)) {
            return true;
        }
    }
    told
}

/// The ways to force a story.
const WAYS: [Hold; 9] = [
    Hold::at(Force::AtMarks),
    Hold::at(Force::WithoutLocks),
    Hold::at(Force::WithoutSections),
    Hold::early(Force::BeforeEffects),
    Hold::early(Force::AtSections),
    Hold::early(Force::AtMarks),
    Hold::early(Force::WithoutLocks),
    Hold::early(Force::BeforeStores),
    Hold::at(Force::Delays),
];

/// The same story, but a vCPU that has repaired its fault goes on to its store before it is another
/// thread's turn: that is mostly what the story is about. `None`: nobody does that in it.
fn with_stores(moments: &[Moment]) -> Option<Vec<Moment>> {
    let mut changed = moments.to_vec();
    for i in 0..moments.len().saturating_sub(1) {
        let repaired = matches!(
            moments[i].mark,
            Mark::FastFaultFixed
                | Mark::FastFaultWritable
                | Mark::AccessTrackRestored
                | Mark::Stage2Mapped
                | Mark::PermsRelaxed
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
