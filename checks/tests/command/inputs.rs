//! Goal: a file without an end, or a far larger one than its kind has, is refused with its name and
//! the bound, and takes no more memory than that. Method: the command itself on devices and on a
//! file of holes, in an address space that the shell bounds.

use std::fs;

use crate::cli::refused;
use crate::common::scratch;
use crate::ends::kvmmu_after;

/// Runs the command in 2 GiB of addresses: what reads on and on is ended by that.
#[track_caller]
fn refuses(name: &str, arguments: &[&str], said: &str) {
    let directory = scratch(&format!("inputs-{name}"));
    let holes = fs::File::create(directory.join("holes")).expect("a test can write");
    holes.set_len(1 << 40).expect("a file may have holes");
    let begun = std::time::Instant::now();
    let text = refused(&kvmmu_after("ulimit -v 2000000", &directory, arguments), 2);
    assert!(text.contains(said), "{arguments:?}: {text}");
    assert!(begun.elapsed().as_secs() < 30, "{arguments:?}: {:?}", begun.elapsed());
}

#[test]
fn counts_are_read_as_far_as_a_table_goes() {
    for file in ["/dev/zero", "/dev/full", "holes"] {
        let said = format!("error: {file}:1: a line longer than 64.0 KiB: this is no table of");
        refuses("counts", &["check", "canary", "-q", "--counts", file], &said);
        refuses("counts", &["check", "canary", "-q", "--counts", file, "--bless"], &said);
    }
    let said = "error: /dev/urandom: larger than 4.0 MiB: this is no table of counts";
    refuses("counts", &["check", "canary", "-q", "--counts", "/dev/urandom"], said);
}

#[test]
fn a_trace_is_read_as_far_as_a_trace_goes() {
    for file in ["/dev/zero", "holes"] {
        let said = format!("error: {file}:1: a line longer than 16.0 MiB: not a trace");
        refuses("trace", &["replay", file], &said);
    }
}

#[test]
fn outcomes_and_recordings_and_scenarios_are_read_as_far_as_they_go() {
    let long = |file| format!("error: {file}:1: a line longer than 64");
    for file in ["/dev/zero", "holes"] {
        refuses("others", &["outcomes", "-q", "--compare", file], &long(file));
        refuses("others", &["conform", file], &long(file));
    }
    let directory = scratch("inputs-scenario");
    std::os::unix::fs::symlink("/dev/zero", directory.join("zero.toml")).expect("a test can link");
    let zero = kvmmu_after("ulimit -v 2000000", &directory, &["check", "-q", "zero.toml"]);
    assert!(refused(&zero, 2).contains("is larger than 1 MiB"));
}
