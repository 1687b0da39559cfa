//! How an input is changed: half of the changes are libFuzzer's own, to bytes; the others are to
//! what the formats are made of: words, numbers and lines.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::sync::OnceLock;

use crate::input::KNOBS;

/// Numbers at the edges of what fits somewhere, and words that mean something to TOML or to JSON.
const EDGES: &[&str] = &[
    "0",
    "1",
    "2",
    "3",
    "7",
    "8",
    "9",
    "15",
    "16",
    "31",
    "32",
    "63",
    "64",
    "127",
    "128",
    "255",
    "256",
    "511",
    "512",
    "-1",
    "65535",
    "65536",
    "1048576",
    "4294967295",
    "4294967296",
    "1099511627776",
    "4503599627370496",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775808",
    "1e308",
    "nan",
    "inf",
    "0x7fffffff",
    "\"0xffffffffffffffff\"",
    "\"0x7fffffffffffffff\"",
    "0o17",
    "1979-05-27",
    "true",
    "null",
    "\"\"",
    "[]",
    "{}",
    "\u{0}",
    "\u{e9}",
    "\u{202e}",
    "\u{a0}",
    "\u{1d518}",
];

/// Where the words are that the inputs of this process are made of.
pub const WORDS: &str = "KVMMU_FUZZ_WORDS";

/// Words of the seeds.
fn words() -> &'static [String] {
    static READ: OnceLock<Vec<String>> = OnceLock::new();
    READ.get_or_init(|| {
        let text = std::env::var(WORDS).ok().and_then(|path| fs::read_to_string(path).ok());
        text.unwrap_or_default().lines().map(str::to_owned).collect()
    })
}

/// The words of seeds, each once.
pub fn words_of(seeds: &[Vec<u8>]) -> Vec<String> {
    const LONGEST: usize = 40;
    let words: BTreeSet<String> = seeds
        .iter()
        .flat_map(|seed| {
            let text = seed.get(KNOBS..).unwrap_or_default();
            spans(text, is_word).into_iter().map(|at| String::from_utf8_lossy(&text[at]).into())
        })
        .filter(|word: &String| word.len() <= LONGEST)
        .collect();
    // Addresses and values of recordings are as many as there are events.
    let is_value = |word: &String| word.starts_with("0x") || word.bytes().all(is_digit);
    let mut values = 0;
    let mut keep = |word: &String| {
        values += usize::from(is_value(word));
        !is_value(word) || values < 64
    };
    words.into_iter().filter(|word| keep(word)).collect()
}

/// Random numbers: `splitmix64`.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`, which is not 0.
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        if all.is_empty() { None } else { all.get(self.below(all.len())) }
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

fn is_digit(byte: u8) -> bool {
    byte.is_ascii_digit()
}

/// Where bytes of a kind are, as long as they go.
fn spans(text: &[u8], is: fn(u8) -> bool) -> Vec<Range<usize>> {
    let mut spans: Vec<Range<usize>> = Vec::new();
    for i in (0..text.len()).filter(|i| is(text[*i])) {
        match spans.last_mut() {
            Some(last) if last.end == i => last.end += 1,
            _ => spans.push(i..i + 1),
        }
    }
    spans
}

fn lines(text: &[u8]) -> Vec<Vec<u8>> {
    text.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
}

/// Changes the first `size` bytes of `data`; gives the new size, `max` at most.
pub fn mutate(
    data: &mut [u8],
    size: usize,
    max: usize,
    seed: u32,
    bytes: impl Fn(&mut [u8], usize, usize) -> usize,
) -> usize {
    let mut random = Random(u64::from(seed));
    if size <= KNOBS || random.below(2) == 0 {
        return bytes(data, size, max);
    }
    let mut text = data[KNOBS..size].to_vec();
    for _ in 0..=random.below(3) {
        change(&mut text, &mut random);
    }
    if random.below(8) == 0 {
        data[random.below(KNOBS)] = random.next() as u8;
    }
    text.truncate(max.min(data.len()) - KNOBS);
    data[KNOBS..KNOBS + text.len()].copy_from_slice(&text);
    KNOBS + text.len()
}

/// One change.
fn change(text: &mut Vec<u8>, random: &mut Random) {
    if text.is_empty() {
        return;
    }
    match random.below(10) {
        0..3 => {
            let new = random.of(EDGES).copied().unwrap_or_default();
            put(text, random, is_digit, new.as_bytes().to_vec());
        }
        3 => {
            let new = random.below(10).to_string().into_bytes();
            put(text, random, is_digit, new);
        }
        4 | 5 => {
            let own = spans(text, is_word);
            let own = random.of(&own).map(|at| text[at.clone()].to_vec());
            put(text, random, is_word, own.unwrap_or_default());
        }
        6 | 7 => {
            let new = random.of(words()).cloned().unwrap_or_default();
            put(text, random, is_word, new.into_bytes());
        }
        _ => change_lines(text, random),
    }
}

/// Puts `new` in the place of one of these spans.
fn put(text: &mut Vec<u8>, random: &mut Random, is: fn(u8) -> bool, new: Vec<u8>) {
    if let Some(at) = random.of(&spans(text, is)) {
        text.splice(at.clone(), new);
    }
}

fn change_lines(text: &mut Vec<u8>, random: &mut Random) {
    let mut all = lines(text);
    let (i, j) = (random.below(all.len()), random.below(all.len()));
    match random.below(3) {
        0 => {
            all.remove(i);
        }
        1 => all.insert(j, all[i].clone()),
        _ => all.swap(i, j),
    }
    *text = all.concat();
}
