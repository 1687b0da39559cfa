//! Goal: `check` says of each outcome what it means, and says it the same for any number of jobs.
//! Method: a machine whose answers are made by hand.

use std::path::Path;

use crate::cli::kvmmu_in;
use crate::common::{Fake, aba_found, all_variants, outcome, scratch, variant};
use kvmmu::cli::args::{MessageFormat, SearchArgs};
use kvmmu::cli::exit::Exit;
use kvmmu::commands::check::run_plan;
use kvmmu::commands::counts::Table;
use kvmmu::commands::plan::Plan;
use kvmmu::lab::judge::judge;
use kvmmu::lab::search::{Search, Strategy};
use kvmmu::lab::variant::Variant;
use kvmmu_model::{Hold, LockClass, Mode};
use kvmmu_scenarios::Property;
use kvmmu_scenarios::lockdep::LockOrders;
use kvmmu_sim::outcome::{Found, Outcome, Reason, Seen, Verdict};

/// Runs `variants` on `machine`; gives exit code and standard output.
fn check(
    machine: &Fake,
    variants: Vec<Variant>,
    jobs: usize,
    format: MessageFormat,
    trace_dir: &Path,
    interrupted: bool,
) -> (Exit, String) {
    let args = SearchArgs {
        strategy: Some(Strategy::Auto),
        seed: 1,
        time_max: None,
        size: 1,
        states_max: None,
        executions_max: None,
        steps_max: None,
        pct_depth: None,
        memory_max: None,
        no_lock_checks: false,
    };
    let search = args.search(jobs);
    let (counts, strict, quiet, kept, part) = (None, false, true, None, None);
    let plan = Plan {
        variants,
        search,
        size: 1,
        jobs,
        strict,
        format,
        counts,
        trace_dir,
        quiet,
        kept,
        part,
    };
    let mut out = anstream::StripStream::new(Vec::new());
    let exit = run_plan(machine, &plan, &|| interrupted, &mut out).expect("a Vec can be written");
    (exit, String::from_utf8(out.into_inner()).expect("output is text"))
}

/// The line of `check` for one variant that gives `special`.
#[track_caller]
fn line(variant: Variant, special: Outcome, exit: Exit) -> String {
    let name = variant.scenario.name.clone();
    let machine = Fake { special: vec![(name.leak(), special)], ..Fake::obedient() };
    // Tests that run at the same time would remove each other's traces.
    let test = std::thread::current().name().expect("a test has a name").replace("::", "-");
    let directory = scratch(&format!("check-line-{test}"));
    let (got, text) = check(&machine, vec![variant], 1, MessageFormat::Human, &directory, false);
    assert_eq!(got, exit, "{text}");
    text.lines().next().expect("there is a line").to_owned()
}

#[test]
fn what_threads_may_have_shared_has_no_exact_numbers() {
    let mut large = outcome(Verdict::Holds);
    large.stats.states = 250_001;
    let held = line(variant("aba-direct", ""), large.clone(), Exit::Expected);
    assert_eq!(held, "holds   aba-direct  over 250000 states, all explored, SC");
    let machine = Fake { special: vec![("aba-direct", large.clone())], ..Fake::obedient() };
    let (variants, trace_dir) = (vec![variant("aba-direct", "")], scratch("check-large"));
    let (_, json) = check(&machine, variants, 1, MessageFormat::Json, &trace_dir, false);
    let wanted = r#""states":null,"states_over":250000,"executions":null,"transitions":null,"#;
    assert!(json.contains(wanted), "{json}");
    // Where a bound ends it, or something is wrong, one thread has counted.
    large.verdict = Verdict::Inconclusive(Reason::States);
    let bound = line(variant("aba-direct", ""), large, Exit::Inconclusive);
    assert!(bound.starts_with("bound   aba-direct  250001 states, NOT all"), "{bound}");
}

#[test]
fn expected_verdicts_read_holds_and_caught() {
    let held = line(variant("aba-direct", ""), outcome(Verdict::Holds), Exit::Expected);
    assert_eq!(held, "holds   aba-direct  4711 states, all explored, SC");
    let caught =
        line(crate::common::aba(), outcome(Verdict::Violated(aba_found())), Exit::Expected);
    assert!(caught.starts_with("caught  aba-indirect without fast-fault-direct-only + lockless"));
    assert!(caught.contains("  migration, fast-fault-read@vcpu0 < "), "{caught}");
    assert!(caught.ends_with(", 4711 states, SC"), "{caught}");
}

#[test]
fn a_correct_variant_that_is_violated_is_unexpected_and_replayable() {
    let directory = scratch("check-violated");
    let verdict = Verdict::Violated(aba_found());
    let machine = Fake { special: vec![("aba-direct", outcome(verdict))], ..Fake::obedient() };
    let variants = vec![variant("aba-direct", "")];
    let (exit, text) = check(&machine, variants, 1, MessageFormat::Human, &directory, false);
    assert_eq!(exit, Exit::Unexpected);
    assert!(text.starts_with("UNEXPECTED aba-direct  violated: migration (gfn2 was"), "{text}");
    assert!(text.contains("replay: kvmmu replay aba-direct --schedule v1-"), "{text}");
    let trace = directory.join("aba-direct/all-guards/trace.jsonl");
    assert!(text.contains(&trace.display().to_string()), "{text}");
    assert_eq!(
        kvmmu::report::trace::read(&trace).expect("it is whole").header.scenario,
        "aba-direct"
    );
}

#[test]
fn a_broken_variant_that_is_caught_by_another_bug_is_unexpected() {
    let other = Found { rule: Property::RmapExact.into(), ..aba_found() };
    let text =
        line(crate::common::aba(), outcome(Verdict::Violated(other.clone())), Exit::Unexpected);
    assert!(text.contains("caught by another bug: rmap-exact"), "{text}");
    let other_story = Found { story: false, ..aba_found() };
    let text =
        line(crate::common::aba(), outcome(Verdict::Violated(other_story)), Exit::Unexpected);
    assert!(text.contains("not by migration with the story"), "{text}");
    let only_others = Outcome { others: vec![other], ..outcome(Verdict::Holds) };
    let text = line(crate::common::aba(), only_others, Exit::Unexpected);
    assert!(text.contains("caught by another bug: rmap-exact"), "{text}");
    let text = line(crate::common::aba(), outcome(Verdict::Holds), Exit::Unexpected);
    assert!(text.contains("holds, but migration with the story"), "{text}");
}

#[test]
fn a_vacuous_pass_fails_and_names_what_was_never_seen() {
    let blind = Outcome { seen: Seen::default(), ..outcome(Verdict::Holds) };
    let text = line(variant("aba-direct", ""), blind, Exit::Unexpected);
    assert!(text.contains("holds, but never saw '"), "{text}");
}

#[test]
fn a_bound_is_exit_3_and_never_a_bare_ok() {
    let cut = outcome(Verdict::Inconclusive(Reason::States));
    let text = line(variant("aba-direct", ""), cut, Exit::Inconclusive);
    assert!(text.starts_with("bound   aba-direct  4711 states, NOT all, states <= "), "{text}");
    assert!(text.contains("raise --states-max"), "{text}");
}

/// `inner` inside `outer`, seen so many times.
fn nested(outer: LockClass, inner: LockClass, times: u64) -> LockOrders {
    let hold = |class| Hold::new(class, Mode::Exclusive);
    let mut locks = LockOrders::default();
    locks.count([hold(outer)].into_iter(), hold(inner), times);
    locks
}

#[test]
fn a_cycle_of_two_scenarios_together_is_unexpected() {
    let (global, mutex) = (LockClass::KvmLock, LockClass::KvmMutex);
    let half = |locks| Outcome { locks, ..outcome(Verdict::Holds) };
    let special = vec![
        ("aba-direct", half(nested(global, mutex, 3))),
        ("host-writable", half(nested(mutex, global, 1))),
    ];
    let machine = Fake { special, ..Fake::obedient() };
    let directory = scratch("check-together");
    let run = |names: &[&str], jobs, format| {
        let variants = names.iter().map(|name| variant(name, "")).collect();
        check(&machine, variants, jobs, format, &directory, false)
    };
    for name in ["aba-direct", "host-writable"] {
        let (exit, text) = run(&[name], 1, MessageFormat::Human);
        assert_eq!(exit, Exit::Expected, "{text}");
        assert_eq!(text.lines().count(), 2, "{text}");
    }
    let names = ["aba-direct", "host-writable"];
    let (exit, text) = run(&names, 1, MessageFormat::Human);
    assert_eq!(exit, Exit::Unexpected, "{text}");
    insta::assert_snapshot!(text, @"
    holds   aba-direct     4711 states, all explored, SC
    holds   host-writable  4711 states, all explored, SC
    UNEXPECTED lock-cycle of several scenarios, or with declared orders:
            kvm->lock is taken inside kvm_lock: aba-direct
            kvm_lock is taken inside kvm->lock: host-writable
    2 variants: 2 hold, 0 caught, 0 bound, 0 unexpected; 1 lock cycle across scenarios; SC, seed 1
    ");
    assert_eq!(run(&names, 3, MessageFormat::Human), (exit, text));
    let (_, text) = run(&names, 2, MessageFormat::Json);
    let lines: Vec<&str> = text.lines().collect();
    let line: serde_json::Value = serde_json::from_str(lines[lines.len() - 2]).expect("it is JSON");
    assert_eq!((&line["type"], &line["verdict"]), (&"lock-cycle".into(), &"unexpected".into()));
    let nesting = &line["nestings"][1];
    assert_eq!((&nesting["outer"], &nesting["inner"]), (&"kvm->lock".into(), &"kvm_lock".into()));
    assert_eq!(nesting["scenario"], "host-writable");
    assert!(lines[lines.len() - 1].contains(r#""errors":0,"lock_cycles":1}"#), "{text}");
}

#[test]
fn an_order_that_closes_a_cycle_with_declared_ones_is_unexpected() {
    let locks = nested(LockClass::SlotsLock, LockClass::KvmLock, 1);
    let special = vec![("aba-direct", Outcome { locks, ..outcome(Verdict::Holds) })];
    let machine = Fake { special, ..Fake::obedient() };
    let directory = scratch("check-declared");
    let variants = vec![variant("aba-direct", "")];
    let (exit, text) = check(&machine, variants, 1, MessageFormat::Human, &directory, false);
    assert_eq!(exit, Exit::Unexpected, "{text}");
    insta::assert_snapshot!(text, @"
    holds   aba-direct  4711 states, all explored, SC
    UNEXPECTED lock-cycle of several scenarios, or with declared orders:
            kvm->slots_lock is taken inside kvm_lock: declared, see 'kvmmu locks'
            kvm_lock is taken inside kvm->slots_lock: aba-direct
    1 variant: 1 hold, 0 caught, 0 bound, 0 unexpected; 1 lock cycle across scenarios; SC, seed 1
    ");
}

#[test]
fn unexpected_beats_bound() {
    let special = vec![
        ("aba-direct", outcome(Verdict::Inconclusive(Reason::States))),
        ("canary", outcome(Verdict::Holds)),
    ];
    let machine = Fake { special, ..Fake::obedient() };
    let variants = vec![variant("aba-direct", ""), variant("canary", "")];
    let directory = scratch("check-beats");
    let (exit, text) = check(&machine, variants, 2, MessageFormat::Human, &directory, false);
    assert_eq!(exit, Exit::Unexpected);
    assert!(text.ends_with("2 variants: 0 hold, 0 caught, 1 bound, 1 unexpected; SC, seed 1\n"));
}

#[test]
fn without_an_expectation_a_violation_is_reported_and_exit_is_0() {
    let unnamed = variant("aba-direct", "range-start-flush");
    let text = line(unnamed, outcome(Verdict::Violated(aba_found())), Exit::Expected);
    assert!(text.starts_with("breaks  aba-direct without range-start-flush  migration"), "{text}");
}

/// Goal: where a fence is missing, a search under sequential consistency that finds nothing is no
/// verdict, in any form; one that finds a violation is. Method: outcomes of all three kinds.
#[test]
fn without_a_fence_nothing_holds_and_exit_is_3() {
    let fence = || variant("aba-direct", "smp-mb-after-in-guest-mode");
    let text = line(fence(), outcome(Verdict::Holds), Exit::Inconclusive);
    assert_eq!(
        text,
        "unjudged aba-direct without smp-mb-after-in-guest-mode  not judged under SC: \
         smp-mb-after-in-guest-mode; 4711 states, all explored, SC"
    );
    let cut = outcome(Verdict::Inconclusive(Reason::States));
    let text = line(fence(), cut, Exit::Inconclusive);
    assert!(text.starts_with("bound   aba-direct without smp-mb-after-in-guest-mode  "), "{text}");
    assert!(
        text.ends_with("; not judged under SC: smp-mb-after-in-guest-mode, whatever the bound")
    );
    let text = line(fence(), outcome(Verdict::Violated(aba_found())), Exit::Expected);
    assert!(text.starts_with("breaks  aba-direct without smp-mb-after-in-guest-mode  migration"));

    let directory = scratch("check-unjudged");
    let (exit, text) =
        check(&Fake::obedient(), vec![fence()], 1, MessageFormat::Human, &directory, false);
    assert_eq!(exit, Exit::Inconclusive);
    let summary = "1 variant: 0 hold, 0 caught, 1 not judged, 0 bound, 0 unexpected; SC, seed 1\n";
    assert!(text.ends_with(summary), "{text}");
    let (_, text) =
        check(&Fake::obedient(), vec![fence()], 1, MessageFormat::Json, &directory, false);
    let lines: Vec<serde_json::Value> =
        text.lines().map(|l| serde_json::from_str(l).expect("each line is JSON")).collect();
    assert_eq!(lines[1]["verdict"], "unjudged");
    assert_eq!(lines[1]["unjudged"], serde_json::json!(["smp-mb-after-in-guest-mode"]));
    assert_eq!(lines[2]["counts"]["unjudged"], 1);
    assert_eq!(lines[2]["counts"]["holds"], 0);
    assert_eq!(lines[2]["exit"], 3);
}

/// Goal: a table of counts says so, too. Method: its row.
#[test]
fn a_row_of_counts_without_a_fence_is_unjudged() {
    let fence = variant("aba-direct", "smp-mb-before-exiting-guest-mode");
    let search = Search::default();
    let mut table = Table::new(&search, 1);
    table.add(&fence, &judge(&fence, &search, &outcome(Verdict::Holds)));
    let row = &table.rows[&Table::key(&fence)];
    assert_eq!(row[3], "unjudged");
    assert_eq!(Table::parse(&table.to_string()), Ok(table));
}

#[test]
fn a_search_that_threads_share_prints_the_same() {
    let directory = scratch("check-shared");
    let run = |jobs: &str| {
        let words = ["check", "lock-order-ioctls", "--without=", "-q", "--jobs", jobs];
        let output = kvmmu_in(&directory, &[&words[..], &["--message-format", "json"]].concat());
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stdout).expect("output is text")
    };
    let one = run("1");
    assert!(one.contains(r#""verdict":"holds","text":"over 250000 states, all explored"#), "{one}");
    for jobs in ["2", "4"] {
        assert_eq!(run(jobs), one);
    }
}

#[test]
fn the_output_does_not_depend_on_the_number_of_jobs() {
    let directory = scratch("check-jobs");
    for format in [MessageFormat::Human, MessageFormat::Json] {
        let run = |jobs| check(&Fake::obedient(), all_variants(), jobs, format, &directory, false);
        let (exit, one) = run(1);
        assert_eq!(exit, Exit::Expected, "{one}");
        for jobs in [1, 2, 5] {
            assert_eq!(run(jobs).1, one);
        }
    }
}

#[test]
fn json_lines_have_version_and_type_and_begin_and_end_the_run() {
    let directory = scratch("check-json");
    let variants = all_variants();
    let count = variants.len();
    let (_, text) = check(&Fake::obedient(), variants, 2, MessageFormat::Json, &directory, false);
    let lines: Vec<serde_json::Value> =
        text.lines().map(|l| serde_json::from_str(l).expect("each line is JSON")).collect();
    assert!(lines.iter().all(|l| l["v"] == 1 && l["type"].is_string()));
    assert_eq!(lines.len(), count + 2);
    assert_eq!(lines[0]["type"], "run-start");
    assert_eq!(lines[0]["variants"], count);
    assert_eq!(lines[1]["type"], "verdict");
    assert_eq!(lines[1]["model"], "SC");
    assert_eq!(lines[count + 1]["type"], "summary");
    assert_eq!(lines[count + 1]["exit"], 0);
}

#[test]
fn ctrl_c_prints_a_partial_summary_and_is_exit_130() {
    let directory = scratch("check-ctrl-c");
    let variants = vec![variant("canary", "")];
    let (exit, text) =
        check(&Fake::obedient(), variants, 1, MessageFormat::Human, &directory, true);
    assert_eq!(exit, Exit::Interrupted);
    assert!(text.starts_with("0 of 1 variants: "), "{text}");
    assert!(text.ends_with("; interrupted\n"), "{text}");
}

#[test]
fn a_trace_that_cannot_be_written_loses_nothing() {
    let directory = scratch("check-unwritable");
    let in_the_way = directory.join("file");
    std::fs::write(&in_the_way, "").expect("a test can write");
    let machine = Fake::obedient();
    let found = aba_found();
    let replayed =
        kvmmu::lab::replayed::Replayed { events: machine.events.clone(), ..Default::default() };
    let failure =
        kvmmu::report::trace::write(&in_the_way, &crate::common::aba(), &found.schedule, &replayed)
            .expect_err("a file is in the way");
    assert_eq!(failure.exit, Exit::Usage);
    assert!(failure.help.contains("kvmmu replay aba-indirect --without"), "{failure}");
    let verdict = Verdict::Violated(found);
    let machine = Fake { special: vec![("aba-direct", outcome(verdict))], ..machine };
    let variants = vec![variant("aba-direct", "")];
    let (exit, text) = check(&machine, variants, 1, MessageFormat::Human, &in_the_way, false);
    assert_eq!(exit, Exit::Unexpected);
    assert!(text.contains("replay: kvmmu replay aba-direct --schedule v1-"), "{text}");
}

#[test]
fn a_schedule_is_the_same_with_and_without_lock_checks() {
    let on = variant("aba-direct", "");
    let off = on.clone().lock_checks_off(true);
    assert!(on.scenario.lock_checks && !off.scenario.lock_checks);
    let schedule = crate::common::aba_schedule();
    assert_eq!(on.stamp(&schedule), off.stamp(&schedule));
    let command = off.replay_command(&schedule);
    assert!(
        command.starts_with("kvmmu replay aba-direct --no-lock-checks --schedule "),
        "{command}"
    );
    assert_eq!(on.replay_command(&schedule), command.replace(" --no-lock-checks", ""));
}
