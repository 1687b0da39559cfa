//! Goal: the parts of a run, merged in any order, are the run to the byte, with its exit code, and
//! files that are not the parts of one run are refused with their place and the next thing to try.
//! Method: the command itself on small selections; `check` and `merge` on a machine whose answers
//! are made by hand.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cli::{kvmmu_in, refused};
use crate::common::{FLUSH, Fake, all_variants, outcome, scratch, variant};
use clap::Parser;
use kvmmu::cli::args::{Cli, Command, MergeArgs, MessageFormat};
use kvmmu::cli::exit::Exit;
use kvmmu::commands::check::run_plan;
use kvmmu::commands::merge;
use kvmmu::commands::plan::{Part, Plan};
use kvmmu::lab::run::Machine;
use kvmmu::lab::search::Search;
use kvmmu::lab::shard::Shard;
use kvmmu::lab::variant::Variant;
use kvmmu_model::{Hold, LockClass, LockKind, Mode};
use kvmmu_scenarios::loader::own_lock;
use kvmmu_scenarios::lockdep::LockOrders;
use kvmmu_sim::outcome::{Outcome, Stats, Verdict};

/// [`FLUSH`], and it is not as its file expects: it has a replay command and a trace.
fn wrong() -> String {
    let expect =
        |without: &str| format!("\n[[expect]]\nwithout = {without}\nverdict = \"holds\"\n");
    [FLUSH, &expect("[]"), &expect(r#"["flush-after-harvest"]"#)].concat()
}

/// The file of part `index` of `of`.
fn file(index: u16, of: u16) -> String {
    format!("{index}-of-{of}.jsonl")
}

/// Runs all parts of `check WORDS` into files; gives their names, the last part first.
fn parts(directory: &Path, words: &[&str], of: u16) -> Vec<String> {
    let run = |index| {
        let shard = format!("{index}/{of}");
        let how = ["check", "-q", "--message-format", "json", "--shard", &shard];
        let output = kvmmu_in(directory, &[&how, words].concat());
        let file = file(index, of);
        fs::write(directory.join(&file), output.stdout).expect("a test can write");
        file
    };
    (1..=of).rev().map(run).collect()
}

/// Checks that the parts of `check WORDS` are merged to what it prints, `code` included; gives the
/// text for people.
#[track_caller]
fn same(directory: &Path, words: &[&str], code: i32) -> String {
    let mut text = String::new();
    for of in [1, 2, 3, 7] {
        let parts = parts(directory, words, of);
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        for how in [&[][..], &["--color", "always"], &["--message-format", "json"]] {
            let whole = kvmmu_in(directory, &[&["check", "-q"], words, how].concat());
            let merged = kvmmu_in(directory, &[&["merge"], &parts[..], how].concat());
            let said = String::from_utf8_lossy(&merged.stderr);
            assert_eq!(said, "", "{of} parts, {how:?}");
            let [left, right] =
                [&merged, &whole].map(|output| String::from_utf8_lossy(&output.stdout));
            assert_eq!(left, right, "{of} parts, {how:?}");
            assert_eq!(merged.status.code(), whole.status.code(), "{of} parts, {how:?}");
            assert_eq!(whole.status.code(), Some(code), "{right}");
            if how.is_empty() {
                text = left.into_owned();
            }
        }
    }
    text
}

#[test]
fn merged_parts_are_the_whole_run_to_the_byte() {
    let directory = scratch("merge-whole");
    fs::create_dir(directory.join("other")).expect("a test can write");
    for (path, text) in [("a.toml", &*wrong()), ("other/a.toml", FLUSH)] {
        fs::write(directory.join(path), text).expect("a test can write");
    }
    let words = ["a.toml", "emulated-store-log", "other/a.toml", "canary"];
    let text = same(&directory, &words, 1);
    // What the parts have to hand on is all there.
    for part in ["\nUNEXPECTED a.toml without flush", "replay: ", "trace: ", "nothing shows that"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(text.starts_with("caught  canary "), "{text}");
}

#[test]
fn merged_parts_end_as_the_whole_run_does() {
    let directory = scratch("merge-exit");
    fs::write(directory.join("vac.toml"), FLUSH).expect("a test can write");
    same(&directory, &["canary", "emulated-store-log"], 0);
    same(&directory, &["canary", "vac.toml"], 0);
    same(&directory, &["canary", "vac.toml", "--strict"], 1);
    let text = same(&directory, &["canary", "age-vs-fast-fault", "--states-max", "100"], 3);
    assert!(text.contains("\nbound "), "{text}");
    let sets = ["--without", "", "--without", "pin-hold", "--without", "flush-after-harvest"];
    let text = same(&directory, &[&["vac.toml", "emulated-store-log"], &sets[..]].concat(), 0);
    assert!(text.contains("breaks  vac without flush-after-harvest"), "{text}");
    let search = ["--size", "2", "--strategy", "random", "--seed", "7", "--executions-max", "10"];
    same(&directory, &[&["canary", "emulated-store-log"], &search[..]].concat(), 3);
}

#[test]
fn a_part_compares_its_own_rows_and_merge_names_all_that_moved() {
    let directory = scratch("merge-counts");
    let words = ["emulated-store-log", "canary", "age-vs-fast-fault", "--counts", "c.txt"];
    let bless = kvmmu_in(&directory, &[&["check", "-q"], &words[..], &["--bless"]].concat());
    assert_eq!(bless.status.code(), Some(0));
    same(&directory, &words, 0);
    let path = directory.join("c.txt");
    let table = fs::read_to_string(&path).expect("it was written");
    let table = table.replace("caught ", "holds  ").replace("  1       ", "  1       not ");
    fs::write(&path, &table).expect("a test can write");
    let text = same(&directory, &words, 1);
    assert!(text.contains("MOVED   canary: verdict holds -> caught"), "{text}");
    assert_eq!(text.matches("MOVED   age-vs-fast-fault: other witnesses\n").count(), 1, "{text}");
    assert!(text.contains("repeat the command with --bless and commit c.txt\n"), "{text}");

    let part = kvmmu_in(&directory, &[&["check", "-q", "--shard", "2/3"], &words[..]].concat());
    let text = String::from_utf8_lossy(&part.stdout);
    assert_eq!(part.status.code(), Some(1), "{text}");
    assert!(text.contains("repeat the command without --shard, with --bless, and commit c.txt"));
    let bless = [&["check", "--bless", "--shard", "1/2"], &words[..]].concat();
    insta::assert_snapshot!(refused(&kvmmu_in(&directory, &bless), 2), @r#"
    error: --bless writes the rows of a whole run, and shard 1/2 is a part of one
      help: leave --shard away to write them, or --bless to compare those of the shard
    "#);
    assert_eq!(fs::read_to_string(&path).expect("it is there"), table);
}

#[test]
fn a_shard_without_variants_says_so() {
    let directory = scratch("merge-empty");
    let output = kvmmu_in(&directory, &["check", "canary", "--shard", "2/2"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains(": shard 2/2 with none of 1 variant, "), "{said}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        text,
        "shard 2/2: 0 variants: 0 hold, 0 caught, 0 bound, 0 unexpected; SC, seed 1\n"
    );
}

#[test]
fn what_is_no_shard_is_refused() {
    let directory = scratch("merge-usage");
    for (shard, said) in [
        ("0/2", "the parts of 2 are 1/2 to 2/2"),
        ("3/2", "the parts of 2 are 1/2 to 2/2"),
        ("1/0", "a run has at least one part; try 1/4"),
        ("x", "not a part of a run; try 1/4"),
        ("1/", "not a part of a run; try 1/4"),
    ] {
        let text = refused(&kvmmu_in(&directory, &["check", "canary", "--shard", shard]), 2);
        let place = format!("invalid value '{shard}' for '--shard <I/N>': {said}");
        assert!(text.contains(&place), "{text}");
    }
}

/// Merges `files` in `directory`, expects `code` and gives what was said.
#[track_caller]
fn fails(directory: &Path, files: &[&str], code: i32) -> String {
    let output = kvmmu_in(directory, &[&["merge"], files].concat());
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    refused(&output, code)
}

#[test]
fn files_that_are_not_the_parts_of_one_run_are_refused() {
    let directory = scratch("merge-foreign");
    let path = directory.join("a.toml");
    fs::write(&path, wrong()).expect("a test can write");
    parts(&directory, &["canary", "a.toml"], 3);
    let (one, two, three) = (file(1, 3), file(2, 3), file(3, 3));
    let [one, two, three] = [&one, &two, &three].map(|file| file.as_str());
    insta::assert_snapshot!(fails(&directory, &[], 2), @r#"
    error: no file was given
      help: name what all parts of a run have printed: 'kvmmu merge part-*.jsonl'
    "#);
    insta::assert_snapshot!(fails(&directory, &[one, "none.jsonl"], 2), @r#"
    error: cannot read none.jsonl: No such file or directory (os error 2)
      help: give merge what 'kvmmu check --shard I/N --message-format json' printed: one file for
            each part, without what went to standard error
    "#);
    insta::assert_snapshot!(fails(&directory, &[two], 2), @r#"
    error: 2-of-3.jsonl:1: shard 1/3 (and 1 more) of the same run is missing
      help: name its file, too; 'kvmmu check canary a.toml --shard 1/3 --message-format json >FILE'
            makes it
    "#);
    insta::assert_snapshot!(fails(&directory, &[three, one], 2), @r#"
    error: 3-of-3.jsonl:1: shard 2/3 of the same run is missing
      help: name its file, too; 'kvmmu check canary a.toml --shard 2/3 --message-format json >FILE'
            makes it
    "#);
    insta::assert_snapshot!(fails(&directory, &[one, two, three, two], 2), @r#"
    error: 2-of-3.jsonl:1: this is shard 2/3, and so is 2-of-3.jsonl:1
      help: give merge each part once: leave one of the two files away
    "#);

    parts(&directory, &["canary", "a.toml"], 2);
    insta::assert_snapshot!(fails(&directory, &[one, &file(2, 2)], 2), @r#"
    error: 2-of-2.jsonl:1: this is shard 2/2, and 1-of-3.jsonl:1 is 1/3
      help: the parts of one run have one N: give merge all parts of one run, and no other file
    "#);
    let keep = fs::read(directory.join(two)).expect("it was written");
    parts(&directory, &["canary", "a.toml", "--seed", "2"], 3);
    let seed = fs::read(directory.join(two)).expect("it was written");
    fs::write(directory.join("seed.jsonl"), seed).expect("a test can write");
    fs::write(&path, wrong().replace("Nothing.", "Another.")).expect("a test can write");
    parts(&directory, &["canary", "a.toml"], 3);
    let other = fs::read(directory.join(two)).expect("it was written");
    fs::write(directory.join("other.jsonl"), other).expect("a test can write");
    fs::write(&path, wrong()).expect("a test can write");
    parts(&directory, &["canary", "a.toml"], 3);
    assert_eq!(fs::read(directory.join(two)).expect("it was written"), keep);
    insta::assert_snapshot!(fails(&directory, &[one, "seed.jsonl"], 2), @r#"
    error: seed.jsonl:1: this part is of 'kvmmu check canary a.toml --seed 2', and 1-of-3.jsonl:1 is of 'kvmmu check canary a.toml'
      help: all parts need the same words and KVMMU_* variables, but for --shard: run those again
            that differ
    "#);
    insta::assert_snapshot!(fails(&directory, &[one, "other.jsonl"], 2), @r#"
    error: other.jsonl:1: this part is of other variants than 1-of-3.jsonl:1: the scenario files differ
      help: run the parts again with the same files
    "#);
    assert_eq!(kvmmu_in(&directory, &["merge", one, two, three]).status.code(), Some(1));
}

#[test]
fn a_file_that_is_no_whole_part_is_refused_with_its_line() {
    let directory = scratch("merge-broken");
    let files = parts(&directory, &["canary", "emulated-store-log"], 2);
    let [two, one] = [&files[0], &files[1]].map(String::as_str);
    let good = fs::read_to_string(directory.join(one)).expect("it was written");
    assert_eq!(good.lines().count(), 4, "{good}");
    let merged = |text: &str, code| {
        fs::write(directory.join("bad.jsonl"), text).expect("a test can write");
        fails(&directory, &["bad.jsonl", two], code)
    };
    let lines: Vec<&str> = good.split_inclusive('\n').collect();
    insta::assert_snapshot!(merged("", 2), @r#"
    error: bad.jsonl:1: the file is empty
      help: did that part end with an error? Run it again
    "#);
    insta::assert_snapshot!(merged("holds   canary  1 state, all explored, SC\n", 2), @r#"
    error: bad.jsonl:1: not what a part of a check begins with: expected value at column 1
      help: give merge what 'kvmmu check --shard I/N --message-format json' printed: one file for
            each part, without what went to standard error
    "#);
    insta::assert_snapshot!(merged("{\"v\":2,\"type\":\"trace\"}\n", 2), @r#"
    error: bad.jsonl:1: not what a part of a check begins with: its type is 'trace'
      help: give merge what 'kvmmu check --shard I/N --message-format json' printed: one file for
            each part, without what went to standard error
    "#);
    insta::assert_snapshot!(merged(&good[..100], 2), @r#"
    error: bad.jsonl:1: the file is cut short in this line
      help: run that part again
    "#);
    insta::assert_snapshot!(merged(&good[..good.len() / 2], 2), @r#"
    error: bad.jsonl:3: the file is cut short in this line
      help: run that part again: 'kvmmu check canary emulated-store-log --shard 1/2 --message-format
            json'
    "#);
    insta::assert_snapshot!(merged(&lines[..3].concat(), 2), @r#"
    error: bad.jsonl:3: the file is cut short: its last line, the summary, is missing
      help: run that part again: 'kvmmu check canary emulated-store-log --shard 1/2 --message-format
            json'
    "#);
    insta::assert_snapshot!(merged(&[lines[0], lines[2], lines[3]].concat(), 2), @r#"
    error: bad.jsonl:3: the summary counts other lines than there are
      help: was the file edited, or are two outputs in it? Run that part again
    "#);
    insta::assert_snapshot!(merged(&[lines[0], lines[2], lines[1], lines[3]].concat(), 2), @r#"
    error: bad.jsonl:3: this variant is not in its place
      help: was the file edited, or are two outputs in it? Run that part again
    "#);
    insta::assert_snapshot!(merged(&good.repeat(2), 2), @r#"
    error: bad.jsonl:5: something follows the summary
      help: was the file edited, or are two outputs in it? Run that part again
    "#);
    insta::assert_snapshot!(merged(&[lines[0], "garbage\n", lines[1]].concat(), 2), @r#"
    error: bad.jsonl:2: not a line of a check: expected value at column 1
      help: was the file edited, or are two outputs in it? Run that part again
    "#);
    insta::assert_snapshot!(merged(&good.replace("\"v\":1", "\"v\":7"), 5), @r#"
    error: bad.jsonl:1: lines of version 7, not 1
      help: run all parts and merge by one version of kvmmu
    "#);
    insta::assert_snapshot!(merged(&good.replacen("\"version\":\"", "\"version\":\"9.", 1), 5), @r#"
    error: bad.jsonl:1: kvmmu 9.0.1.0 made this part, and this is 0.1.0
      help: run all parts and merge by one version of kvmmu
    "#);
    let sources = good.find("\"source_hash\":\"").expect("it is there") + 15;
    let other = format!("{}{:016x}{}", &good[..sources], 0, &good[sources + 16..]);
    let said = merged(&other, 5);
    assert!(said.starts_with("error: bad.jsonl:1: this part is of the sources 0000000"), "{said}");
    assert!(said.contains("run all parts and merge by one version of kvmmu"), "{said}");
    let cut = good.replace("\"interrupted\":false", "\"interrupted\":true");
    insta::assert_snapshot!(merged(&cut, 2), @r#"
    error: bad.jsonl:4: shard 1/2 was interrupted: not all of it was explored
      help: run that part again: 'kvmmu check canary emulated-store-log --shard 1/2 --message-format
            json', and let it finish
    "#);
    let whole = ["check", "-q", "canary", "--message-format", "json"];
    let whole = String::from_utf8(kvmmu_in(&directory, &whole).stdout).expect("output is text");
    insta::assert_snapshot!(merged(&whole, 2), @r#"
    error: bad.jsonl:1: this is the output of a whole check, and not of a part
      help: nothing has to be merged with it; 'kvmmu check --shard I/N' makes parts
    "#);
    fs::write(directory.join("binary"), b"{\n\xff").expect("a test can write");
    insta::assert_snapshot!(fails(&directory, &["binary"], 2), @r#"
    error: binary:2: this line is not UTF-8
      help: give merge what 'kvmmu check --shard I/N --message-format json' printed: one file for
            each part, without what went to standard error
    "#);
    let other = fs::read_to_string(directory.join(two)).expect("it was written");
    let place = |index| format!("\"shard\":{{\"index\":{index},\"name\"");
    let twice = other.replacen(&place(1), &place(0), 1);
    fs::write(directory.join("twice.jsonl"), twice).expect("a test can write");
    insta::assert_snapshot!(fails(&directory, &[one, "twice.jsonl"], 2), @r#"
    error: twice.jsonl:2: this variant is at 1-of-2.jsonl:2, too
      help: was the file edited, or are two outputs in it? Run that part again
    "#);
    // The lines of the other part again.
    let again = good.replacen("\"index\":1,\"of\":2", "\"index\":2,\"of\":2", 1);
    fs::write(directory.join("again.jsonl"), again).expect("a test can write");
    insta::assert_snapshot!(fails(&directory, &[one, "again.jsonl"], 2), @r#"
    error: 1-of-2.jsonl:1: the parts have 4 of 3 variants
      help: was the file edited, or are two outputs in it? Run that part again
    "#);
}

/// What `check` prints on `machine`, of `variants` or of a shard of them.
fn checked(
    machine: &dyn Machine,
    variants: &[Variant],
    shard: Option<Shard>,
    format: MessageFormat,
    directory: &Path,
) -> (Exit, Vec<u8>) {
    let cli = Cli::try_parse_from(["kvmmu", "check"]).expect("the words are right");
    let Command::Check(args) = cli.command else { unreachable!("it is 'check'") };
    let mut variants = variants.to_vec();
    let part = shard.map(|shard| Part::take(shard, &mut variants, &args));
    let (search, size, jobs, trace_dir) = (Search::default(), 1, 2, directory);
    let (counts, strict, quiet, kept) = (None, false, true, None);
    let plan =
        Plan { variants, search, size, jobs, strict, format, counts, trace_dir, quiet, kept, part };
    let mut out = Vec::new();
    let exit = run_plan(machine, &plan, &|| false, &mut out).expect("a Vec can be written");
    (exit, out)
}

/// Merges the parts of a run on `machine` and compares with the run; gives its text and exit code.
#[track_caller]
fn same_on(machine: &dyn Machine, variants: &[Variant], name: &str) -> (Exit, String) {
    let directory = scratch(name);
    let mut last = (Exit::Nothing, Vec::new());
    for of in [2, 3, 7] {
        let write = |index| {
            let shard = Shard::new(index, of);
            let (_, text) = checked(machine, variants, shard, MessageFormat::Json, &directory);
            let path = directory.join(file(index, of));
            fs::write(&path, text).expect("a test can write");
            path
        };
        let parts: Vec<PathBuf> = (1..=of).map(write).collect();
        for message_format in [MessageFormat::Json, MessageFormat::Human] {
            let mut merged = Vec::new();
            let args = MergeArgs { parts: parts.clone(), message_format };
            let exit = merge::run(&args, &mut merged).expect("these are all parts");
            last = checked(machine, variants, None, message_format, &directory);
            let [left, right] = [&merged, &last.1].map(|text| String::from_utf8_lossy(text));
            assert_eq!((exit, left), (last.0, right), "{of} parts");
        }
    }
    (last.0, anstream::adapter::strip_str(&String::from_utf8_lossy(&last.1)).to_string())
}

/// What has seen the inner lock inside the outer one.
fn nested(outer: LockClass, inner: LockClass) -> Outcome {
    let mut locks = LockOrders::default();
    let [outer, inner] = [outer, inner].map(|class| Hold::new(class, Mode::Exclusive));
    locks.count([outer].into_iter(), inner, 3);
    Outcome { locks, ..outcome(Verdict::Holds) }
}

#[test]
fn a_cycle_through_scenarios_of_several_parts_is_found() {
    let own = own_lock("my_lock", LockKind::Mutex, "mine");
    let special = vec![
        ("aba-direct", nested(LockClass::KvmLock, own)),
        ("dirty-word", nested(own, LockClass::KvmCountLock)),
        ("host-writable", nested(LockClass::KvmCountLock, LockClass::KvmLock)),
    ];
    let machine = Fake { special, ..Fake::obedient() };
    let names = ["aba-direct", "dirty-word", "host-writable"];
    let variants: Vec<Variant> = names.iter().map(|name| variant(name, "")).collect();
    let (exit, text) = same_on(&machine, &variants, "merge-cycle");
    assert_eq!(exit, Exit::Unexpected, "{text}");
    assert!(text.contains("my_lock is taken inside kvm_lock: aba-direct"), "{text}");
    // No part has the cycle alone.
    let shard = Shard::new(2, 3);
    let (exit, _) = checked(&machine, &variants, shard, MessageFormat::Human, Path::new("."));
    assert_eq!(exit, Exit::Expected);
}

#[test]
fn errors_and_notes_of_all_parts_are_merged() {
    let stats = Stats { lumped: 3, ..outcome(Verdict::Holds).stats };
    let lumped = Outcome { stats, ..outcome(Verdict::Holds) };
    let special = vec![("dirty-word", lumped)];
    let machine = Fake { special, failing: Some("aba-direct"), ..Fake::obedient() };
    let (exit, text) = same_on(&machine, &all_variants(), "merge-errors");
    assert_eq!(exit, Exit::Internal, "{text}");
    assert!(text.contains("ERROR   aba-direct without fast-fault-cmpxchg "), "{text}");
    assert!(text.contains("dpor takes 3 shared objects for one"), "{text}");
}

#[test]
fn no_prefix_of_a_part_and_no_changed_byte_panics() {
    let directory = scratch("merge-fuzz");
    let variants =
        [variant("aba-direct", ""), variant("canary", ""), variant("canary", "pin-hold")];
    let locks = nested(LockClass::KvmLock, own_lock("my_lock", LockKind::Srcu, "mine"));
    let machine = Fake { special: vec![("aba-direct", locks)], ..Fake::obedient() };
    let shard = Shard::new(1, 1);
    let (_, good) = checked(&machine, &variants, shard, MessageFormat::Json, &directory);
    let path = directory.join("part.jsonl");
    let merged = |bytes: &[u8]| {
        fs::write(&path, bytes).expect("a test can write");
        let parts = vec![path.clone()];
        merge::run(&MergeArgs { parts, message_format: MessageFormat::Human }, &mut Vec::new())
    };
    assert!(merged(&good).is_ok());
    for at in (0..good.len()).step_by(3) {
        let failure = merged(&good[..at]).expect_err("it is cut short");
        assert!(!failure.help.is_empty());
        let mut bytes = good.clone();
        bytes[at] ^= 0x11;
        if let Err(failure) = merged(&bytes) {
            assert_ne!(failure.exit, Exit::Internal, "byte {at}: {failure}");
            assert!(!failure.help.is_empty());
        }
    }
}
