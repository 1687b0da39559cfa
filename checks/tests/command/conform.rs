//! Goal: `kvmmu conform` has the right exit codes, text, JSON, and messages for files that are no
//! traces. Method: the command itself, on a recorded trace and on spoilt ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::traces::{V5_10, storm};

/// A recorded trace.
const TRACE: &str = include_str!("../../conform/tests/traces/5.10.223-npt1.jsonl");

fn kvmmu(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvmmu"));
    command.args(arguments).output().expect("it runs")
}

/// A file of this test.
fn file(name: &str, text: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&path, text).expect("it can be written");
    path
}

#[track_caller]
fn conform(name: &str, text: &str, more: &[&str]) -> (Option<i32>, String, String) {
    let path = file(name, text);
    let path = path.to_str().expect("it is UTF-8");
    let output = kvmmu(&[&["conform", path], more].concat());
    let text = |bytes| String::from_utf8(bytes).expect("it is UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// The trace, its first fast fault told to set another bit.
fn edited() -> String {
    let fault = TRACE.lines().find(|line| line.contains("\"fast_page_fault\""));
    let fault = fault.expect("it has a fast fault");
    TRACE.replacen(fault, &fault.replace("\"new_spte\":\"0x", "\"new_spte\":\"0x1000000"), 1)
}

#[test]
fn explained_is_exit_0() {
    let (exit, out, errors) = conform("good.jsonl", TRACE, &[]);
    assert_eq!((exit, errors.as_str()), (Some(0), ""), "{out}");
    assert!(out.ends_with("EXPLAINED: the trace is a behaviour of the model\n"), "{out}");
    assert!(out.lines().all(|line| line.len() <= 98), "{out}");
}

#[test]
fn unexplained_is_exit_1_with_the_context() {
    let (exit, out, _) = conform("edited.jsonl", &edited(), &[]);
    assert_eq!(exit, Some(1), "{out}");
    for part in ["UNEXPLAINED, first at line ", "  why: ", "    > ", "what was seen of entry "] {
        assert!(out.contains(part), "no '{part}': {out}");
    }
    let (_, all, _) = conform("edited-all.jsonl", &edited(), &["-v"]);
    assert!(all.len() > out.len(), "-v says no more: {all}");
}

#[test]
fn json_is_one_object_with_the_same_numbers() {
    let (exit, out, _) = conform("edited-json.jsonl", &edited(), &["--format", "json"]);
    assert_eq!((exit, out.lines().count()), (Some(1), 1));
    let report: serde_json::Value = serde_json::from_str(&out).expect("it is JSON");
    assert_eq!((&report["v"], &report["type"]), (&1.into(), &"conform".into()));
    assert_eq!(report["exit"], 1);
    let number = |value: &serde_json::Value| value.as_u64().expect("it is a number");
    assert_eq!(number(&report["checked"]), TRACE.lines().count() as u64 - 2);
    let sum = number(&report["explained"]) + number(&report["unexplained"]);
    assert_eq!(sum, number(&report["checked"]));
    let kinds = report["kinds"].as_array().expect("a list");
    assert!(kinds.iter().any(|k| k["event"] == "fast_page_fault" && k["unexplained"] == 1));
    assert!(report["first"]["line"].is_u64(), "{out}");
}

#[test]
fn bad_files_are_exit_2_and_foreign_ones_exit_5() {
    let cut = &TRACE[..TRACE.len() / 2];
    let (exit, out, errors) = conform("cut.jsonl", cut, &[]);
    assert_eq!((exit, out.as_str()), (Some(2), ""), "{errors}");
    assert!(errors.contains("cut.jsonl:") && errors.contains("help: record it again"), "{errors}");
    let foreign = TRACE.replacen("5.10.223", "4.19.0", 1);
    let (exit, _, errors) = conform("foreign.jsonl", &foreign, &[]);
    assert_eq!(exit, Some(5), "{errors}");
    for path in ["no/such/file.jsonl", env!("CARGO_TARGET_TMPDIR")] {
        let output = kvmmu(&["conform", path]);
        assert_eq!(output.status.code(), Some(2), "{path}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("help: "), "{output:?}");
    }
    let directory = kvmmu(&["conform", env!("CARGO_TARGET_TMPDIR")]);
    let errors = String::from_utf8_lossy(&directory.stderr).into_owned();
    assert!(errors.contains("is a directory") && errors.contains("one trace file"), "{errors}");
    assert!(!errors.contains("disk"), "{errors}");
    assert_eq!(kvmmu(&["conform"]).status.code(), Some(2));
}

#[test]
fn nothing_to_judge_is_exit_4_and_too_much_to_follow_exit_3() {
    let header = TRACE.lines().next().expect("it has a header");
    let empty = format!("{header}\n{}\n", r#"{"event":"end","events":0,"lost":0}"#);
    let (exit, out, _) = conform("empty.jsonl", &empty, &[]);
    assert_eq!(exit, Some(4), "{out}");
    assert!(out.contains("\nNOTHING TO JUDGE: "), "{out}");
    assert!(out.lines().all(|line| line.len() <= 98), "{out}");
    let (exit, out, _) = conform("empty-json.jsonl", &empty, &["--format", "json"]);
    assert_eq!(exit, Some(4));
    let report: serde_json::Value = serde_json::from_str(&out).expect("it is JSON");
    assert_eq!((&report["verdict"], &report["exit"]), (&"nothing-to-judge".into(), &4.into()));
    assert!(report["not_checked"].as_array().is_some_and(|gaps| gaps.len() > 5), "{out}");
    let storm = storm(V5_10, 26, "fixed").text();
    let (exit, out, _) = conform("storm.jsonl", &storm, &[]);
    assert_eq!(exit, Some(3), "{out}");
}
