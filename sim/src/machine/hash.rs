//! 128-bit hashes: of shared words and blobs, which combine by xor, and of what a thread has seen,
//! which chains.
//!
//! Two independent 64-bit lanes with different constants. No lane has an absorbing state: a value
//! of 0 mixes like any other.

use core::hash::{Hash, Hasher};
use core::panic::Location;

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
const SALT_A: u64 = 0x243F_6A88_85A3_08D3;
const SALT_B: u64 = 0x1319_8A2E_0370_7344;
const MUL_A: u64 = 0xF39C_C060_5CED_C835;
const MUL_B: u64 = 0xA24B_AED4_963E_E407;

/// A bijection of 64-bit values whose output bits each depend on every input bit (splitmix64).
#[inline(always)]
const fn scatter_a(mut v: u64) -> u64 {
    v = (v ^ v >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    v = (v ^ v >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    v ^ v >> 31
}

/// Another one (moremur).
#[inline(always)]
const fn scatter_b(mut v: u64) -> u64 {
    v = (v ^ v >> 27).wrapping_mul(0x3C79_AC49_2BA7_B653);
    v = (v ^ v >> 33).wrapping_mul(0x1C69_B3F7_4AC4_AE35);
    v ^ v >> 27
}

/// A quick hash of some words, for tables that compare what they find.
#[inline(always)]
pub(crate) fn mix(words: impl Iterator<Item = u64>) -> u64 {
    let sum = words.zip(0..).fold(0_u64, |sum, (word, i): (u64, u64)| {
        sum.wrapping_add((word ^ word >> 31).wrapping_mul((2 * i + 1).wrapping_mul(GOLDEN)))
    });
    sum ^ sum >> 32
}

/// Folds a 128-bit product, so that high input bits reach low output bits.
#[inline(always)]
const fn fold(v: u64, by: u64) -> u64 {
    let product = v as u128 * by as u128;
    product as u64 ^ (product >> 64) as u64
}

#[inline(always)]
const fn pair(a: u64, b: u64) -> u128 {
    (a as u128) << 64 | b as u128
}

/// What the word at location `loc` adds to the key of the shared state while it holds `value`.
#[inline(always)]
pub(crate) const fn word_part(loc: u16, value: u64) -> u128 {
    let salt = (loc as u64 + 1).wrapping_mul(GOLDEN);
    pair(scatter_a(value ^ salt), scatter_b(value ^ salt.rotate_left(32) ^ SALT_B))
}

/// The hash of a sequence of values: what a thread has seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Chain {
    a: u64,
    b: u64,
}

impl Chain {
    /// Nothing seen.
    pub(crate) const EMPTY: Chain = Chain { a: SALT_A, b: SALT_B };

    /// Appends a value.
    #[inline(always)]
    #[must_use]
    pub(crate) const fn then(self, value: u64) -> Chain {
        Chain {
            a: fold(self.a ^ value ^ SALT_B, MUL_A).wrapping_add(self.b),
            b: fold(self.b ^ value.rotate_left(32) ^ SALT_A, MUL_B) ^ self.a.rotate_left(17),
        }
    }

    /// Appends a place in the source.
    #[inline]
    #[must_use]
    pub(crate) fn then_site(self, site: &'static Location<'static>) -> Chain {
        let file = site.file().as_bytes();
        let mut tail = [0; 8];
        let n = file.len().min(11);
        for (to, from) in tail.iter_mut().zip(&file[file.len() - n..]) {
            *to = *from;
        }
        let place = (site.line() as u64) << 32 | (site.column() as u64) << 16 | file.len() as u64;
        self.then(place).then(u64::from_le_bytes(tail))
    }

    /// Appends a value of any type.
    #[inline(always)]
    #[must_use]
    pub(crate) fn then_hash<T: Hash>(self, value: &T) -> Chain {
        let mut hasher = BlobHasher { chain: self, buffer: 0, bits: 0 };
        value.hash(&mut hasher);
        hasher.chain()
    }

    /// What it adds to the key of a state when it is thread `thread` that has seen this.
    #[inline(always)]
    pub(crate) const fn part(self, thread: u8) -> u128 {
        let salt = (thread as u64 + 1).wrapping_mul(MUL_B);
        pair(scatter_b(self.a ^ salt), scatter_a(self.b ^ salt.rotate_left(32)))
    }
}

/// Hashes values by their `Hash` implementation. Narrow fields are packed before they are mixed:
/// the byte sequences of two values of one type are never prefixes of each other.
pub(crate) struct BlobHasher {
    chain: Chain,
    buffer: u64,
    bits: u32,
}

impl BlobHasher {
    #[inline(always)]
    fn push(&mut self, value: u64, bits: u32) {
        self.buffer |= value << self.bits;
        self.bits += bits;
        if self.bits >= 64 {
            self.chain = self.chain.then(self.buffer);
            self.bits -= 64;
            self.buffer = if self.bits == 0 { 0 } else { value >> (bits - self.bits) };
        }
    }

    #[inline(always)]
    fn chain(mut self) -> Chain {
        if self.bits != 0 {
            self.chain = self.chain.then(self.buffer);
        }
        self.chain.then(self.bits as u64)
    }
}

impl Hasher for BlobHasher {
    fn finish(&self) -> u64 {
        self.chain.a ^ self.buffer
    }
    #[inline(always)]
    fn write(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            self.push(chunk.iter().rev().fold(0, |v, b| v << 8 | *b as u64), 64);
        }
        for byte in chunks.remainder() {
            self.push(*byte as u64, 8);
        }
    }
    #[inline(always)]
    fn write_u8(&mut self, v: u8) {
        self.push(v as u64, 8);
    }
    #[inline(always)]
    fn write_u16(&mut self, v: u16) {
        self.push(v as u64, 16);
    }
    #[inline(always)]
    fn write_u32(&mut self, v: u32) {
        self.push(v as u64, 32);
    }
    #[inline(always)]
    fn write_u64(&mut self, v: u64) {
        self.push(v, 64);
    }
    #[inline(always)]
    fn write_usize(&mut self, v: usize) {
        self.push(v as u64, 64);
    }
    #[inline(always)]
    fn write_isize(&mut self, v: isize) {
        self.push(v as u64, 64);
    }
}

/// What the blob at location `loc` adds to the key of the shared state.
#[inline(always)]
pub(crate) fn blob_part<T: Hash>(loc: u16, value: &T) -> u128 {
    Chain::EMPTY.then(loc as u64).then_hash(value).part(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_loses_nothing() {
        let hash = |v: &dyn Fn(&mut BlobHasher)| {
            let mut h = BlobHasher { chain: Chain::EMPTY, buffer: 0, bits: 0 };
            v(&mut h);
            h.chain()
        };
        let mut seen = Vec::new();
        for value in 0..64u64 {
            for lead in 0..9 {
                seen.push(hash(&|h| {
                    (0..lead).for_each(|_| h.write_u8(1));
                    h.write_u64(1 << value);
                }));
            }
        }
        let all = seen.len();
        seen.sort_by_key(|c| c.part(0));
        seen.dedup();
        assert_eq!(seen.len(), all);
    }

    #[test]
    fn zero_is_a_value_like_any_other() {
        let mut chain = Chain::EMPTY;
        let mut seen = vec![chain.part(0)];
        for _ in 0..1000 {
            chain = chain.then(0);
            seen.push(chain.part(0));
        }
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 1001);
        assert_ne!(word_part(0, 0), 0);
    }
}
