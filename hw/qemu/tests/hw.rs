//! Goal: the EL2 image does in QEMU what it says, by `-kernel` and by U-Boot, and what is wrong is
//! told. Method: the `hw` program itself. Where QEMU, U-Boot or the bare target is not installed, a
//! test says what it skipped.

use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

use kvmmu_qemu::program::QEMU_AARCH64;

/// Emulated machines run one after the other: each has more CPUs than most hosts.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Runs `hw`; `None`, and a line that says so, where something is not installed.
fn hw(arguments: &[&str]) -> Option<Output> {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    if let Err(failure) = QEMU_AARCH64.find() {
        println!("skipped: hw {}: {}", arguments.join(" "), failure.message);
        return None;
    }
    let output = Command::new(env!("CARGO_BIN_EXE_hw"))
        .args(arguments)
        .output()
        .expect("cargo has built the program");
    let errors = String::from_utf8_lossy(&output.stderr);
    if errors.contains("is not installed") {
        println!("skipped: hw {}: {errors}", arguments.join(" "));
        return None;
    }
    Some(output)
}

/// What it printed, and its exit code.
fn said(output: &Output) -> (String, Option<i32>) {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    (format!("{text}{errors}"), output.status.code())
}

/// What each deterministic test must say.
const DETERMINISTIC: &[&str] = &[
    "ok: permission-fault: fast_page_fault's cmpxchg",
    "ok: access-flag: 0x",
    "ok: stale-tlb, same core: no TLBI: write-protected; the store went through the old W",
    "ok: stale-tlb, same core: IPAS2E1IS alone: write-protected; the store went through",
    "ok: stale-tlb, same core: VMALLS12E1IS; DSB; ISB (Linux, the VM): write-protected; the store \
     faulted: gfn0 is not lost",
    "ok: stale-tlb, other core: no TLBI: GET_DIRTY_LOG, gfn0 copied; stores by vcpu1 went through \
     the old W",
    "ok: stale-tlb, other core: IPAS2E1IS; DSB; VMALLE1IS; DSB; ISB (Linux, one page)",
    "ok: hardware-dirty: a store",
    "ok: aba, every guard: vcpu0 read the SPTE, user zapped it, vcpu0's cmpxchg met another value; \
     nothing is lost",
    "ok: aba, without lockless-walk-mode: ",
    "ok: aba, without fast-fault-cmpxchg: vcpu0 read the SPTE, user zapped it, vcpu0's plain store \
     put it back; pfn-safety",
    " as expected, 0 unexpected",
];

fn check_deterministic(output: &Output) {
    let (text, code) = said(output);
    assert_eq!(code, Some(0), "{text}");
    for line in DETERMINISTIC {
        assert!(text.contains(line), "'{line}' is not in:\n{text}");
    }
}

#[test]
fn the_deterministic_tests_pass() {
    let Some(output) = hw(&["tests"]) else { return };
    check_deterministic(&output);
}

#[test]
fn the_same_image_passes_by_booti_of_a_real_u_boot() {
    let Some(output) = hw(&["tests", "--u-boot"]) else { return };
    if said(&output).0.contains("there is no U-Boot") {
        println!("skipped: hw tests --u-boot: {}", said(&output).0);
        return;
    }
    assert!(said(&output).0.contains("Starting kernel"), "U-Boot did not run");
    check_deterministic(&output);
}

#[test]
fn a_guard_that_is_taken_away_is_missed_and_the_outcomes_are_written() {
    let file = std::env::temp_dir().join(format!("kvmmu-outcomes-{}", std::process::id()));
    let path = file.to_str().expect("a path that is text");
    let arguments = [
        "scenarios",
        "--scenario",
        "stale-tlb-dirty-log",
        "--without",
        "flush-after-harvest",
        "--outcomes",
        path,
    ];
    let Some(output) = hw(&arguments) else { return };
    let (text, code) = said(&output);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("VIOLATED in") && text.contains("migration: gfn0 was written"), "{text}");
    let outcomes = std::fs::read_to_string(&file).expect("the outcomes were written");
    std::fs::remove_file(&file).expect("they can be removed");
    assert!(outcomes.lines().count() > 0);
    for line in outcomes.lines() {
        let value: serde_json::Value = serde_json::from_str(line).expect("each line is JSON");
        assert_eq!(value["scenario"], "stale-tlb-dirty-log");
        assert_eq!(value["without"][0], "flush-after-harvest");
        assert_eq!(value["spte"], "stage2");
    }
}

/// What a table of the MMU of arm64 must have: a variant that holds, those that are lost every
/// time, and those that QEMU cannot show, with the reason.
const STAGE2: &[&str] = &[
    "s2-unmap-v6.12",
    "/3  holds",
    "1/1  LOST in ",
    "  without s2-tlbi-stage2-first ",
    "not in QEMU (d)",
    "(d) it makes no combined entry from one of stage 2 that it has kept",
    "6 variants: 1 hold, 3 lose, 2 not in QEMU, 0 not seen, 0 VIOLATED, 0 not run",
    "verdict 0: ",
];

#[test]
fn the_mmu_of_arm64_runs_on_real_tables() {
    let file = std::env::temp_dir().join(format!("kvmmu-stage2-{}", std::process::id()));
    let path = file.to_str().expect("a path that is text");
    let arguments = ["scenarios", "--scenario", "s2-unmap-v6.12", "--outcomes", path];
    let Some(output) = hw(&arguments) else { return };
    let (text, code) = said(&output);
    assert_eq!(code, Some(0), "{text}");
    for line in STAGE2 {
        assert!(text.contains(line), "'{line}' is not in:\n{text}");
    }
    let outcomes = std::fs::read_to_string(&file).expect("the outcomes were written");
    std::fs::remove_file(&file).expect("they can be removed");
    for line in outcomes.lines() {
        let value: serde_json::Value = serde_json::from_str(line).expect("each line is JSON");
        assert_eq!(value["spte"], "arm64");
    }
    assert!(outcomes.lines().count() >= 6, "{outcomes}");
}

#[test]
fn what_stage_2_costs_is_told_with_its_tlbis() {
    let Some(output) = hw(&["bench", "--mmu", "arm64", "--cores", "2", "--stores", "1000"]) else {
        return;
    };
    let (text, code) = said(&output);
    assert_eq!(code, Some(0), "{text}");
    let row = |op: &str, version: &str, tlbis: &str| {
        let is_it = |line: &str| {
            line.starts_with(&format!("| {op} ")) && line.contains(version) && line.ends_with(tlbis)
        };
        assert!(text.lines().any(is_it), "{op} of {version}: {tlbis} is not in:\n{text}");
    };
    row("map", "arm64-v5.10", "| none");
    row("relax_perms", "arm64-v5.10", "| 1 vmalle1is, 1 ipas2e1is");
    row("relax_perms", "arm64-v6.12", "| 1 vmalle1, 1 ipas2e1");
    row("get_dirty_log", "arm64-v6.1", "| 1 vmalls12e1is");
    row("split", "arm64-v6.12", "| 1 vmalle1is, 1 ipas2e1is");
    row("merge", "arm64-v6.12", "| 1 vmalls12e1is");
}

#[test]
fn what_is_wrong_is_told_with_a_code_and_nothing_hangs() {
    let cases: &[(&[&str], i32, &str)] = &[
        (&["tests", "--without", "no-such-guard"], 2, "without=no-such-guard: no such guard"),
        (&["tests", "--", "quiet"], 2, "boot argument 'quiet': expected suite, all, tests"),
        (&["tests", "--mmu", "tdp"], 2, "'mmu=tdp': expected mmu=x86, arm64 or all"),
        (&["tests", "--mmu", "arm64"], 4, "the tests are of the MMU of x86"),
        (&["stress", "--mmu", "arm64", "--tlbi", "ipa"], 4, "tlbi= is for the MMU of x86"),
        (&["scenarios", "--scenario", "no-such"], 4, "there is no scenario 'no-such'"),
        (&["scenarios", "--scenario", "vmid-rollover"], 4, "and the image has one"),
        (&["tests", "--cpu", "no-such-cpu"], 2, "no-such-cpu"),
        (&["stress", "--stores", "100000000000", "--limit", "3"], 3, "no verdict within 3 s"),
        (&["tests", "--u-boot", "--u-boot-bin", "/nowhere"], 2, "there is no U-Boot at /nowhere"),
        (&["tests", "--outcomes", "/nowhere/file"], 2, "cannot write /nowhere/file"),
    ];
    for (arguments, code, message) in cases {
        let Some(output) = hw(arguments) else { return };
        let (text, seen) = said(&output);
        assert_eq!(seen, Some(*code), "{arguments:?}: {text}");
        assert!(text.contains(message), "{arguments:?}: {text}");
    }
}

#[test]
fn without_qemu_the_package_is_named() {
    let output = Command::new(env!("CARGO_BIN_EXE_hw"))
        .arg("tests")
        .env("PATH", "/nowhere")
        .output()
        .expect("cargo has built the program");
    let (text, code) = said(&output);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("qemu-system-aarch64 is not installed"), "{text}");
    assert!(text.contains("help: apt-get install qemu-system-arm"), "{text}");
}

/// A path on which a QEMU answers, and a compiler that has no target but the machine's own.
fn without_the_target() -> (std::path::PathBuf, std::path::PathBuf) {
    use std::os::unix::fs::PermissionsExt;
    let place = std::env::temp_dir().join(format!("kvmmu-no-target-{}", std::process::id()));
    std::fs::create_dir_all(&place).expect("a directory can be made");
    for (name, says) in
        [("qemu-system-aarch64", "QEMU emulator version 7.2.0"), ("rustc", "/nowhere/lib")]
    {
        let file = place.join(name);
        std::fs::write(&file, format!("#!/bin/sh\necho '{says}'\n")).expect("it can be written");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).expect("and set");
    }
    let rustc = place.join("rustc");
    (place, rustc)
}

#[test]
fn without_the_target_the_command_that_adds_it_is_named() {
    let (path, rustc) = without_the_target();
    let output = Command::new(env!("CARGO_BIN_EXE_hw"))
        .arg("tests")
        .env("PATH", &path)
        .env("RUSTC", rustc)
        .output()
        .expect("cargo has built the program");
    std::fs::remove_dir_all(path).expect("it can be removed");
    let (text, code) = said(&output);
    assert_eq!(code, Some(2), "{text}");
    // checks/tests/el2.rs knows these two lines.
    let wanted = "error: the target aarch64-unknown-none-softfloat is not installed\n  help: \
                  rustup target add aarch64-unknown-none-softfloat\n";
    assert_eq!(text, wanted);
}
