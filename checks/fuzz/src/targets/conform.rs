//! Recordings of a kernel's MMU. Knobs: numbers and end line stay broken; the report lists all.

use kvmmu_conform::{file, judge};

use super::no_internal_error;
use crate::input::Knobs;
use crate::seal;

pub(super) fn run([broken, all, ..]: Knobs, text: &[u8]) {
    let sealed = (broken % 8 != 7).then(|| seal::recording(&String::from_utf8_lossy(text)));
    let text = sealed.as_ref().map_or(text, String::as_bytes);
    let Some(recording) = no_internal_error(file::read_from(text, "fuzz.jsonl")) else { return };
    let judged = judge("fuzz.jsonl", &recording, all % 2 == 1);
    let Some(report) = no_internal_error(judged) else { return };
    assert!(report.text().ends_with('\n'), "a report without an end");
    serde_json::to_string(&report).expect("a report is JSON");
}
