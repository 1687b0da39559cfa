//! The scenario files that are compiled in.
#![cfg(feature = "loader")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kvmmu_model::{Guard, GuardSet};
use kvmmu_scenarios::builtin::FILES;
use kvmmu_scenarios::loader;
use kvmmu_scenarios::scenario::{Expected, Scenario};

fn load_all(size: u8) -> Vec<Scenario> {
    FILES
        .iter()
        .map(|(name, text)| loader::load(name, text, size).unwrap_or_else(|e| panic!("{e}")))
        .collect()
}

/// Adds the scenario files in and below a directory, by their names.
fn find(directory: &Path, files: &mut BTreeMap<String, PathBuf>) {
    for entry in std::fs::read_dir(directory).expect("a directory can be read") {
        let path = entry.expect("an entry can be read").path();
        let name = path.file_name().expect("it has a name").to_string_lossy().into_owned();
        if path.is_dir() {
            find(&path, files);
        } else if name.ends_with(".toml") && name != "Cargo.toml" {
            let other = files.insert(name, path);
            assert!(other.is_none(), "two files have the name of {other:?}");
        }
    }
}

fn on_disk() -> BTreeMap<String, PathBuf> {
    let mut files = BTreeMap::new();
    find(Path::new(env!("CARGO_MANIFEST_DIR")), &mut files);
    files
}

/// Goal: neither a file in the directory nor one of its profiles can be forgotten. Method: list
/// them.
#[test]
fn the_directory_and_the_list_agree() {
    let on_disk = on_disk();
    let text = |path: &PathBuf| std::fs::read_to_string(path).expect("it can be read");
    let names = |(name, path): (&String, &PathBuf)| loader::names(name, &text(path)).unwrap();
    let mut on_disk: Vec<String> = on_disk.iter().flat_map(names).collect();
    on_disk.sort_unstable();
    let mut listed: Vec<&str> = FILES.iter().map(|(name, _)| *name).collect();
    listed.sort_unstable();
    assert_eq!(on_disk, listed);
    let stems: Vec<&str> = FILES.iter().filter_map(|(n, _)| n.strip_suffix(".toml")).collect();
    let later = |stem: &&str| stem.contains("-v6.1") && stem.starts_with("s2-");
    let firsts: Vec<&str> = stems.iter().copied().filter(|stem| !later(stem)).collect();
    assert!(firsts.is_sorted(), "src/builtin.rs is not sorted: {firsts:?}");
}

/// Goal: what is compiled in is what the path names. Method: read both.
#[test]
fn a_file_on_disk_and_its_text_give_the_same_scenario() {
    for (name, path) in on_disk() {
        let text = FILES.iter().find(|(file, _)| *file == name).expect("it is compiled in").1;
        assert_eq!(loader::load_path(&path, 2), loader::load(&name, text, 2), "{name}");
    }
}

#[test]
fn every_file_loads_at_sizes_one_to_three_and_grows() {
    for (one, three) in load_all(1).iter().zip(&load_all(3)) {
        let ops = |s: &Scenario| s.threads.iter().map(|t| t.run.len()).sum::<usize>();
        assert!(ops(one) <= ops(three), "{}", one.name);
    }
    load_all(2);
}

#[test]
fn every_file_has_witnesses_and_expectations() {
    for scenario in load_all(1) {
        assert!(!scenario.sometimes.is_empty(), "{}: no 'sometimes'", scenario.name);
        assert!(!scenario.expects.is_empty(), "{}: no expectation", scenario.name);
        let canary = scenario.name == "canary";
        let fails = scenario.expects[0].verdict == Expected::Violated;
        assert_eq!(fails, canary, "{}", scenario.name);
        for expect in &scenario.expects {
            let bare = expect.without.is_empty() && !canary;
            assert!(bare || !expect.because.is_empty(), "{}: say why", scenario.name);
        }
    }
}

/// Goal: no guard's removal goes unnoticed. Method: each that is not listed as masked has a
/// violation of its own. Exempt are those whose loss a weaker memory model alone can show: a run
/// under sequential consistency is no evidence for them.
#[test]
fn every_guard_that_is_not_masked_is_broken_by_a_scenario() {
    let scenarios = load_all(1);
    let violated: Vec<GuardSet> = scenarios
        .iter()
        .flat_map(|s| &s.expects)
        .filter(|e| e.verdict == Expected::Violated)
        .map(|e| e.without)
        .collect();
    let missed: Vec<&str> = Guard::ALL
        .iter()
        .filter(|g| g.info().masked.is_none() && g.is_judged_under_sc())
        .filter(|g| {
            let alone = GuardSet::EMPTY.with(**g);
            !violated.contains(&alone)
        })
        .map(|g| g.info().name)
        .collect();
    assert!(missed.is_empty(), "no scenario fails without {missed:?}");
}

#[test]
fn every_masked_guard_is_in_some_expectation() {
    let scenarios = load_all(1);
    let named = |g: Guard| scenarios.iter().flat_map(|s| &s.expects).any(|e| e.without.contains(g));
    let judged = Guard::ALL.iter().filter(|g| g.is_judged_under_sc());
    let missed: Vec<&str> = judged.filter(|g| !named(**g)).map(|g| g.info().name).collect();
    assert!(missed.is_empty(), "{missed:?}");
}

/// Goal: an expectation without guards proves something of them. Method: the pinned counts say
/// where no explored run came to the code that a guard protects.
#[test]
fn every_guard_that_an_expectation_lacks_is_reached() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("counts.txt");
    let counts = std::fs::read_to_string(path).expect("the pinned counts can be read");
    let vacuous: Vec<&str> = counts.lines().filter(|row| row.contains("never reached")).collect();
    assert!(vacuous.is_empty(), "{vacuous:#?}");
}
