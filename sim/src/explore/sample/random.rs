//! Random schedules: each move is drawn from those that can be made. Seeded, so repeatable.

use super::rng::Rng;
use super::workers::Strategy;
use super::{Pick, sample};
use crate::explore::explorer::{Explorer, Limits, Progress};
use crate::record::goal::Goal;
use crate::record::outcome::Outcome;
use crate::record::schedule::Move;
use crate::run::program::Program;

/// Draws each move from those that can be made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Random;

impl Explorer for Random {
    fn explore(
        &mut self,
        program: &dyn Program,
        goal: &Goal,
        limits: &Limits,
        progress: Progress<'_>,
    ) -> Outcome {
        sample(program, goal, limits, progress, &Seed(limits.seed))
    }
}

pub(super) struct Seed(pub(super) u64);

impl Strategy for Seed {
    fn pick(&self, run: u64, _longest: usize) -> Box<dyn Pick> {
        Box::new(Uniform(Rng::of_run(self.0, run)))
    }
}

pub(super) struct Uniform(pub(super) Rng);

impl Pick for Uniform {
    fn begin(&mut self, _actors: usize) {}
    fn pick(&mut self, moves: &[Move]) -> usize {
        self.0.below(moves.len())
    }
}
