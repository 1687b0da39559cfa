//! Goal: goldens of told counterexamples are the same after an edit elsewhere. Method: what changes
//! with every edit is masked.

mod docutils;

pub(crate) use docutils::docutils;

/// `text` with `#` for the number behind each `before`.
pub(crate) fn masked(text: &str, before: &str) -> String {
    let mut parts = text.split(before);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_hexdigit());
        out += &format!("{before}#{rest}");
    }
    out
}
