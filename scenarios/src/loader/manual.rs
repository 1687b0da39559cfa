//! The tables of `docs/scenario-format.md`, made from what the loader accepts.

use alloc::format;
use alloc::string::String;

use kvmmu_model::{Guard, LockKind, Mark};

use super::locks;
use crate::ops::VERBS;
use crate::property::Property;

/// The tables of the manual: the name that its markers bear, and the Markdown.
pub fn tables() -> [(&'static str, String); 6] {
    [
        ("verbs", verbs()),
        ("locks", locks()),
        ("lock-types", lock_types()),
        ("marks", marks()),
        ("properties", properties()),
        ("guards", guards()),
    ]
}

fn verbs() -> String {
    let mut table = String::from("| operation | thread | what happens |\n|---|---|---|\n");
    for verb in VERBS {
        let form = verb.form().replace('|', "\\|");
        table += &format!("| `{form}` | {} | {} |\n", verb.who.name(), verb.meaning);
    }
    table
}

fn locks() -> String {
    let mut table = String::from("| lock | type | operations |\n|---|---|---|\n");
    for class in locks::all() {
        let (info, short) = (class.info(), locks::text(class));
        let full = info.name != info.short && !info.name.contains(' ');
        let name = if full { format!("`{short}`, `{}`", info.name) } else { format!("`{short}`") };
        let operations = operations(info.kind);
        table += &format!("| {name} | {} | {operations} |\n", info.kind.name());
    }
    table
}

fn operations(kind: LockKind) -> &'static str {
    match kind {
        kind if kind.has_sections() => "`read-lock`, `read-unlock`, `synchronize`",
        kind if kind.has_readers() => "`lock`, `unlock`, `read-lock`, `read-unlock`",
        _ => "`lock`, `unlock`",
    }
}

fn lock_types() -> String {
    let mut table = String::from("| type | operations | who waits for it |\n|---|---|---|\n");
    for kind in LockKind::ALL {
        let waits = match kind {
            LockKind::Srcu => "sleeps in `synchronize`; `read-lock` never waits",
            LockKind::Rcu => {
                "sleeps in `synchronize`; `read-lock` never waits, and nobody may sleep after it"
            }
            kind if kind.spins() => "spins: nobody may sleep while holding it",
            _ => "sleeps",
        };
        table += &format!("| `{}` | {} | {waits} |\n", kind.name(), operations(kind));
    }
    table
}

fn marks() -> String {
    let mut table = String::from("| mark | when |\n|---|---|\n");
    for mark in Mark::ALL {
        table += &format!("| `{}` | {} |\n", mark.name(), mark.meaning().trim());
    }
    table
}

fn properties() -> String {
    let mut table = String::from("| property | what it says |\n|---|---|\n");
    for property in Property::ALL {
        table += &format!("| `{}` | {} |\n", property.name(), property.statement().trim());
    }
    table
}

fn guards() -> String {
    let mut table = String::from("| guard | what it prevents |\n|---|---|\n");
    for guard in Guard::ALL {
        let info = guard.info();
        let note = match info.masked {
            Some(_) => " Alone redundant.",
            None if !guard.is_judged_under_sc() => " Not judged under SC.",
            None => "",
        };
        table += &format!("| `{}` | {}{note} |\n", info.name, info.prevents);
    }
    table
}
