//! Goal: a report tells the story of its run and has the form that the document's tables have.
//! Method: a run made by hand, its exact text, and docutils as the judge of the table.

use crate::common::{aba, aba_events, aba_found, aba_twin};
use crate::docutils::docutils;
use kvmmu::lab::replayed::Replayed;
use kvmmu::report::{self, Facts, Report};
use kvmmu_sim::outcome::Stats;

/// The report of the hand-made run.
fn report(all: bool) -> Report {
    let variant = aba();
    let stats = Stats { states: 4711, ..Stats::default() };
    report::build(&Facts {
        variant: &variant,
        goal: &variant.goal(),
        found: &aba_found(),
        run: &Replayed { events: aba_events(), ..Replayed::default() },
        twin: Some(&aba_twin()),
        how: "auto, seed 1",
        stats,
        steps_before: 61,
        exact: true,
        trace: Some("target/kvmmu/aba-indirect/x/trace.jsonl"),
        all,
    })
}

/// The fingerprint depends on the sources; goldens must not.
fn stable(text: &str) -> String {
    let at = text.find("v1-").expect("there is a schedule");
    format!("{}{}{}", &text[..at + 3], "########", &text[at + 11..])
}

#[test]
fn text_of_the_first_case() {
    insta::assert_snapshot!(stable(&report::text::render(&report(false))));
}

#[test]
fn rst_of_the_first_case() {
    insta::assert_snapshot!(stable(&report::rst::render(&report(false))));
}

#[test]
fn the_table_is_74_columns_of_ascii() {
    for all in [false, true] {
        for line in report(all).table() {
            assert_eq!(line.len(), 74, "{line}");
            assert!(line.is_ascii());
        }
    }
}

#[test]
fn a_row_begins_exactly_at_each_context_switch() {
    let report = report(false);
    let switches = report.steps.windows(2).filter(|w| w[0].thread != w[1].thread).count();
    let literal =
        report.table().iter().filter(|l| l.contains("| ::") || l.ends_with("| ::")).count();
    assert_eq!(literal, switches + 1);
}

#[test]
fn at_most_twenty_steps_are_shown_and_numbers_only_grow() {
    let report = report(false);
    assert!(report.steps.len() <= report::fold::STEPS_MAX);
    assert!(report.steps.windows(2).all(|w| w[0].number < w[1].number));
    assert!(report.steps.iter().all(|s| !s.text.contains("lock(mmu_lock)")));
}

#[test]
fn the_title_has_no_numbers() {
    let title = report(false).title;
    assert_eq!(title, "BUG: migration in fast_page_fault / spte_write_protect");
}

#[test]
fn json_is_one_object_with_a_version() {
    let text = serde_json::to_string(&report(false)).expect("a report is JSON");
    let value: serde_json::Value = serde_json::from_str(&text).expect("and parses again");
    assert_eq!(value["v"], 1);
    assert_eq!(value["type"], "report");
    assert_eq!(value["left"], 0);
    assert!(value["steps"].as_array().is_some_and(|steps| steps.len() > 5));
}

#[test]
fn docutils_parses_the_rst() {
    for all in [false, true] {
        for text in [report::rst::render(&report(all)), report(all).table().join("\n")] {
            match docutils(&text) {
                Some(judged) => assert_eq!(judged, "tables=1", "{text}"),
                None => return eprintln!("docutils is not here: not checked"),
            }
        }
    }
}
