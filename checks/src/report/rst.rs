//! A report as reStructuredText: the same table, pasted between a heading and two literal blocks.

use super::Report;
use super::lockdep;
use super::table::WIDTH;
use super::text::{head, tail};

/// How far literal blocks are indented.
const INDENT: usize = 2;

/// The whole text.
pub fn render(report: &Report) -> String {
    let title = escape(&report.title);
    let mut lines = vec![title.clone(), "=".repeat(title.len()), String::new()];
    literal(&mut lines, head(report, WIDTH - INDENT));
    if let Some(lockdep) = &report.lockdep {
        literal(&mut lines, lockdep::lines(lockdep));
    }
    if report.has_table() {
        lines.extend(report.table());
        lines.push(String::new());
    }
    literal(&mut lines, tail(report, WIDTH - INDENT));
    lines.join("\n")
}

/// A literal block.
fn literal(lines: &mut Vec<String>, block: Vec<String>) {
    lines.extend(["::".to_owned(), String::new()]);
    let indent =
        |line: String| if line.is_empty() { line } else { format!("{:INDENT$}{line}", "") };
    lines.extend(block.into_iter().map(indent));
    lines.push(String::new());
}

/// What would be markup in running text. An underscore inside a word is none.
fn escape(text: &str) -> String {
    let mut out = String::new();
    let mut letters = text.chars().peekable();
    let mut inside = false;
    while let Some(c) = letters.next() {
        let ends = !inside || !letters.peek().is_some_and(|next| next.is_alphanumeric());
        inside = c.is_alphanumeric() || (c == '_' && inside);
        if matches!(c, '*' | '`' | '|' | '\\') || (c == '_' && ends) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}
