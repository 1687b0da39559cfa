//! Text of others as it may be shown on a terminal.

use std::fmt::Write;

use serde::Serialize;

/// True for a character that nobody sees, and that may do something to a terminal or to the order
/// in which the others are seen.
pub fn unseen(c: char) -> bool {
    let order = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2066}'..='\u{2069}');
    c.is_control() || order || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}')
}

/// `text` with [`unseen`] characters written as `\u{1b}`.
pub fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match unseen(c) {
            true => write!(out, "{}", c.escape_unicode()).expect("a String can be written"),
            false => out.push(c),
        }
    }
    out
}

/// JSON in which [`unseen`] characters are escaped, too. Numbers and strings only: it cannot fail.
pub fn json(value: &impl Serialize) -> String {
    let text = serde_json::to_string(value).expect("strings and numbers are JSON");
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match unseen(c) {
            true => write!(out, "\\u{:04x}", u32::from(c)).expect("a String can be written"),
            false => out.push(c),
        }
    }
    out
}

/// [`shown`], but for the ends of lines.
pub fn shown_lines(text: &str) -> String {
    text.split('\n').map(shown).collect::<Vec<_>>().join("\n")
}
