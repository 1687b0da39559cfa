//! Random schedules: each move is drawn from those that can be made. Seeded, so repeatable.

use super::rng::Rng;
use super::{Pick, sample};
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
        self.explore_by(&mut Engine::new(program, goal.clone()), limits, progress)
    }
}

impl Random {
    /// [`Explorer::explore`] by an engine that is there.
    pub(crate) fn explore_by(
        &mut self,
        engine: &mut Engine,
        limits: &Limits,
        progress: Progress<'_>,
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
