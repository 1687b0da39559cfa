//! Plain ASCII text in lines of a given width.

/// Breaks `text` into lines of at most `width` characters, at spaces where there are any. Always at
/// least one line. What is not printable ASCII becomes `?`.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        let mut word: String =
            word.chars().map(|c| if c.is_ascii_graphic() { c } else { '?' }).collect();
        if !line.is_empty() && line.len() + 1 + word.len() > width {
            lines.push(core::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        while line.len() + word.len() > width {
            let rest = word.split_off(width - line.len());
            lines.push(core::mem::take(&mut line) + &word);
            word = rest;
        }
        line += &word;
    }
    if !line.is_empty() || lines.is_empty() {
        lines.push(line);
    }
    lines
}

/// [`wrap`] with `first` before the first line and `rest` before each further one; `width` counts
/// them.
pub fn wrap_after(first: &str, rest: &str, text: &str, width: usize) -> Vec<String> {
    let indent = first.len().max(rest.len());
    let lines = wrap(text, width.saturating_sub(indent));
    let prefixed = lines.iter().enumerate().map(|(i, line)| {
        let prefix = if i == 0 { first } else { rest };
        format!("{prefix}{line}").trim_end().to_owned()
    });
    prefixed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_never_longer_than_the_width() {
        let text = "a bb ccc dddddddddddddddddddd e\u{e9}";
        for width in 1..30 {
            let lines = wrap(text, width);
            assert!(lines.iter().all(|l| l.len() <= width && !l.is_empty()), "{lines:?}");
            let letters: String = lines.concat().split(' ').collect();
            assert_eq!(letters, "abbcccdddddddddddddddddddde?");
        }
        assert_eq!(wrap("", 5), [""]);
    }
}
