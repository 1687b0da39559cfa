//! Goal: output is a function of input, seed and bounds in steps. Method: the command itself, on
//! small scenarios, twice and with another number of jobs; and traces, replayed.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Built-in scenarios that take next to no time.
const SMALL: &[&str] = &["canary", "mark-dirty-order", "stale-tlb-dirty-log"];

/// Runs `kvmmu` in a directory of its own.
fn kvmmu(directory: &Path, arguments: &[&str]) -> Output {
    std::fs::create_dir_all(directory).expect("a test can make its directory");
    let command = Command::new(env!("CARGO_BIN_EXE_kvmmu"))
        .args(arguments)
        .current_dir(directory)
        .env("NO_COLOR", "1")
        .output();
    command.expect("kvmmu starts")
}

fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

#[test]
fn one_and_two_jobs_and_two_runs_print_the_same_bytes() {
    for format in ["human", "json"] {
        let run = |jobs: &str| {
            let mut arguments = vec!["check", "--jobs", jobs, "--message-format", format];
            arguments.extend(SMALL);
            kvmmu(&scratch("determinism-jobs"), &arguments)
        };
        let first = run("1");
        let again = run("1");
        let two = run("2");
        let text = String::from_utf8_lossy(&first.stdout);
        assert!(text.lines().count() > SMALL.len(), "{text}");
        assert_eq!(text, String::from_utf8_lossy(&again.stdout));
        assert_eq!(text, String::from_utf8_lossy(&two.stdout));
        assert_eq!(first.status.code(), two.status.code());
    }
}

#[test]
fn an_explained_counterexample_replays_from_its_trace_and_from_its_schedule() {
    for name in SMALL {
        let directory = scratch(&format!("determinism-{name}"));
        let explained = kvmmu(&directory, &["explain", name, "--format", "json"]);
        let said = String::from_utf8_lossy(&explained.stderr);
        assert_eq!(explained.status.code(), Some(0), "{name}: {said}");
        let report: serde_json::Value =
            serde_json::from_slice(&explained.stdout).expect("a report is JSON");
        let trace = report["trace"].as_str().expect("there is a trace");
        let from_trace = kvmmu(&directory, &["replay", trace]);
        assert_eq!(
            from_trace.status.code(),
            Some(0),
            "{name}: {}",
            String::from_utf8_lossy(&from_trace.stderr)
        );
        let command = report["replay"].as_str().expect("there is a command");
        let words: Vec<&str> = command.split(' ').skip(1).collect();
        let from_schedule = kvmmu(&directory, &words);
        assert_eq!(from_schedule.stdout, from_trace.stdout, "{name}");
        assert!(String::from_utf8_lossy(&from_schedule.stdout).contains("VIOLATED"), "{name}");
    }
}
