//! Goal: a report, its trace and its replay name one and the same violation, and tell what led to
//! it. Method: the command itself on built-in scenarios and on small files.

use std::fs;
use std::num::NonZero;
use std::path::Path;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::{available_parallelism, scope};

use crate::cli::kvmmu_in;
use crate::common::scratch;
use kvmmu::cli::args::{Cli, Command, ReportFormat, SearchArgs};
use kvmmu::commands::explain::{Request, tell};
use kvmmu::lab::run::Simulated;
use kvmmu::lab::select;
use kvmmu::lab::variant::Variant;
use kvmmu::report;
use kvmmu_model::Guard;

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
fn agree(directory: &Path, search: &SearchArgs, name: &str, without: &str) -> String {
    let file = name.ends_with(".toml").then(|| directory.join(name).display().to_string());
    let selected = select::scenario(file.as_deref().unwrap_or(name), 1).expect("it loads");
    let without = select::guards(without).expect("guards exist");
    let variant = selected.variant(without);
    let request = Request {
        search: &search.search(1),
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
    let header = report::trace::read(&trace).expect("it is whole").header;
    assert_eq!(header.property.as_ref(), Some(&property), "{text}");
    assert_eq!(header.detail, Some(report.oops), "{text}");
    let trace = trace.to_str().expect("paths here are text");
    let replay = kvmmu_in(directory, &["replay", trace]);
    let replayed = String::from_utf8_lossy(&replay.stdout).into_owned();
    let end = replayed.lines().last().unwrap_or_default();
    assert!(end.contains(&format!("violated {property}")), "{end}");
    property
}

/// The options of a search, given these words of a command line.
fn search(words: &[&str]) -> SearchArgs {
    use clap::Parser;
    let cli = Cli::try_parse_from([&["kvmmu", "explain", "canary"], words].concat());
    let Command::Explain(args) = cli.expect("it parses").command else { panic!("it is explain") };
    args.search
}

#[test]
fn title_oops_trace_and_replay_name_the_same_property() {
    let directory = scratch("explain-agree");
    fs::write(directory.join("deleted.toml"), DELETED).expect("a test can write");
    fs::write(directory.join("order.toml"), LOCKS).expect("a test can write");
    let stuck = LOCKS.replace("always = []", "always = []\nlock-checks = false");
    fs::write(directory.join("stuck.toml"), stuck).expect("a test can write");
    for (name, without, strategy, expected) in [
        // What is found, although a shorter run violates pfn-safety.
        ("aba-direct", "flush-request-wait", "stateful", "migration"),
        ("aba-direct", "flush-request-wait", "auto", "migration"),
        ("deleted.toml", "memslot-free-after-grace-period", "auto", "memslot-gone"),
        ("deleted.toml", "memslot-free-after-grace-period", "random", "use-after-free"),
        ("order.toml", "", "auto", "lock-sleep"),
        ("stuck.toml", "", "auto", "deadlock"),
    ] {
        let search = search(&["--strategy", strategy]);
        assert_eq!(agree(&directory, &search, name, without), expected, "{name} by {strategy}");
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
    assert!(correct.contains("is synchronize_srcu(srcu) begins, not"), "{correct}");
}

/// Scenarios whose reports take too long for a test.
const LARGE: &[&str] = &["aba-", "stale-walk-indirect", "lock-order"];

#[test]
fn no_line_of_a_report_is_wider_than_74_columns() {
    let directory = scratch("explain-width");
    let small = |v: &Variant| !LARGE.iter().any(|name| v.scenario.name.starts_with(name));
    let breaks = |v: &Variant| v.goal() != kvmmu::lab::variant::Goal::default();
    let variants: Vec<Variant> =
        crate::common::all_variants().into_iter().filter(|v| small(v) && breaks(v)).collect();
    assert!(variants.len() > 30, "{} reports", variants.len());
    let next = AtomicUsize::new(0);
    let worker = || {
        while let Some(variant) = variants.get(next.fetch_add(1, Relaxed)) {
            check_width(variant, &directory);
        }
    };
    let jobs = available_parallelism().map_or(1, NonZero::get);
    scope(|threads| (0..jobs).for_each(|_| drop(threads.spawn(worker))));
}

fn check_width(variant: &Variant, directory: &Path) {
    let request = Request {
        search: &search(&[]).search(1),
        format: ReportFormat::Text,
        all: false,
        trace_dir: directory,
        quiet: true,
    };
    let mut report = tell(&Simulated, variant, &request, &|| false).expect("it breaks").report;
    // As long as it is for most who run it.
    report.trace = report.trace.map(|trace| {
        let below = trace.strip_prefix(directory.to_str().expect("text")).unwrap_or(&trace);
        format!("target/kvmmu{below}")
    });
    for text in [report::text::render(&report), report::rst::render(&report)] {
        // The title is one line: it is what reports are found by.
        for line in text.lines().skip(2).filter(|line| line.len() > 74) {
            // A schedule or a list of guards must paste: it is never broken.
            let words: Vec<&str> = line.trim_end_matches(" \\").split_whitespace().collect();
            assert_eq!(words.len(), 1, "{}: {line}\n{text}", variant.name());
        }
    }
}

#[test]
fn a_guard_to_which_nothing_comes_is_named_where_there_is_nothing_to_explain() {
    let directory = scratch("explain-idle");
    fs::write(directory.join("deleted.toml"), DELETED).expect("a test can write");
    let arguments = ["explain", "-q", "deleted.toml", "--without", "pin-hold"];
    let output = kvmmu_in(&directory, &arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("all was explored; never reached: pin-hold"), "{said}");
}

#[test]
fn a_guard_to_which_nothing_comes_is_named_where_its_loss_should_have_shown() {
    let directory = scratch("check-idle");
    let expect = r#"[[expect]]
without  = []
verdict  = "holds"
[[expect]]
without  = ["pin-hold"]
verdict  = "violated"
property = "pfn-safety"
story    = "guest-write@vcpu0"
because  = "nothing"
"#;
    let text = format!("{DELETED}{expect}");
    fs::write(directory.join("deleted.toml"), text).expect("a test can write");
    let output = kvmmu_in(&directory, &["check", "-q", "deleted.toml", "--without", "pin-hold"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("UNEXPECTED") && said.contains("was expected"), "{said}");
    assert!(said.contains("; never reached: pin-hold"), "{said}");
}

#[test]
fn a_fence_has_no_counterexample_under_sc_and_none_was_to_be_expected() {
    let directory = scratch("explain-fence");
    let fence = "smp-mb-after-reading-shadow-pages";
    let output = kvmmu_in(&directory, &["explain", "-q", "mark-dirty-order", "--without", fence]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    let why = format!("there is no counterexample; not judged under SC: {fence}");
    assert!(said.contains(&why), "{said}");
    assert!(said.contains("weaker than sequential consistency"), "{said}");
}

#[test]
fn the_list_of_guards_says_which_are_not_judged() {
    let directory = scratch("guards-fences");
    let printed = |arguments: &[&str]| {
        let output = kvmmu_in(&directory, arguments);
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8(output.stdout).expect("output is text")
    };
    let list = printed(&["guards"]);
    let of = |name: &str| list.split("\n\n").find(|part| part.starts_with(name)).expect("a guard");
    let matrix = printed(&["guards", "--matrix"]);
    for guard in Guard::ALL {
        let (name, judged) = (guard.info().name, guard.is_judged_under_sc());
        assert_eq!(of(&format!("{name}\n")).contains("not judged under SC"), !judged, "{name}");
        let row = matrix.lines().find(|line| line.starts_with(&format!("{name} ")));
        let cells = row.expect("a row")[name.len()..].trim_start();
        assert_eq!(cells.starts_with("w "), !judged, "{name}");
        assert!(judged || !cells.contains(['X', 'p', 'o']), "{name}");
    }
    assert!(list.contains(", 4 not judged under SC."), "{list}");
}
