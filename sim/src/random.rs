//! Random schedules: each move is drawn from those that can be made. Seeded, so repeatable.

use crate::engine::Engine;
use crate::explore::{Explorer, Limits};
use crate::outcome::{Outcome, Stats};
use crate::rng::Rng;
use crate::sample::{Pick, sample};
use crate::schedule::Move;

/// Draws each move from those that can be made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Random;

impl Explorer for Random {
    fn explore(
        &mut self,
        engine: &mut Engine,
        limits: &Limits,
        progress: &mut dyn FnMut(&Stats) -> bool,
    ) -> Outcome {
        sample(engine, limits, progress, &mut Uniform(Rng::new(limits.seed)))
    }
}

struct Uniform(Rng);

impl Pick for Uniform {
    fn begin(&mut self, _threads: usize) {}
    fn pick(&mut self, moves: &[Move]) -> usize {
        self.0.below(moves.len())
    }
}
