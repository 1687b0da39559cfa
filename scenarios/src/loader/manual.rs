//! The tables of `docs/scenario-format.md`, made from what the loader accepts.

use alloc::format;
use alloc::string::String;

use kvmmu_model::{Guard, Mark};

use super::ops::{VERBS, kind_name};
use crate::property::Property;

/// The tables of the manual: the name that its markers bear, and the Markdown.
pub fn tables() -> [(&'static str, String); 4] {
    [("verbs", verbs()), ("marks", marks()), ("properties", properties()), ("guards", guards())]
}

fn verbs() -> String {
    let mut table = String::from("| operation | thread | what happens |\n|---|---|---|\n");
    for verb in VERBS {
        let form = verb.form().replace('|', "\\|");
        table += &format!("| `{form}` | {} | {} |\n", kind_name(verb.who), verb.meaning);
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
        let alone = if info.masked.is_some() { " Alone redundant." } else { "" };
        table += &format!("| `{}` | {}{alone} |\n", info.name, info.prevents);
    }
    table
}
