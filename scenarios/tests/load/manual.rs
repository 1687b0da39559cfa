//! The manual says what the loader accepts.

use std::path::Path;

use kvmmu_scenarios::loader::{KEYS, load, manual};

fn manual_path() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/scenario-format.md")
}

/// Goal: the tables of verbs, locks, marks, properties and guards are those of this version.
/// Method: make them anew and compare; `KVMMU_BLESS=1` writes them.
#[test]
fn the_tables_of_the_manual_are_up_to_date() {
    let text = std::fs::read_to_string(manual_path()).expect("docs/scenario-format.md");
    let mut fresh = text.clone();
    for (name, table) in manual::tables() {
        let open =
            format!("<!-- {name}: made by `KVMMU_BLESS=1 cargo test -p kvmmu-scenarios` -->\n");
        let close = format!("<!-- end of {name} -->");
        let start = fresh.find(&open).unwrap_or_else(|| panic!("{open}")) + open.len();
        let end = start + fresh[start..].find(&close).unwrap_or_else(|| panic!("{close}"));
        fresh.replace_range(start..end, &format!("\n{table}\n"));
    }
    if std::env::var_os("KVMMU_BLESS").is_some() {
        std::fs::write(manual_path(), &fresh).expect("written");
    } else {
        assert!(fresh == text, "run `KVMMU_BLESS=1 cargo test -p kvmmu-scenarios` and commit");
    }
}

/// Goal: what a newcomer copies works. Method: load every complete file that the manual shows.
#[test]
fn the_complete_examples_of_the_manual_load() {
    let text = std::fs::read_to_string(manual_path()).expect("docs/scenario-format.md");
    let examples: Vec<&str> = text
        .split("```toml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .filter(|toml| toml.starts_with("title"))
        .collect();
    assert!(!examples.is_empty());
    for (i, toml) in examples.iter().enumerate() {
        for size in 1..=3 {
            load(&format!("example-{i}.toml"), toml, size)
                .unwrap_or_else(|e| panic!("{e}\n{toml}"));
        }
    }
}

#[test]
fn every_key_is_in_the_manual() {
    let text = std::fs::read_to_string(manual_path()).expect("docs/scenario-format.md");
    let of_tables = [
        "gfn",
        "pages",
        "log",
        "pfn",
        "writable",
        "dirty",
        "root",
        "spte",
        "accessed",
        "tracked",
        "cached",
        "name",
        "from-size",
        "run",
        "more",
        "always",
        "sometimes",
        "lock-checks",
        "without",
        "verdict",
        "property",
        "story",
        "because",
        "dpor-executions",
        "engines",
    ];
    for key in KEYS.iter().chain(&of_tables) {
        assert!(text.contains(&format!("`{key}`")) || text.contains(&format!("[{key}]")), "{key}");
    }
}
