//! A small seeded generator (splitmix64): the same draws on every machine, for ever.

/// How far a draw moves the state.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// The generator.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The generator with this seed.
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// The generator of one execution: what is drawn in it depends on seed and number alone.
    /// Streams of different executions are 2^32 draws apart.
    pub fn of_run(seed: u64, run: u64) -> Rng {
        Rng(seed.wrapping_add(STEP.wrapping_mul(run << 32)))
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        ((self.draw() as u128 * n as u128) >> 64) as usize
    }
}
