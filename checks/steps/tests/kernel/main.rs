//! Goal: a recording of a correct kernel breaks no rule, and what is edited in it is found. Method:
//! short recordings of Linux (`cargo live-qemu --quick --steps`), changed event by event.

mod arm64;
mod mmus;
mod x86;

use std::fs;
use std::path::Path;

use kvmmu_steps::event::{Event, Site, User, What, Word};
use kvmmu_steps::file::{Header, Reader, Writer};
use kvmmu_steps::judge::judge;
use kvmmu_steps::refused::Kind;
use kvmmu_steps::report::{Report, Verdict};
use kvmmu_steps::rules::Rule;

/// A recording: `tests/recordings/NAME.steps`.
#[derive(Clone, Copy)]
struct Recording(&'static str);

const ARM64: Recording = Recording("arm64-6.1.176");
const ARM64_5_10: Recording = Recording("arm64-5.10.223");
const X86: Recording = Recording("x86-64-5.10.223");
/// With the TDP MMU.
const TDP: Recording = Recording("x86-64-6.1.176-tdp");
/// With shadow paging, of a guest in long mode and of one without paging.
const SHADOW: Recording = Recording("x86-64-5.10.223-shadow");
const UNPAGED: Recording = Recording("x86-64-5.10.223-unpaged");
const ALL: [Recording; 6] = [ARM64, ARM64_5_10, X86, TDP, SHADOW, UNPAGED];

impl Recording {
    fn read(self) -> (Header, Vec<Site>, Vec<Event>) {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings");
        let reader = Reader::open(&directory.join(self.0).with_added_extension("steps")).unwrap();
        let mut events = reader.events().unwrap();
        let mut all = Vec::new();
        while let Some((_, event)) = events.read().unwrap() {
            all.push(event);
        }
        (reader.header().clone(), events.sites().to_vec(), all)
    }

    fn events(self) -> Vec<Event> {
        self.read().2
    }

    /// A recording of other events.
    fn with(self, name: &str, events: &[Event]) -> Reader {
        self.made(name, true, events)
    }

    /// The same, whose order is exact or not.
    fn made(self, name: &str, exact: bool, events: &[Event]) -> Reader {
        let (header, sites, _) = self.read();
        let header = Header { exact, ..header };
        let mut writer = Writer::new(Vec::new(), &header).unwrap();
        sites.into_iter().for_each(|site| writer.site(site).unwrap());
        for event in events {
            writer.event(event.clone()).unwrap();
        }
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{name}", self.0));
        fs::write(&path, writer.finish().unwrap()).unwrap();
        Reader::open(&path).unwrap()
    }

    /// What is said of these events.
    fn report(self, name: &str, events: &[Event]) -> Report {
        let reader = self.with(name, events);
        Report::of(name, &reader, judge(&reader).unwrap()).unwrap()
    }

    /// What is said when only these events are left.
    fn keep(self, name: &str, keep: impl Fn(&What) -> bool) -> Report {
        let mut events = self.events();
        events.retain(|event| keep(&event.what));
        self.report(name, &events)
    }
}

fn broken(report: &Report, rule: Rule) -> u64 {
    report.rules.iter().find(|line| line.rule == rule).map_or(0, |line| line.broken)
}

/// True if this is a call of one of these functions.
fn calls(what: &What, names: &[&str]) -> bool {
    let named = |function| names.contains(&kvmmu_steps::functions::name(function));
    matches!(what, What::Call { function, .. } if named(*function))
}

#[test]
fn correct_kernels_break_no_rule() {
    for (recording, idle) in [
        (ARM64, &[Rule::FlushBeforeReuse][..]),
        (ARM64_5_10, &[Rule::FlushBeforeReuse]),
        (X86, &[Rule::FlushBeforeReuse]),
        (TDP, &[Rule::UnmapComplete]),
        (SHADOW, &[Rule::FlushBeforeReuse, Rule::DirtyBeforeEntry]),
        (UNPAGED, &[Rule::FlushBeforeReuse]),
    ] {
        let report = recording.report("correct", &recording.events());
        assert_eq!(report.verdict, Verdict::Holds, "{}", report.text());
        for line in &report.rules {
            let left_out = report.not_checked.iter().any(|left_out| left_out.rule == line.rule);
            let may_be_idle = left_out || idle.contains(&line.rule);
            assert!(line.applied > 0 || may_be_idle, "{} was never applied", line.rule);
        }
    }
}

#[test]
fn a_lock_that_is_missing_is_found() {
    for recording in ALL {
        let report = recording.keep("no-lock", |what| !matches!(what, What::Word { .. }));
        assert!(broken(&report, Rule::Lock) > 10, "{}", report.text());
    }
}

#[test]
fn marks_that_store_nothing_are_found() {
    for recording in ALL {
        let bits = |what: &What| matches!(what, What::Word { word: Word::DirtyBitmap, .. });
        let report = recording.keep("no-bits", |what| !bits(what));
        assert!(broken(&report, Rule::MarkStores) > 10, "{}", report.text());
    }
}

#[test]
fn a_fault_that_maps_what_was_invalidated_is_found() {
    for recording in ALL {
        // What a fault reads first is older than it was.
        let mut events = recording.events();
        for event in &mut events {
            if let What::Read { word: Word::InvalidateSeq, value, .. } = &mut event.what {
                *value = value.wrapping_sub(1);
            }
        }
        let report = recording.report("old-sequence", &events);
        assert!(broken(&report, Rule::FaultRetries) > 10, "{}", report.text());
        // Or it does not look at all, but for the first one.
        let mut seen = false;
        let mut events = recording.events();
        events.retain(|event| match event.what {
            What::Read { word: Word::InvalidateSeq, .. } => !std::mem::replace(&mut seen, true),
            _ => true,
        });
        let report = recording.report("no-look", &events);
        assert!(broken(&report, Rule::FaultRetries) > 10, "{}", report.text());
    }
}

#[test]
fn what_is_not_exact_is_not_decided() {
    for recording in ALL {
        let mut events = recording.events();
        let report = |events: &[Event]| {
            let reader = recording.made("inexact", false, events);
            Report::of("inexact", &reader, judge(&reader).unwrap()).unwrap()
        };
        assert_eq!(report(&events).verdict, Verdict::Holds);
        events.retain(|event| !matches!(event.what, What::Word { .. }));
        let report = report(&events);
        assert_eq!(report.verdict, Verdict::NotDecided);
        assert!(report.text().contains("NOT DECIDED: "), "{}", report.text());
    }
}

#[test]
fn a_recording_of_an_unknown_kernel_is_foreign() {
    let mut events = ARM64.events();
    for event in &mut events {
        if let What::User(User::Kernel { version, .. }) = &mut event.what {
            *version = "6.12.1".to_owned();
        }
    }
    let refused = judge(&ARM64.with("foreign", &events)).unwrap_err();
    assert_eq!(refused.kind, Kind::Foreign);
    assert!(refused.message.contains("6.12.1"), "{refused}");
}
