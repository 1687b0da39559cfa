//! Goal: a scenario file of one's own is named so that it can be found, its words do nothing to a
//! terminal, and a verdict that nothing stands behind says so. Method: the command itself on files.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Output;

use crate::cli::kvmmu_in;
use crate::common::{FLUSH, scratch};

/// [`FLUSH`] with a witness.
fn witnessed() -> String {
    let witness = "[\"migration\"], sometimes = [\"page-copied@user < fast-fault-fixed@vcpu0\"]";
    FLUSH.replace("[\"migration\"]", witness)
}

/// What the command printed, as text.
fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("output is text")
}

/// Runs the command, expects `code` and gives what it printed.
#[track_caller]
fn ran(directory: &Path, arguments: &[&str], code: i32) -> String {
    let output = kvmmu_in(directory, arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    text(&output)
}

#[test]
fn a_file_that_shows_no_race_says_so_and_is_exit_1_under_strict() {
    let directory = scratch("files-vacuous");
    fs::write(directory.join("vac.toml"), FLUSH).expect("a test can write");
    fs::write(directory.join("seen.toml"), witnessed()).expect("a test can write");
    let fails = [
        "[[expect]]\nwithout = []\nverdict = \"holds\"\n",
        "[[expect]]\nwithout = [\"flush-after-harvest\"]\nverdict = \"violated\"\n",
        "property = \"migration\"\nstory = \"page-copied < guest-write\"\n",
    ];
    let fails = FLUSH
        .replace("check   = { always = [\"migration\"] }", "[check]\nalways = [\"migration\"]")
        + "\n"
        + &fails.concat();
    fs::write(directory.join("fails.toml"), fails).expect("a test can write");
    let said = ran(&directory, &["check", "-q", "vac.toml"], 0);
    insta::assert_snapshot!(said, @r#"
    holds   vac  642 states, all explored, SC
            note:   nothing shows that a race was reached
            add:    sometimes = ["MARK@THREAD < MARK@THREAD"] to [check], or a violated [[expect]]
    1 variant: 1 hold, 0 caught, 0 bound, 0 unexpected; SC, seed 1
    "#);
    assert_eq!(ran(&directory, &["check", "-q", "vac.toml", "--strict"], 1), said);
    let json = ran(&directory, &["check", "-q", "vac.toml", "--message-format", "json"], 0);
    assert!(json.lines().nth(1).is_some_and(|l| l.contains("\"vacuous\":true")), "{json}");
    // A witness, or another variant that fails, shows it; so do the built-in files.
    for shows in ["seen.toml", "fails.toml", "canary"] {
        let said = ran(&directory, &["check", "-q", shows, "--strict"], 0);
        assert!(!said.contains("note:"), "{said}");
    }
}

#[test]
fn no_built_in_scenario_shows_nothing() {
    for variant in crate::common::all_variants() {
        let mine = kvmmu::lab::variant::Variant { file: Some("x.toml".to_owned()), ..variant };
        assert!(!mine.shows_nothing(), "{}", mine.name());
    }
}

#[test]
fn one_file_runs_once_and_two_of_one_name_are_called_by_their_paths() {
    let directory = scratch("files-names");
    fs::create_dir(directory.join("other")).expect("a test can write");
    for path in ["a.toml", "other/a.toml", "canary.toml"] {
        fs::write(directory.join(path), witnessed()).expect("a test can write");
    }
    let once = ran(&directory, &["check", "-q", "a.toml", "./a.toml", "other/../a.toml"], 0);
    assert!(once.contains("\n1 variant: ") && once.starts_with("holds   a  "), "{once}");
    let two = ran(&directory, &["check", "-q", "a.toml", "other/a.toml"], 0);
    let names: Vec<&str> = two.lines().filter_map(|l| l.split_whitespace().nth(1)).collect();
    assert_eq!(names[..2], ["a.toml", "other/a.toml"], "{two}");
    let mixed = ran(&directory, &["check", "-q", "canary", "canary.toml"], 0);
    assert!(mixed.contains("caught  canary  ") && mixed.contains("  canary.toml "), "{mixed}");
    let json = ["check", "-q", "a.toml", "other/a.toml", "--message-format", "json"];
    let json = ran(&directory, &json, 0);
    assert!(json.contains("\"scenario\":\"a\",\"file\":\"other/a.toml\""), "{json}");
}

/// A page is taken from a vCPU that may have it cached, in three versions.
const VERSIONS: &str = r#"title = "t"
source = "s"
about = "a"
profile = ["arm64-v5.10", "arm64-v6.1", "arm64-v6.12"]
[[slot]]
gfn = 0
pages = 2
[map]
"gfn0" = { pfn = 0, pte = "r", cached = true }
"gfn1" = { pfn = 1, pte = "r" }
[[thread]]
name = "vcpu0"
run = ["read gfn0"]
[[thread]]
name = "host"
run = ["swap-out gfn0"]
[check]
always = ["pfn-safety"]
sometimes = ["stage2-unmapped@host < stage2-mapped@vcpu0"]
[[expect]]
without = []
verdict = "holds"
[[expect]]
without = ["s2-unmap-tlbi"]
verdict = "violated"
property = "pfn-safety"
story = "stage2-unmapped@host < stale-translation@vcpu0"
"#;

#[test]
fn a_file_of_several_profiles_is_a_scenario_for_each_and_each_can_be_named() {
    let directory = scratch("files-profiles");
    fs::write(directory.join("my.toml"), VERSIONS).expect("a test can write");
    let named = |said: &str| -> Vec<String> {
        let rows = said.lines().filter(|line| line.contains("states, all"));
        rows.filter_map(|row| row.split_whitespace().nth(1)).map(str::to_owned).collect()
    };
    let all = ran(&directory, &["check", "-q", "my.toml"], 0);
    assert_eq!(named(&all), ["my", "my-v6.1", "my-v6.12"], "{all}");
    // By whatever path, each once.
    symlink("my.toml", directory.join("link.toml")).expect("a test can link");
    let words = ["check", "-q", "my-v6.12.toml", "./my.toml", "link.toml", "my-v6.1.toml"];
    let once = ran(&directory, &words, 0);
    assert_eq!(named(&once), ["my-v6.12", "my", "my-v6.1"], "{once}");

    // What is printed is replayed, of the first, which has the file's name, and of another.
    for name in ["my.toml", "my-v6.12.toml"] {
        let find = ["explain", name, "--without", "s2-unmap-tlbi", "--format", "json"];
        let report: serde_json::Value =
            serde_json::from_str(&ran(&directory, &find, 0)).expect("one object");
        let schedule = report["schedule"].as_str().expect("a schedule");
        let replay = ["replay", name, "--without", "s2-unmap-tlbi", "--schedule", schedule];
        let said = ran(&directory, &replay, 0);
        assert!(said.ends_with("violated pfn-safety\n"), "{said}");
    }

    let refused = |words: &[&str]| {
        let output = kvmmu_in(&directory, words);
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        String::from_utf8(output.stderr).expect("it is text")
    };
    let none = refused(&["check", "my-v6.13.toml"]);
    assert!(none.contains("neither a file nor a scenario of 'my.toml'"), "{none}");
    assert!(none.contains("my.toml, my-v6.1.toml, my-v6.12.toml"), "{none}");
    // Another file of that name, or a link, would be run in place of a scenario, or not at all.
    symlink("my.toml", directory.join("my-v6.1.toml")).expect("a test can link");
    let both = refused(&["check", "my.toml"]);
    assert!(both.contains("'my-v6.1.toml' is a file, and a scenario of 'my.toml'"), "{both}");
    let link = refused(&["check", "my-v6.1.toml"]);
    assert!(link.contains("has a name that ends in '-v6.1'"), "{link}");
}

#[test]
fn no_word_of_a_file_reaches_the_terminal_as_more_than_text() {
    let directory = scratch("files-escapes");
    let evil = "\\u001b[2J\\u009b31m\\u202Eevil\\u0007";
    let file = witnessed().replace("\"none\"", &format!("\"{evil}\""));
    let broken = witnessed().replace("\"write gfn0\"", &format!("\"write {evil}\""));
    let name = "\u{1b}[31mred.toml";
    fs::write(directory.join(name), file).expect("a test can write");
    fs::write(directory.join("broken.toml"), broken).expect("a test can write");
    let without = ["--without", "flush-after-harvest"];
    for arguments in [
        &["check", name, without[0], without[1]][..],
        &["check", name, without[0], without[1], "--message-format", "json"],
        &["explain", name, without[0], without[1]],
        &["explain", name, without[0], without[1], "--format", "rst"],
        &["explain", name, without[0], without[1], "--format", "json"],
        &["outcomes", name],
        &["locks", name],
        &["check", "broken.toml"],
        &["check", "broken.toml", "--message-format", "json"],
        &["explain", "\u{1b}[31mnone.toml"],
        &["check", "\u{1b}[31mnone"],
    ] {
        let output = kvmmu_in(&directory, arguments);
        for said in [&output.stdout, &output.stderr] {
            let said = String::from_utf8(said.clone()).expect("output is text");
            let bad = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
            assert!(!said.contains(bad), "{arguments:?}: {said:?}");
        }
    }
}

#[test]
fn a_trace_replays_where_its_scenario_file_is_not() {
    let directory = scratch("files-trace");
    fs::write(directory.join("flush.toml"), witnessed()).expect("a test can write");
    let find = ["explain", "-q", "flush.toml", "--without", "flush-after-harvest", "--format"];
    let report = ran(&directory, &[&find[..], &["json"]].concat(), 0);
    let report: serde_json::Value = serde_json::from_str(&report).expect("one object");
    let trace = directory.join(report["trace"].as_str().expect("a trace is written"));
    let here = ran(&directory, &["replay", trace.to_str().expect("text")], 0);
    let elsewhere = scratch("files-trace-elsewhere");
    fs::rename(trace, elsewhere.join("t.jsonl")).expect("a test can move");
    // Not even a file of that path which says something else matters.
    fs::write(elsewhere.join("flush.toml"), "title = 3").expect("a test can write");
    assert_eq!(ran(&elsewhere, &["replay", "t.jsonl"], 0), here);
    assert!(here.ends_with("violated migration\n"), "{here}");
}

#[test]
fn replay_tells_a_violation_by_its_exit_code_if_asked() {
    let directory = scratch("files-exit-code");
    fs::write(directory.join("flush.toml"), witnessed()).expect("a test can write");
    let find = ["explain", "-q", "flush.toml", "--without", "flush-after-harvest", "--format"];
    let report = ran(&directory, &[&find[..], &["json"]].concat(), 0);
    let report: serde_json::Value = serde_json::from_str(&report).expect("one object");
    let trace = report["trace"].as_str().expect("a trace is written");
    ran(&directory, &["replay", trace], 0);
    ran(&directory, &["replay", trace, "--exit-code"], 1);
    let schedule = report["schedule"].as_str().expect("a schedule");
    let start = format!("{}:0*2", schedule.split(':').next().expect("a fingerprint"));
    let replay = ["replay", "flush.toml", "--without", "flush-after-harvest", "--exit-code"];
    ran(&directory, &[&replay[..], &["--schedule", schedule]].concat(), 1);
    ran(&directory, &[&replay[..], &["--schedule", &start]].concat(), 0);
    ran(&directory, &[&replay[..], &["--schedule", "v1-00000000:0"]].concat(), 5);
}

/// Goal: who asks for help, or misses a name by a letter or by its case, is shown the way.
#[test]
fn help_is_a_command_and_near_misses_are_answered() {
    let directory = scratch("files-help");
    for (words, same) in [
        (&["help"][..], &["--help"][..]),
        (&["help", "explain"], &["explain", "--help"]),
        (&["-q", "help"], &["--help"]),
    ] {
        assert_eq!(ran(&directory, words, 0), ran(&directory, same, 0), "{words:?}");
    }
    for (words, answer) in [
        (&["explian", "aba-direct"][..], "did you mean the command 'kvmmu explain'?"),
        (&["LIST"], "did you mean the command 'kvmmu list'?"),
        (&["check", "ABA-Direct"], "did you mean 'aba-direct'?"),
        (&["check", "canary", "--without", "PIN_HOLD"], "did you mean 'pin-hold'?"),
    ] {
        let output = kvmmu_in(&directory, words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(answer), "{words:?}: {said}");
    }
}

/// A race that needs three changes of priority at the right steps.
#[test]
fn pct_finds_a_race_that_is_deeper_than_three() {
    let directory = scratch("files-deep");
    let story = [
        "[[expect]]\nwithout = []\nverdict = \"holds\"\n",
        "[[expect]]\nwithout = [\"harvest-clear-then-protect\"]\nverdict = \"violated\"\n",
        "property = \"migration\"\nstory = \"fast-fault-fixed@vcpu0 < harvest@user < ",
        "page-copied@user < guest-write@vcpu0\"\n",
    ];
    let check = "[check]\nalways = [\"migration\"]\n";
    let file = FLUSH.replace("check   = { always = [\"migration\"] }\n", check) + &story.concat();
    fs::write(directory.join("deep.toml"), file).expect("a test can write");
    let said = ran(
        &directory,
        &[
            "check",
            "-q",
            "deep.toml",
            "--strategy",
            "pct",
            "--without",
            "harvest-clear-then-protect",
        ],
        0,
    );
    assert!(said.starts_with("caught  deep"), "{said}");
}
