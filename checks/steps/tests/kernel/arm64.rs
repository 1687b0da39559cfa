//! Goal: what is edited in a recording of arm64 is found: it flushes by instructions, and each
//! store is what the model makes of the old value. Method: see `main.rs`.

use super::{ARM64, ARM64_5_10, Recording, broken, calls};
use kvmmu_steps::event::{Barrier, Tlbi, What};
use kvmmu_steps::report::Report;
use kvmmu_steps::rules::Rule;

/// The recording without the TLBIs of a whole VM.
fn without_tlbi() -> Report {
    let is = |what: &What| matches!(what, What::Tlbi { op: Tlbi::Vmalls12e1is, .. });
    ARM64.keep("no-tlbi", |what| !is(what))
}

#[test]
fn a_flush_that_is_missing_is_found_where_the_operation_returns() {
    let report = without_tlbi();
    assert!(broken(&report, Rule::FlushBeforeReturn) > 0, "{}", report.text());
    let told = &report.violations[0];
    assert!(told.violation.what.starts_with("kvm_vm_ioctl returns"), "{}", told.violation.what);
    assert!(told.place.starts_with("kvm_vm_ioctl+"), "{}", told.place);
}

#[test]
fn all_barriers_that_are_missing_are_found() {
    let is = |what: &What| matches!(what, What::Barrier(Barrier::DsbIsh | Barrier::DsbIshst));
    let report = ARM64.keep("no-barriers", |what| !is(what));
    assert!(broken(&report, Rule::FlushBeforeReturn) > 10, "{}", report.text());
    assert!(broken(&report, Rule::FlushBeforeUnlock) > 10, "{}", report.text());
}

#[test]
fn a_mark_that_is_missing_is_found_where_the_lock_is_given_back() {
    let marks = ["mark_page_dirty_in_slot", "mark_page_dirty"];
    let report = ARM64.keep("no-marks", |what| !calls(what, &marks));
    assert!(broken(&report, Rule::DirtyBeforeUnlock) > 10, "{}", report.text());
}

#[test]
fn a_write_permission_that_is_given_back_is_found_by_the_harvest() {
    let mut events = ARM64.events();
    // Write protection takes bit 7 (S2AP.W): here it leaves it.
    for event in &mut events {
        if let What::Store { old, new, .. } = &mut event.what
            && *old & 0x80 != 0
            && *new == *old & !0x80
        {
            *new = *old;
        }
    }
    let report = ARM64.report("w-given-back", &events);
    assert!(broken(&report, Rule::HarvestProtects) > 0, "{}", report.text());
}

#[test]
fn a_descriptor_that_is_replaced_at_once_is_found() {
    let mut events = ARM64.events();
    for event in &mut events {
        // A map becomes one of another page over a page that is there.
        if let What::Store { old, new, .. } = &mut event.what
            && *old == 0
            && *new & 0x83 == 0x83
        {
            *old = *new ^ 1 << 20;
            break;
        }
    }
    let report = ARM64.report("replaced", &events);
    assert!(broken(&report, Rule::BreakBeforeMake) > 0, "{}", report.text());
}

#[test]
fn a_violation_is_told_in_74_columns() {
    let text = without_tlbi().text();
    let from = text.find("flush-before-return, event").expect("it is told");
    for line in text[from..].lines() {
        assert!(line.len() <= 74 && line.is_ascii(), "{line}");
    }
    assert!(text.contains("What should have come: "), "{text}");
    assert!(text.contains("| !"), "{text}");
}

/// What is said when one store that `is` so becomes one that `becomes` this.
fn edited(
    recording: Recording,
    name: &str,
    is: impl Fn(u64, u64) -> bool,
    becomes: impl Fn(u64, u64) -> u64,
) -> Report {
    let mut events = recording.events();
    let stores = events.iter_mut().filter_map(|event| match &mut event.what {
        What::Store { old, new, .. } => Some((*old, new)),
        _ => None,
    });
    let (old, new) = stores.into_iter().find(|(old, new)| is(*old, **new)).expect("there is one");
    *new = becomes(old, *new);
    recording.report(name, &events)
}

/// Goal: a store that is a step of the protocol, but not the one that its function makes for what
/// it was called with, is found.
#[test]
fn a_store_that_the_model_does_not_make_is_found() {
    const PAGE: u64 = 1 << 12;
    let is_leaf = |word: u64| word & 0x403 == 0x403;
    let maps = |old: u64, new: u64| old & 1 == 0 && is_leaf(new);
    let protects = |old: u64, new: u64| is_leaf(old) && new == old & !0x80 && new != old;
    let unmaps = |old: u64, new: u64| is_leaf(old) && new & 1 == 0;
    for recording in [ARM64, ARM64_5_10] {
        let report = |name, is: &dyn Fn(u64, u64) -> bool, to: &dyn Fn(u64, u64) -> u64| {
            edited(recording, name, is, to)
        };
        for (name, report) in [
            ("the page behind", report("next-page", &maps, &|_, new| new ^ PAGE)),
            ("device memory", report("device", &maps, &|_, new| new & !0x38)),
            ("W and AF go", report("w-and-af", &protects, &|_, new| new & !0x400)),
        ] {
            assert!(broken(&report, Rule::Model) > 0, "{name}: {}", report.text());
        }
    }
    // 5.10 leaves the address in what it makes invalid, and 6.1 nothing.
    let nothing = edited(ARM64_5_10, "nothing-left", unmaps, |_, _| 0);
    assert!(broken(&nothing, Rule::Model) > 0, "{}", nothing.text());
    let address = edited(ARM64, "address-left", unmaps, |old, _| old & !1);
    assert!(broken(&address, Rule::Model) > 0, "{}", address.text());
    let told = &address.violations[0].violation;
    assert!(told.wanted.contains("kvm_pgtable_stage2_unmap of the model makes"), "{}", told.wanted);
}

/// Goal: a store outside of the range that its function was called with is found. Method: each of
/// these functions is called for a range that is far away.
#[test]
fn a_store_outside_of_the_range_is_found() {
    for recording in [ARM64, ARM64_5_10] {
        for walker in ["map", "unmap", "wrprotect", "relax_perms"] {
            let function = format!("kvm_pgtable_stage2_{walker}");
            let mut events = recording.events();
            for event in &mut events {
                if calls(&event.what, &[&function])
                    && let What::Call { arguments, .. } = &mut event.what
                {
                    arguments[1] += 1 << 38;
                }
            }
            let report = recording.report("far-away", &events);
            assert!(broken(&report, Rule::Model) > 0, "{walker}: {}", report.text());
        }
    }
}
