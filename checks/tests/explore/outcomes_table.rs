//! Goal: the tables of docs/outcomes.md are those of this version, and nothing that another machine
//! saw is outside of what the simulator allows. Method: make them anew, from the built-in scenarios
//! and from the files in `seen`, and compare; `KVMMU_BLESS=1` writes them.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use kvmmu::cli::args::OutcomesFormat;
use kvmmu::cli::exit::Exit;
use kvmmu::commands::outcomes::allowed::{Allowed, collect_all, layout_of, on};
use kvmmu::commands::outcomes::compare::{group, judge};
use kvmmu::commands::outcomes::{Request, file};
use kvmmu::lab::load;
use kvmmu::lab::search::Search;
use kvmmu::lab::search::Strategy;
use kvmmu::lab::variant::Variant;
use kvmmu_model::GuardSet;
use kvmmu_scenarios::scenario::{Arch, Format, Paging};

fn path(below: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(below)
}

fn request() -> Request {
    let (strategy, states_max) = (Strategy::Stateful, 10_000_000);
    let search = Search { strategy, states_max, ..Search::default() };
    Request { search, jobs: 2, format: OutcomesFormat::Markdown, quiet: true }
}

fn sets(variants: &[Variant]) -> Vec<Allowed> {
    let mut sets = Vec::new();
    let each = |_, allowed: Allowed| {
        assert!(allowed.is_complete() && allowed.broken.is_empty());
        sets.push(allowed);
        Ok(())
    };
    collect_all(variants, &request(), &|| false, each).unwrap_or_else(|error| panic!("{error}"));
    sets
}

/// What the simulator allows.
fn allowed() -> String {
    let builtin = load::builtin(1).expect("the built-in scenarios load");
    let fits = |v: &Variant| {
        let shadow = v.scenario.threads.iter().any(|t| t.paging == Paging::Shadow);
        let direct = !shadow && v.scenario.profile.arch() == Arch::X86;
        direct && !v.scenario.name.starts_with("lock-")
    };
    let all = builtin.iter().map(|scenario| Variant::of(scenario, None, GuardSet::EMPTY));
    let own: Vec<Variant> = all.filter(fits).collect();
    let stage2: Vec<Variant> = own.iter().map(|v| on(v.clone(), Some(Format::Stage2))).collect();
    let mut table =
        String::from("| scenario | SPTEs | outcomes | states | on stage 2 | states |\n");
    table += "|---|---|---|---|---|---|\n";
    for ((variant, own), stage2) in own.iter().zip(sets(&own)).zip(sets(&stage2)) {
        let (name, layout) = (&variant.scenario.name, layout_of(variant));
        let (few, more) = (own.outcomes.len(), stage2.outcomes.len());
        let (states, others) = (own.stats.states, stage2.stats.states);
        let _ = writeln!(table, "| `{name}` | {layout} | {few} | {states} | {more} | {others} |");
    }
    table
}

/// What other machines saw.
fn seen() -> String {
    let directory = fs::read_dir(path("tests/seen")).into_iter().flatten();
    let paths = directory.map(|entry| entry.expect("an entry can be read").path());
    let mut files: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|e| e == "jsonl")).collect();
    files.sort();
    let read = |path: &PathBuf| file::read(path).unwrap_or_else(|error| panic!("{error}"));
    let lines: Vec<_> = files.iter().flat_map(read).collect();
    if lines.is_empty() {
        return "(nothing yet)\n".to_owned();
    }
    let (comparison, _) = group(lines, None, 1).unwrap_or_else(|error| panic!("{error}"));
    let mut text = Vec::new();
    let exit = judge(&comparison, &request(), &|| false, &mut text).expect("it is printed");
    let text = String::from_utf8(text).expect("it is text");
    assert_eq!(exit, Exit::Expected, "something is outside:\n{text}");
    text
}

#[test]
fn the_tables_of_outcomes_are_up_to_date() {
    let document = path("../docs/outcomes.md");
    let text = fs::read_to_string(&document).expect("docs/outcomes.md");
    let mut fresh = text.clone();
    for (name, table) in [("allowed", allowed()), ("seen", seen())] {
        let by = "KVMMU_BLESS=1 cargo test -p kvmmu --test explore outcomes_table";
        let open = format!("<!-- {name}: made by `{by}` -->\n");
        let close = format!("<!-- end of {name} -->");
        let start = fresh.find(&open).unwrap_or_else(|| panic!("{open}")) + open.len();
        let end = start + fresh[start..].find(&close).unwrap_or_else(|| panic!("{close}"));
        fresh.replace_range(start..end, &format!("\n{table}\n"));
    }
    if std::env::var_os("KVMMU_BLESS").is_some() {
        fs::write(&document, &fresh).expect("written");
    } else {
        assert!(fresh == text, "run with KVMMU_BLESS=1 and commit docs/outcomes.md");
    }
}
