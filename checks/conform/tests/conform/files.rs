//! Goal: files that are no whole traces of a known kernel are told apart from traces that nothing
//! explains: message with file and line, bad or foreign, what to try. Method: good traces, spoilt.

use crate::common::{Script, V5_10, judge_text};
use kvmmu_conform::refused::Kind;

fn trace() -> Script {
    let mut script = Script::new(V5_10);
    script.fault(0, 0x205, 2).page(0, true).set(0, 0x205, V5_10.spte(0x1234, "HMWAD"));
    script
}

#[track_caller]
fn refused(text: &str, kind: Kind, message: &str) {
    let failure = judge_text(text).expect_err("it is refused");
    assert_eq!(failure.kind, kind, "{failure}");
    assert!(failure.to_string().contains(message), "no '{message}': {failure}");
    assert!(!failure.help.is_empty());
}

/// The good trace with `from` replaced.
#[track_caller]
fn with(from: &str, to: &str) -> String {
    let text = trace().text();
    assert!(text.contains(from), "{text}");
    text.replacen(from, to, 1)
}

#[test]
fn a_good_trace_is_read() {
    trace().is_explained();
}

#[test]
fn what_is_no_whole_trace_is_bad() {
    let text = trace().text();
    let end = text.find("{\"event\":\"end\"").expect("it has an end");
    refused("", Kind::Bad, "trace.jsonl:1: the file is empty");
    refused(&text[..end], Kind::Bad, "trace.jsonl:5: the trace was cut short: no end line after 3");
    refused(&text[..end - 9], Kind::Bad, "trace.jsonl:4: not an event");
    refused(&with("\"lost\":0", "\"lost\":17"), Kind::Bad, "trace.jsonl:5: the kernel lost 17");
    refused(&with("\"events\":3", "\"events\":4"), Kind::Bad, "says 4 events, but 3 are here");
    refused(&(text.clone() + "{}\n"), Kind::Bad, "trace.jsonl:6: a line after the end line");
    refused("hello\n", Kind::Bad, "trace.jsonl:1: not a line of JSON");
    refused("{\"v\":1,\"type\":\"trace\"}\n", Kind::Bad, "no \"kvmmu-trace\": not a trace");
    refused(&with("\"n\":1", "\"n\":0"), Kind::Bad, "trace.jsonl:3: event 0 after event 0");
    refused(&with("\"n\":1", "\"n\":01"), Kind::Bad, "trace.jsonl:3: not an event");
    refused(&with("\"pid\":0,", ""), Kind::Bad, "trace.jsonl:2: neither \"pid\" nor \"cpu\"");
    refused(&with("\"level\":1,", ""), Kind::Bad, "trace.jsonl:4: no \"level\"");
    refused(&with("\"spte\":\"0x", "\"spte\":\"zx"), Kind::Bad, "trace.jsonl:4: not an event");
    refused(&with("\"vcpus\":64,", ""), Kind::Bad, "trace.jsonl:1: header: missing field");
    refused(&"x".repeat(1 << 17), Kind::Bad, "a line longer than 64 KiB");
}

#[test]
fn other_versions_and_kernels_are_foreign() {
    refused(&with("trace\":1", "trace\":2"), Kind::Foreign, "trace format version 2");
    refused(&with("5.10.223", "5.15.1"), Kind::Foreign, "kernel '5.15.1-test', which the model");
    refused(&with("5.10.223", "mine"), Kind::Foreign, "does not know");
    refused(&with("npt-v5.10", "npt-v6.1"), Kind::Foreign, "SPTE format 'npt-v6.1', but kernel");
    refused(&with("npt-v5.10", "ept"), Kind::Foreign, "SPTE format 'ept'");
    refused(&with("x86-64", "arm64"), Kind::Foreign, "a trace of arm64");
    refused(&with("\"tdp_mmu\":0", "\"tdp_mmu\":1"), Kind::Foreign, "TDP MMU");
    refused(&with("\"direct\"", "\"none\""), Kind::Foreign, "no mode has npt=1");
}

#[test]
fn a_return_value_that_no_fast_fault_has_is_bad() {
    let mut script = trace();
    let on = V5_10.spte(0x1234, "HMWAD");
    script.fast_fault(0, 0x205, "spurious", on, on);
    let text = script.text().replace("\"ret\":4", "\"ret\":1");
    refused(&text, Kind::Bad, "trace.jsonl:6: fast_page_fault with ret 1");
}

#[test]
fn hidden_addresses_are_bad() {
    let mut script = trace();
    let on = V5_10.spte(0x1234, "HMWAD");
    for _ in 0..20 {
        script.fast_fault(0, 0x205, "spurious", on, on);
    }
    script.is_explained();
    let hide = |(i, line): (usize, &String)| line.replace("ffff8880", &format!("{:08x}", i * 7919));
    script.lines = script.lines.iter().enumerate().map(hide).collect();
    refused(&script.text(), Kind::Bad, "do not fit");
}
