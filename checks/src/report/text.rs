//! A report as plain text, for mail and commit messages.

use super::Report;
use super::lockdep;
use super::table::WIDTH;
use super::wrap::wrap_after;

/// The whole text.
pub fn render(report: &Report) -> String {
    let mut lines = vec![report.title.clone(), String::new()];
    lines.extend(head(report, WIDTH));
    lines.push(String::new());
    if let Some(lockdep) = &report.lockdep {
        lines.extend(lockdep::lines(lockdep));
        lines.push(String::new());
    }
    if report.has_table() {
        lines.extend(report.table());
        lines.push(String::new());
    }
    lines.extend(tail(report, WIDTH));
    lines.join("\n") + "\n"
}

/// What stands before the table, in lines of `width`.
pub fn head(report: &Report, width: usize) -> Vec<String> {
    let property = format!("always {}: {}", report.property, report.statement);
    let mut lines = Vec::new();
    for (name, text) in [
        ("Scenario:", report.variant().as_str()),
        ("Property:", property.trim_end_matches([':', ' '])),
        ("Kernel:", report.kernel.as_str()),
        ("Model:", report.model.as_str()),
        ("Found:", report.found.as_str()),
    ] {
        lines.extend(field(name, text, width));
    }
    lines
}

/// What stands after the table, in lines of `width`.
pub fn tail(report: &Report, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let field = |name: &str, text: &str| field(name, text, width);
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
        lines.extend(command(&format!("Run #{}:", link.number), &seen.replay, width));
        runs += 1;
    }
    if runs == 0 {
        lines.extend(command("Replay:", &report.replay, width));
    }
    if let Some(trace) = &report.trace {
        match 10 + trace.len() <= width {
            true => lines.push(format!("Trace:    {trace}")),
            false => lines.extend(["Trace:".to_owned(), format!("    {trace}")]),
        }
    }
    lines.push(format!("More:     {}", report.more));
    lines
}

/// A name and its text in two columns.
fn field(name: &str, text: &str, width: usize) -> Vec<String> {
    wrap_after(&format!("{name:<10}"), &" ".repeat(10), text, width)
}

/// The replay command, its options on lines of their own. A word is never broken: it must paste.
fn command(name: &str, replay: &str, width: usize) -> Vec<String> {
    let parts: Vec<&str> = replay.split(" --").collect();
    let mut lines = Vec::new();
    for (i, part) in parts.iter().enumerate() {
        let start = if i == 0 { format!("{name:<10}") } else { format!("{:14}--", "") };
        let end = if i + 1 < parts.len() { " \\" } else { "" };
        let whole = format!("{start}{part}{end}");
        // The value on a line of its own; that of the first part is behind the command's two words.
        let verb = if i == 0 { "kvmmu replay" } else { part.split(' ').next().unwrap_or(part) };
        match part.strip_prefix(verb).and_then(|rest| rest.strip_prefix(' ')) {
            Some(value) if whole.len() > width => {
                lines.push(format!("{start}{verb} \\"));
                lines.push(format!("    {value}{end}"));
            }
            _ => lines.push(whole),
        }
    }
    lines
}
