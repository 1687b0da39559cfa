//! Goal: the command does what its help says, on whatever machine it runs. Method: the program
//! itself; what needs a `/dev/kvm` says that it was skipped where there is none.

use std::path::Path;
use std::process::Command;

/// Runs it; exit code, standard output, standard error.
fn run(args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_kvmmu-live")).args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// True if guests can run here; otherwise says so, and checks how the command says it.
fn has_kvm() -> bool {
    if Path::new("/dev/kvm").exists() && run(&["info"]).0 == 0 {
        return true;
    }
    let (code, _, stderr) = run(&["check", "--stores", "100"]);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("/dev/kvm") && stderr.contains("help: "), "{stderr}");
    eprintln!("skipped: no usable /dev/kvm here");
    false
}

#[test]
fn bad_usage_is_exit_2_with_a_hint() {
    for args in [
        &["check", "--log", "telepathy"][..],
        &["check", "--window", "7"],
        &["check", "--log", "get", "--broken", "clear-late"],
        &["run"],
        &["vma-size", "--rounds", "0"],
        &["no-such-command"],
    ] {
        let (code, _, stderr) = run(args);
        assert_eq!(code, 2, "{args:?}: {stderr}");
        assert!(!stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn a_scenario_that_is_not_there_or_does_not_fit_is_exit_4() {
    let (code, _, stderr) = run(&["run", "no-such-scenario"]);
    assert_eq!(code, 4, "{stderr}");
    assert!(stderr.contains("kvmmu list"), "{stderr}");
    let (code, _, stderr) = run(&["run", "aba-indirect"]);
    assert_eq!(code, 4, "{stderr}");
    assert!(stderr.contains("aba-indirect does not fit a live KVM"), "{stderr}");
    assert!(stderr.contains("guest page tables"), "{stderr}");
}

#[test]
fn nothing_is_lost_and_a_wrong_order_is_caught() {
    if !has_kvm() {
        return;
    }
    let size = ["--stores", "20000", "--vcpus", "2", "--format", "json"];
    let (code, stdout, stderr) = run(&[&["check"], &size[..]].concat());
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert!(
        stdout.contains("\"verdict\":\"ok\"") && stdout.contains("\"pages_lost\":0"),
        "{stdout}"
    );
    let broken = ["check", "--broken", "copy-before-get", "--period", "0.2", "--stores", "100000"];
    let (code, stdout, stderr) = run(&[&broken[..], &size[2..]].concat());
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert!(stdout.contains("\"verdict\":\"caught\""), "{stdout}");
}

#[test]
fn the_time_limit_is_exit_3() {
    if !has_kvm() {
        return;
    }
    let args = ["check", "--stores", "4000000000", "--limit", "0.3", "--vcpus", "1"];
    let (code, _, stderr) = run(&args);
    assert_eq!(code, 3, "{stderr}");
    assert!(stderr.contains("--limit"), "{stderr}");
}

#[test]
fn outcomes_are_lines_of_a_file() {
    if !has_kvm() {
        return;
    }
    let file = std::env::temp_dir().join(format!("kvmmu-outcomes-{}", std::process::id()));
    let path = file.to_str().unwrap();
    let (code, _, stderr) = run(&["run", "mark-dirty-order", "--times", "20", "--outcomes", path]);
    let text = std::fs::read_to_string(&file).unwrap_or_default();
    let _ = std::fs::remove_file(&file);
    assert_eq!(code, 0, "{stderr}");
    assert!(text.lines().count() >= 1, "{stderr}");
    for line in text.lines() {
        assert!(line.starts_with("{\"kvmmu-outcome\":1,\"machine\":\"live\","), "{line}");
        let outcome = line.split("\"outcome\":\"").nth(1).and_then(|rest| rest.split('"').next());
        let outcome: kvmmu_scenarios::outcome::Outcome = outcome.unwrap().parse().unwrap();
        assert_eq!(outcome.frames().len(), 1);
    }
}

#[test]
fn unsafe_code_is_in_one_file() {
    fn look(directory: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                look(&path, found);
            } else if std::fs::read_to_string(&path).unwrap().contains(concat!("unsafe", "_code")) {
                found.push(path.file_name().unwrap().to_string_lossy().into_owned());
            }
        }
    }
    let mut found = Vec::new();
    look(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    // The workspace denies it wherever it is not expected by name.
    assert_eq!(found, ["sys.rs"]);
}
