//! Goal: what the model does in the simulator it does on real stage-2 tables. Method: the
//! deterministic tests of the EL2 image in QEMU, where QEMU is installed; it says so where not.

use std::path::Path;
use std::process::Command;

const QEMU: &str = "qemu-system-aarch64";

#[test]
fn the_deterministic_tests_pass_at_el2() {
    if Command::new(QEMU).arg("--version").output().is_err() {
        println!("skipped: {QEMU} is not installed (Debian: qemu-system-arm): nothing ran at EL2");
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
