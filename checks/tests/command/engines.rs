//! Goal: `check --engine loom` and `--engine shuttle` print what the files expect of these tools.
//! Method: the command itself, built with them, on scenarios that take next to no time.

use std::path::Path;
use std::process::Command;

/// Runs `kvmmu` in a directory of its own; gives exit code, standard output and standard error.
fn kvmmu(arguments: &[&str]) -> (i32, String, String) {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("check-engines");
    std::fs::create_dir_all(&directory).expect("a test can make its directory");
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvmmu"));
    command.args(arguments).current_dir(directory).env("NO_COLOR", "1");
    for name in kvmmu::cli::args::ENVIRONMENT {
        command.env_remove(name);
    }
    let output = command.output().expect("kvmmu starts");
    let text = |bytes| String::from_utf8(bytes).expect("output is text");
    let code = output.status.code().expect("it was not killed");
    (code, text(output.stdout), text(output.stderr))
}

/// Runs `kvmmu`, expects `code` and gives what it printed.
#[track_caller]
fn prints(arguments: &[&str], code: i32) -> String {
    let (got, out, said) = kvmmu(arguments);
    assert_eq!(got, code, "{out}{said}");
    out
}

#[test]
fn shuttle_catches_the_canary_in_the_same_bytes_each_time() {
    let arguments = ["check", "canary", "--engine", "shuttle", "--seed", "7", "--jobs", "2"];
    let text = prints(&arguments, 0);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0].starts_with("caught  canary  guest-never-writes ("), "{text}");
    assert!(lines[0].ends_with(", SC interleavings, sampled (shuttle)"), "{text}");
    let summary = "1 variant: 0 hold, 1 caught, 0 bound, 0 unexpected; ";
    assert_eq!(lines[1], format!("{summary}SC interleavings, sampled (shuttle), seed 7"));
    assert_eq!(prints(&arguments, 0), text);
}

#[test]
fn loom_says_what_the_file_expects_and_its_memory_model() {
    let text = prints(&["check", "mark-dirty-order", "--engine", "loom"], 0);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert!(lines[0].starts_with("holds   mark-dirty-order  "), "{text}");
    assert!(lines[0].contains("  nothing violated in "), "{text}");
    assert!(lines[0].contains(", all explored, "), "{text}");
    for line in &lines[1..3] {
        assert!(line.starts_with("caught  mark-dirty-order without "), "{text}");
        assert!(line.contains("  migration ("), "{text}");
    }
    assert!(lines[..3].iter().all(|line| line.ends_with(", C11 subset (loom)")), "{text}");
    assert!(
        lines[3].starts_with("3 variants: 1 hold, 2 caught, 0 bound, 0 unexpected; "),
        "{text}"
    );
}

#[test]
fn what_the_files_do_not_expect_of_a_tool_is_counted_and_not_run() {
    let text = prints(&["check", "lost-dirty-update", "--engine", "shuttle"], 0);
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.starts_with("holds   lost-dirty-update  "), "{text}");
    assert!(text.contains("; 1 skipped: the files expect nothing of shuttle there; "), "{text}");
}

#[test]
fn json_lines_are_those_of_the_simulator_without_what_a_tool_cannot_say() {
    let arguments = ["check", "canary", "--engine", "shuttle", "--message-format", "json"];
    let text = prints(&arguments, 0);
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert_eq!(lines[0]["model"], "SC interleavings, sampled (shuttle)");
    assert_eq!(lines[1]["type"], "verdict");
    assert_eq!(lines[1]["verdict"], "caught");
    assert_eq!(lines[1]["property"], "guest-never-writes");
    assert!(lines[1]["states"].is_null() && lines[1]["executions"].is_u64(), "{text}");
    assert_eq!(lines[2]["counts"]["caught"], 1);
    assert_eq!(lines[2]["skipped"], 0);
}

#[test]
fn without_a_fence_neither_tool_says_that_it_holds() {
    let fence = "smp-mb-after-reading-shadow-pages";
    for (engine, model) in
        [("loom", "C11 subset (loom)"), ("shuttle", "SC interleavings, sampled (shuttle)")]
    {
        let arguments = ["check", "mark-dirty-order", "--without", fence, "--engine", engine];
        let text = prints(&[&arguments[..], &["--executions-max", "2000"]].concat(), 3);
        let word = if engine == "loom" { "unjudged" } else { "bound  " };
        assert!(text.starts_with(&format!("{word} mark-dirty-order without {fence}  ")), "{text}");
        assert!(text.contains(&format!("not judged under {model}: {fence}; ")), "{text}");
    }
}

#[test]
fn a_bound_is_exit_3() {
    let scenario = "mark-dirty-order";
    let text = prints(&["check", scenario, "--engine", "loom", "--executions-max", "1"], 3);
    assert!(text.starts_with("bound   mark-dirty-order  "), "{text}");
    assert!(text.contains("executions <= 1, 1 execution, C11 subset (loom)"), "{text}");
    let pct = ["--strategy", "pct", "--executions-max", "1"];
    let text = prints(&[&["check", scenario, "--engine", "shuttle"], &pct[..]].concat(), 3);
    assert!(text.starts_with("bound   mark-dirty-order  "), "{text}");
}

#[test]
fn options_that_a_tool_does_not_have_are_refused_with_those_that_it_has() {
    for (arguments, help) in [
        (["loom", "--strategy", "pct"], "leave --strategy away"),
        (["shuttle", "--strategy", "dpor"], "shuttle has --strategy random, pct, and auto"),
        (["loom", "--states-max", "9"], "use --executions-max or --time-max"),
    ] {
        let (code, out, said) = kvmmu(&[&["check", "canary", "--engine"], &arguments[..]].concat());
        assert_eq!((code, out.as_str()), (2, ""), "{said}");
        assert!(said.contains(help), "{said}");
    }
}

#[test]
fn the_parts_of_a_run_by_a_tool_are_merged_to_what_the_run_prints() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("check-engines");
    // The second scenario has a variant that is skipped; a part may have nothing else.
    let words = ["check", "canary", "lost-dirty-update", "--engine", "shuttle", "--jobs", "2"];
    for of in [2, 7] {
        let run = |index| {
            let shard = format!("{index}/{of}");
            let how = ["--message-format", "json", "--shard", &shard];
            let file = format!("{index}-of-{of}.jsonl");
            let text = prints(&[&words[..], &how].concat(), 0);
            std::fs::write(directory.join(&file), text).expect("a test can write");
            file
        };
        let files: Vec<String> = (1..=of).map(run).collect();
        let mut merge = vec!["merge"];
        merge.extend(files.iter().map(String::as_str));
        for how in [&[][..], &["--message-format", "json"]] {
            let whole = prints(&[&words, how].concat(), 0);
            assert_eq!(prints(&[&merge, how].concat(), 0), whole);
        }
    }
}
