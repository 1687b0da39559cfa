//! What the loader says of a file that it refuses: where, what, and what to try next.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

/// Why a scenario file was refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoadError {
    /// The file, as the caller named it.
    pub file: String,
    /// The line, from 1; 0 if the file could not be read at all.
    pub line: u32,
    /// The column in characters, from 1.
    pub column: u32,
    /// What is wrong, with the offending token.
    pub message: String,
    /// The next thing to try.
    pub hint: String,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file)?;
        if self.line != 0 {
            write!(f, "{}:{}:", self.line, self.column)?;
        }
        write!(f, " {}\n  help: {}", self.message, self.hint)
    }
}

impl core::error::Error for LoadError {}

/// The file that is being read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'a> {
    pub(super) file: &'a str,
    pub(super) text: &'a str,
}

impl Source<'_> {
    /// An error at a byte offset.
    pub(super) fn error(
        self,
        at: usize,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> LoadError {
        let before = &self.text[..self.text.floor_char_boundary(at)];
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
        let column = before[line_start..].chars().count() + 1;
        LoadError {
            file: self.file.into(),
            line: u32::try_from(line).unwrap_or(u32::MAX),
            column: u32::try_from(column).unwrap_or(u32::MAX),
            message: message.into(),
            hint: hint.into(),
        }
    }

    /// An error about a name that is none of `legal`.
    pub(super) fn unknown(self, at: usize, what: &str, word: &str, legal: &[&str]) -> LoadError {
        self.error(at, format!("unknown {what} {}", quoted(word)), among(word, legal))
    }
}

/// A token of the file for a message: cut if long, control characters escaped.
pub(super) fn quoted(word: &str) -> String {
    let mut text: String = word.chars().take(40).flat_map(char::escape_debug).collect();
    if word.chars().nth(40).is_some() {
        text.push_str("...");
    }
    format!("'{text}'")
}

/// "did you mean" where one of `legal` is near, and all of them.
fn among(word: &str, legal: &[&str]) -> String {
    let word = &word.to_lowercase();
    let near = legal.iter().min_by_key(|l| distance(word, l));
    let all = legal.join(", ");
    match near {
        Some(near) if distance(word, near) <= near.len().div_ceil(3) => {
            format!("did you mean '{near}'? Legal here: {all}")
        }
        _ => format!("legal here: {all}"),
    }
}

/// How many insertions, deletions, replacements and swaps of neighbours lead from `a` to `b`.
/// Only the first 64 characters of each count: names are shorter.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().take(64).collect();
    let b: Vec<char> = b.chars().take(64).collect();
    let mut rows = vec![vec![0_usize; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            if i == 0 || j == 0 {
                rows[i][j] = i + j;
                continue;
            }
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

/// Names joined for a message.
pub(super) fn listed<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|i| i.to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits() {
        assert_eq!(distance("write", "write"), 0);
        assert_eq!(distance("wrte", "write"), 1);
        assert_eq!(distance("wirte", "write"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("read", "write"), 4);
    }

    #[test]
    fn columns_count_characters_and_never_split_one() {
        let source = Source { file: "f", text: "a\n\u{e4}b" };
        assert_eq!((source.error(4, "", "").line, source.error(4, "", "").column), (2, 2));
        assert_eq!(source.error(3, "", "").column, 1);
        assert_eq!(source.error(999, "", "").column, 3);
    }
}
