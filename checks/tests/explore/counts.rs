//! Goal: nothing moves unnoticed in what the built-in variants take and show: the table
//! `scenarios/counts.txt` has a row for each and no other, and a number that changes is named.
//! Method: the list of built-in variants; small ones explored anew, the others by `.ci/run main`;
//! and tables that were changed.
//!
//! `cargo run --release -- check --counts scenarios/counts.txt --bless` writes the file.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use kvmmu::commands::counts::Table;
use kvmmu::lab::judge::judge;
use kvmmu::lab::load::builtin;
use kvmmu::lab::run::{Machine, Simulated};
use kvmmu::lab::search::Search;
use kvmmu::lab::variant::Variant;
use kvmmu_scenarios::scenario::Expected;
use kvmmu_sim::outcome::Stats;

/// Variants that take no more transitions are explored here.
const SMALL: u64 = 100_000;
/// The one command that writes the file.
const BLESS: &str = "cargo run --release -- check --counts scenarios/counts.txt --bless";

fn text() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios/counts.txt");
    fs::read_to_string(path).expect("scenarios/counts.txt")
}

fn pinned() -> Table {
    Table::parse(&text()).unwrap_or_else(|(line, what)| panic!("counts.txt:{line}: {what}"))
}

fn variants() -> Vec<Variant> {
    let scenarios = builtin(1).expect("built-in files load");
    let of = |s| move |e: &kvmmu_scenarios::scenario::Expect| Variant::of(s, None, e.without);
    scenarios.iter().flat_map(|s| s.expects.iter().map(of(s))).collect()
}

/// The engine of before looked at every state and knew no reduction.
#[test]
fn verdicts_and_stories_are_those_of_an_engine_without_reductions() {
    let pinned = pinned();
    let then = include_str!("by_all_states.txt").lines().filter(|line| !line.starts_with('#'));
    let mut compared = 0;
    for line in then {
        let fields: Vec<&str> = line.split('\t').collect();
        let &[scenario, without, verdict, property, told] = fields.as_slice() else {
            panic!("'{line}' is no row");
        };
        let row = &pinned.rows[&[scenario, without].map(str::to_owned)];
        let [_, _, _, verdict_now, property_now, witnesses, told_now] = row;
        assert_eq!([verdict_now, property_now, told_now], [verdict, property, told], "{line}");
        // Each scenario saw all of its witnesses.
        if let (Some(all), "holds", "-") = (pinned.witnesses.get(scenario), verdict, without) {
            let every = match all.len() {
                1 => "1".to_owned(),
                n => format!("1-{n}"),
            };
            assert_eq!(*witnesses, every, "{line}");
        }
        compared += 1;
    }
    assert_eq!(compared, 111);
}

#[test]
fn every_built_in_variant_has_a_row_that_is_as_expected_and_there_is_no_other() {
    let pinned = pinned();
    let variants = variants();
    let built_in: BTreeSet<_> = variants.iter().map(Table::key).collect();
    let rows: BTreeSet<_> = pinned.rows.keys().cloned().collect();
    let missing: Vec<_> = built_in.difference(&rows).collect();
    assert!(missing.is_empty(), "no row for {missing:?}: run '{BLESS}'");
    let stale: Vec<_> = rows.difference(&built_in).collect();
    assert!(stale.is_empty(), "no variant for {stale:?}: delete these rows of counts.txt");
    for variant in &variants {
        let row = &pinned.rows[&Table::key(variant)];
        let wanted = match variant.expect.as_ref().map(|e| e.verdict) {
            Some(Expected::Violated) => "caught",
            _ => "holds",
        };
        assert_eq!(row[3], wanted, "{}", variant.name());
    }
    let names: BTreeSet<_> = pinned.rows.keys().map(|[scenario, _]| scenario).collect();
    assert!(pinned.witnesses.keys().eq(names), "witnesses of other scenarios");
}

/// What moved from one table to the other, in lines.
fn moved(old: &Table, new: &Table) -> Vec<String> {
    old.moved(new).into_iter().map(|(_, text)| text).collect()
}

#[test]
fn the_file_is_as_the_command_writes_it() {
    assert!(pinned().to_string() == text(), "edited by hand? Run '{BLESS}'");
    assert_eq!(pinned().conditions, Table::new(&Search::default(), 1).conditions);
}

#[test]
fn small_variants_take_and_show_what_their_rows_say() {
    let (pinned, search) = (pinned(), Search::default());
    let mut fresh = Table::new(&search, 1);
    let is_small = |variant: &&Variant| {
        let row = pinned.rows.get(&Table::key(variant));
        row.is_some_and(|row| row[1].parse::<u64>().is_ok_and(|steps| steps <= SMALL))
    };
    let variants = variants();
    let small: Vec<&Variant> = variants.iter().filter(is_small).collect();
    assert!(small.len() * 4 > variants.len() * 3, "most are small");
    for variant in small {
        let outcome = Simulated
            .explore(variant, &variant.goal(), &search, &|_: &Stats| true)
            .unwrap_or_else(|failure| panic!("{}: {failure}", variant.name()));
        fresh.add(variant, &judge(variant, &search, &outcome));
    }
    let moved = moved(&pinned, &fresh);
    assert!(
        moved.is_empty(),
        "{}\nif that was meant, run '{BLESS}' and say in the commit why",
        moved.join("\n")
    );
}

#[test]
fn a_change_of_any_column_is_named_with_what_it_was() {
    let pinned = pinned();
    let key = ["mark-dirty-order", "mark-dirty-after-cmpxchg"].map(str::to_owned);
    let old = &pinned.rows[&key];
    for (i, column) in kvmmu::commands::counts::COLUMNS[2..].iter().enumerate() {
        let mut fresh = pinned.clone();
        fresh.rows.get_mut(&key).expect("it is there")[i] = "other".to_owned();
        let expected = format!(
            "mark-dirty-order without mark-dirty-after-cmpxchg: {column} {} -> other",
            old[i]
        );
        assert_eq!(moved(&pinned, &fresh), [expected]);
    }
    let mut fresh = pinned.clone();
    fresh.witnesses.get_mut("mark-dirty-order").expect("it has some").pop();
    assert_eq!(moved(&pinned, &fresh), ["mark-dirty-order: other witnesses"]);
    let mut less = pinned.clone();
    less.rows.remove(&key);
    let expected = "mark-dirty-order without mark-dirty-after-cmpxchg: has no row";
    assert_eq!(moved(&less, &pinned), [expected]);
    assert!(moved(&pinned, &pinned).is_empty());
}

/// A directory of its own, and `kvmmu check` in it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("a test can make its directory");
        Scratch(path)
    }

    fn check(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kvmmu"));
        command.args(["check", "-q"]).args(arguments).current_dir(&self.0).env("NO_COLOR", "1");
        command.output().expect("kvmmu starts")
    }

    /// The exit code of `kvmmu check`, and what it printed.
    fn said(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.check(arguments);
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).expect("it is text"))
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.0.join(name)).expect("it is there")
    }
}

#[test]
fn one_command_writes_the_rows_and_the_same_without_bless_names_what_moved() {
    let scratch = Scratch::new("counts-command");
    let counts = ["--counts", "counts.txt"];
    let check = |more: &[&str]| scratch.said(&[&counts, more].concat());
    let (code, said) = check(&["canary"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("--bless"), "{said}");
    assert_eq!(check(&["canary", "mark-dirty-order", "--jobs", "1", "--bless"]).0, Some(0));
    let written = scratch.read("counts.txt");
    assert_eq!(check(&["canary", "mark-dirty-order", "--jobs", "2"]).0, Some(0));

    // What the whole table says of these is what is written.
    let table = Table::parse(&written).expect("it is a table");
    assert_eq!(table.rows.len(), 4);
    assert_eq!(moved(&pinned(), &table), [""; 0]);

    // Another number, and then the row of one scenario blessed: the rest stays.
    assert!(written.contains(" 412 "), "{written}");
    let changed = written.replace(" 412 ", " 413 ");
    fs::write(scratch.0.join("counts.txt"), &changed).expect("a test can write");
    let (code, said) = check(&["mark-dirty-order"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("MOVED   mark-dirty-order: states 413 -> 412\n"), "{said}");
    assert!(said.contains("repeat the command with --bless and commit counts.txt"), "{said}");
    assert_eq!(check(&["canary"]).0, Some(0));
    assert_eq!(check(&["canary", "--bless"]).0, Some(0));
    assert_eq!(scratch.read("counts.txt"), changed);
    assert_eq!(check(&["mark-dirty-order", "--bless"]).0, Some(0));
    assert_eq!(scratch.read("counts.txt"), written);
}

#[test]
fn a_row_that_a_bound_of_the_command_line_cuts_is_not_blessed() {
    let scratch = Scratch::new("counts-cut");
    let bless = ["mark-dirty-order", "canary", "--counts", "counts.txt", "--bless"];
    let check = |more: &[&str]| scratch.said(&[&bless, more].concat());
    let refused = |bound: &[&str], why: &str| {
        let (code, said) = check(bound);
        assert_eq!(code, Some(2), "{said}");
        let left = format!("{why} ended the search: counts.txt is left as it is");
        assert!(said.contains(&left) && said.contains("help: leave --"), "{said}");
    };
    refused(&["--states-max", "9"], "error: mark-dirty-order: --states-max");
    assert!(!scratch.0.join("counts.txt").exists());
    assert_eq!(check(&[]).0, Some(0));
    let written = scratch.read("counts.txt");
    refused(&["--states-max", "9"], "error: mark-dirty-order: --states-max");
    refused(&["--executions-max", "1"], "--executions-max");
    refused(&["--steps-max", "30"], "--steps-max");
    assert_eq!(scratch.read("counts.txt"), written);
    // A bound that is not hit is none.
    assert_eq!(check(&["--states-max", "100000"]).0, Some(0));
    assert_eq!(scratch.read("counts.txt"), written);

    // Samples end with the last execution. Without the option, that is how many there always are.
    let sample = ["mark-dirty-order", "--counts", "samples.txt", "--bless", "--strategy", "pct"];
    let (code, said) = scratch.said(&[&sample[..], &["--executions-max", "20"]].concat());
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("--executions-max ended the search"), "{said}");
    assert_eq!(scratch.said(&sample).0, Some(3));
}

#[test]
fn what_is_no_table_of_this_search_is_refused_and_left_alone() {
    let scratch = Scratch::new("counts-refused");
    let refused = |arguments: &[&str], why: &str| {
        let (code, said) = scratch.said(arguments);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(why) && said.contains("help:"), "{said}");
    };
    fs::write(scratch.0.join("race.toml"), "title = \"mine\"\n").expect("a test can write");
    let bless = ["canary", "--counts", "race.toml", "--bless"];
    refused(&bless, "race.toml:1: this is no table of counts");
    assert_eq!(scratch.read("race.toml"), "title = \"mine\"\n");

    let counts = ["canary", "--counts", "counts.txt"];
    assert_eq!(scratch.said(&[&counts[..], &["--bless"]].concat()).0, Some(0));
    let written = scratch.read("counts.txt");
    let other = [&counts[..], &["--seed", "2", "--bless"]].concat();
    refused(&other, "is for strategy auto, seed 1, size 1, this run has strategy auto, seed 2");
    let (cut, _) = written.split_once("caught").expect("the canary is caught");
    fs::write(scratch.0.join("counts.txt"), cut).expect("a test can write");
    refused(&counts, "counts.txt:5: a row has 9 columns");
    assert_eq!(scratch.said(&[&counts[..], &["--time-max", "1s"]].concat()).0, Some(2));
}
