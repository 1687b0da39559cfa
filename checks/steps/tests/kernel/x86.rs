//! Goal: what is edited in a recording of x86 5.10 is found: it flushes by entries, and the model
//! explains its stores. Method: see `main.rs`.

use super::{SHADOW, TDP, UNPAGED, X86, broken, calls};
use kvmmu_steps::event::{Event, What, Word};
use kvmmu_steps::rules::Rule;

/// D of an SPTE.
const DIRTY: u64 = 1 << 6;
/// W.
const WRITABLE: u64 = 1 << 1;

#[test]
fn entries_that_flush_nothing_are_found() {
    for recording in [X86, TDP, SHADOW, UNPAGED] {
        let mut events = recording.events();
        // Each vCPU keeps its first ASID, and drops nothing.
        for event in &mut events {
            if let What::Enter { flush, id, vcpu, .. } = &mut event.what {
                *flush = None;
                *id = *vcpu as u32;
            }
        }
        let report = recording.report("no-entry-flush", &events);
        assert!(broken(&report, Rule::FlushBeforeEntry) > 5, "{}", report.text());
    }
}

#[test]
fn a_vcpu_that_stays_in_the_guest_is_found() {
    // What it does after its first entry is not seen.
    let mut left = 0;
    let mut events = X86.events();
    events.retain(|event| {
        left += usize::from(matches!(event.what, What::Exit { .. }));
        left < 40 || !matches!(event.what, What::Enter { .. } | What::Exit { .. })
    });
    let at = events.iter().rposition(|event| matches!(event.what, What::Exit { .. }));
    events.remove(at.expect("a guest was left"));
    let report = X86.report("stays", &events);
    let late = broken(&report, Rule::FlushBeforeReturn) + broken(&report, Rule::FlushBeforeUnlock);
    assert!(late > 0, "{}", report.text());
}

#[test]
fn marks_that_are_missing_are_found() {
    let marks = ["mark_page_dirty_in_slot", "kvm_vcpu_mark_page_dirty"];
    let report = X86.keep("no-marks", |what| !calls(what, &marks));
    assert!(broken(&report, Rule::DirtyBeforeUnlock) > 10, "{}", report.text());
}

/// KVM_GET_DIRTY_LOG.
const GET: u64 = 0x4010_ae42;

#[test]
fn a_notifier_inside_of_a_harvest_is_none() {
    let mut events = X86.events();
    let number = |name: &str| kvmmu_steps::functions::number(name).unwrap();
    let [ioctl, notifier] = ["kvm_vm_ioctl", "kvm_mmu_notifier_change_pte"].map(number);
    let is_get = |what: &What| {
        matches!(what, What::Call { function, arguments }
        if *function == ioctl && arguments[1] == GET)
    };
    let is_lock = |what: &What| matches!(what, What::Word { word: Word::MmuLock, .. });
    // With manual protect it takes no lock itself. In its place, a notifier does.
    let gets: Vec<usize> = (0..events.len()).filter(|at| is_get(&events[*at].what)).collect();
    let at = gets[gets.len() / 2];
    let get = events[at].clone();
    let mine = |event: &Event| event.thread == get.thread;
    let is_return = |event: &Event| {
        matches!(event.what, What::Return { function, .. } if function == ioctl) && mine(event)
    };
    let end = (at..events.len()).find(|at| is_return(&events[*at])).unwrap();
    let lock: Vec<Event> =
        events[at..end].iter().filter(|e| mine(e) && is_lock(&e.what)).cloned().collect();
    assert!(lock.len() >= 2, "a harvest takes the lock");
    let event = |what| Event { what, ..get.clone() };
    let inside = [
        vec![event(What::Call { function: notifier, arguments: [0; 5] })],
        lock,
        vec![event(What::Return { function: notifier, value: 0 })],
    ];
    let others: Vec<Event> = events[at + 1..end].iter().filter(|e| !mine(e)).cloned().collect();
    events.splice(at + 1..end, inside.concat().into_iter().chain(others));
    events.truncate(at + 10);
    let report = X86.report("notifier-in-harvest", &events);
    assert_eq!(broken(&report, Rule::HarvestTakesAll), 0, "{}", report.text());
}

#[test]
fn a_store_that_the_model_does_not_make_is_found() {
    let mut events = X86.events();
    let mut edited = 0;
    for event in &mut events {
        if let What::Store { old: 0, new, .. } = &mut event.what
            && *new & (DIRTY | WRITABLE) == DIRTY | WRITABLE
        {
            *new &= !DIRTY;
            edited += 1;
        }
    }
    let report = X86.report("without-d", &events);
    assert!(broken(&report, Rule::Model) >= edited && edited > 10, "{}", report.text());
    let told = report.violations.iter().find(|told| told.violation.rule == Rule::Model).unwrap();
    assert!(told.violation.wanted.starts_with("make_spte of the model makes"));
}

#[test]
fn what_is_not_unmapped_is_found() {
    let mut events = X86.events();
    for event in &mut events {
        if let What::Store { old, new: new @ 0, .. } = &mut event.what {
            *new = *old;
        }
    }
    let report = X86.report("not-unmapped", &events);
    assert!(broken(&report, Rule::UnmapComplete) > 0, "{}", report.text());
}
