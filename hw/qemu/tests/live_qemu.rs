//! Goal: live-qemu tells what is wrong, ends in time and leaves nothing running, whatever QEMU
//! does. Method: a shell script in QEMU's place, which says what a kernel might say.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The kernel that is selected: x86-64 5.10.223 with its legacy MMU. Its place in the cache.
const KERNEL: &str = "fb4a1229952d8921";
const SELECT: &str = "5.10.223 tdp_mmu=0";

/// Shell functions that say what kvmmu-live says: a run (a negative control or null, pages lost,
/// fast faults, verdict), and the end.
const SAYS: &str = r#"echo '[    1.0] a kernel says hello'
run() {
    printf '{"kvmmu-live":1,"type":"run","data":{"name":"paged get","broken":%s,' "$1"
    printf '"outcome":{"stores":9,"pages_lost":%s,"rounds":3,"paths":' "$2"
    printf '{"fast_fixed":%s,"fast_spurious":1}},"verdict":"%s"}}\n' "$3" "$4"
}
end() { echo '{"kvmmu-live":1,"type":"end","data":{"exit":0}}'; }
"#;

/// A directory with a script as qemu-system-x86_64, a cache with a kernel, and an /init.
struct Place {
    directory: PathBuf,
}

impl Place {
    fn new(name: &str, script: &str) -> Place {
        let leaf = format!("kvmmu-live-qemu-{name}-{}", std::process::id());
        let place = Place { directory: std::env::temp_dir().join(leaf) };
        let kernel = place.directory.join("cache").join(KERNEL);
        fs::create_dir_all(&kernel).unwrap();
        fs::create_dir_all(place.directory.join("bin")).unwrap();
        for file in ["vmlinuz", "irqbypass.ko", "kvm.ko", "kvm-amd.ko"] {
            fs::write(kernel.join(file), "nothing").unwrap();
        }
        fs::write(place.directory.join("init"), "nothing").unwrap();
        let qemu = place.directory.join("bin/qemu-system-x86_64");
        fs::write(&qemu, format!("#!/bin/sh\n{script}")).unwrap();
        fs::set_permissions(&qemu, fs::Permissions::from_mode(0o755)).unwrap();
        place
    }

    /// A script that answers as QEMU does, and boots by `boot`.
    fn booting(name: &str, boot: &str) -> Place {
        let version = "[ \"$1\" = --version ] && { echo 'QEMU emulator version 7.2.0'; exit; }";
        Place::new(name, &format!("{version}\n{SAYS}\n{boot}\n"))
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_live-qemu"));
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .env("PATH", format!("{}:{path}", self.directory.join("bin").display()))
            .env("KVMMU_CACHE", self.directory.join("cache"))
            .env("KVMMU_LIVE_INIT", self.directory.join("init"))
            .env("PLACE", &self.directory)
            .arg(SELECT);
        command
    }

    fn run(&self) -> (i32, String) {
        said(&self.command().args(["--limit", "20"]).output().unwrap())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn said(output: &Output) -> (i32, String) {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
}

#[track_caller]
fn check(place: &Place, exit: i32, wanted: &[&str]) {
    let (code, text) = place.run();
    assert_eq!(code, exit, "{text}");
    for part in wanted {
        assert!(text.contains(part), "no '{part}' in\n{text}");
    }
}

#[test]
fn a_kernel_that_keeps_its_promises() {
    let boot = "run null 0 5 ok; run '\"copy-before-get\"' 3 5 caught; end";
    check(&Place::booting("good", boot), 0, &["5 fixed, 1 spurious", "1/1", "ok", "0 boots"]);
}

#[test]
fn a_lost_page_is_exit_1() {
    let boot = "run null 2 5 LOST; run '\"copy-before-get\"' 3 5 caught; end";
    check(&Place::booting("lost", boot), 1, &["NOT AS PROMISED", "paged get: LOST"]);
}

#[test]
fn a_control_that_is_not_caught_is_exit_1() {
    let boot = "run null 0 5 ok; run '\"copy-before-get\"' 0 5 MISSED; end";
    check(&Place::booting("missed", boot), 1, &["NOT AS PROMISED", "paged get: MISSED"]);
}

#[test]
fn output_that_is_cut_off_is_repeated_once_and_no_verdict() {
    let boot = "run null 0 5 ok; printf '{\"kvmmu-live\":1,\"type\":\"ru'";
    let wanted = ["NO VERDICT", "did not come to an end in 2 boots", "again"];
    check(&Place::booting("cut", boot), 3, &wanted);
}

#[test]
fn a_boot_that_fails_once_is_infrastructure() {
    let boot = "[ -e $PLACE/once ] || { touch $PLACE/once; exit 1; }
        run null 0 5 ok; run '\"copy-before-get\"' 3 5 caught; end";
    check(&Place::booting("once", boot), 0, &["1 boots repeated"]);
}

#[test]
fn garbage_is_no_verdict() {
    check(&Place::booting("garbage", "head -c 3000000 /dev/urandom"), 3, &["NO VERDICT"]);
}

#[test]
fn a_boot_that_hangs_ends_with_the_limit() {
    let place = Place::booting("hang", "echo $$ >>$PLACE/pids; sleep 1000");
    let begin = Instant::now();
    let (code, text) = said(&place.command().args(["--limit", "1"]).output().unwrap());
    assert_eq!(code, 3, "{text}");
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    gone(&place);
}

#[test]
fn an_old_qemu_or_none_is_skipped_with_the_reason() {
    let old = Place::new("old", "echo 'QEMU emulator version 2.0.0'");
    check(
        &old,
        4,
        &["skipped", "is version 2.0; 7.2 is needed", "apt-get install qemu-system-x86"],
    );
    // A path with nothing on it.
    let none = Place::new("none", "");
    let mut command = none.command();
    command.env("PATH", none.directory.join("empty"));
    let (code, text) = said(&command.output().unwrap());
    assert_eq!(code, 4, "{text}");
    assert!(text.contains("qemu-system-x86_64 is not installed"), "{text}");
}

#[test]
fn a_kernel_that_cannot_be_had_is_skipped_with_the_reason() {
    let place = Place::booting("absent", "end");
    fs::remove_dir_all(place.directory.join("cache").join(KERNEL)).unwrap();
    // apt-get is not there.
    let mut command = place.command();
    command.env("PATH", place.directory.join("bin"));
    let (code, text) = said(&command.output().unwrap());
    assert_eq!(code, 4, "{text}");
    assert!(text.contains("skipped: "), "{text}");
}

#[test]
fn what_selects_nothing_names_what_there_is() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_live-qemu"));
    let (code, text) = said(&command.arg("no-such-kernel").output().unwrap());
    assert_eq!(code, 4, "{text}");
    assert!(text.contains("x86-64 5.10.223 npt=0 unpaged guest"), "{text}");
}

/// Starts it with a machine that hangs; ends it by `signal`; the exit code.
fn ended_by(name: &str, signal: &str) -> Option<i32> {
    let place = Place::booting(name, "echo $$ >>$PLACE/pids; sleep 1000");
    let mut child = place.command().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let begin = Instant::now();
    while !place.directory.join("pids").exists() {
        assert!(begin.elapsed() < Duration::from_secs(20), "it did not boot");
        std::thread::sleep(Duration::from_millis(10));
    }
    let kill = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let code = child.wait().unwrap().code();
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    gone(&place);
    code
}

#[test]
fn ctrl_c_ends_it_and_the_machine() {
    assert_eq!(ended_by("int", "-INT"), Some(130));
    assert_eq!(ended_by("term", "-TERM"), Some(130));
}

#[test]
fn a_sigkill_takes_the_machine_with_it() {
    assert_eq!(ended_by("kill", "-KILL"), None);
}

/// Waits until every process whose number a script left has gone.
#[track_caller]
fn gone(place: &Place) {
    let pids = fs::read_to_string(place.directory.join("pids")).unwrap();
    assert!(!pids.is_empty());
    for pid in pids.lines() {
        let begin = Instant::now();
        while alive(pid) {
            assert!(begin.elapsed() < Duration::from_secs(5), "process {pid} was left running");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn alive(pid: &str) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid).join("stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}
