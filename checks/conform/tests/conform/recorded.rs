//! Goal: what real kernels did is explained to the last event. Method: small traces that
//! `kvmmu-live --trace` recorded under emulation; larger ones, if `KVMMU_TRACES` names a directory
//! of them.

use std::fs;
use std::path::Path;

use crate::common::judge_text;
use kvmmu_conform::refused::Kind;
use kvmmu_conform::{file, judge};

/// The recorded traces. All but the first are the beginnings of longer runs.
pub(crate) const TRACES: &[(&str, &str)] = &[
    ("5.10.223-npt1", include_str!("../traces/5.10.223-npt1.jsonl")),
    ("5.10.223-npt0-unpaged", include_str!("../traces/5.10.223-npt0-unpaged.jsonl")),
    ("6.1.176-npt1", include_str!("../traces/6.1.176-npt1.jsonl")),
    ("6.1.176-npt1-slots", include_str!("../traces/6.1.176-npt1-slots.jsonl")),
    ("6.1.176-npt1-mprotect", include_str!("../traces/6.1.176-npt1-mprotect.jsonl")),
];

/// Of a guest whose own tables KVM shadows: none of its faults is fast.
pub(crate) const GUEST_TRACE: &str = include_str!("../traces/5.10.223-npt0-paged.jsonl");

#[test]
fn a_trace_of_a_guest_with_its_own_tables_is_explained() {
    let report = judge_text(GUEST_TRACE).unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(report.unexplained, 0, "{}", report.text());
    assert_eq!(report.explained + 2, GUEST_TRACE.lines().count());
    let told = |event: &str| report.kinds.iter().any(|k| k.event == event && k.explained >= 50);
    for event in ["kvm_mmu_paging_element", "kvm_mmu_set_dirty_bit", "kvm_mmu_set_spte"] {
        assert!(told(event), "no {event} to speak of: {}", report.text());
    }
}

#[test]
fn recorded_traces_are_explained() {
    for (name, text) in TRACES {
        let report = judge_text(text).unwrap_or_else(|failure| panic!("{name}: {failure}"));
        assert_eq!(report.unexplained, 0, "{name}: {}", report.text());
        assert_eq!(report.explained + 2, text.lines().count(), "{name}");
        let fast = report.fast_faults;
        assert!(fast.fixed >= 9, "{name}: no fast faults to speak of: {fast:?}");
    }
}

#[test]
fn long_traces_are_explained_where_they_are() {
    let Some(directory) = std::env::var_os("KVMMU_TRACES") else {
        println!("skipped: KVMMU_TRACES names no directory of traces");
        return;
    };
    let (mut events, mut files) = (0, 0);
    for entry in fs::read_dir(Path::new(&directory)).expect("the directory can be read") {
        let path = entry.expect("an entry can be read").path();
        if path.extension().is_none_or(|extension| extension != "jsonl") {
            continue;
        }
        let is_trace = fs::read(&path).is_ok_and(|bytes| bytes.starts_with(b"{\"kvmmu-trace\""));
        if !is_trace {
            continue;
        }
        let name = path.display().to_string();
        let recording = match file::read(&path) {
            Ok(recording) => recording,
            // Of the TDP MMU.
            Err(failure) if failure.kind == Kind::Foreign => continue,
            Err(failure) => panic!("{failure}"),
        };
        let report = judge(&name, &recording, false).unwrap_or_else(|f| panic!("{f}"));
        assert_eq!(report.unexplained, 0, "{}", report.text());
        events += report.explained;
        files += 1;
    }
    println!("{events} events of {files} traces are explained");
    assert!(files > 0, "no trace in KVMMU_TRACES");
}
