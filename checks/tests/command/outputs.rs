//! Goal: what is written is found where its path leads, and nothing else is replaced on the way.
//! Method: the command itself, and symbolic links in the place of the files that it writes.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::cli::{kvmmu_in, refused};
use crate::common::scratch;

/// True if it is a symbolic link, wherever that leads.
fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).expect("it is there").is_symlink()
}

#[test]
fn counts_are_written_to_the_file_that_a_link_leads_to() {
    let directory = scratch("outputs-counts");
    fs::create_dir(directory.join("real")).expect("a test can write");
    let (file, link) = (directory.join("real/counts.txt"), directory.join("link"));
    // Two links, the second of which is relative to its own place; the file is not there at first.
    symlink("real/other", &link).expect("a test can link");
    symlink("counts.txt", directory.join("real/other")).expect("a test can link");
    let bless = ["check", "-q", "canary", "--counts", "link", "--bless"];
    for _ in 0..2 {
        assert_eq!(kvmmu_in(&directory, &bless).status.code(), Some(0));
        assert!(is_link(&link) && is_link(&directory.join("real/other")));
        let text = fs::read_to_string(&file).expect("it was written");
        assert!(text.contains(" caught "), "{text}");
        fs::write(&file, text.replace(" caught ", " other ")).expect("a test can write");
    }

    let (one, two) = (directory.join("one"), directory.join("two"));
    symlink(&one, &two).and_then(|()| symlink(&two, &one)).expect("a test can link");
    let round = ["check", "-q", "canary", "--counts", "one", "--bless"];
    refused(&kvmmu_in(&directory, &round), 2);
}

#[test]
fn a_trace_is_written_to_the_file_that_a_link_leads_to_and_over_no_device() {
    let directory = scratch("outputs-trace");
    let place = directory.join("traces/canary/all-guards");
    fs::create_dir_all(&place).expect("a test can write");
    let (file, link) = (directory.join("kept.jsonl"), place.join("trace.jsonl"));
    fs::write(&file, "old").expect("a test can write");
    symlink(&file, &link).expect("a test can link");
    let explain = ["explain", "canary", "-q", "--trace-dir", "traces"];
    assert_eq!(kvmmu_in(&directory, &explain).status.code(), Some(0));
    assert!(is_link(&link));
    assert!(fs::read_to_string(&file).expect("it is there").starts_with("{\"v\":"));

    // A pipe stands for devices: a test must not put a file in the place of one.
    fs::remove_file(&file).expect("a test can remove");
    assert!(Command::new("mkfifo").arg(&file).status().expect("mkfifo starts").success());
    let said = refused(&kvmmu_in(&directory, &explain), 2);
    assert!(said.contains("trace.jsonl: it is not a regular file"), "{said}");
    let there = fs::symlink_metadata(&file).expect("it is there");
    assert!(!there.is_file() && is_link(&link), "it was replaced");
}
