//! Random numbers: where delays, and the spans between the beginnings of threads, come from.

/// Random numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// From a seed.
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    /// From a state that is not 0.
    pub(crate) fn of(state: u64) -> Random {
        Random(state)
    }
    /// A span of any order of magnitude below 2 to the `bits`.
    pub(crate) fn span(&mut self, bits: u32) -> u64 {
        let value = self.next();
        value >> 8 & ((1 << (value % u64::from(bits))) - 1)
    }
    /// The next one.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
