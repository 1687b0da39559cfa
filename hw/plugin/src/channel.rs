//! What `/init` says to the plugin: by an instruction that does nothing, with a magic number, an
//! address and a length in registers. A message is text:
//!
//! - `symbols`, a line end, and a piece of /proc/kallsyms;
//! - `ready VERSION RELEASE`: that was all of it, and the kernel is this one;
//! - `mark OP enter|exit NAME=VALUE...`: what user space does.

use kvmmu_steps::event::User;

/// What the first register must have: other programs may have such instructions.
pub(crate) const MAGIC: u64 = 0x6b76_6d6d_7531;
/// No message is longer.
pub(crate) const LENGTH_MAX: u64 = 1 << 20;

/// A message.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Message<'m> {
    /// A piece of /proc/kallsyms.
    Symbols(&'m str),
    /// There are no more, and this is the kernel.
    Ready {
        /// The version of its source.
        version: &'m str,
        /// `uname -r`.
        release: &'m str,
    },
    /// What user space does.
    Mark(User),
}

impl Message<'_> {
    /// Reads one; `None`: it means nothing.
    pub(crate) fn read(text: &str) -> Option<Message<'_>> {
        let (word, rest) = text.split_once([' ', '\n'])?;
        Some(match word {
            "symbols" => Message::Symbols(rest),
            "ready" => {
                let (version, release) = rest.trim_end().split_once(' ')?;
                Message::Ready { version, release }
            }
            "mark" => Message::Mark(mark(rest)?),
            _ => return None,
        })
    }
}

fn mark(text: &str) -> Option<User> {
    let mut words = text.split_ascii_whitespace();
    let op = words.next()?.to_owned();
    let exit = match words.next()? {
        "enter" => false,
        "exit" => true,
        _ => return None,
    };
    let field = |word: &str| {
        let (name, value) = word.split_once('=')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    Some(User::Mark { op, exit, fields: words.map(field).collect::<Option<_>>()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        assert_eq!(Message::read("symbols\nff t a\n"), Some(Message::Symbols("ff t a\n")));
        let ready = Message::Ready { version: "6.1.176-1", release: "6.1.0-50" };
        assert_eq!(Message::read("ready 6.1.176-1 6.1.0-50"), Some(ready));
        let fields = vec![("slot".to_owned(), 1)];
        let mark = User::Mark { op: "copy".to_owned(), exit: true, fields };
        assert_eq!(Message::read("mark copy exit slot=1"), Some(Message::Mark(mark)));
        for nothing in
            ["", "ready", "mark copy", "mark copy in", "mark copy exit slot", "hello you"]
        {
            assert_eq!(Message::read(nothing), None, "{nothing}");
        }
    }
}
