//! The orders as a graph for Graphviz: what is taken outside points to what is taken inside.

use super::survey::{Lockage, Seen, Survey};

/// The graph. Solid: documented; dashed: not; dotted: follows from others (only if all is asked
/// for); red: part of a cycle; grey: never seen.
pub fn graph(survey: &Survey, all: bool) -> String {
    let mut lines = vec![
        "// kvmmu locks: solid = documented, dashed = undocumented, label = how often seen,"
            .to_owned(),
        "// red = part of a cycle, grey = not exercised. Grace periods and readers are said."
            .to_owned(),
        "digraph locks {".to_owned(),
        "  rankdir = LR;".to_owned(),
        "  node [shape = box];".to_owned(),
    ];
    for lock in &survey.locks {
        let node = node(lock.name, lock.scenario);
        lines.push(format!("  \"{node}\" [label = \"{}\\n{}\"];", lock.name, lock.r#type));
    }
    for (orders, style) in [
        (&survey.documented, "solid"),
        (&survey.undocumented, "dashed"),
        (&survey.undeclared, "dashed"),
        (&survey.own, "dashed"),
    ] {
        lines.extend(orders.iter().map(|seen| edge(seen, style)));
    }
    let implied = survey.implied.iter().filter(|seen| all || seen.in_cycle);
    lines.extend(implied.map(|seen| edge(seen, "dotted")));
    lines.push("}".to_owned());
    lines.join("\n") + "\n"
}

/// What the graph calls a lock. Files may declare locks of one name.
fn node(lock: &str, scenario: Option<&str>) -> String {
    scenario.map_or_else(|| lock.to_owned(), |of| format!("{lock} of {}", of.escape_default()))
}

/// One order.
fn edge(seen: &Seen, style: &str) -> String {
    let mut label = match seen.times {
        0 => "not exercised".to_owned(),
        times => times.to_string(),
    };
    if seen.inner.mode == "grace-period" {
        label += "\\ngrace period";
    } else if seen.outer.mode == "read" || seen.inner.mode == "read" {
        label += &format!("\\n{} in {}", seen.inner.mode, seen.outer.mode);
    }
    let color = match (seen.in_cycle, seen.times) {
        (true, _) => ", color = red, fontcolor = red",
        (false, 0) => ", color = gray60, fontcolor = gray60",
        _ => "",
    };
    let of = |lock: &Lockage| node(lock.lock, lock.scenario);
    let (outer, inner) = (of(&seen.outer), of(&seen.inner));
    format!("  \"{outer}\" -> \"{inner}\" [style = {style}, label = \"{label}\"{color}];")
}
