//! Goal: a run that is kept and goes on after bounds, Ctrl-C and kill -9 prints what it would have
//! printed at once, to the byte, and files of something else are refused with their place and the
//! next thing to try. Method: the command itself, cut and killed at many moments.
//!
//! `KVMMU_KILLS` says how often it is killed; 100 takes some ten minutes.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use crate::cli::{kvmmu_in, refused};
use crate::common::scratch;
#[cfg(target_os = "linux")]
use crate::ends::kvmmu_after;

/// The canary, and two variants of some 35,000 states.
const CHECK: [&str; 3] = ["check", "canary", "lost-dirty-update"];

/// Variants that take seconds.
const LONG: [&str; 2] = ["check", "aba-direct"];

/// Runs [`CHECK`] and more.
fn check(directory: &Path, more: &[&str]) -> Output {
    kvmmu_in(directory, &[&CHECK, more].concat())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The files of the directory.
fn files(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory");
    let mut names: Vec<String> =
        entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_run_in_pieces_prints_what_it_prints_at_once() {
    let directory = scratch("resume-pieces");
    let at_once = check(&directory, &["-q"]);
    assert_eq!(at_once.status.code(), Some(0), "{at_once:?}");
    let begun = check(&directory, &["--states-max", "20000", "--resume", "run"]);
    assert_eq!(begun.status.code(), Some(3));
    let said = text(&begun.stderr);
    assert!(said.contains("note: 2 variants have no verdict yet (of 2 it is saved how"), "{said}");
    assert!(said.contains("'kvmmu check canary lost-dirty-update --resume run' goes on"), "{said}");
    assert_eq!(files(&directory), ["run", "run.search-2", "run.search-3"]);
    // Other bounds, more or fewer jobs.
    let more = check(&directory, &["--states-max", "35000", "--resume", "run", "--jobs", "1"]);
    assert_eq!(more.status.code(), Some(3));
    let said = text(&more.stderr);
    assert!(said.contains("note: run: 1 of 3 variants are done, and 2 under way"), "{said}");
    assert_eq!(files(&directory), ["run", "run.search-2"]);
    let rest = check(&directory, &["-q", "--resume", "run"]);
    assert_eq!(text(&rest.stdout), text(&at_once.stdout));
    assert_eq!((rest.status.code(), text(&rest.stderr)), (Some(0), String::new()));
    // Nothing is left to do.
    assert_eq!(files(&directory), ["run"]);
    let json = ["-q", "--message-format", "json"];
    let again = check(&directory, &[&json[..], &["--resume", "run"]].concat());
    assert_eq!(text(&again.stdout), text(&check(&directory, &json).stdout));
}

/// Starts the run.
#[cfg(unix)]
fn start(directory: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvmmu"));
    command.args(LONG).args(["-q", "--resume", "run"]).current_dir(directory);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("kvmmu starts")
}

#[cfg(unix)]
#[test]
fn a_run_that_is_killed_again_and_again_prints_what_it_prints_at_once() {
    let kills = std::env::var("KVMMU_KILLS").map_or(2, |n| n.parse().expect("a number"));
    let directory = scratch("resume-killed");
    let at_once = kvmmu_in(&directory, &[&LONG[..], &["-q"]].concat());
    let (mut random, mut killed) = (1_u64, 0);
    while killed < kills {
        random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        let mut child = start(&directory);
        sleep(Duration::from_millis(200 + (random >> 33) % 5000));
        child.kill().expect("it can be killed");
        let output = child.wait_with_output().expect("it ends");
        if output.status.code().is_none() {
            killed += 1;
            continue;
        }
        // It was done before.
        assert_eq!(text(&output.stdout), text(&at_once.stdout), "after {killed} kills");
        fs::remove_file(directory.join("run")).expect("it is there");
    }
    let output = start(&directory).wait_with_output().expect("it ends");
    assert_eq!(
        (text(&output.stdout), text(&output.stderr)),
        (text(&at_once.stdout), String::new())
    );
    assert_eq!(files(&directory), ["run"]);
}

#[cfg(unix)]
#[test]
fn what_ctrl_c_ends_goes_on() {
    let directory = scratch("resume-interrupted");
    let child = start(&directory);
    sleep(Duration::from_millis(700));
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(sent.expect("kill starts").success());
    let output = child.wait_with_output().expect("it ends");
    if output.status.code() == Some(130) {
        let saved = files(&directory).iter().any(|name| name.starts_with("run.search-"));
        assert!(saved, "{}", text(&output.stdout));
    }
    let rest = kvmmu_in(&directory, &[&LONG[..], &["-q", "--resume", "run"]].concat());
    assert_eq!(
        text(&rest.stdout),
        text(&kvmmu_in(&directory, &[&LONG[..], &["-q"]].concat()).stdout)
    );
}

#[test]
fn a_search_that_memory_ends_can_be_gone_on_with_though_nobody_asked() {
    let directory = scratch("resume-memory");
    let words = ["check", "aba-direct", "--without=", "--jobs", "1"];
    let ended = kvmmu_in(&directory, &[&words[..], &["--memory-max", "6M"]].concat());
    assert_eq!(ended.status.code(), Some(3), "{ended:?}");
    let said = text(&ended.stderr);
    let file = said.split("--resume ").nth(1).and_then(|rest| rest.split('\'').next());
    let file = file.unwrap_or_else(|| panic!("no file: {said}"));
    assert!(file.starts_with("target/kvmmu/resume-"), "{said}");
    let rest = kvmmu_in(&directory, &[&words[..], &["-q", "--resume", file]].concat());
    assert_eq!(
        text(&rest.stdout),
        text(&kvmmu_in(&directory, &[&words[..], &["-q"]].concat()).stdout)
    );
}

/// A run of one variant that is under way.
fn under_way(name: &str) -> std::path::PathBuf {
    let directory = scratch(name);
    let output = kvmmu_in(&directory, &[&ONE[..], &["--states-max", "20000"]].concat());
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert_eq!(files(&directory), ["run", "run.search-1"]);
    directory
}

const ONE: [&str; 6] = ["check", "lost-dirty-update", "-q", "--without=", "--resume", "run"];

#[test]
fn files_of_something_else_are_refused() {
    let directory = under_way("resume-foreign");
    let run = |words: &[&str], code: i32| refused(&kvmmu_in(&directory, words), code);
    let said = run(&[&ONE[..], &["--seed", "2"]].concat(), 2);
    assert!(said.starts_with("error: run:1: this is of seed 1, and this run of 2"), "{said}");
    let said = run(&["check", "canary", "-q", "--resume", "run"], 2);
    assert!(said.starts_with("error: run:1: this is of other variants"), "{said}");
    let said = run(&[&ONE[..], &["--strategy", "stateful"]].concat(), 2);
    assert!(said.contains("strategy auto, and this run of stateful"), "{said}");
    let file = directory.join("run");
    let good = fs::read_to_string(&file).expect("it is there");
    for (from, to, code, wanted) in [
        ("\"version\":\"", "\"version\":\"9", 5, "run:1: this is of kvmmu 9"),
        ("\"build\":\"", "\"build\":\"x", 5, "run:1: this is of build x"),
        ("\"machine\":\"", "\"machine\":\"pdp11-", 5, "run:1: this is of machine pdp11-"),
        ("{\"v\":1", "{\"v\":2", 2, "run:1: version 2 of these files"),
        ("{", "no JSON", 2, "run: this is no file of --resume"),
    ] {
        fs::write(&file, good.replacen(from, to, 1)).expect("a test can write");
        let said = run(&ONE, code);
        assert!(said.starts_with(&format!("error: {wanted}")), "{said}");
    }
    fs::write(&file, [good.as_bytes(), b"\xff\n"].concat()).expect("a test can write");
    assert!(run(&ONE, 2).starts_with("error: run: this is no file of --resume"));
    fs::write(&file, good.clone() + "{\"index\":0}\n").expect("a test can write");
    let said = run(&ONE, 2);
    assert!(said.starts_with("error: run:2: ") && said.contains("remove this line"), "{said}");
    // Half a line is what is left of a run that was killed.
    fs::write(&file, good + "{\"index\":0").expect("a test can write");
    assert_eq!(kvmmu_in(&directory, &ONE).status.code(), Some(0));
    let said = run(&["check", "canary", "-q", "--resume", "."], 2);
    assert!(said.starts_with("error: cannot use .: "), "{said}");
    let said = run(&["check", "canary", "-q", "--resume", "no/such/file"], 2);
    assert!(said.starts_with("error: cannot use no/such/file: "), "{said}");
    let said = run(&["check", "canary", "-q", "--resume", "x", "--engine", "loom"], 2);
    assert!(said.contains("--resume keeps searches of the simulated machine"), "{said}");
}

#[test]
fn damaged_searches_are_refused() {
    let directory = under_way("resume-damaged");
    let file = directory.join("run.search-1");
    let good = fs::read(&file).expect("it is there");
    let line = good.iter().position(|byte| *byte == b'\n').expect("a first line");
    let mut damaged = good.clone();
    damaged[good.len() / 2] ^= 1;
    let cuts = [0, 10, line, line + 1, line + 4, good.len() / 2, good.len() - 1];
    let cuts = cuts.into_iter().map(|cut| good[..cut].to_vec());
    for bytes in cuts.chain([damaged, [&good[..], b"more"].concat()]) {
        fs::write(&file, &bytes).expect("a test can write");
        let said = refused(&kvmmu_in(&directory, &ONE), 2);
        assert!(said.starts_with("error: run.search-1: "), "{said}");
        assert!(said.contains("remove it to begin this one search again"), "{said}");
    }
    let other = text(&good[..line]).replacen("lost-dirty-update", "canary", 1);
    fs::write(&file, [other.as_bytes(), &good[line..]].concat()).expect("a test can write");
    let said = refused(&kvmmu_in(&directory, &ONE), 2);
    assert!(said.contains("this is of 'canary', not of 'lost-dirty-update'"), "{said}");
    fs::remove_file(&file).expect("it is there");
    assert_eq!(kvmmu_in(&directory, &ONE).status.code(), Some(0));
}

#[test]
fn two_runs_at_once_do_not_share_a_file() {
    let directory = under_way("resume-locked");
    let file = File::open(directory.join("run")).expect("it is there");
    if file.lock().is_ok() {
        let said = refused(&kvmmu_in(&directory, &ONE), 2);
        assert!(said.starts_with("error: run: another kvmmu goes on with this run"), "{said}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_loses_no_result() {
    let directory = scratch("resume-full");
    let output = kvmmu_after("ulimit -f 1", &directory, &ONE);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("cannot write run"), "{said}");
    assert!(text(&output.stdout).starts_with("holds   lost-dirty-update "), "{output:?}");
    // What is there can be gone on with.
    assert_eq!(kvmmu_in(&directory, &ONE).status.code(), Some(0));
}
