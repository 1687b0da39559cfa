//! Random schedules: each move is drawn from those that can be made. Seeded, so repeatable.

use super::rng::Rng;
use super::workers::Strategy;
use super::{Pick, sample, sample_by};
use crate::explore::explorer::{Explorer, Limits, Progress};
use crate::record::goal::Goal;
use crate::record::outcome::Outcome;
use crate::record::schedule::Move;
use crate::run::engine::Engine;
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

impl Random {
    /// Random schedules by an engine that is there, one stream of draws for all of them.
    pub(crate) fn explore_by(
        &mut self,
        engine: &mut Engine,
        limits: &Limits,
        progress: Progress<'_>,
    ) -> Outcome {
        sample_by(engine, limits, progress, &mut Uniform(Rng::new(limits.seed)))
    }
}

pub(super) struct Seed(pub(super) u64);

impl Strategy for Seed {
    fn pick(&self, run: u64, _longest: usize) -> Box<dyn Pick> {
        Box::new(Uniform(Rng::of_run(self.0, run)))
    }
}

struct Uniform(Rng);

impl Pick for Uniform {
    fn begin(&mut self, _actors: usize) {}
    fn pick(&mut self, moves: &[Move]) -> usize {
        self.0.below(moves.len())
    }
}
