//! A report as plain text, for mail and commit messages.

use super::Report;
use super::lockdep;
use super::table::WIDTH;
use super::wrap::wrap_after;

/// The whole text.
pub fn render(report: &Report) -> String {
    let mut lines = vec![report.title.clone(), String::new()];
    lines.extend(head(report));
    lines.push(String::new());
    if let Some(lockdep) = &report.lockdep {
        lines.extend(lockdep::lines(lockdep));
        lines.push(String::new());
    }
    if report.has_table() {
        lines.extend(report.table());
        lines.push(String::new());
    }
    lines.extend(tail(report));
    lines.join("\n") + "\n"
}

/// What stands before the table.
pub fn head(report: &Report) -> Vec<String> {
    let property = format!("always {}: {}", report.property, report.statement);
    let mut lines = Vec::new();
    for (name, text) in [
        ("Scenario:", report.variant().as_str()),
        ("Property:", property.trim_end_matches([':', ' '])),
        ("Kernel:", report.kernel.as_str()),
        ("Model:", report.model.as_str()),
        ("Found:", report.found.as_str()),
    ] {
        lines.extend(field(name, text));
    }
    lines
}

/// What stands after the table.
pub fn tail(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    for (i, why) in report.why.iter().enumerate() {
        lines.extend(field(if i == 0 { "Why:" } else { "" }, why));
    }
    for (i, race) in report.race.iter().enumerate() {
        lines.extend(field(if i == 0 { "Race:" } else { "" }, race));
    }
    if let Some(correct) = &report.correct {
        lines.extend(field("Correct:", correct));
    }
    if !report.needed.is_empty() {
        lines.extend(field("Needed:", &report.needed));
    }
    if !lines.is_empty() {
        lines.push(String::new());
    }
    let links = report.lockdep.iter().flat_map(|lockdep| lockdep.chain.iter().rev());
    let mut runs = 0;
    for (link, seen) in links.filter_map(|link| Some((link, link.witness.as_ref()?))) {
        lines.extend(command(&format!("Run #{}:", link.number), &seen.replay));
        runs += 1;
    }
    if runs == 0 {
        lines.extend(command("Replay:", &report.replay));
    }
    if let Some(trace) = &report.trace {
        lines.push(format!("Trace:    {trace}"));
    }
    lines.push(format!("More:     {}", report.more));
    lines
}

/// A name and its text in two columns.
fn field(name: &str, text: &str) -> Vec<String> {
    wrap_after(&format!("{name:<10}"), &" ".repeat(10), text, WIDTH)
}

/// The replay command, its options on lines of their own. A word is never broken: it must paste.
fn command(name: &str, replay: &str) -> Vec<String> {
    let parts: Vec<&str> = replay.split(" --").collect();
    let mut lines = Vec::new();
    for (i, part) in parts.iter().enumerate() {
        let start = if i == 0 { format!("{name:<10}") } else { format!("{:14}--", "") };
        let end = if i + 1 < parts.len() { " \\" } else { "" };
        lines.push(format!("{start}{part}{end}"));
    }
    lines
}
