//! Goal: the repository keeps its house style. Method: a lint of its files, as a test.

use std::fs;
use std::path::{Path, PathBuf};

use kvmmu_model::Guard;

/// What is looked at, below the workspace root.
const PLACES: &[&str] = &[
    "model",
    "scenarios",
    "sim",
    "checks",
    "benches",
    "hw",
    "docs",
    "README.md",
    "CONTRIBUTING.md",
    ".ci",
];

/// The root of the workspace.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every text file of the repository: its path from the root, and its text.
fn files() -> Vec<(String, String)> {
    let mut files = Vec::new();
    for place in PLACES {
        collect(&root().join(place), place, &mut files);
    }
    files.sort();
    assert!(files.len() > 20, "the repository was not found");
    files
}

fn collect(path: &Path, name: &str, files: &mut Vec<(String, String)>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("a directory can be read") {
            let path = entry.expect("an entry can be read").path();
            let leaf = path.file_name().expect("it has a name").to_string_lossy().into_owned();
            if leaf != "target" && leaf != "snapshots" {
                collect(&path, &format!("{name}/{leaf}"), files);
            }
        }
    } else if path.exists() && [".rs", ".toml", ".md"].iter().any(|e| name.ends_with(e)) {
        let text = fs::read_to_string(path).expect("a file is UTF-8");
        files.push((name.to_owned(), text));
    }
}

/// Fails with all of `complaints` at once.
#[track_caller]
fn none(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// A complaint about each line of Rust for which `wrong` says what is wrong.
fn lines(wrong: impl Fn(&str, &[&str], usize) -> Option<&'static str>) -> Vec<String> {
    let mut complaints = Vec::new();
    for (name, text) in files().iter().filter(|(name, _)| name.ends_with(".rs")) {
        let lines: Vec<&str> = text.lines().collect();
        for i in 0..lines.len() {
            if let Some(what) = wrong(name, &lines, i) {
                complaints.push(format!("{name}:{}: {what}: {}", i + 1, lines[i].trim()));
            }
        }
    }
    complaints
}

#[test]
fn lines_are_at_most_100_columns() {
    none(lines(|name, lines, i| {
        let line = lines[i].trim();
        // The guard table, messages that tests compare, and addresses cannot be broken.
        let literal = line.contains("\": \"") || line.contains(": \"") || line.contains("://");
        let table = name.starts_with("model/src/guard/") && line.ends_with("\",") && literal;
        let said = line.starts_with("error: ") || line.starts_with("help: ");
        let long = lines[i].chars().count() > 100 && !said;
        (long && !table && !line.contains("://")).then_some("longer than 100 columns")
    }));
}

#[test]
fn files_are_ascii_and_at_most_600_lines() {
    let mut complaints = Vec::new();
    for (name, text) in files() {
        if let Some((i, _)) = text.lines().enumerate().find(|(_, line)| !line.is_ascii()) {
            complaints.push(format!("{name}:{}: not ASCII", i + 1));
        }
        let count = text.lines().count();
        if name.ends_with(".rs") && count > 600 {
            complaints.push(format!("{name}: {count} lines"));
        }
        if text.contains('\r') || text.lines().any(|l| l.ends_with([' ', '\t'])) {
            complaints.push(format!("{name}: carriage return or space at the end of a line"));
        }
    }
    none(complaints);
}

#[test]
fn every_ordering_in_the_model_says_why() {
    none(lines(|name, lines, i| {
        let code = lines[i].split("//").next().unwrap_or("");
        let uses = code.contains("Ordering::") && !code.trim_start().starts_with("use ");
        if !name.starts_with("model/src/") || !uses {
            return None;
        }
        let near = lines[i.saturating_sub(3)..=i].iter().any(|l| l.contains("// ORDERING:"));
        (!near).then_some("an Ordering without '// ORDERING:' within three lines above")
    }));
}

/// The reading rule of the model: what is in no `without`, `mark`, `checkpoint` or
/// `forget` is KVM.
#[test]
fn the_model_names_guards_by_two_words_alone() {
    none(lines(|name, lines, i| {
        let code = lines[i].split("//").next().unwrap_or("");
        let near = &lines[i.saturating_sub(1)..=i];
        let worded = near.iter().any(|l| l.contains("guarded(") || l.contains("without("));
        let named = code.contains(" Guard::") || code.contains("(Guard::");
        let asked = code.contains(".guard(") && !code.contains("|guard| self.p.guard(guard)");
        let model = name.starts_with("model/src/") && !name.starts_with("model/src/guard");
        let words = name == "model/src/platform.rs";
        (model && !words && (asked || named && !worded))
            .then_some("a guard that is not asked by guarded() or without()")
    }));
    let model = |name: &str| name.starts_with("model/src/") && !name.contains("/guard");
    let around = |name: &str| {
        name.starts_with("scenarios/src/interpret/") || name == "scenarios/src/host_mm.rs"
    };
    // Steps that are not KVM's: of the host, and of the VMM.
    let others = [
        Guard::HostZapNotifies,
        Guard::GupSaysWhatItHolds,
        Guard::VmmKeepsHarvest,
        Guard::VmmMarksDirty,
        Guard::VmmPausesVcpus,
    ];
    let files = files();
    let unasked = Guard::ALL.iter().filter(|guard| {
        let named = format!("Guard::{guard:?},");
        let place = |name: &str| match others.contains(guard) {
            true => around(name),
            false => model(name),
        };
        !files.iter().any(|(name, text)| place(name) && text.contains(&named))
    });
    none(unasked.map(|guard| format!("nothing asks for {guard:?} where it must")).collect());
}

#[test]
fn every_unsafe_says_why_it_is_safe() {
    none(lines(|_, lines, i| {
        let code = lines[i].split("//").next().unwrap_or("");
        let word = concat!("unsafe", " ");
        let uses = code.contains(&format!("{word}{{")) || code.contains(&format!("{word}impl"));
        let near = lines[i.saturating_sub(12)..=i].iter().any(|l| l.contains("SAFETY:"));
        (uses && !near).then_some("unsafe without a SAFETY comment")
    }));
}

#[test]
fn nothing_is_left_to_do_and_no_machine_is_named() {
    // Written in pieces, so that this file does not find itself.
    let banned = [
        (concat!("to", "do!("), "unfinished code"),
        (concat!("unimple", "mented!("), "unfinished code"),
        (concat!("FIX", "ME"), "unfinished code"),
        (concat!("/ho", "me/"), "a path of one machine"),
        (concat!("/wo", "rk/"), "a path of one machine"),
        (concat!("/tm", "p/"), "a path of one machine"),
    ];
    let mut complaints = Vec::new();
    for (name, text) in files() {
        for (i, line) in text.lines().enumerate() {
            for (token, what) in banned {
                if line.contains(token) {
                    complaints.push(format!("{name}:{}: {what}: {}", i + 1, line.trim()));
                }
            }
        }
    }
    none(complaints);
}

#[test]
fn doc_links_lead_to_files_that_exist() {
    let mut complaints = Vec::new();
    for (name, text) in files().iter().filter(|(name, _)| name.ends_with(".md")) {
        let directory = root().join(name);
        let directory = directory.parent().expect("a file is in a directory");
        for (i, line) in text.lines().enumerate() {
            for part in line.split("](").skip(1) {
                let target = part.split([')', '#']).next().unwrap_or("");
                if !target.is_empty() && !target.contains("://") && !directory.join(target).exists()
                {
                    complaints.push(format!("{name}:{}: no file '{target}'", i + 1));
                }
            }
        }
    }
    none(complaints);
}

#[test]
fn every_test_file_says_its_goal() {
    let mut complaints = Vec::new();
    for (name, text) in files() {
        let tests = name.starts_with("checks/") && name.contains("/tests/");
        let is_test = tests && !name.ends_with("/common.rs");
        if is_test && name.ends_with(".rs") && !text.starts_with("//! Goal: ") {
            complaints.push(format!("{name}: its first line is not '//! Goal: ...'"));
        }
    }
    none(complaints);
}
