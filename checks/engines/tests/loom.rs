//! Goal: the core is correct under C11 orderings, judged without `kvmmu-sim`, and its broken
//! variants are caught by the property and the story that the scenario files name. Method: every
//! `engines = { loom = ... }` is carried out by all executions, or all with so many preemptions as
//! [`Bounds::of`] says; a run that is cut off is a failure. Two fences of the protocol of requests
//! are shown to be necessary by a program of their own: see `guest_entry_and_flush`.
//!
//! A test program of its own: loom does not work in a process in which shuttle has run.

use std::sync::Arc;

use kvmmu_engines::loom::{Bounds, Loom, LoomWithRequests, check, check_program};
use kvmmu_engines::machine::{Body, perform};
use kvmmu_engines::search::{EngineOutcome, Search};
use kvmmu_model::Ordering::{Acquire, Release};
use kvmmu_model::{CpuId, Guard, GuardSet, Object, Platform, Tag, Word};
use kvmmu_scenarios::machine::Machine;
use kvmmu_scenarios::scenario::{Engine, Expect};
use kvmmu_scenarios::{Property, World};

mod engines;

type Tool = Loom;

#[test]
fn loom_says_what_the_scenario_files_expect_of_it() {
    let expected = |expect: &Expect| expect.loom != Engine::Skip;
    let failures = engines::run(expected, |scenario, expect| {
        let outcome = check(scenario, expect.without, Bounds::of(scenario, expect.without));
        let agrees = match &outcome {
            EngineOutcome::Holds { complete, unseen, .. } => {
                let vacuous = expect.without.is_empty() && !unseen.is_empty();
                expect.loom == Engine::Holds && *complete && !vacuous
            }
            EngineOutcome::Violated { property, story_matched, .. } => {
                expect.loom == Engine::Violated
                    && *story_matched
                    && expect.property.is_none_or(|p| p == *property)
            }
            EngineOutcome::Inconclusive { .. } => false,
        };
        (agrees, outcome.to_string())
    });
    assert!(failures.is_empty(), "loom disagrees:\n{}", failures.join("\n"));
}

#[test]
fn locks_are_checked_on_loom_unless_told_otherwise() {
    let bounds = Bounds { preemptions_max: Some(3), ..Bounds::default() };
    let surprises = engines::locks::surprises(|scenario, program| {
        check_program(scenario, GuardSet::EMPTY, bounds, 3, program)
    });
    assert!(surprises.is_empty(), "{}", surprises.join("\n"));
}

#[test]
fn the_locks_of_a_file_are_checked_on_loom() {
    for (lock_checks, expected) in [(true, "lock-cycle"), (false, "deadlock")] {
        let scenario = engines::locks::file_with_locks(lock_checks);
        let outcome = check(
            &scenario,
            GuardSet::EMPTY,
            Bounds { preemptions_max: Some(2), ..Bounds::default() },
        );
        let EngineOutcome::Violated { property, .. } = &outcome else { panic!("{outcome}") };
        assert_eq!(property.name(), expected, "{outcome}");
    }
}

/// A vCPU enters the guest and leaves it again, while another thread flushes: once the flush has
/// returned, the guest must not run with what its TLB had before it.
fn guest_entry_and_flush(search: &Arc<Search>) {
    const VCPU: CpuId = CpuId(0);
    perform::<LoomWithRequests, _>(search, 2, |p| {
        let world = Arc::new(World::new(p, &engines::locks::nothing(false)));
        let flushed = Arc::new(p.word(Tag::one(Object::Var), 0));
        let (w, done) = (Arc::clone(&world), Arc::clone(&flushed));
        let vcpu: Body = Box::new(move || {
            let (mut srcu, mut own) = (None, false);
            if w.vm.vcpu_enter_guest(VCPU, &mut srcu, || own = true) {
                // ORDERING: acquire: the flush has returned.
                if done.load(Acquire) == 1 && !own {
                    w.m.violate(Property::PfnSafety, format_args!("the guest runs unflushed"));
                }
                w.vm.vcpu_leave_guest(VCPU, &mut srcu);
            }
        });
        let (w, done) = (Arc::clone(&world), Arc::clone(&flushed));
        let host: Body = Box::new(move || {
            w.vm.kvm_flush_remote_tlbs(None);
            // ORDERING: release pairs with the load in the guest.
            done.store(1, Release);
        });
        (vec![vcpu, host], || ())
    });
}

/// Goal: the fences between a request and the mode of a vCPU are necessary, although no verdict
/// under sequential consistency says so. Method: all C11 executions of a guest entry and a flush.
#[test]
fn loom_shows_what_two_fences_prevent() {
    let scenario = engines::locks::nothing(false);
    let check = |without| {
        let outcome =
            check_program(&scenario, without, Bounds::default(), 2, guest_entry_and_flush);
        println!("without {without:?}: {outcome}");
        outcome
    };
    let with = check(GuardSet::EMPTY);
    assert!(matches!(with, EngineOutcome::Holds { complete: true, .. }), "{with}");
    for fence in [Guard::SmpMbAfterInGuestMode, Guard::SmpMbBeforeExitingGuestMode] {
        let outcome = check(GuardSet::EMPTY.with(fence));
        assert!(
            matches!(outcome, EngineOutcome::Violated { property: Property::PfnSafety, .. }),
            "without {}: {outcome}",
            fence.info().name
        );
    }
}
