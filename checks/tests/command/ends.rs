//! Goal: however a run ends, by a bound, a signal, a full disk or a reader that leaves, nothing
//! that was found is lost and the exit code says how. Method: the command itself under limits of
//! the shell.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::cli::{kvmmu_in, refused};
use crate::common::scratch;
use kvmmu::cli::args::ENVIRONMENT;

/// Sends the signal called `name` to a child.
#[cfg(unix)]
fn send(name: &str, child: &std::process::Child) {
    let sent = Command::new("kill").args([name, &child.id().to_string()]).status();
    assert!(sent.expect("kill starts").success());
}

#[cfg(unix)]
#[test]
fn ctrl_c_while_a_counterexample_is_made_short_prints_what_there_is() {
    let directory = scratch("cli-minimise-interrupted");
    fs::write(directory.join("slow.toml"), SLOW).expect("a test can write");
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvmmu"));
    command.args(EXPLAIN_SLOW).current_dir(&directory);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null());
    let child = command.spawn().expect("kvmmu starts");
    // The violation is found in a moment.
    std::thread::sleep(std::time::Duration::from_secs(2));
    send("-INT", &child);
    let output = child.wait_with_output().expect("kvmmu ends");
    let told = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(130), "{told}");
    assert!(told.contains("context switches; a smaller one was not ruled out"), "{told}");
}

/// Sends the signal called `name` in mid-search and expects `code` and a partial summary.
#[cfg(unix)]
fn interrupts(name: &str, code: i32) {
    // A SIGHUP that is ignored here, as under nohup, would be ignored there.
    let mut command = Command::new("env");
    if cfg!(target_os = "linux") {
        command.arg("--default-signal=HUP");
    }
    command.arg(env!("CARGO_BIN_EXE_kvmmu"));
    command.args(["check", "canary", "aba-indirect", "--strategy", "random", "--jobs", "1"]);
    command.args(["--executions-max", "1000000000"]);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null());
    let mut child = command.spawn().expect("kvmmu starts");
    // The canary's verdict says that the handler is there and the long search begins.
    let mut out = std::io::BufReader::new(child.stdout.take().expect("piped"));
    let mut text = String::new();
    std::io::BufRead::read_line(&mut out, &mut text).expect("there is a line");
    assert!(text.contains("canary"), "{text}");
    send(name, &child);
    std::io::Read::read_to_string(&mut out, &mut text).expect("output is text");
    let status = child.wait().expect("kvmmu ends");
    assert_eq!(status.code(), Some(code), "{text}");
    assert!(text.contains(" of 4 variants: "), "{text}");
    assert!(text.ends_with("; interrupted\n"), "{text}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_in_mid_search_prints_a_partial_summary() {
    interrupts("-INT", 130);
}

#[cfg(unix)]
#[test]
fn sigterm_and_sighup_lose_no_more_than_ctrl_c_does() {
    interrupts("-TERM", 143);
    interrupts("-HUP", 129);
}

#[cfg(target_os = "linux")]
#[test]
fn jobs_for_which_there_is_no_room_are_not_begun() {
    let directory = scratch("cli-jobs");
    let check = ["check", "lock-*", "--jobs", "1000", "--states-max", "1000"];
    let output = kvmmu_after("ulimit -v 1000000", &directory, &check);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(
        said.contains("note: there is memory for ") && said.contains(" of 1000 jobs"),
        "{said}"
    );
    assert!(!String::from_utf8_lossy(&output.stdout).contains("memory"), "{said}");
}

/// A scenario whose counterexamples take long to be made short.
const SLOW: &str = r#"title  = "Long counterexamples"
source = "none"
about  = "As aba-indirect-pinned, with one thread for host and user."
paging = "shadow"
spte   = "npt"
indirect-fast-fault = "pinned"

[host]
pages  = 4
"gfn2" = "swapped"
"gfn3" = { pfn = 1 }
"gfn4" = { pfn = 2 }

[[slot]]
gfn   = 1
pages = 4
log   = true

[guest]
root   = "gfn4"
"gfn4" = ["gfn3 w"]
"gfn3" = ["gfn1 w"]

[map]
"gva0" = { pfn = 0, spte = "110", accessed = true, dirty = true }

[[thread]]
name = "vcpu0"
run  = ["write gva0"]

[[thread]]
name = "vcpu1"
run  = ["emulate-gpte gfn3[0] gfn2", "write gva0"]

[[thread]]
name = "user"
run  = ["swap-out gfn1", "swap-in gfn1", "get-dirty-log slot0", "copy-harvested"]

[at-stop]
run = ["get-dirty-log slot0", "copy-harvested"]

[check]
always    = ["migration", "spte-legal"]
sometimes = ["fast-fault-fixed@vcpu0", "gup@vcpu0", "spte-zapped@user"]
"#;

/// The command that explains it.
const EXPLAIN_SLOW: [&str; 4] = ["explain", "slow.toml", "--without", "harvest-clear-then-protect"];

#[test]
fn bounds_hold_for_making_a_counterexample_short() {
    let directory = scratch("cli-minimise");
    fs::write(directory.join("slow.toml"), SLOW).expect("a test can write");
    for (bound, text) in [
        (["--time-max", "400ms"], "(time <= 400ms); raise --time-max"),
        (["--states-max", "5000"], "(states <= 5000); raise --states-max"),
        (["--memory-max", "1M"], "(memory <= 1.0 MiB together); raise --memory-max"),
    ] {
        let begun = std::time::Instant::now();
        let output = kvmmu_in(&directory, &[&EXPLAIN_SLOW[..], &bound].concat());
        let took = begun.elapsed();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(took.as_secs() < 10, "{bound:?} took {took:?}");
        assert!(said.contains("this counterexample was not minimised to the end"), "{said}");
        assert!(said.contains(text), "{said}");
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(told.contains("context switches; a smaller one was not ruled out"), "{told}");
    }
}

/// A scenario with more states than fit into the memory of these tests.
const LARGE: &str = r#"title  = "Too much at once"
source = "none"
about  = "Four vCPUs, host, user."
paging = "direct"
spte   = "ept-no-ad"
slot   = [{ gfn = 0, pages = 4, log = true }]
thread = [{ name = "vcpu0", run = ["write gfn0", "write gfn1", "read gfn2", "write gfn3"] },
          { name = "vcpu1", run = ["write gfn1", "write gfn0", "read gfn3", "write gfn2"] },
          { name = "vcpu2", run = ["write gfn2", "write gfn3", "read gfn0", "write gfn1"] },
          { name = "vcpu3", run = ["write gfn3", "write gfn2", "read gfn1", "write gfn0"] },
          { name = "host", run = ["age gfn0", "swap-out gfn1", "swap-in gfn1"] },
          { name = "user", run = ["get-dirty-log slot0", "copy-harvested"] }]
at-stop = { run = ["get-dirty-log slot0", "copy-harvested"] }
check   = { always = ["migration", "pfn-safety", "swap"] }
"#;

#[test]
fn memory_that_ends_is_a_bound_and_not_an_abort() {
    let directory = scratch("cli-memory");
    fs::write(directory.join("large.toml"), LARGE).expect("a test can write");
    let check = ["check", "large.toml", "-q", "--jobs", "1", "--strategy", "stateful"];
    let output = kvmmu_in(&directory, &[&check[..], &["--memory-max", "5M"]].concat());
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.starts_with("bound   large  "), "{text}");
    assert!(text.contains("NOT all, memory <= 5.0 MiB together, SC; raise --memory-max"), "{text}");
    let explain = ["explain", "large.toml", "-q", "--without", "", "--memory-max", "5M"];
    let said = refused(&kvmmu_in(&directory, &explain), 3);
    assert!(said.contains("a bound was hit (memory <= 5.0 MiB together)"), "{said}");
    assert!(said.contains("raise --memory-max"), "{said}");
}

/// Runs `kvmmu` in `directory` after `limit`, a command of the shell.
#[cfg(target_os = "linux")]
pub(crate) fn kvmmu_after(limit: &str, directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new("sh");
    let run = format!("{limit} && exec \"$0\" \"$@\"");
    command.args(["-c", &run, env!("CARGO_BIN_EXE_kvmmu")]).args(arguments);
    for name in ENVIRONMENT {
        command.env_remove(name);
    }
    command.env("NO_COLOR", "1").current_dir(directory).output().expect("a shell starts")
}

#[cfg(target_os = "linux")]
#[test]
fn memory_that_the_shell_bounds_is_not_exceeded() {
    let directory = scratch("cli-ulimit");
    fs::write(directory.join("large.toml"), LARGE).expect("a test can write");
    let check = ["check", "large.toml", "-q", "--jobs", "1", "--strategy", "stateful"];
    let output = kvmmu_after("ulimit -v 130000", &directory, &check);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(3), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("NOT all, memory <= "), "{text}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_a_clear_error() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has /dev/full");
    let output = Command::new(env!("CARGO_BIN_EXE_kvmmu"))
        .arg("list")
        .stdout(full)
        .output()
        .expect("kvmmu starts");
    let said = refused(&output, 2);
    assert!(said.contains("cannot write to standard output"), "{said}");
}

/// Where files may not grow, `ulimit -f 1` stands for a disk that is full.
#[cfg(target_os = "linux")]
#[test]
fn a_trace_that_does_not_fit_leaves_the_old_one_and_no_half() {
    let directory = scratch("cli-trace-full");
    let explain = ["explain", "canary", "-q", "--trace-dir", "traces"];
    let first = kvmmu_in(&directory, &explain);
    assert_eq!(first.status.code(), Some(0));
    let place = directory.join("traces/canary/all-guards");
    let old = fs::read_to_string(place.join("trace.jsonl")).expect("it was written");
    assert!(old.len() > 1024, "{}", old.len());
    // The system ends whoever writes on, unless the signal of that is caught or ignored.
    for limit in ["trap '' XFSZ && ulimit -f 1", "ulimit -f 1", "ulimit -f 0"] {
        let output = kvmmu_after(limit, &directory, &explain);
        let said = refused(&output, 2);
        let why = "cannot write the trace traces/canary/all-guards/trace.jsonl: File too large";
        assert!(said.contains(why), "{said}");
        assert!(said.contains("nothing is lost: 'kvmmu replay canary --schedule v1-"), "{said}");
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(told.starts_with("BUG: guest-never-writes") && told.contains("OOPS!!!"), "{told}");
        let now = fs::read_to_string(place.join("trace.jsonl")).expect("it is there");
        assert!(now == old, "the old trace was changed");
        let left = fs::read_dir(&place).expect("it is there").count();
        assert_eq!(left, 1, "something was left behind");
    }
}

/// A standard output that is such a file.
#[cfg(target_os = "linux")]
#[test]
fn an_output_that_does_not_fit_is_a_clear_error() {
    let directory = scratch("cli-output-full");
    for command in ["list", "-h"] {
        let said = refused(&kvmmu_after("ulimit -f 0 && exec >out", &directory, &[command]), 2);
        assert!(said.contains("cannot write to standard output: File too large"), "{said}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_standard_output_that_is_closed_is_an_error() {
    let directory = scratch("cli-closed");
    for command in ["list", "check", "-h"] {
        let said = refused(&kvmmu_after("exec >&-", &directory, &[command]), 2);
        assert!(said.contains("cannot write to standard output: it is closed"), "{said}");
    }
    let null = kvmmu_after("exec >/dev/null <>/dev/null", &directory, &["list"]);
    assert_eq!(null.status.code(), Some(0));
}

#[cfg(unix)]
#[test]
fn a_reader_that_leaves_is_no_error_and_ends_the_searches() {
    let directory = scratch("cli-reader");
    let begun = std::time::Instant::now();
    for arguments in ["-h", "list", "check canary aba-indirect --jobs 2"] {
        let run = format!("{{ sleep 1; \"$0\" {arguments}; echo $? >code; }} | true");
        let status = Command::new("sh")
            .args(["-c", &run, env!("CARGO_BIN_EXE_kvmmu")])
            .current_dir(&directory)
            .status();
        assert!(status.expect("a shell starts").success());
        let code = fs::read_to_string(directory.join("code")).expect("it was written");
        assert_eq!(code, "141\n", "{arguments}");
    }
    assert!(begun.elapsed().as_secs() < 30, "{:?}", begun.elapsed());
}

#[test]
fn a_standard_error_that_cannot_be_written_loses_no_verdict() {
    let full = fs::File::options().write(true).open("/dev/full");
    let Ok(full) = full else { return };
    let output = Command::new(env!("CARGO_BIN_EXE_kvmmu"))
        .args(["check", "canary"])
        .current_dir(env!("CARGO_TARGET_TMPDIR"))
        .stderr(full)
        .output()
        .expect("kvmmu starts");
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stdout).contains("caught  canary"));
}
