//! Goal: a recording of a correct kernel breaks no rule, and what is edited in it is found. Method:
//! a short recording of Linux 6.1.176 on arm64 (`cargo live-qemu --quick --steps`), changed event
//! by event.

use std::fs;
use std::path::{Path, PathBuf};

use kvmmu_steps::event::{Barrier, Event, Site, Tlbi, What};
use kvmmu_steps::file::{Header, Reader, Writer};
use kvmmu_steps::judge::judge;
use kvmmu_steps::refused::Kind;
use kvmmu_steps::report::{Report, Verdict};
use kvmmu_steps::rules::Rule;

/// The recording.
fn recorded() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings/arm64-6.1.176.steps")
}

fn read() -> (Header, Vec<Site>, Vec<Event>) {
    let reader = Reader::open(&recorded()).unwrap();
    let mut events = reader.events().unwrap();
    let mut all = Vec::new();
    while let Some((_, event)) = events.read().unwrap() {
        all.push(event);
    }
    (reader.header().clone(), events.sites().to_vec(), all)
}

/// What is said of these events.
fn report(name: &str, events: &[Event]) -> Report {
    let (header, sites, _) = read();
    let mut writer = Writer::new(Vec::new(), &header).unwrap();
    sites.into_iter().for_each(|site| writer.site(site).unwrap());
    for event in events {
        writer.event(event.clone()).unwrap();
    }
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.steps"));
    fs::write(&path, writer.finish().unwrap()).unwrap();
    let reader = Reader::open(&path).unwrap();
    Report::of(name, &reader, judge(&reader).unwrap()).unwrap()
}

/// The recording without the TLBIs of a whole VM.
fn without_tlbi() -> Vec<Event> {
    let (_, _, mut events) = read();
    events.retain(|event| !matches!(event.what, What::Tlbi { op: Tlbi::Vmalls12e1is, .. }));
    events
}

fn broken(report: &Report, rule: Rule) -> u64 {
    report.rules.iter().find(|line| line.rule == rule).map_or(0, |line| line.broken)
}

#[test]
fn a_correct_kernel_breaks_no_rule() {
    let (_, _, events) = read();
    let report = report("correct", &events);
    assert_eq!(report.verdict, Verdict::Holds, "{}", report.text());
    for line in &report.rules {
        let may_be_idle = matches!(line.rule, Rule::NoStaleAccess | Rule::FlushBeforeReuse);
        assert!(line.applied > 0 || may_be_idle, "{} was never applied", line.rule);
    }
}

#[test]
fn a_flush_that_is_missing_is_found_where_the_operation_returns() {
    let events = without_tlbi();
    let report = report("no-tlbi", &events);
    assert!(broken(&report, Rule::FlushBeforeReturn) > 0, "{}", report.text());
    let told = &report.violations[0];
    assert!(told.violation.what.starts_with("kvm_vm_ioctl returns"), "{}", told.violation.what);
    assert!(told.place.starts_with("kvm_vm_ioctl+"), "{}", told.place);
}

#[test]
fn all_barriers_that_are_missing_are_found() {
    let (_, _, mut events) = read();
    events
        .retain(|event| !matches!(event.what, What::Barrier(Barrier::DsbIsh | Barrier::DsbIshst)));
    let report = report("no-barriers", &events);
    assert!(broken(&report, Rule::FlushBeforeReturn) > 10, "{}", report.text());
}

#[test]
fn a_mark_that_is_missing_is_found_where_the_lock_is_given_back() {
    let marks = ["mark_page_dirty_in_slot", "mark_page_dirty"];
    let (_, _, mut events) = read();
    events.retain(|event| match event.what {
        What::Call { function, .. } => !marks.contains(&kvmmu_steps::functions::name(function)),
        _ => true,
    });
    let report = report("no-marks", &events);
    assert!(broken(&report, Rule::DirtyBeforeUnlock) > 10, "{}", report.text());
}

#[test]
fn a_lock_that_is_missing_is_found() {
    let (_, _, mut events) = read();
    events.retain(|event| !matches!(event.what, What::Word { .. }));
    let report = report("no-lock", &events);
    assert!(broken(&report, Rule::Lock) > 10, "{}", report.text());
}

#[test]
fn a_write_permission_that_is_given_back_is_found_by_the_harvest() {
    let (_, _, mut events) = read();
    // Write protection takes bit 7 (S2AP.W): here it leaves it.
    for event in &mut events {
        if let What::Store { old, new, .. } = &mut event.what
            && *old & 0x80 != 0
            && *new == *old & !0x80
        {
            *new = *old;
        }
    }
    let report = report("w-given-back", &events);
    assert!(broken(&report, Rule::HarvestProtects) > 0, "{}", report.text());
}

#[test]
fn a_descriptor_that_is_replaced_at_once_is_found() {
    let (_, _, mut events) = read();
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
    let report = report("replaced", &events);
    assert!(broken(&report, Rule::BreakBeforeMake) > 0, "{}", report.text());
}

#[test]
fn a_violation_is_told_in_74_columns() {
    let events = without_tlbi();
    let text = report("told", &events).text();
    let from = text.find("flush-before-return, event").expect("it is told");
    for line in text[from..].lines() {
        assert!(line.len() <= 74 && line.is_ascii(), "{line}");
    }
    assert!(text.contains("What should have come: "), "{text}");
    assert!(text.contains("| !"), "{text}");
}

#[test]
fn a_recording_of_an_unknown_kernel_is_foreign() {
    use kvmmu_steps::event::User;
    let (header, sites, mut events) = read();
    for event in &mut events {
        if let What::User(User::Kernel { version, .. }) = &mut event.what {
            *version = "6.12.1".to_owned();
        }
    }
    let mut writer = Writer::new(Vec::new(), &header).unwrap();
    sites.into_iter().for_each(|site| writer.site(site).unwrap());
    for event in events {
        writer.event(event).unwrap();
    }
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("foreign.steps");
    fs::write(&path, writer.finish().unwrap()).unwrap();
    let refused = judge(&Reader::open(&path).unwrap()).unwrap_err();
    assert_eq!(refused.kind, Kind::Foreign);
    assert!(refused.message.contains("6.12.1"), "{refused}");
}
