//! Goal: what the model does in the simulator it does on real stage-2 tables. Method: the
//! deterministic tests of the EL2 image in QEMU, where QEMU and the bare target are installed; it
//! says what it skipped and what adds it where not.
//!
//! A test program of its own: QEMU has a time limit, and has the machine to itself here.

use std::path::Path;
use std::process::Command;

const QEMU: &str = "qemu-system-aarch64";

/// What `hw` could not do for want of something that is not installed, and the one command that
/// adds it. `None`: it complains of something else, or of nothing.
fn skipped(complained: &str) -> Option<String> {
    let line = |start| complained.lines().find_map(|line| line.trim().strip_prefix(start));
    let (missing, add) = (line("error: ")?, line("help: ")?);
    let installs = ["apt-get install ", "rustup target add "];
    let is_absent = missing.ends_with(" is not installed") || missing.ends_with(" is needed");
    (is_absent && installs.iter().any(|install| add.starts_with(install)))
        .then(|| format!("skipped: {missing}: nothing ran at EL2; to add it: {add}"))
}

#[test]
fn the_deterministic_tests_pass_at_el2() {
    if Command::new(QEMU).arg("--version").output().is_err() {
        println!("skipped: {QEMU} is not installed: nothing ran at EL2; to add it: {ADD_QEMU}");
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let run = Command::new(env!("CARGO"))
        .current_dir(root)
        .args(["run", "--quiet", "--release", "--package", "kvmmu-qemu", "--bin", "hw", "--"])
        .arg("tests")
        .output()
        .expect("cargo can be run");
    let said = String::from_utf8_lossy(&run.stdout);
    let complained = String::from_utf8_lossy(&run.stderr);
    if let Some(line) = skipped(&complained).filter(|_| said.is_empty()) {
        println!("{line}");
        return;
    }
    assert!(run.status.success(), "{}\n{said}\n{complained}", run.status);
    // What has to be lost was lost, and what must not be was not.
    for line in [
        "stale-tlb, other core: no TLBI: ",
        "stale-tlb, other core: IPAS2E1IS alone: ",
        "aba, without fast-fault-cmpxchg: ",
        "aba, every guard: ",
    ] {
        assert!(said.contains(&format!("ok: {line}")), "no '{line}' in\n{said}");
    }
}

const ADD_QEMU: &str = "apt-get install qemu-system-arm";

#[test]
fn only_what_is_not_installed_is_skipped() {
    // As `hw` says it: hw/qemu/tests/hw.rs sees that it does.
    let target = "error: the target aarch64-unknown-none-softfloat is not installed\n  \
                  help: rustup target add aarch64-unknown-none-softfloat\n";
    let qemu = "error: /usr/bin/qemu-system-aarch64 is version 6.2; 7.2 is needed\n  \
                help: apt-get install qemu-system-arm\n";
    for (complained, add) in [(target, "rustup target add "), (qemu, ADD_QEMU)] {
        let line = skipped(complained).expect("it is skipped");
        assert!(line.starts_with("skipped: ") && line.contains(add), "{line}");
        assert_eq!(line.lines().count(), 1);
    }
    let broken = "error: kvmmu-hw does not build:\nerror[E0433]: cannot find type\n  \
                  help: cargo build --package kvmmu-hw\n";
    let limit = "error: no verdict within 60 s\n  help: give it more time\n";
    for complained in [broken, limit, ""] {
        assert_eq!(skipped(complained), None);
    }
}
