//! Goal: a report, its trace and its replay name one and the same violation, and tell what led to
//! it. Method: the command itself on built-in scenarios and on small files.

use std::fs;
use std::path::Path;

use crate::cli::kvmmu_in;
use crate::common::scratch;
use kvmmu::args::{Cli, Command, ReportFormat, SearchArgs};
use kvmmu::explain::{Request, tell};
use kvmmu::report;
use kvmmu::run::{Search, Simulated};
use kvmmu::select;
use kvmmu::variant::Variant;

/// A slot that is deleted while a vCPU faults. Nothing says which property breaks.
const DELETED: &str = r#"title  = "A fault meets a deletion"
source = "none"
about  = "Nothing."
paging = "direct"
spte   = "ept"
slot   = [{ gfn = 0, pages = 1 }]
thread = [{ name = "vcpu0", run = ["write gfn0"] },
          { name = "user", run = ["delete-memslot slot0"] }]
[check]
lock-checks = false
always    = ["memslot-gone", "pfn-safety", "spte-legal"]
sometimes = ["memslots-freed@user < memslot-missing@vcpu0"]
"#;

/// Two threads that take two locks, each in its own order.
const LOCKS: &str = r#"title  = "Two locks"
source = "none"
about  = "Nothing."
paging = "direct"
spte   = "ept"
slot   = [{ gfn = 0, pages = 1 }]
[[thread]]
name = "vcpu0"
run  = ["lock mmu_lock", "lock slots_lock", "unlock slots_lock", "unlock mmu_lock"]
[[thread]]
name = "user"
run  = ["lock slots_lock", "lock mmu_lock", "unlock mmu_lock", "unlock slots_lock"]
[check]
always = []
"#;

/// Runs `kvmmu explain` in `directory` and gives what it said.
#[track_caller]
pub(crate) fn explain_in(directory: &Path, arguments: &[&str]) -> String {
    let output = kvmmu_in(directory, &[&["explain", "-q"], arguments].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {said}");
    String::from_utf8(output.stdout).expect("reports are text")
}

/// The words after `name` in the first line that has it, up to `end`.
#[track_caller]
fn between<'a>(text: &'a str, name: &str, end: &str) -> &'a str {
    let (_, rest) = text.split_once(name).unwrap_or_else(|| panic!("no '{name}' in {text}"));
    rest.split_once(end).map_or(rest, |(word, _)| word)
}

/// Checks that all that `kvmmu explain` leaves behind names one property, and gives its name.
#[track_caller]
fn agree(directory: &Path, name: &str, without: &str) -> String {
    let file = name.ends_with(".toml").then(|| directory.join(name).display().to_string());
    let selected = select::scenario(file.as_deref().unwrap_or(name), 1).expect("it loads");
    let without = select::guards(without).expect("guards exist");
    let variant = Variant::of(&selected.scenario, selected.file.as_deref(), without);
    let request = Request {
        search: &Search::new(&search()),
        format: ReportFormat::Text,
        all: false,
        trace_dir: directory,
        quiet: true,
    };
    let told = tell(&Simulated, &variant, &request, &|| false).expect("it breaks");
    let (report, trace) = (told.report, told.trace.expect("a trace is written"));
    let property = report.property.clone();
    let text = report::text::render(&report);
    assert!(text.starts_with(&format!("BUG: {property} in ")), "{text}");
    assert_eq!(between(&text, "Property: always ", ":"), property, "{text}");
    assert!(report::rst::render(&report).starts_with(&format!("BUG: {property} in ")));
    let header = kvmmu::trace::read(&trace).expect("it is whole").header;
    assert_eq!(header.property.as_ref(), Some(&property), "{text}");
    assert_eq!(header.detail, Some(report.oops), "{text}");
    let trace = trace.to_str().expect("paths here are text");
    let replay = kvmmu_in(directory, &["replay", trace]);
    let replayed = String::from_utf8_lossy(&replay.stdout).into_owned();
    let end = replayed.lines().last().unwrap_or_default();
    assert!(end.contains(&format!("violated {property}")), "{end}");
    property
}

/// The options of a search that nobody gave any.
fn search() -> SearchArgs {
    use clap::Parser;
    let cli = Cli::try_parse_from(["kvmmu", "explain", "canary"]).expect("it parses");
    let Command::Explain(args) = cli.command else { panic!("it is explain") };
    args.search
}

#[test]
fn title_oops_trace_and_replay_name_the_same_property() {
    let directory = scratch("explain-agree");
    fs::write(directory.join("deleted.toml"), DELETED).expect("a test can write");
    fs::write(directory.join("order.toml"), LOCKS).expect("a test can write");
    let stuck = LOCKS.replace("always = []", "always = []\nlock-checks = false");
    fs::write(directory.join("stuck.toml"), stuck).expect("a test can write");
    for (name, without, expected) in [
        // What `check` says of it, although a shorter run violates pfn-safety.
        ("aba-direct", "flush-request-wait", "migration"),
        ("deleted.toml", "memslot-free-after-grace-period", "use-after-free"),
        ("order.toml", "", "lock-sleep"),
        ("stuck.toml", "", "deadlock"),
    ] {
        assert_eq!(agree(&directory, name, without), expected, "{name}");
    }
}

/// A slot that is deleted while a vCPU looks a frame up in it.
const MEMSLOT: &str = r#"title  = "Deleting a memslot under a fault"
source = "none"
about  = "Nothing."
paging = "direct"
spte   = "ept"
slot   = [{ gfn = 0, pages = 1 }]
thread = [{ name = "vcpu0", run = ["write gfn0"] },
          { name = "user", run = ["delete-memslot slot0"] }]
[check]
always    = ["use-after-free", "pfn-safety"]
sometimes = ["memslot-missing@vcpu0"]
"#;

#[test]
fn the_step_that_frees_is_in_the_table_and_the_guard_is_said_to_wait_there() {
    let directory = scratch("explain-freed");
    fs::write(directory.join("memslot.toml"), MEMSLOT).expect("a test can write");
    let without = ["memslot.toml", "--without", "memslot-free-after-grace-period"];
    let told = explain_in(&directory, &without);
    let table = between(&told, "| vcpu0: write gfn0", "OOPS!!!");
    assert!(table.contains("memslots freed"), "{told}");
    // Nobody is in the way of the first grace period: what differs is the one before the free.
    let correct = between(&told, "Correct:", "Needed:");
    let correct = correct.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(!correct.contains("kvm_arch_flush_shadow_memslot"), "{correct}");
    assert!(correct.contains("a grace period of srcu"), "{correct}");
}
