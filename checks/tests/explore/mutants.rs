//! Goal: docs/mutants.md answers every change to the model that the quick scenarios do not notice.
//! Method: the survivors of the last run of `cargo mutants` are recorded beside reasons; the table
//! is made of both and compared. A survivor without a reason fails, and a reason without one.
//!
//! `KVMMU_MUTANTS=mutants.out KVMMU_BLESS=1 cargo test -p kvmmu --test explore mutants` records a
//! run.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

const OPEN: &str =
    "<!-- survivors: made by `KVMMU_BLESS=1 cargo test -p kvmmu --test explore mutants` -->\n";
const CLOSE: &str = "<!-- end of survivors -->";

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A mutant without its place: `model/src/mmu/map.rs: replace A with B`. Lines move.
fn named(line: &str) -> String {
    let (path, rest) = line.split_once(':').expect("file:line:column: what");
    let what = rest.splitn(3, ':').last().unwrap_or(rest).trim();
    format!("{path}: {what}")
}

/// What a run left in its directory, as it is recorded: a line of figures, and the survivors.
fn recorded(run: &Path) -> String {
    let lines =
        |name: &str| -> Vec<String> { read(&run.join(name)).lines().map(str::to_owned).collect() };
    let [caught, timeout, unviable] =
        ["caught.txt", "timeout.txt", "unviable.txt"].map(|name| lines(name).len());
    let missed = lines("missed.txt");
    let viable = caught + timeout + missed.len();
    let mut text = format!(
        "{} mutants: {unviable} do not compile; of the other {viable} {} are noticed ({timeout} of \
         them because they do not end), {} are not\n",
        viable + unviable,
        caught + timeout,
        missed.len(),
    );
    for line in &missed {
        writeln!(text, "{}", named(line)).expect("a string");
    }
    text
}

/// A reason: `FILE: part of the mutant's name`, and why nothing depends on it.
struct Reason<'a> {
    file: &'a str,
    part: &'a str,
    why: &'a str,
}

fn reasons(text: &str) -> Vec<Reason<'_>> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (mutant, why) = line.split_once(" => ").unwrap_or_else(|| panic!("{line}"));
            let (file, part) = mutant.split_once(": ").unwrap_or_else(|| panic!("{line}"));
            Reason { file, part: part.trim(), why: why.trim() }
        })
        .collect()
}

impl Reason<'_> {
    fn answers(&self, mutant: &str) -> bool {
        mutant
            .strip_prefix("model/src/")
            .and_then(|m| m.strip_prefix(self.file)?.strip_prefix(": "))
            .is_some_and(|what| what.contains(self.part))
    }
}

/// The figures and the table, and what is wrong with the reasons.
fn table(recorded: &str, reasons: &[Reason<'_>]) -> (String, Vec<String>) {
    let mut lines = recorded.lines();
    let figures = lines.next().expect("a line of figures");
    let mut text =
        format!("\n{figures}.\n\n| not noticed | why no verdict depends on it |\n|---|---|\n");
    let mut wrong = Vec::new();
    let mut used = vec![false; reasons.len()];
    for mutant in lines {
        let Some(i) = reasons.iter().position(|reason| reason.answers(mutant)) else {
            wrong.push(format!("no reason: {mutant}"));
            continue;
        };
        used[i] = true;
        let short = mutant.strip_prefix("model/src/").unwrap_or(mutant).replace('|', "\\|");
        writeln!(text, "| `{short}` | {} |", reasons[i].why).expect("a string");
    }
    let unused = reasons.iter().zip(used).filter(|(_, used)| !used);
    wrong.extend(unused.map(|(r, _)| format!("no survivor: {}: {}", r.file, r.part)));
    (text, wrong)
}

#[test]
fn every_survivor_has_a_reason_and_every_reason_a_survivor() {
    let bless = env::var_os("KVMMU_BLESS").is_some();
    let survivors = file("tests/explore/mutants/survivors.txt");
    if let Some(run) = env::var_os("KVMMU_MUTANTS").filter(|_| bless) {
        fs::write(&survivors, recorded(Path::new(&run))).expect("written");
    }
    let text = read(&file("tests/explore/mutants/reasons.txt"));
    let (fresh, wrong) = table(&read(&survivors), &reasons(&text));
    assert!(wrong.is_empty(), "tests/explore/mutants/reasons.txt:\n{}", wrong.join("\n"));
    let page = file("../docs/mutants.md");
    let old = read(&page);
    let start = old.find(OPEN).expect(OPEN) + OPEN.len();
    let end = start + old[start..].find(CLOSE).expect(CLOSE);
    let new = format!("{}{fresh}\n{}", &old[..start], &old[end..]);
    if bless {
        fs::write(&page, new).expect("written");
    } else {
        assert!(
            new == old,
            "run `KVMMU_BLESS=1 cargo test -p kvmmu --test explore mutants` and commit"
        );
    }
}

#[test]
fn a_survivor_without_a_reason_and_a_reason_without_a_survivor_are_found() {
    let run = "2 mutants: figures\nmodel/src/mmu/a.rs: replace f -> bool with true\n\
               model/src/mmu/a.rs: replace g with ()\n";
    let known = "# comment\nmmu/a.rs: replace f -> bool => a hint\nmmu/b.rs: replace g => gone\n";
    let (text, wrong) = table(run, &reasons(known));
    assert!(text.contains("| `mmu/a.rs: replace f -> bool with true` | a hint |"), "{text}");
    assert_eq!(
        wrong,
        ["no reason: model/src/mmu/a.rs: replace g with ()", "no survivor: mmu/b.rs: replace g"]
    );
    assert_eq!(
        named("model/src/mmu/a.rs:12:5: replace + with - in X::y"),
        "model/src/mmu/a.rs: replace + with - in X::y"
    );
}
