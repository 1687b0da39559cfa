//! TOML tables read by key, each value with its place in the file.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::error::{LoadError, Source, listed, quoted};

/// A value and its byte offset in the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) at: usize,
}

/// A table of the file.
#[derive(Clone, Debug)]
pub(super) struct Table<'a> {
    pub(super) source: Source<'a>,
    entries: &'a DeTable<'a>,
    /// Where it starts: what a missing key is reported at.
    pub(super) at: usize,
    /// How messages call it.
    what: &'static str,
}

/// A string of the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text<'a> {
    pub(super) source: Source<'a>,
    pub(super) value: &'a str,
    /// Where its first character is, and true if the others follow it one to one: no escapes.
    start: usize,
    plain: bool,
}

/// A step of a program: an operation, or a choice.
#[derive(Clone, Debug)]
pub(super) enum Step<'a> {
    One(Text<'a>),
    /// The alternatives, of which there are at least two.
    OneOf(At<Vec<Text<'a>>>),
}

/// A word of a string.
#[derive(Clone, Copy, Debug)]
pub(super) struct Word<'a> {
    pub(super) text: &'a str,
    pub(super) at: usize,
}

impl<'a> Text<'a> {
    fn new(source: Source<'a>, value: &'a str, span: core::ops::Range<usize>) -> Text<'a> {
        let raw = source.text.get(span.clone()).unwrap_or("");
        let quotes = raw.bytes().take_while(|b| matches!(b, b'"' | b'\'')).count();
        // Three quotes open a multi-line string; two are the empty string.
        let open = if quotes >= 3 { 3 } else { quotes.min(1) };
        let plain = raw.get(open..).is_some_and(|r| r.starts_with(value));
        Text { source, value, start: span.start + if plain { open } else { 0 }, plain }
    }

    /// The place of a byte of the string.
    pub(super) fn at(&self, offset: usize) -> usize {
        if self.plain { self.start + offset } else { self.start }
    }

    /// A part of this string.
    pub(super) fn part(&self, range: core::ops::Range<usize>) -> Text<'a> {
        let value = self.value.get(range.clone()).unwrap_or("");
        Text { value, start: self.at(range.start), ..*self }
    }

    /// Its words, split at white space.
    pub(super) fn words(&self) -> Vec<Word<'a>> {
        let mut words = Vec::new();
        let mut from = None;
        for (i, c) in self.value.char_indices().chain([(self.value.len(), ' ')]) {
            match (c.is_whitespace(), from) {
                (false, None) => from = Some(i),
                (true, Some(start)) => {
                    words.push(Word { text: &self.value[start..i], at: self.at(start) });
                    from = None;
                }
                _ => {}
            }
        }
        words
    }

    /// Refuses white space that looks like a space and is none.
    pub(super) fn plain_spaces(&self) -> Result<(), LoadError> {
        let odd = self.value.char_indices().find(|(_, c)| c.is_whitespace() && !c.is_ascii());
        match odd {
            None => Ok(()),
            Some((i, c)) => Err(self.source.error(
                self.at(i),
                format!("U+{:04X} is no space, although it looks like one", u32::from(c)),
                "write a plain space there: editors and web pages put others in",
            )),
        }
    }

    /// The parts between `separator`s.
    pub(super) fn split(&self, separator: char) -> Vec<Text<'a>> {
        let mut parts = Vec::new();
        let mut start = 0;
        for (i, _) in self.value.match_indices(separator) {
            parts.push(self.part(start..i));
            start = i + separator.len_utf8();
        }
        parts.push(self.part(start..self.value.len()));
        parts
    }

    /// The same without white space around it.
    pub(super) fn trimmed(&self) -> Text<'a> {
        let lead = self.value.len() - self.value.trim_start().len();
        self.part(lead..lead + self.value.trim().len())
    }

    /// An error at its first character.
    pub(super) fn error(&self, message: impl Into<String>, hint: impl Into<String>) -> LoadError {
        self.source.error(self.at(0), message, hint)
    }

    /// What `choices` has under this name.
    pub(super) fn choose<T: Copy>(
        &self,
        what: &str,
        choices: &[(&'static str, T)],
    ) -> Result<T, LoadError> {
        choices.iter().find(|c| c.0 == self.value).map(|c| c.1).ok_or_else(|| {
            let legal: Vec<&str> = choices.iter().map(|c| c.0).collect();
            self.source.unknown(self.at(0), what, self.value, &legal)
        })
    }
}

impl<'a> Table<'a> {
    pub(super) fn root(source: Source<'a>, table: &'a Spanned<DeTable<'a>>) -> Table<'a> {
        Table { source, entries: table.get_ref(), at: 0, what: "a scenario file" }
    }

    fn new(
        source: Source<'a>,
        value: &'a Spanned<DeValue<'a>>,
        what: &'static str,
    ) -> Result<Table<'a>, LoadError> {
        match value.get_ref() {
            DeValue::Table(entries) => Ok(Table { source, entries, at: value.span().start, what }),
            _ => Err(wrong_type(source, value, what, "a table: { key = value, ... }")),
        }
    }

    /// Refuses keys that are not in `legal`.
    pub(super) fn only(&self, legal: &[&str]) -> Result<(), LoadError> {
        match self.keys().into_iter().find(|k| !legal.contains(&k.value)) {
            None => Ok(()),
            Some(key) => {
                let what = format!("key of {}:", self.what);
                Err(self.source.unknown(key.at(0), &what, key.value, legal))
            }
        }
    }

    /// Its keys, in the order of the file.
    pub(super) fn keys(&self) -> Vec<Text<'a>> {
        let mut keys: Vec<Text<'a>> =
            self.entries.keys().map(|k| Text::new(self.source, k.get_ref(), k.span())).collect();
        keys.sort_by_key(|k| k.start);
        keys
    }

    fn get(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.entries.get(key)
    }

    /// An error where the table starts: something is missing in it.
    pub(super) fn missing(&self, key: &str, example: &str) -> LoadError {
        let message = format!("{} lacks '{key}'", self.what);
        self.source.error(self.at, message, format!("add a line such as: {example}"))
    }

    /// Where the value of a key is; the table itself without it.
    pub(super) fn place(&self, key: &str) -> usize {
        match (self.get(key), self.text(key)) {
            (Some(_), Ok(Some(text))) => text.at(0),
            (Some(value), _) => value.span().start,
            (None, _) => self.at,
        }
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<Text<'a>>, LoadError> {
        self.get(key).map(|v| text(self.source, v, key)).transpose()
    }

    pub(super) fn need_text(&self, key: &str, example: &str) -> Result<Text<'a>, LoadError> {
        self.text(key)?.ok_or_else(|| self.missing(key, example))
    }

    /// An integer from `range`.
    pub(super) fn integer(
        &self,
        key: &str,
        range: core::ops::RangeInclusive<u64>,
    ) -> Result<Option<At<u64>>, LoadError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let at = value.span().start;
        let DeValue::Integer(integer) = value.get_ref() else {
            return Err(wrong_type(self.source, value, key, "a whole number"));
        };
        match u64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(value) if range.contains(&value) => Ok(Some(At { value, at })),
            _ => {
                let message = format!("'{key}' is {}, out of range", quoted(integer.as_str()));
                let hint = format!("give a number from {} to {}", range.start(), range.end());
                Err(self.source.error(at, message, hint))
            }
        }
    }

    /// A small integer from `range`, which must be there.
    pub(super) fn need_small(
        &self,
        key: &str,
        range: core::ops::RangeInclusive<u8>,
        example: &str,
    ) -> Result<At<u8>, LoadError> {
        self.small(key, range)?.ok_or_else(|| self.missing(key, example))
    }

    /// A small integer from `range`.
    pub(super) fn small(
        &self,
        key: &str,
        range: core::ops::RangeInclusive<u8>,
    ) -> Result<Option<At<u8>>, LoadError> {
        let found = self.integer(key, u64::from(*range.start())..=u64::from(*range.end()))?;
        Ok(found.map(|n| At { value: u8::try_from(n.value).unwrap_or(u8::MAX), at: n.at }))
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, LoadError> {
        match self.get(key).map(|v| (v, v.get_ref())) {
            None => Ok(None),
            Some((_, DeValue::Boolean(value))) => Ok(Some(*value)),
            Some((value, _)) => Err(wrong_type(self.source, value, key, "true or false")),
        }
    }

    /// True if the value of a key is a list.
    pub(super) fn is_list(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| matches!(value.get_ref(), DeValue::Array(_)))
    }

    /// A list of strings; empty without the key.
    pub(super) fn texts(&self, key: &str) -> Result<Vec<Text<'a>>, LoadError> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let DeValue::Array(items) = value.get_ref() else {
            return Err(wrong_type(self.source, value, key, "a list: [\"...\", \"...\"]"));
        };
        items.iter().map(|item| text(self.source, item, key)).collect()
    }

    /// A program: strings, and lists of strings to choose from. Empty without the key.
    pub(super) fn program(&self, key: &str) -> Result<Vec<Step<'a>>, LoadError> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let DeValue::Array(items) = value.get_ref() else {
            return Err(wrong_type(self.source, value, key, "a list: [\"...\", \"...\"]"));
        };
        let step = |item: &'a Spanned<DeValue<'a>>| match item.get_ref() {
            DeValue::Array(choice) => self.choice(item.span().start, choice, key).map(Step::OneOf),
            _ => text(self.source, item, key).map(Step::One),
        };
        items.iter().map(step).collect()
    }

    /// `["swap-out gfn0", "shrink"]`, a choice at this place.
    fn choice(
        &self,
        at: usize,
        items: &'a DeArray<'a>,
        key: &str,
    ) -> Result<At<Vec<Text<'a>>>, LoadError> {
        if items.len() < 2 {
            let of = if items.is_empty() { "nothing" } else { "one operation" };
            return Err(self.source.error(
                at,
                format!("a choice of {of}"),
                "name the operations to choose from, two or more, or write one without brackets",
            ));
        }
        let mut alternatives = Vec::new();
        for item in items {
            if let DeValue::Array(_) = item.get_ref() {
                return Err(self.source.error(
                    item.span().start,
                    "a choice inside a choice",
                    "put all the operations to choose from into one list: [\"a\", \"b\", \"c\"]",
                ));
            }
            alternatives.push(text(self.source, item, key)?);
        }
        Ok(At { value: alternatives, at })
    }

    pub(super) fn table(
        &self,
        key: &str,
        what: &'static str,
    ) -> Result<Option<Table<'a>>, LoadError> {
        self.get(key).map(|v| Table::new(self.source, v, what)).transpose()
    }

    /// The tables of `[[key]]`.
    pub(super) fn tables(
        &self,
        key: &str,
        what: &'static str,
    ) -> Result<Vec<Table<'a>>, LoadError> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let DeValue::Array(items) = value.get_ref() else {
            let wanted = format!("one table for each: write [[{key}]], not [{key}]");
            return Err(wrong_type(self.source, value, key, &wanted));
        };
        items.iter().map(|item| Table::new(self.source, item, what)).collect()
    }
}

fn text<'a>(
    source: Source<'a>,
    value: &'a Spanned<DeValue<'a>>,
    key: &str,
) -> Result<Text<'a>, LoadError> {
    match value.get_ref() {
        DeValue::String(text) => Ok(Text::new(source, text, value.span())),
        _ => Err(wrong_type(source, value, key, "a string: \"...\"")),
    }
}

fn wrong_type(
    source: Source<'_>,
    value: &Spanned<DeValue<'_>>,
    key: &str,
    wanted: &str,
) -> LoadError {
    let found = match value.get_ref() {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    let message = format!("{} is {found}", quoted(key));
    source.error(value.span().start, message, listed(["it must be", wanted]).replacen(", ", " ", 1))
}
