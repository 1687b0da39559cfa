//! Goal: a run ends in time, with the child dead and reaped, whatever the child does. Method: small
//! shell programs as children.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use kvmmu_qemu::{End, Launch, Said, Step};

/// A shell program.
fn sh(program: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", program]);
    command
}

/// Runs a shell program for `limit_ms` at most; also returns what it said.
fn run(program: &str, limit_ms: u64) -> (End<()>, Vec<String>, Duration) {
    let begin = Instant::now();
    let mut seen = Vec::new();
    let end = Launch::new(sh(program), Duration::from_millis(limit_ms))
        .run(|said| {
            match said {
                Said::Line(line) => seen.push(line.to_owned()),
                Said::Prompt(text) => seen.push(format!("prompt {text}")),
                Said::Error(line) => seen.push(format!("error {line}")),
            }
            Step::Go
        })
        .expect("sh runs");
    (end, seen, begin.elapsed())
}

/// True if the process is there and no zombie.
fn alive(pid: &str) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid).join("stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// Waits until the process has gone.
#[track_caller]
fn gone(pid: &str) {
    let begin = Instant::now();
    while alive(pid) {
        assert!(begin.elapsed() < Duration::from_secs(5), "process {pid} was left running");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_child_that_ends_gives_its_status_and_all_that_it_said() {
    let (end, seen, _) = run("echo one; echo two >&2; printf three; exit 7", 20_000);
    assert!(matches!(end, End::Exited(status) if status.code() == Some(7)), "{end:?}");
    for line in ["one", "error two", "three"] {
        assert!(seen.iter().any(|s| s == line), "{seen:?}");
    }
}

#[test]
fn the_limit_ends_a_child_that_never_does_and_what_it_started() {
    // The child ignores what can be ignored and has a child of its own.
    let program = "trap '' TERM INT HUP; sleep 1000 & echo $!; echo $$; while :; do sleep 1; done";
    let (end, seen, took) = run(program, 500);
    assert!(matches!(end, End::TimedOut), "{end:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(seen.len(), 2, "{seen:?}");
    seen.iter().for_each(|pid| gone(pid));
}

#[test]
fn a_verdict_ends_the_child() {
    let mut pid = String::new();
    let end = Launch::new(sh("echo $$; echo VERDICT; sleep 1000"), Duration::from_secs(20))
        .run(|said| match said {
            Said::Line("VERDICT") => Step::End(42),
            Said::Line(line) => {
                line.clone_into(&mut pid);
                Step::Go
            }
            _ => Step::Go,
        })
        .expect("sh runs");
    assert!(matches!(end, End::Verdict(42)), "{end:?}");
    assert!(!pid.is_empty());
    gone(&pid);
}

#[test]
fn a_child_that_leaves_something_behind_is_not_waited_for() {
    // The grandchild holds standard output open.
    let (end, seen, took) = run("sleep 1000 & echo $!; exit 3", 60_000);
    assert!(matches!(end, End::Exited(status) if status.code() == Some(3)), "{end:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    gone(&seen[0]);
}

#[test]
fn a_prompt_can_be_answered() {
    let program = "printf '=> '; read answer; echo got $answer";
    let mut seen = Vec::new();
    let end = Launch::new(sh(program), Duration::from_secs(20))
        .run::<()>(|said| match said {
            Said::Prompt("=> ") => Step::Send(b"booti\n".to_vec()),
            Said::Line(line) => {
                seen.push(line.to_owned());
                Step::Go
            }
            _ => Step::Go,
        })
        .expect("sh runs");
    assert!(matches!(end, End::Exited(status) if status.success()), "{end:?}");
    assert_eq!(seen, ["=> got booti"]);
}

#[test]
fn a_child_that_does_not_read_holds_nobody_up() {
    let mut sent = 0;
    let end = Launch::new(sh("while :; do echo more; sleep 0.01; done"), Duration::from_secs(1))
        .run::<()>(|_| {
            sent += 1;
            Step::Send(vec![b'x'; 1 << 20])
        })
        .expect("sh runs");
    assert!(matches!(end, End::TimedOut), "{end:?}");
    assert!(sent > 2, "{sent}");
}

#[test]
fn endless_garbage_ends_with_the_limit() {
    let (end, _, took) = run("cat /dev/urandom", 500);
    assert!(matches!(end, End::TimedOut), "{end:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    let (end, _, took) = run("cat /dev/zero", 500);
    assert!(matches!(end, End::TimedOut), "{end:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn a_program_that_is_not_there_is_an_error() {
    let command = Command::new("./no-such-program");
    let failure = Launch::new(command, Duration::from_secs(1)).run::<()>(|_| Step::Go).unwrap_err();
    assert!(failure.to_string().contains("cannot run './no-such-program'"), "{failure}");
}
