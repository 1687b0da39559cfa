//! Random schedules: each move is drawn from those that can be made. Seeded, so repeatable.

use super::rng::Rng;
use super::{Pick, sample};
use crate::explore::explorer::{Explorer, Limits};
use crate::record::outcome::{Outcome, Stats};
use crate::record::schedule::Move;
use crate::run::engine::Engine;

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
    fn begin(&mut self, _actors: usize) {}
    fn pick(&mut self, moves: &[Move]) -> usize {
        self.0.below(moves.len())
    }
}
