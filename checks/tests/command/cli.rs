//! Goal: bad input of every kind ends in a documented exit code, a message with the offending token
//! and its place, and the next thing to try. Method: the command itself, its streams and its exit
//! code.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::common::{Fake, aba, aba_events, scratch};
use kvmmu::cli::args::ENVIRONMENT;
use kvmmu::cli::exit::Exit;
use kvmmu::lab::replayed::Replayed;

/// Runs `kvmmu` in `directory`.
pub(crate) fn kvmmu_in(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvmmu"));
    command.args(arguments).current_dir(directory).env("NO_COLOR", "1");
    for name in ENVIRONMENT {
        command.env_remove(name);
    }
    command.output().expect("kvmmu starts")
}

/// Runs `kvmmu`, expects `code` and gives what it said on standard error.
#[track_caller]
fn fails(arguments: &[&str], code: i32) -> String {
    let output = kvmmu_in(Path::new(env!("CARGO_TARGET_TMPDIR")), arguments);
    refused(&output, code)
}

/// Checks that `output` is an error with exit code `code` that says what to try next.
#[track_caller]
pub(crate) fn refused(output: &Output, code: i32) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.contains("help:") || said.contains("try '--help'"), "no next thing: {said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

/// Writes `text` as a scenario file and checks it.
#[track_caller]
fn check_file(name: &str, text: &str) -> String {
    let directory = scratch(&format!("cli-{name}"));
    fs::write(directory.join("my-race.toml"), text).expect("a test can write");
    let said = refused(&kvmmu_in(&directory, &["check", "my-race.toml", "-q"]), 2);
    assert!(said.starts_with("error: my-race.toml:"), "no place: {said}");
    said
}

/// A scenario that is right.
const GOOD: &str = r#"title  = "A race"
source = "none"
about  = "Nothing."
paging = "direct"
spte   = "ept"

[[slot]]
gfn   = 0
pages = 1
log   = true

[map]
"gfn0" = { pfn = 0, spte = "110", accessed = true, dirty = true }

[[thread]]
name = "vcpu0"
run  = ["write gfn0"]

[check]
always    = ["migration"]
sometimes = ["fast-fault-fixed"]
"#;

#[test]
fn malformed_toml_is_named_with_line_and_column() {
    let said = check_file("malformed", "title = \n");
    insta::assert_snapshot!(said, @r#"
    error: my-race.toml:1:9: not TOML: string values must be quoted, expected literal string
      help: see https://toml.io for the notation and docs/scenario-format.md for the keys
    "#);
}

#[test]
fn an_unknown_operation_is_named_with_the_one_that_was_meant() {
    let said = check_file("operation", &GOOD.replace("write gfn0", "wrte gfn0"));
    insta::assert_snapshot!(said, @r#"
    error: my-race.toml:17:10: unknown operation 'wrte'
      help: did you mean 'write'? Legal here: read, write, fetch, set-gpte, set-gpte-readonly,
            set-gpte-clean, emulate-gpte, invlpg, load-cr3, access-apic, prefault, mmio,
            avic-irq-window, hv-set-msr, set-apic-base, xen-evtchn-send, psci-cpu-on, clean-cache,
            halt, lock, unlock, read-lock, read-unlock, synchronize
    "#);
}

#[test]
fn an_unknown_guard_in_a_file_is_named_with_its_place() {
    let expect = "\n[[expect]]\nwithout = [\"fast-fault-cmpxhg\"]\nverdict = \"holds\"\n";
    let said = check_file("guard", &format!("{GOOD}{expect}"));
    insta::assert_snapshot!(said, @r#"
    error: my-race.toml:24:13: unknown guard 'fast-fault-cmpxhg'
      help: did you mean 'fast-fault-cmpxchg'? Legal here: fast-fault-direct-only,
            fast-fault-cmpxchg, fast-fault-host-writable, fast-fault-mmu-writable,
            fast-fault-rewalk, mark-dirty-after-cmpxchg, mark-dirty-atomic, relax-perms-local-flush,
            restore-marks-dirty, access-track-drops-w, volatile-locklessly-writable,
            volatile-access-track, volatile-write-not-dirty, volatile-not-accessed,
            update-passes-accessed, update-passes-dirty, update-flushes-dirty,
            flush-on-locklessly-writable, write-protect-checks-mmu-writable,
            pt-protect-clears-mmu-writable, get-page-write-protects, get-page-flush,
            flush-after-harvest, harvest-clear-then-protect, harvest-xchg, harvest-flushes-always,
            make-spte-write-protects-pt, zap-passes-accessed, zap-passes-dirty,
            set-spte-marks-dirty, notifier-seq-recheck, notifier-count-check,
            notifier-seq-before-gup, notifier-seq-whole, range-start-zaps,
            range-start-counts-always, age-uses-xchg-result, age-passes-dirty,
            change-pte-clears-mmu-writable, range-start-flush, change-pte-flush,
            change-pte-bumps-seq, fault-holds-page, retry-puts-page, mmu-set-spte-flushes-old-pfn,
            pte-write-zaps, pte-write-flushes, emulator-stores-first, emulator-marks-dirty,
            gpte-recheck-upper, gpte-recheck-leaf, lockless-walk-mode, lockless-walk-irq-off,
            flush-request-wait, request-before-mode, flush-before-free, entry-irq-off,
            entry-request-check, entry-serves-requests, make-spte-strips-w-host-readonly, pin-hold,
            pin-pfn-compare, pin-for-write, large-as-host-maps, large-not-logged, large-in-slot,
            shadowed-disallows-large, write-protect-all-levels, zap-all-levels, log-protects-large,
            fast-fault-not-large, drop-large-spte, drop-large-flushes, large-unlinks-table,
            collapsible-flushes, collapsible-in-slot, child-gfn-compare, child-role-compare,
            validate-direct-spte, mmio-spte-drops, walk-sets-ad, protect-clean-gpte,
            gpte-ad-marks-dirty, gpte-cmpxchg-by-address, unsync-before-writable, link-marks-unsync,
            get-page-syncs, sync-roots-locks, sync-write-protects, sync-flushes-first,
            sync-page-flushes, sync-drops-mmio, range-start-pays-flushes, tlbs-dirty-read-first,
            invlpg-zaps-unsync, invlpg-flushes, set-cr3-syncs, set-cr3-flushes, run-holds-srcu,
            memslot-free-after-grace-period, memslot-invalid-before-zap, memslot-delete-zaps,
            memslot-delete-flushes, memslots-generation-last, mmio-spte-generation,
            mmio-info-generation, mmio-generation-first, mmio-wrap-zaps, retry-leaves-srcu,
            log-installed-before-protect, log-protects, log-flushes, log-flushes-always,
            log-initially-set, clear-then-protect, clear-atomic, flush-after-clear,
            host-zap-notifies, vmm-keeps-harvest, vm-complete-before-notifier, vmm-pauses-vcpus,
            vmsa-locks-vcpus, clean-by-kernel-address, gup-says-what-it-holds, async-pf-flushed,
            apic-reload-after-unmap, pml-drained, vmm-marks-dirty, invalid-slot-retries,
            bus-free-after-grace-period, bus-grace-period, irq-routing-grace-period,
            apicv-update-drops-srcu, pit-releases-irq-lock, gup-outside-mmu-lock,
            psci-without-kvm-lock, usage-count-own-lock, xen-own-lock, hypercall-page-marks-dirty,
            hv-lock-inside-vcpu-mutex, count-lock-no-mutex, tsc-write-lock-leaf
    "#);
}

#[test]
fn a_release_stands_for_what_it_lacks() {
    let of = |guards: &str| {
        let words = ["-q", "check", "log-begins-after-age", "--without", guards];
        let output = kvmmu_in(&scratch("release"), &words);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let release = of("x86-v5.10");
    assert!(release.starts_with("caught  log-begins-after-age without x86-v5.10 "), "{release}");
    let guards = kvmmu_model::Release::by_name("x86-v5.10").unwrap().lacks();
    let names: Vec<&str> = guards.iter().map(|guard| guard.info().name).collect();
    assert_eq!(of(&names.join(",")), release);
}

#[test]
fn a_contradictory_mapping_is_named_with_its_place() {
    let said = check_file("mapping", &GOOD.replace("\"110\"", "\"011\""));
    insta::assert_snapshot!(said, @r#"
    error: my-race.toml:13:29: '011': writable without host-writable and MMU-writable
      help: W = 1 needs H = 1 and M = 1: write "111", or take W away
    "#);
}

#[test]
fn too_many_cpus_are_refused() {
    let more: String =
        (1..9).map(|i| format!("[[thread]]\nname = \"vcpu{i}\"\nrun = []\n\n")).collect();
    let said = check_file("cpus", &GOOD.replace("[check]", &format!("{more}[check]")));
    insta::assert_snapshot!(said, @r#"
    error: my-race.toml:21:7: 'vcpu1' does nothing
      help: give it a program: run = ["write gfn0"]
    "#);
}

#[test]
fn an_unknown_guard_on_the_command_line() {
    let said = fails(&["check", "canary", "--without", "fast-fault-cmpxhg"], 2);
    insta::assert_snapshot!(said, @r#"
    error: unknown guard 'fast-fault-cmpxhg' in --without
      help: did you mean 'fast-fault-cmpxchg'? 'kvmmu guards' lists all of them
    "#);
}

#[test]
fn an_unknown_scenario_and_a_pattern_that_matches_nothing() {
    insta::assert_snapshot!(fails(&["check", "aba-indirct"], 2), @r#"
    error: no scenario is called 'aba-indirct'
      help: did you mean 'aba-indirect'? 'kvmmu list' prints the scenarios; a file of your own ends
            in .toml
    "#);
    insta::assert_snapshot!(fails(&["check", "zz*"], 4), @r#"
    error: no scenario matches 'zz*'
      help: 'kvmmu list' prints the scenarios; a file of your own ends in .toml
    "#);
    insta::assert_snapshot!(fails(&["explain", "aba-*"], 2), @r#"
    error: 'aba-*' matches 4 scenarios and this command takes one
      help: name one of those that 'kvmmu list' prints
    "#);
    insta::assert_snapshot!(fails(&["check", "no-such-file.toml"], 2), @r#"
    error: no-such-file.toml: cannot be read: No such file or directory (os error 2)
      help: name a file that ends in .toml; `kvmmu list` names the built-in scenarios
    "#);
}

#[test]
fn wrong_words_and_values() {
    for arguments in [
        &["--sede", "3"][..],
        &["check", "--seed", "x"],
        &["check", "--jobs", "0"],
        &["check", "--time-max", "soon"],
        &["check", "--strategy", "clever"],
        &["check", "--size", "0"],
        &["check", "--pct-depth", "0"],
        &["replay"],
        &["replay", "canary", "--without", "pin-hold"],
        &["explain"],
    ] {
        fails(arguments, 2);
    }
}

#[test]
fn depths_are_for_strategies_that_look_for_them() {
    let run = |strategy: &str| {
        let words = ["check", "canary", "-q", "--pct-depth", "2", "--strategy", strategy];
        kvmmu_in(Path::new(env!("CARGO_TARGET_TMPDIR")), &words)
    };
    for strategy in ["auto", "pct"] {
        assert_eq!(run(strategy).status.code(), Some(0));
    }
    let said = refused(&run("dpor"), 2);
    assert!(said.starts_with("error: --pct-depth has no effect on the strategy dpor"), "{said}");
}

#[test]
fn a_bound_that_the_strategy_does_not_have_is_refused() {
    let dpor = ["check", "canary", "--strategy", "dpor", "--states-max", "1"];
    insta::assert_snapshot!(fails(&dpor, 2), @r#"
    error: --states-max does not bound the strategy dpor
      help: use --executions-max, --steps-max or --time-max, and unset KVMMU_STATES_MAX; auto,
            stateful and naive have a bound of states
    "#);
    for command in ["check", "outcomes"] {
        for strategy in ["random", "pct"] {
            let said = fails(&[command, "canary", "--strategy", strategy, "--states-max", "1"], 2);
            assert!(said.contains(&format!("does not bound the strategy {strategy}")), "{said}");
        }
    }
    let directory = scratch("cli-foreign-bound");
    let run = |arguments: &[&str]| {
        let output = kvmmu_in(&directory, arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    };
    for strategy in ["auto", "stateful"] {
        let check = ["check", "canary", "-q", "--strategy", strategy, "--states-max", "1000"];
        assert_eq!(run(&check), (Some(0), String::new()));
    }
    assert_eq!(run(&["check", "canary", "-q", "--states-max", "1000"]), (Some(0), String::new()));
    // What makes a run short has the bound.
    let explain = ["explain", "canary", "--strategy", "pct", "--states-max", "1000"];
    let (code, said) = run(&explain);
    let note = "note: --states-max does not bound the strategy pct: only what makes a run short";
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(note), "{said}");
    assert_eq!(run(&[&explain[..], &["-q"]].concat()), (Some(0), String::new()));
}

#[test]
fn lock_checks_can_be_turned_off_but_where_they_are_the_point() {
    let directory = scratch("cli-lock-checks");
    for command in [
        &["check", "canary", "-q", "--no-lock-checks"][..],
        &["explain", "canary", "-q", "--without", "", "--no-lock-checks"],
    ] {
        let output = kvmmu_in(&directory, command);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{said}");
    }
    insta::assert_snapshot!(fails(&["locks", "--no-lock-checks"], 2), @r#"
    error: without lock checks no order of locks is seen
      help: leave --no-lock-checks away, and unset KVMMU_NO_LOCK_CHECKS
    "#);
    fails(&["locks", "zz*"], 4);
    fails(&["locks", "--format", "html"], 2);
}

/// Goal: an environment variable that stands for an option without a value says yes or no.
#[test]
fn a_switch_in_the_environment_is_on_or_off() {
    let run = |value: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kvmmu"));
        command.args(["locks", "canary", "-q"]).current_dir(env!("CARGO_TARGET_TMPDIR"));
        for name in ENVIRONMENT {
            command.env_remove(name);
        }
        command.env("KVMMU_NO_LOCK_CHECKS", value).output().expect("kvmmu starts")
    };
    for off in ["0", "false", "no", "off", "n", "f", "False", ""] {
        let output = run(off);
        assert_eq!(output.status.code(), Some(0), "{off}");
    }
    for on in ["1", "true", "yes", "on", "y", "t", "TRUE"] {
        assert!(refused(&run(on), 2).contains("without lock checks"), "{on}");
    }
    for wrong in ["maybe", "2", " "] {
        let said = refused(&run(wrong), 2);
        assert!(said.contains("neither true, yes, on or 1 nor false, no, off or 0"), "{said}");
        assert!(said.contains(&format!("'{wrong}' for '--no-lock-checks")), "{said}");
    }
}

#[test]
fn an_engine_that_is_not_built_in_names_the_command_that_builds_it() {
    if cfg!(feature = "engines") {
        return;
    }
    insta::assert_snapshot!(fails(&["check", "canary", "--engine", "loom"], 2), @r#"
    error: this build of kvmmu does not have the engine loom
      help: build it with 'cargo run --release --features engines -- check canary --engine loom'
    "#);
}

#[test]
fn a_schedule_that_is_not_one() {
    let replay = |schedule| fails(&["replay", "canary", "--schedule", schedule], 2);
    insta::assert_snapshot!(replay("v1-1a2b3c4d:0*3,x*7"), @r#"
    error: schedule, character 17: 'x*7' is not a move: THREAD, THREAD*COUNT, THREAD/CHOICE or THREAD/CHOICE*COUNT
      help: a schedule reads like v1-1a2b3c4d:0*3,1*7,0/2; 'kvmmu explain NAME' prints one
    "#);
    let other = fails(&["replay", "canary", "--schedule", "v2-1a2b3c4d:0"], 5);
    insta::assert_snapshot!(other, @r#"
    error: schedule, character 1: 'v2-' is not 'v1-', the schedule format of this version
      help: a schedule reads like v1-1a2b3c4d:0*3,1*7,0/2; 'kvmmu explain NAME' prints one
    "#);
    insta::assert_snapshot!(replay("0*3"), @r#"
    error: schedule, character 1: '0*3' is not 'v1-', the schedule format of this version
      help: a schedule reads like v1-1a2b3c4d:0*3,1*7,0/2; 'kvmmu explain NAME' prints one
    "#);
}

#[test]
fn a_schedule_of_something_else_is_refused_with_exit_5() {
    let said = fails(&["replay", "canary", "--schedule", "v1-00000000:0*3"], 5);
    assert!(said.contains("the schedule is for 00000000, but canary with every guard"), "{said}");
    assert!(said.contains("--force"), "{said}");
}

/// The text of a good trace.
fn good_trace() -> String {
    let variant = aba();
    let schedule = variant.stamp(&crate::common::aba_schedule()).to_string();
    let replayed = Replayed { events: aba_events(), ..Replayed::default() };
    kvmmu::report::trace::text(&variant, &schedule, &replayed)
}

/// Replays `text` as a trace file and expects `code`.
#[track_caller]
fn replay_text(name: &str, text: &str, code: i32) -> String {
    let directory = scratch(&format!("cli-trace-{name}"));
    fs::write(directory.join("t.jsonl"), text).expect("a test can write");
    refused(&kvmmu_in(&directory, &["replay", "t.jsonl"]), code)
}

#[test]
fn a_truncated_trace_is_told_from_an_edited_one() {
    let good = good_trace();
    let cut = &good[..good.len() / 2];
    insta::assert_snapshot!(replay_text("cut", cut, 2), @r#"
    error: t.jsonl:16:1: the trace is cut short: its last line is missing
      help: make the trace again with 'kvmmu explain', or replay the schedule of its first line with
            'kvmmu replay NAME --schedule S'
    "#);
    let lines: Vec<&str> = good.lines().collect();
    let without_end = lines[..lines.len() - 1].join("\n") + "\n";
    insta::assert_snapshot!(replay_text("no-end", &without_end, 2), @r#"
    error: t.jsonl:32:1: the trace is cut short: its last line is missing
      help: make the trace again with 'kvmmu explain', or replay the schedule of its first line with
            'kvmmu replay NAME --schedule S'
    "#);
    let edited = good.replacen("host: pfn0 is free again", "host: pfn9 is free again", 1);
    insta::assert_snapshot!(replay_text("edited", &edited, 2), @r#"
    error: t.jsonl:11:1: this line or one before it was edited
      help: make the trace again with 'kvmmu explain', or replay the schedule of its first line with
            'kvmmu replay NAME --schedule S'
    "#);
    let mut fewer = lines.clone();
    fewer.remove(4);
    insta::assert_snapshot!(replay_text("fewer", &(fewer.join("\n") + "\n"), 2), @r#"
    error: t.jsonl:5:1: this line or one before it was edited
      help: make the trace again with 'kvmmu explain', or replay the schedule of its first line with
            'kvmmu replay NAME --schedule S'
    "#);
    insta::assert_snapshot!(replay_text("empty", "", 2), @r#"
    error: t.jsonl:1:1: the trace is empty
      help: make the trace again with 'kvmmu explain', or replay the schedule of its first line with
            'kvmmu replay NAME --schedule S'
    "#);
    insta::assert_snapshot!(replay_text("else", "{\"v\":1}\n", 2), @r#"
    error: t.jsonl:1:1: not the first line of a trace
      help: make the trace again with 'kvmmu explain', or replay the schedule of its first line with
            'kvmmu replay NAME --schedule S'
    "#);
}

#[test]
fn a_trace_of_another_format_or_build_is_exit_5() {
    let good = good_trace();
    insta::assert_snapshot!(replay_text("format", &good.replacen("\"v\":2", "\"v\":1", 1), 5), @r#"
    error: t.jsonl:1:1: trace format 1; this version reads format 2
      help: replay it with the version that made it, replay the schedule of its first line with
            'kvmmu replay NAME --schedule S', or make it again with 'kvmmu explain'
    "#);
    // Another build: every line is right, but the fingerprint is not that of this one.
    let variant = aba();
    let replayed = Replayed { events: aba_events(), ..Replayed::default() };
    let other = kvmmu::report::trace::text(&variant, "v1-00000000:0*2", &replayed);
    let said = replay_text("build", &other, 5);
    assert!(said.contains("the schedule is for 00000000"), "{said}");
    fails(&["replay", "no-such-trace"], 2);
    fails(&["replay", "no-such-trace.jsonl"], 2);
}

#[test]
fn no_prefix_of_a_trace_and_no_changed_byte_panics() {
    let good = good_trace();
    let directory = scratch("cli-trace-fuzz");
    let path = directory.join("t.jsonl");
    let machine = Fake::obedient();
    for at in (0..good.len()).step_by(7) {
        let mut bytes = good.clone().into_bytes();
        if at % 2 == 0 {
            bytes.truncate(at);
        } else {
            bytes[at] ^= 0x11;
        }
        fs::write(&path, bytes).expect("a test can write");
        let failure = kvmmu::report::trace::read(&path).and_then(|trace| {
            kvmmu::commands::replay::compare(&machine, &aba(), &trace, false, &mut std::io::sink())
        });
        assert!(failure.is_err(), "byte {at}");
        assert!(!failure.unwrap_err().help.is_empty());
    }
}

#[test]
fn readme_names_the_environment_variables_that_there_are() {
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
    let readme = fs::read_to_string(readme).expect("there is a README");
    let mut named: Vec<&str> =
        readme.split('`').filter(|word| word.starts_with("KVMMU_") && word.len() > 6).collect();
    named.sort_unstable();
    assert_eq!(named, ENVIRONMENT);
    let mut command = <kvmmu::cli::args::Cli as clap::CommandFactory>::command();
    command.build();
    let commands = std::iter::once(&command).chain(command.get_subcommands());
    let variables = commands.flat_map(|c| c.get_arguments().filter_map(|a| a.get_env()));
    let mut there: Vec<String> = variables.map(|v| v.to_string_lossy().into_owned()).collect();
    there.sort_unstable();
    there.dedup();
    assert_eq!(there, ENVIRONMENT);
}

#[test]
fn readme_explains_the_exit_codes_that_there_are() {
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
    let readme = fs::read_to_string(readme).expect("there is a README");
    let rows = readme.lines().skip_while(|line| !line.starts_with("| exit code |")).skip(2);
    let rows: Vec<&str> = rows.take_while(|line| line.starts_with('|')).collect();
    let row = |(exit, _, meaning): &(Exit, &str, &str)| format!("| {} | {meaning} |", *exit as u8);
    assert_eq!(rows, Exit::ALL.iter().map(row).collect::<Vec<_>>());
}

#[test]
fn help_and_version_are_not_errors() {
    for argument in ["-h", "--help", "-V", "--version"] {
        let output = kvmmu_in(Path::new("."), &[argument]);
        assert_eq!(output.status.code(), Some(0), "{argument}");
    }
    for command in ["check", "merge", "list", "guards", "locks", "explain", "replay"] {
        let output = kvmmu_in(Path::new("."), &[command, "-h"]);
        assert_eq!(output.status.code(), Some(0), "{command}");
        let lines = String::from_utf8_lossy(&output.stdout).lines().count();
        assert!(lines <= 24, "{command} -h has {lines} lines");
    }
}

#[test]
fn a_size_that_a_scenario_does_not_fit_matters_only_if_it_is_selected() {
    let output = kvmmu_in(
        Path::new(env!("CARGO_TARGET_TMPDIR")),
        &["--quiet", "check", "canary", "--size", "9"],
    );
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_scenario_that_does_not_fit_a_size_does_not_keep_the_others_from_it() {
    let directory = scratch("cli-size");
    let bounds = ["--size", "9", "-q", "--executions-max", "1", "--states-max", "1"];
    let run = |words: &[&str]| kvmmu_in(&directory, &[&["check"], words, &bounds[..]].concat());
    let output = run(&["m*", "canary"]);
    let (text, said) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("canary"), "{text}");
    let left_out = "left out, because it does not fit --size 9: mark-dirty-order.toml:";
    assert!(said.contains(left_out), "{said}");
    assert!(refused(&run(&["mark-dirty-order"]), 2).contains("at most 16 fit"));
    assert!(refused(&run(&["mark-dirty-o*"]), 2).contains("at most 16 fit"));
}

/// Goal: whoever replays a livelock is told that it goes round.
#[test]
fn the_replay_of_a_livelock_says_that_it_goes_round() {
    let directory = scratch("cli-livelock");
    let explain = kvmmu_in(&directory, &["explain", "relax-perms", "--quiet"]);
    let told = String::from_utf8_lossy(&explain.stdout).into_owned();
    let schedule =
        told.split_whitespace().find(|word| word.starts_with("v1-")).expect("a schedule");
    let guard = "relax-perms-local-flush";
    let arguments = ["replay", "relax-perms", "--without", guard, "--schedule", schedule];
    let replay = kvmmu_in(&directory, &arguments);
    let text = String::from_utf8_lossy(&replay.stdout).into_owned();
    let last = text.lines().last().expect("it has an end");
    assert!(last.contains("; the state is that after step "), "{last}");
}
