//! Goal: `kvmmu steps` has the right exit codes, text, JSON, and messages for files that are no
//! recordings. Method: the command itself, on a recording of a real kernel and on spoilt ones.

use std::fs;
use std::path::Path;
use std::process::Command;

/// A recording of Linux 6.1.176.
const RECORDING: &[u8] = include_bytes!("../../steps/tests/recordings/arm64-6.1.176.steps");

#[track_caller]
fn steps(name: &str, bytes: &[u8], more: &[&str]) -> (Option<i32>, String, String) {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&path, bytes).expect("it can be written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvmmu"));
    let output = command.arg("steps").arg(path).args(more).output().expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("it is UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_correct_kernel_is_exit_0() {
    let (exit, out, errors) = steps("good.steps", RECORDING, &[]);
    assert_eq!((exit, errors.as_str()), (Some(0), ""), "{out}");
    assert!(out.ends_with(" stores, no rule is broken\n"), "{out}");
    assert!(out.contains("not checked: no-stale-access: "), "{out}");
}

#[test]
fn json_is_one_object_with_the_same_numbers() {
    let (exit, out, _) = steps("json.steps", RECORDING, &["--format", "json"]);
    let report: serde_json::Value = serde_json::from_str(&out).expect("one object");
    assert_eq!((exit, &report["verdict"]), (Some(0), &"holds".into()), "{out}");
    assert_eq!((&report["version"], &report["arch"]), (&1.into(), &"arm64".into()));
}

#[test]
fn events_are_printed_by_their_numbers() {
    let (exit, out, _) = steps("print.steps", RECORDING, &["--print", "1-3"]);
    assert_eq!((exit, out.lines().count()), (Some(0), 3), "{out}");
    assert!(out.contains("user: kernel 6.1.176-1"), "{out}");
    for (range, exit) in [("3-1", 2), ("x", 2), ("999999999-999999999", 4)] {
        let (got, _, errors) = steps("range.steps", RECORDING, &["--print", range]);
        assert_eq!(got, Some(exit), "{range}: {errors}");
        assert!(errors.contains("help: "), "{errors}");
    }
}

#[test]
fn bad_files_are_exit_2_and_foreign_ones_exit_5() {
    let cut = &RECORDING[..RECORDING.len() / 2];
    let mut changed = RECORDING.to_vec();
    changed[RECORDING.len() / 2] ^= 1;
    let mut other = RECORDING.to_vec();
    other["kvmmu-steps ".len()] = b'9';
    let cases: [(&[u8], i32, &str); 4] = [
        (cut, 2, "cut short"),
        (&changed, 2, "checksum"),
        (&other, 5, "version 9 of the format"),
        (b"", 2, "is no recording"),
    ];
    for (bytes, exit, says) in cases {
        let (got, out, errors) = steps("bad.steps", bytes, &[]);
        assert_eq!((got, out.as_str()), (Some(exit), ""), "{says}: {errors}");
        assert!(errors.contains(says) && errors.contains("help: "), "{errors}");
    }
}
