//! Goal: `explain` tells each of the document's stories, and two more, in a table of at most 20
//! steps that docutils reads. Method: the report of the command itself on the built-in scenarios,
//! and its exact text, which somebody has read line by line.

use std::path::Path;

use kvmmu::cli::args::ReportFormat;
use kvmmu::commands::explain::{Request, tell};
use kvmmu::lab::load::builtin;
use kvmmu::lab::run::Simulated;
use kvmmu::lab::search::Search;
use kvmmu::lab::variant::Variant;
use kvmmu::report::{self, Report};
use kvmmu_scenarios::scenario::Expected;

use crate::told::{docutils, masked};

/// What `kvmmu explain` says of the first broken variant of a built-in scenario.
#[track_caller]
fn explain(name: &str) -> Report {
    let scenarios = builtin(1).expect("built-in files load");
    let scenario = scenarios.iter().find(|s| s.name == name).expect("it is built in");
    let broken = scenario.expects.iter().find(|e| e.verdict == Expected::Violated);
    let variant = Variant::of(scenario, None, broken.expect("one is broken").without);
    let search = Search::default();
    let request = Request {
        search: &search,
        format: ReportFormat::Text,
        all: false,
        trace_dir: Path::new(env!("CARGO_TARGET_TMPDIR")),
        quiet: true,
    };
    let told = tell(&Simulated, &variant, &request, &|| false).expect("it is violated");
    let trace = told.trace.expect("a trace can be written");
    assert!(trace.exists(), "{}", trace.display());
    told.report
}

/// The text without what changes with every edit of the sources: fingerprints, places, counts.
fn stable(report: &Report) -> String {
    let mut report = report.clone();
    report.trace = report.trace.map(|_| "TRACE".to_owned());
    report.found = masked(&report.found, ", after ");
    report.replay = masked(&report.replay, "v1-");
    report.race = report.race.iter().map(|place| masked(place, ".rs:")).collect();
    report.correct = report.correct.map(|place| masked(&place, ".rs:"));
    report::text::render(&report)
}

/// Checks the story of one scenario: `moments` appear in its table, in this order.
#[track_caller]
fn tells(name: &str, moments: &[&str]) {
    let report = explain(name);
    assert!(report.steps.len() <= 20, "{name}: {} steps", report.steps.len());
    let rst = report::rst::render(&report);
    let table = report.table();
    assert!(table.iter().all(|l| l.len() == 74 && l.is_ascii()), "{rst}");
    assert!(table.iter().all(|l| rst.contains(l)), "{rst}");
    // No mark of the lock and no stop stands alone on a line.
    let alone = |l: &String| l.split('|').any(|cell| ["[L]", ";", "; [L]"].contains(&cell.trim()));
    assert!(!table.iter().any(alone), "{rst}");
    let text = table.join("\n");
    let mut rest = text.as_str();
    for moment in moments {
        let Some(at) = rest.find(moment) else {
            panic!("{name}: no '{moment}' at its place\n{rst}")
        };
        rest = &rest[at + moment.len()..];
    }
    if let Some(said) = docutils(&rst) {
        assert_eq!(said, "tables=1", "{rst}");
    }
    insta::assert_snapshot!(name, stable(&report));
}

#[test]
fn lost_dirty_clear() {
    let moments = ["judged-not-volatile", "fast-fault-writable", "spte-plain-store", "OOPS!!!"];
    tells("lost-dirty-clear", &moments);
}

#[test]
fn lost_dirty_update() {
    let moments = ["judged-not-volatile", "fast-fault-writable", "spte-plain-store", "OOPS!!!"];
    tells("lost-dirty-update", &moments);
}

#[test]
fn stale_tlb_write_protect() {
    let moments = ["write-protected", "shadow-page-linked", "through its TLB", "OOPS!!!"];
    tells("stale-tlb-write-protect", &moments);
}

#[test]
fn stale_walk_indirect() {
    let moments = ["spte-set", "write-protected", "fast-fault-fixed", "OOPS!!!"];
    tells("stale-walk-indirect", &moments);
}

#[test]
fn aba_indirect() {
    let moments = ["fast-fault-read", "spte-zapped", "spte-set", "fast-fault-fixed", "OOPS!!!"];
    tells("aba-indirect", &moments);
}

#[test]
fn mark_dirty_order() {
    let moments = ["mark-dirty", "harvest", "fast-fault-fixed", "gfn0 copied", "OOPS!!!"];
    tells("mark-dirty-order", &moments);
}

#[test]
fn notifier_retry() {
    tells("notifier-retry", &["gup", "range-ended", "spte-set", "OOPS!!!"]);
}
