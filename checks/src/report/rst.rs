//! A report as reStructuredText: the same table, pasted between a heading and two literal blocks.

use super::Report;
use super::lockdep;
use super::text::{head, tail};

/// The whole text.
pub fn render(report: &Report) -> String {
    let title = escape(&report.title);
    let mut lines = vec![title.clone(), "=".repeat(title.len()), String::new()];
    literal(&mut lines, head(report));
    if let Some(lockdep) = &report.lockdep {
        literal(&mut lines, lockdep::lines(lockdep));
    }
    if report.has_table() {
        lines.extend(report.table());
        lines.push(String::new());
    }
    literal(&mut lines, tail(report));
    lines.join("\n")
}

/// A literal block.
fn literal(lines: &mut Vec<String>, block: Vec<String>) {
    lines.extend(["::".to_owned(), String::new()]);
    let indent = |line: String| if line.is_empty() { line } else { format!("  {line}") };
    lines.extend(block.into_iter().map(indent));
    lines.push(String::new());
}

/// What would be markup in running text.
fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if matches!(c, '*' | '`' | '|' | '\\' | '_') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}
