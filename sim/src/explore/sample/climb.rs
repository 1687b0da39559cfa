//! Samples that go on from where a story was told furthest.
//!
//! A bug whose story has five moments is found as five times one moment: from a run that came to
//! the second one, some go on until one comes to the third (multilevel splitting). Half of all
//! executions draw each move, half go by priorities as PCT does; half of those of each kind, where
//! some story is not told to its end yet, begin where others have come to.

use super::pct::Pct;
use super::random::Uniform;
use super::rng::Rng;
use super::{Pick, Sampling, executions};
use crate::explore::explorer::{Limits, Progress};
use crate::record::outcome::Outcome;
use crate::record::schedule::Move;
use crate::run::engine::Engine;

/// How many ways to each moment are kept.
const WAYS: usize = 16;
/// The depths of PCT from a way on: the next moment is not deep.
const NEAR: Pct = Pct { depth: 1, depth_max: 3 };

/// Random, PCT, and both from where a story was told furthest.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Climb {
    /// The depths of PCT from the beginning on.
    pub(crate) pct: Pct,
}

impl Climb {
    /// Samples by an engine that is there.
    pub(crate) fn explore_by(
        self,
        engine: &mut Engine,
        limits: &Limits,
        progress: Progress<'_>,
    ) -> Outcome {
        let mut told = Told::new(engine.stories());
        let mut rng = Rng::new(limits.seed);
        let mut longest = 1;
        let mut sampling = Sampling::new(engine, limits, progress);
        let verdict = (0..executions(limits)).find_map(|run| {
            let from = match run % 4 {
                0 | 1 => Vec::new(),
                _ => told.draw(sampling.engine, &mut rng),
            };
            let own = Rng::new(rng.draw());
            let mut pick: Box<dyn Pick> = match (run % 2, from.len()) {
                (0, _) => Box::new(Uniform(own)),
                (_, 0) => self.pct.pick(own, run / 2, longest),
                (_, n) => NEAR.pick(own, rng.draw(), longest.saturating_sub(n).max(1)),
            };
            told.begin();
            let note = |engine: &Engine, path: &[Move]| told.note(engine, path, &mut rng);
            let verdict = sampling.run_from(&from, &mut *pick, note);
            longest = longest.max(sampling.path.len());
            verdict
        });
        sampling.outcome(verdict)
    }
}

/// How far the stories of an engine were told, and ways there.
struct Told {
    /// For each story and moment some ways there.
    ways: Vec<Vec<Vec<Vec<Move>>>>,
    /// How far each was told in the execution that runs.
    passed: Vec<u64>,
}

impl Told {
    fn new(stories: usize) -> Told {
        Told { ways: vec![Vec::new(); stories], passed: vec![0; stories] }
    }

    /// A way to go on from, most often the furthest, of a story that was not told to its end. Empty
    /// if there is none.
    fn draw(&self, engine: &Engine, rng: &mut Rng) -> Vec<Move> {
        let begun = |story: &usize| engine.is_wanted(*story) && !self.ways[*story].is_empty();
        let stories: Vec<usize> = (0..self.ways.len()).filter(begun).collect();
        if stories.is_empty() {
            return Vec::new();
        }
        let moments = &self.ways[stories[rng.below(stories.len())]];
        let mut at = moments.len() - 1;
        while at > 0 && rng.below(2) == 0 {
            at -= 1;
        }
        let ways = &moments[at];
        ways.get(rng.below(WAYS) % ways.len().max(1)).cloned().unwrap_or_default()
    }

    /// An execution begins.
    fn begin(&mut self) {
        self.passed.fill(0);
    }

    /// A step was made: keeps the way here, if it told more of a story.
    fn note(&mut self, engine: &Engine, path: &[Move], rng: &mut Rng) {
        for (story, before) in self.passed.iter_mut().enumerate() {
            let passed = engine.passed(story);
            if passed > *before {
                let moments = &mut self.ways[story];
                moments.resize(moments.len().max(passed as usize), Vec::new());
                let ways = &mut moments[passed as usize - 1];
                match ways.len() {
                    WAYS => ways[rng.below(WAYS)] = path.to_vec(),
                    _ => ways.push(path.to_vec()),
                }
            }
            *before = passed;
        }
    }
}
