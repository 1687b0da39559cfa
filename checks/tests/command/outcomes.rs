//! Goal: `outcomes` prints what is allowed, and tells what a machine saw apart: allowed, not
//! allowed, or not known; bad files are refused with their place. Method: small scenarios, files
//! made from the command's own output and then edited, and the command itself.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::cli::{kvmmu_in, refused};
use crate::common::{scratch, variant};
use kvmmu::cli::args::OutcomesFormat;
use kvmmu::cli::exit::Exit;
use kvmmu::commands::outcomes::compare::{self, group};
use kvmmu::commands::outcomes::{Request, allowed, file, print, random};
use kvmmu::lab::search::Search;
use kvmmu::lab::search::Strategy;
use kvmmu::lab::variant::Variant;
use kvmmu_scenarios::scenario::Format;

fn request(format: OutcomesFormat, jobs: usize, states_max: u64) -> Request {
    let search = Search { strategy: Strategy::Stateful, states_max, ..Search::default() };
    Request { search, jobs, format, quiet: true }
}

/// What the command prints of `variants`, and its exit code.
fn outcomes(variants: &[Variant], format: OutcomesFormat, jobs: usize) -> (Exit, String) {
    let mut out = Vec::new();
    let request = request(format, jobs, 1_000_000);
    let exit = print(variants, &request, &|| false, &mut out).expect("it is printed");
    (exit, String::from_utf8(out).expect("it is text"))
}

/// What the command says of these lines, and its exit code.
fn judged(name: &str, lines: &str, format: OutcomesFormat, states_max: u64) -> (Exit, String) {
    let path = scratch(&format!("outcomes-{name}")).join("seen.jsonl");
    fs::write(&path, lines).expect("a test can write");
    let seen = file::read(&path).unwrap_or_else(|error| panic!("{error}"));
    let (comparison, _) = group(seen, None, 1).unwrap_or_else(|error| panic!("{error}"));
    let mut out = Vec::new();
    let request = request(format, 2, states_max);
    let exit = compare::judge(&comparison, &request, &|| false, &mut out).expect("it is printed");
    let text = String::from_utf8(out).expect("it is text");
    (exit, anstream::adapter::strip_str(&text).to_string())
}

fn some() -> Vec<Variant> {
    vec![
        variant("mark-dirty-order", ""),
        variant("mark-dirty-order", "mark-dirty-after-cmpxchg"),
        allowed::on(variant("stale-tlb-dirty-log", ""), Some(Format::Stage2)),
        variant("lost-dirty-clear", "range-start-flush"),
        variant("lockless-walk-vs-free", "flush-before-free"),
        variant("lock-xen", "xen-own-lock"),
    ]
}

/// The outcomes of `variant` as lines of the simulator.
fn lines(variant: Variant) -> String {
    outcomes(&[variant], OutcomesFormat::Json, 1).1
}

#[test]
fn sets_are_printed_one_outcome_a_line_and_do_not_depend_on_jobs() {
    let (exit, text) = outcomes(&some(), OutcomesFormat::Text, 1);
    assert_eq!(exit, Exit::Expected);
    insta::assert_snapshot!("outcomes", text);
    let forms = [OutcomesFormat::Text, OutcomesFormat::Json, OutcomesFormat::Markdown];
    for format in forms {
        assert_eq!(outcomes(&some(), format, 1), outcomes(&some(), format, 3));
    }
    insta::assert_snapshot!("outcomes-table", outcomes(&some(), forms[2], 2).1);
    assert!(text.is_ascii() && text.lines().all(|line| !line.ends_with(' ')));
}

#[test]
fn a_set_that_was_cut_says_so_and_is_exit_3() {
    for (format, said) in [
        (OutcomesFormat::Text, "perhaps more: cut at states <= 100 (101 states, ept, SC)"),
        (OutcomesFormat::Json, r#""complete":false,"bound":"states <= 100""#),
        (OutcomesFormat::Markdown, "| at least "),
    ] {
        let mut out = Vec::new();
        let variants = [variant("mark-dirty-order", "")];
        let exit = print(&variants, &request(format, 1, 100), &|| false, &mut out).expect("text");
        let text = String::from_utf8(out).expect("it is text");
        assert_eq!(exit, Exit::Inconclusive);
        assert!(text.contains(said), "{text}");
    }
}

/// Goal: a set without a fence is that of sequential consistency, and no more is said of it.
/// Method: its extent in each form, and an outcome that is not in it.
#[test]
fn a_set_without_a_fence_is_not_said_to_be_complete() {
    let fence = || variant("mark-dirty-order", "smp-mb-after-in-guest-mode");
    for (format, said) in [
        (OutcomesFormat::Text, "perhaps more: not judged under SC: smp-mb-after-in-guest-mode ("),
        (
            OutcomesFormat::Json,
            r#""complete":false,"bound":null,"unjudged":"not judged under SC: "#,
        ),
        (OutcomesFormat::Markdown, "| at least "),
    ] {
        let (exit, text) = outcomes(&[fence()], format, 1);
        assert_eq!(exit, Exit::Inconclusive);
        assert!(text.contains(said), "{text}");
    }
    let lost = lines(fence()).replace("stop.slot0={gfn0}", "stop.slot0={}");
    let (exit, text) = judged("fence", &lost, OutcomesFormat::Text, 1_000_000);
    assert_eq!(exit, Exit::Inconclusive, "{text}");
    assert!(text.contains("open    mark-dirty-order without "), "{text}");
}

/// Goal: what the simulator allows is inside of what it allows. Method: its own lines, with counts
/// that add up.
#[test]
fn the_simulators_own_outcomes_are_inside() {
    let own: String = some().into_iter().take(4).map(lines).collect();
    let (exit, text) = judged("own", &(own.clone() + &own), OutcomesFormat::Text, 1_000_000);
    assert_eq!(exit, Exit::Expected, "{text}");
    insta::assert_snapshot!("outcomes-inside", text);
}

/// Goal: an impossible outcome is told from a possible one, in words. Method: a lossless migration
/// edited to a lost store, to a store that nobody makes, and to a harvest that did not happen.
#[test]
fn an_edited_outcome_is_outside() {
    let own = lines(variant("stale-tlb-dirty-log", ""));
    for (name, from, to) in [
        (
            "lost",
            "gfn0=0x2/0x2 t1.slot0={gfn0} stop.slot0={}",
            "gfn0=0x2/0x1 t1.slot0={gfn0} stop.slot0={}",
        ),
        (
            "nobodys",
            "gfn0=0x2/0x2 t1.slot0={gfn0} stop.slot0={gfn0}",
            "gfn0=0x702/0x702 t1.slot0={gfn0} stop.slot0={gfn0}",
        ),
        ("harvest", "t1.slot0={gfn0} stop.slot0={}", "t1.slot0={} stop.slot0={}"),
    ] {
        assert!(own.contains(from), "{own}");
        let edited = own.replace(from, to);
        let (exit, text) = judged(name, &edited, OutcomesFormat::Text, 1_000_000);
        assert_eq!(exit, Exit::Unexpected, "{text}");
        insta::assert_snapshot!(format!("outcomes-outside-{name}"), text);
        let (exit, text) = judged(name, &edited, OutcomesFormat::Json, 1_000_000);
        assert_eq!(exit, Exit::Unexpected);
        let line: serde_json::Value = serde_json::from_str(&text).expect("it is one object");
        assert_eq!(line["verdict"], "outside");
        assert_eq!(line["outside"].as_array().map(Vec::len), Some(1));
        let (_, text) = judged(name, &edited, OutcomesFormat::Markdown, 1_000_000);
        assert!(text.contains("| **1 OUTSIDE**, 1 of 2 in 4 runs |"), "{text}");
    }
}

/// Goal: what a broken machine leaves is inside for the variant that is broken in the same way, and
/// outside for the correct one.
#[test]
fn a_lost_page_is_allowed_only_without_the_guard() {
    let broken = lines(variant("stale-tlb-dirty-log", "flush-after-harvest"));
    let (exit, text) = judged("broken", &broken, OutcomesFormat::Text, 1_000_000);
    assert_eq!(exit, Exit::Expected, "{text}");
    let claimed = broken.replace("\"flush-after-harvest\"", "");
    let (exit, text) = judged("claimed", &claimed, OutcomesFormat::Text, 1_000_000);
    assert_eq!(exit, Exit::Unexpected, "{text}");
    assert!(text.contains("2 of 2 allowed outcomes seen in "));
}

/// Goal: nothing is said to be outside of a set that is not known. Method: a set that a bound cuts,
/// and one of a variant that uses freed memory.
#[test]
fn what_is_not_known_to_be_outside_is_open() {
    let own = lines(variant("mark-dirty-order", ""));
    let lost = own.replace("stop.slot0={gfn0}", "stop.slot0={}");
    let (exit, text) = judged("cut", &lost, OutcomesFormat::Text, 100);
    assert_eq!(exit, Exit::Inconclusive, "{text}");
    assert!(text.contains("open    mark-dirty-order  sim, ept: "), "{text}");
    assert!(text.contains("not among those found before states <= 100, seen in "), "{text}");
    let freed = lines(variant("lockless-walk-vs-free", "flush-before-free"));
    let from = freed.split("\"outcome\":\"").nth(1).and_then(|rest| rest.split('"').next());
    let from = from.expect("it has an outcome");
    let (first, rest) = from.split_once("=0x").expect("it begins with a frame");
    let to = format!("{first}=0x7{}", rest.split_once([' ', '/']).map_or("", |_| &rest[1..]));
    let (exit, text) = judged("freed", &freed.replace(from, &to), OutcomesFormat::Text, 1_000_000);
    assert_eq!(exit, Exit::Inconclusive, "{text}");
    assert!(text.contains("freed memory is used, which may leave anything"), "{text}");
}

/// Goal: each machine is judged by its own layout. Method: EL2 has stage 2 unless it says
/// otherwise, others what they say or what the file says; a table has a column for each.
#[test]
fn each_machine_has_its_own_layout() {
    let line = |machine: &str, spte: &str, count: u32| {
        let spte = if spte.is_empty() { String::new() } else { format!(",\"spte\":\"{spte}\"") };
        format!(
            "{{\"kvmmu-outcome\":1,\"machine\":\"{machine}\",\"scenario\":\"mark-dirty-order\",\
             \"without\":[]{spte},\"outcome\":\"gfn0=0x1/0x1 t1.slot0={{gfn0}} stop.slot0={{}}\",\
             \"count\":{count},\"kernel\":\"6.1.0\"}}\n"
        )
    };
    let all = [
        line("el2", "", 3),
        line("el2", "stage2-hd", 4),
        line("live", "npt", 5),
        line("live", "", 6),
        line("live", "ept", 7),
        "\n".to_owned(),
    ];
    let (exit, text) = judged("layouts", &all.concat(), OutcomesFormat::Markdown, 1_000_000);
    assert_eq!(exit, Exit::Expected, "{text}");
    insta::assert_snapshot!("outcomes-layouts", text);
}

const LINE: &str = concat!(
    r#"{"kvmmu-outcome":1,"machine":"el2","scenario":"mark-dirty-order","without":[],"#,
    r#""outcome":"gfn0=0x1/0x1 t1.slot0={gfn0} stop.slot0={}","count":1}"#,
);

/// Goal: a bad file is refused with its place, the next thing to try and a documented code.
#[test]
fn bad_files_are_refused() {
    let directory = scratch("outcomes-bad");
    for (bad, code, said) in [
        ("not json", 2, "seen.jsonl:2: this line is no outcome: "),
        (&LINE[..80], 2, "seen.jsonl:2: this line is no outcome: EOF"),
        ("{}", 2, "it has no \"kvmmu-outcome\""),
        (r#"{"v":1,"type":"verdict"}"#, 2, "it has no \"kvmmu-outcome\""),
        (r#"{"kvmmu-outcome":"1"}"#, 2, "seen.jsonl:2: this line is no outcome: invalid type"),
        (r#"{"kvmmu-outcome":1}"#, 2, "missing field `machine`"),
        (&LINE.replace("outcome\":1", "outcome\":2"), 5, "this is version 2 of the format; here"),
        (r#"{"kvmmu-outcomes":9}"#, 5, "this is version 9 of the format; here"),
        (&LINE.replace("el2", "el9"), 2, "seen.jsonl:2: unknown machine 'el9'"),
        (&LINE.replace("mark-dirty", "mark-clean"), 2, "no scenario is called 'mark-clean-order'"),
        (&LINE.replace("[]", "[\"no-such\"]"), 2, "unknown guard 'no-such' in \"without\""),
        (&LINE.replace("[],", "[],\"spte\":\"pae\","), 2, "unknown layout 'pae' in \"spte\""),
        (
            &LINE.replace("[],", "[],\"spte\":\"arm64\","),
            5,
            "'mark-dirty-order' is of another MMU than the layout 'arm64'",
        ),
        (&LINE.replace("gfn0=0x1", "gfn0=1"), 2, "item 1 is neither a frame such as"),
        (&LINE.replace("gfn0=0x1/", "gfn0=0x01/"), 2, "not in canonical form"),
        (&LINE.replace("count\":1", "count\":0"), 2, "\"count\" is 0"),
        (&LINE.replace("count\":1", "count\":-1"), 2, "invalid value: integer `-1`"),
        (&LINE.replace("gfn0=0x1/0x1", "gfn0=0x1"), 5, "'mark-dirty-order' has no such outcome"),
        (&LINE.replace("gfn0=0x1/0x1", "gfn1=0x1/0x1"), 5, "has no such outcome: gfn1=0x1/0x1"),
        (&LINE.replace("t1.", "t0."), 5, "has no such outcome"),
        (&LINE.replace("mark-dirty-order", "random-7-1"), 2, "no scenario is called 'random-7-1'"),
        ("\u{1}\u{2}garbage of a serial line", 2, "seen.jsonl:2: this line is no outcome: "),
    ] {
        fs::write(directory.join("seen.jsonl"), format!("{LINE}\n{bad}\n")).expect("it is written");
        let arguments = ["outcomes", "--quiet", "--compare", "seen.jsonl"];
        let text = refused(&kvmmu_in(&directory, &arguments), code);
        assert!(text.contains(said) && text.contains("seen.jsonl:2: "), "{bad}\n{text}");
    }
    for (bytes, code, said) in [
        (&b""[..], 4, "there is no outcome to compare"),
        (b"\xff\xfe\n", 2, "seen.jsonl:1: this line is not UTF-8"),
        (&[b'{'; 100_000], 2, "seen.jsonl:1: a line longer than 64.0 KiB: no file of outcomes"),
    ] {
        fs::write(directory.join("seen.jsonl"), bytes).expect("it is written");
        let arguments = ["outcomes", "--quiet", "--compare", "seen.jsonl"];
        let text = refused(&kvmmu_in(&directory, &arguments), code);
        assert!(text.contains(said), "{text}");
    }
    let text = refused(&kvmmu_in(&directory, &["outcomes", "--compare", "none.jsonl"]), 2);
    assert!(text.contains("cannot read none.jsonl"), "{text}");
}

#[test]
fn bad_options_are_refused() {
    let directory = scratch("outcomes-options");
    for (arguments, code, said) in [
        (&["outcomes", "no-such"][..], 2, "no scenario is called 'no-such'"),
        (&["outcomes", "no-such*"], 4, "no scenario matches"),
        (&["outcomes", "--spte", "pae"], 2, "there are ept, ept-no-ad, npt, npt-v6.1, stage2"),
        (&["outcomes", "--without", "no-such"], 2, "unknown guard 'no-such'"),
        (&["outcomes", "--compare", "a", "--spte", "ept"], 2, "cannot be used with"),
        (&["outcomes", "--random", "2"], 2, "--emit <DIR>"),
        (&["outcomes", "--random", "0", "--emit", "d"], 2, "1..=999"),
    ] {
        let text = refused(&kvmmu_in(&directory, arguments), code);
        assert!(text.contains(said), "{arguments:?}\n{text}");
    }
}

/// Goal: a scenario with more harvests than an outcome has room for is refused, not cut.
#[test]
fn too_many_harvests_are_refused() {
    let directory = scratch("outcomes-harvests");
    let text = "title = \"t\"\nsource = \"s\"\nabout = \"a\"\npaging = \"direct\"\nspte = \"npt\"\n\
                [[slot]]\ngfn = 0\npages = 1\nlog = true\n\
                [[thread]]\nname = \"user\"\nrun = MANY\n[at-stop]\nrun = MANY\n\
                [check]\nalways = [\"migration\"]\nsometimes = [\"harvest\"]\n";
    let many = format!("[{}\"copy-harvested\"]", "\"get-dirty-log slot0\", ".repeat(15));
    let text = text.replace("MANY", &many);
    fs::write(directory.join("many.toml"), text).expect("it is written");
    let text = refused(&kvmmu_in(&directory, &["outcomes", "many.toml"]), 2);
    assert!(text.contains("many.toml gets the dirty log 30 times"), "{text}");
}

/// Goal: random workloads are the same for the same seed, and fit. Method: some of two seeds; all
/// that is emitted is explored again by name of its file, on two layouts, and compared.
#[test]
fn random_workloads_are_those_of_their_seed_and_go_round() {
    let workloads = [1, 2].map(|i| random::workload(4, i, &|| false).expect("it is drawn"));
    assert_eq!(random::workload(4, 2, &|| false).expect("it is drawn"), workloads[1]);
    assert_ne!(random::workload(8, 2, &|| false).expect("it is drawn").text, workloads[1].text);
    for workload in &workloads {
        assert!(workload.outcomes.0 > 1 && workload.text.is_ascii(), "{}", workload.text);
    }
    let directory = scratch("outcomes-random");
    let run = |arguments: &[&str]| {
        let output = kvmmu_in(&directory, arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{said}");
        String::from_utf8(output.stdout).expect("it is text")
    };
    let emitted = run(&["outcomes", "--random", "2", "--seed", "4", "--emit", "made/here"]);
    assert_eq!(emitted.lines().count(), 2, "{emitted}");
    let read = |name: &str| fs::read_to_string(directory.join("made/here").join(name));
    let names = ["random-4-001.toml", "random-4-002.toml"];
    for (workload, name) in workloads.iter().zip(names) {
        assert_eq!(read(name).expect("it is there"), workload.text);
    }
    let paths = names.map(|name| format!("made/here/{name}"));
    let mut arguments = vec!["outcomes", "-q", "--format", "json", "--spte", "stage2"];
    arguments.extend(paths.iter().map(String::as_str));
    let seen = run(&arguments).replace("\"sim\"", "\"el2\"");
    fs::write(directory.join("seen.jsonl"), seen).expect("it is written");
    let mut arguments = vec!["outcomes", "-q", "--compare", "seen.jsonl"];
    let anew = run(&arguments);
    assert!(anew.ends_with("2 comparisons: 2 inside, 0 outside, 0 open; SC\n"), "{anew}");
    arguments.extend(paths.iter().map(String::as_str));
    assert_eq!(run(&arguments), anew);
    let one = run(&[&arguments[..4], &[paths[1].as_str()]].concat());
    assert!(one.ends_with("1 comparison: 1 inside, 0 outside, 0 open; SC\n"), "{one}");
    assert!(Path::new(&directory.join(&paths[1])).exists());
    // What is there already is not written over, unless that is asked for.
    fs::write(directory.join(&paths[1]), "mine").expect("it is written");
    let emit = ["outcomes", "--random", "2", "--seed", "4", "--emit", "made/here"];
    let said = refused(&kvmmu_in(&directory, &emit), 2);
    assert!(said.contains("made/here/random-4-001.toml exists\n  help: --force"), "{said}");
    assert_eq!(read(names[1]).expect("it is there"), "mine");
    run(&[&emit[..], &["--force"]].concat());
    assert_eq!(read(names[1]).expect("it is there"), workloads[1].text);
}

/// Goal: Ctrl-C while a workload is drawn is answered at once, and no half of a file is there.
#[cfg(unix)]
#[test]
fn an_interruption_ends_the_draw_of_a_workload() {
    for (asked, index) in [(0, 2), (3, 1)] {
        let times = AtomicU32::new(0);
        // ORDERING: a number, with which nothing else is published.
        let interrupted = || times.fetch_add(1, Ordering::Relaxed) >= asked;
        // The first workload of seed 7 has half a million states, the second a few thousand.
        let failure = random::workload(7, index, &interrupted).expect_err("it is interrupted");
        assert_eq!(failure.exit, Exit::Interrupted);
        assert_eq!(times.into_inner(), asked + 1, "it went on");
    }
}
