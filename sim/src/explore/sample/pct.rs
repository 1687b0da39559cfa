//! Probabilistic concurrency testing (Burckhardt et al., ASPLOS 2010): random priorities, lowered
//! at a few random moments. Finds a bug that needs `depth` ordered steps with probability at least
//! 1 / (threads * steps^(depth - 1)).

use super::rng::Rng;
use super::workers::Strategy;
use super::{Pick, sample};
use crate::explore::explorer::{Explorer, Limits, Progress};
use crate::record::goal::Goal;
use crate::record::outcome::Outcome;
use crate::record::schedule::Move;
use crate::run::program::Program;

/// PCT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pct {
    /// The least depth of the bugs looked for: one more than priorities change in an execution.
    pub depth: u32,
    /// The largest one. Executions take turns: how deep a bug is cannot be known.
    pub depth_max: u32,
}

impl Default for Pct {
    fn default() -> Pct {
        Pct { depth: 3, depth_max: 5 }
    }
}

impl Explorer for Pct {
    fn explore(
        &mut self,
        program: &dyn Program,
        goal: &Goal,
        limits: &Limits,
        progress: Progress<'_>,
    ) -> Outcome {
        sample(program, goal, limits, progress, &Seeded { pct: *self, seed: limits.seed })
    }
}

struct Seeded {
    pct: Pct,
    seed: u64,
}

impl Strategy for Seeded {
    fn pick(&self, run: u64, longest: usize) -> Box<dyn Pick> {
        self.pct.pick(Rng::of_run(self.seed, run), run, longest)
    }
}

impl Pct {
    /// The strategy of execution `run`.
    pub(super) fn pick(self, rng: Rng, run: u64, longest: usize) -> Box<dyn Pick> {
        let depths = u64::from(self.depth_max.saturating_sub(self.depth)) + 1;
        let depth = self.depth + (run % depths) as u32;
        let (of, changes) = (Vec::new(), Vec::new());
        Box::new(Priorities { rng, depth, of, changes, step: 0, longest })
    }
}

struct Priorities {
    rng: Rng,
    depth: u32,
    /// Of each actor; higher goes first. Initial ones are above all that they fall back to.
    of: Vec<u32>,
    /// The steps at which the running actor falls back.
    changes: Vec<usize>,
    step: usize,
    /// How long executions are: from where the changes are drawn.
    longest: usize,
}

impl Pick for Priorities {
    fn begin(&mut self, actors: usize) {
        self.step = 0;
        let depth = self.depth;
        self.of = (0..actors as u32).map(|i| depth + i).collect();
        for i in (1..actors).rev() {
            self.of.swap(i, self.rng.below(i + 1));
        }
        let changes = 1..depth;
        self.changes = changes.map(|_| self.rng.below(self.longest)).collect();
    }

    fn pick(&mut self, moves: &[Move]) -> usize {
        let first = |moves: &[Move], of: &[u32]| {
            moves.iter().map(|m| m.actor).max_by_key(|actor| of[actor.index()])
        };
        let Some(mut actor) = first(moves, &self.of) else { return 0 };
        for (i, _) in self.changes.iter().enumerate().filter(|(_, at)| **at == self.step) {
            self.of[actor.index()] = i as u32;
            actor = first(moves, &self.of).unwrap_or(actor);
        }
        self.step += 1;
        let start = moves.iter().position(|m| m.actor == actor).unwrap_or(0);
        let choices = moves.iter().filter(|m| m.actor == actor).count();
        start + if choices > 1 { self.rng.below(choices) } else { 0 }
    }
}
