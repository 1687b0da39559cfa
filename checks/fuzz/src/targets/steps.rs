//! Recordings of a kernel's steps: a line of JSON for the header, for each instruction and for each
//! event, made into a file. Knobs: a byte of the file is changed; that byte.

use std::path::Path;

use kvmmu_steps::event::{Event, Site};
use kvmmu_steps::file::{Header, Reader, Writer};
use kvmmu_steps::judge::judge;
use kvmmu_steps::report::{Report, each};
use kvmmu_steps::show;

use super::no_internal_error;
use crate::input::Knobs;

pub(super) fn run([broken, low, high, _]: Knobs, text: &[u8]) {
    let text = String::from_utf8_lossy(text);
    let Some(mut file) = recording(&text) else { return };
    if broken % 8 == 7 {
        let at = usize::from(u16::from_le_bytes([low, high])) % file.len();
        file[at] ^= 1;
    }
    let path = Path::new(super::write(&file));
    let Some(reader) = no_internal_error(Reader::open(path)) else { return };
    let Some(judged) = no_internal_error(judge(&reader)) else { return };
    let Some(report) = no_internal_error(Report::of("fuzz.steps", &reader, judged)) else { return };
    assert!(report.text().ends_with('\n'), "a report without an end");
    serde_json::to_string(&report).expect("a report is JSON");
    let shown = each(&reader, (1, u64::MAX), |number, event, site, trees| {
        assert!(show::line(number, event, site, trees).is_ascii());
    });
    no_internal_error(shown);
}

/// The lines as a file. Those that are nothing are left out.
fn recording(text: &str) -> Option<Vec<u8>> {
    let mut lines = text.lines();
    let header: Header = serde_json::from_str(lines.next()?).ok()?;
    let mut writer = Writer::new(Vec::new(), &header).ok()?;
    for line in lines {
        if let Ok(site) = serde_json::from_str::<Site>(line) {
            writer.site(site).ok()?;
        } else if let Ok(event) = serde_json::from_str::<Event>(line) {
            writer.event(event).ok()?;
        }
    }
    writer.finish().ok()
}
