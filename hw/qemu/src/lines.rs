//! A stream of bytes cut into lines, whatever the bytes are.
//!
//! Serial lines carry garbage: bytes that are no UTF-8, NULs, megabytes without an end of line.
//! Nothing of that grows without bound or panics.

/// No line is longer; what comes after is a line of its own.
pub const LINE_MAX: usize = 1 << 20;

/// Collects bytes until a line is complete.
#[derive(Default, Debug)]
pub struct Lines {
    /// What has come since the last end of line.
    pending: Vec<u8>,
    /// How much of `pending` was shown as a prompt.
    shown: usize,
}

impl Lines {
    /// Takes `bytes` in; calls `on_line` for each line that is complete now, without its end.
    pub fn push(&mut self, bytes: &[u8], mut on_line: impl FnMut(&str)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ended) = match piece.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (piece, false),
            };
            for part in text.chunks(LINE_MAX) {
                if self.pending.len() + part.len() > LINE_MAX {
                    self.flush(&mut on_line);
                }
                self.pending.extend_from_slice(part);
            }
            if ended {
                self.flush(&mut on_line);
            }
        }
    }

    /// The unfinished line, if there is more of it than the last time.
    pub fn prompt(&mut self) -> Option<String> {
        if self.pending.len() == self.shown {
            return None;
        }
        self.shown = self.pending.len();
        Some(text(&self.pending))
    }

    /// Ends the unfinished line, if there is one.
    pub fn finish(&mut self, mut on_line: impl FnMut(&str)) {
        if !self.pending.is_empty() {
            self.flush(&mut on_line);
        }
    }

    fn flush(&mut self, on_line: &mut impl FnMut(&str)) {
        on_line(&text(&self.pending));
        self.pending.clear();
        self.shown = 0;
    }
}

/// Bytes as text: no carriage return at the end, and what is no UTF-8 replaced.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().rposition(|byte| *byte != b'\r').map_or(0, |last| last + 1);
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(pieces: &[&[u8]]) -> Vec<String> {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        for piece in pieces {
            lines.push(piece, |line| seen.push(line.to_owned()));
        }
        lines.finish(|line| seen.push(format!("{line} (unfinished)")));
        seen
    }

    #[test]
    fn lines_may_come_in_any_pieces() {
        assert_eq!(lines_of(&[b"a", b"b\r", b"\nc\n\nd"]), ["ab", "c", "", "d (unfinished)"]);
    }

    #[test]
    fn garbage_is_text() {
        assert_eq!(lines_of(&[&[0xff, 0x00, b'x', b'\n']]), ["\u{fffd}\0x"]);
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let mut lines = Lines::default();
        let mut lengths = Vec::new();
        for _ in 0..5 {
            lines.push(&vec![b'x'; LINE_MAX / 2], |line| lengths.push(line.len()));
        }
        assert_eq!(lengths, [LINE_MAX, LINE_MAX]);
    }

    #[test]
    fn a_prompt_is_shown_once() {
        let mut lines = Lines::default();
        lines.push(b"hello\n=> ", |_| ());
        assert_eq!(lines.prompt().as_deref(), Some("=> "));
        assert_eq!(lines.prompt(), None);
        lines.push(b"boot", |_| ());
        assert_eq!(lines.prompt().as_deref(), Some("=> boot"));
    }
}
