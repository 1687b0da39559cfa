//! Runs one execution after another, each move picked by a strategy that samples.

mod climb;
pub mod pct;
pub mod random;
pub mod rng;

mod workers;

use super::explorer::{Limits, Progress};
use super::search::Search;
use crate::record::outcome::{Outcome, Reason, Verdict};
use crate::record::schedule::Move;
use crate::run::engine::Engine;

pub(crate) use climb::Climb;
pub(crate) use workers::sample;

/// How many executions there are if there is no limit: sampling never ends by itself.
const EXECUTIONS: u64 = 10_000;

/// Picks moves.
pub(crate) trait Pick {
    /// An execution begins.
    fn begin(&mut self, actors: usize);
    /// Picks one of `moves`, which is not empty.
    fn pick(&mut self, moves: &[Move]) -> usize;
}

/// How many executions are looked at.
fn executions(limits: &Limits) -> u64 {
    match limits.executions_max {
        u64::MAX => EXECUTIONS,
        n => n,
    }
}

/// One engine that samples.
struct Sampling<'e, 'p> {
    engine: &'e mut Engine,
    search: Search<'p>,
    steps_max: u32,
    path: Vec<Move>,
    moves: Vec<Move>,
    /// An execution was cut.
    cut: bool,
}

impl<'e, 'p> Sampling<'e, 'p> {
    fn new(engine: &'e mut Engine, limits: &Limits, progress: Progress<'p>) -> Sampling<'e, 'p> {
        let search = Search::new(engine, limits, progress);
        let (path, moves) = (Vec::new(), Vec::new());
        Sampling { engine, search, steps_max: limits.steps_max, path, moves, cut: false }
    }

    /// An execution: the verdict, if it settles that.
    fn run(&mut self, pick: &mut dyn Pick) -> Option<Verdict> {
        self.run_from(&[], pick, |_, _| ())
    }

    /// An execution that begins with these moves. `watch` sees the engine after each step.
    fn run_from(
        &mut self,
        from: &[Move],
        pick: &mut dyn Pick,
        mut watch: impl FnMut(&Engine, &[Move]),
    ) -> Option<Verdict> {
        let Sampling { engine, search, path, moves, .. } = self;
        path.clear();
        engine.reset();
        pick.begin(engine.actors().count());
        let verdict = loop {
            if let Some(reason) = search.tick(|| 0) {
                break Some(Verdict::Inconclusive(reason));
            }
            moves.clear();
            engine.moves(moves);
            if moves.is_empty() {
                let goal = engine.goal().clone();
                let violation = engine.finish();
                break violation.and_then(|v| search.judge(&goal, v, || path.clone()));
            }
            if path.len() as u32 >= self.steps_max {
                self.cut = true;
                break None;
            }
            let known = from.get(path.len()).copied();
            let step = known.unwrap_or_else(|| moves[pick.pick(moves)]);
            engine.step(step);
            path.push(step);
            watch(engine, path);
            Search::note_cycle(engine, || path.clone());
        };
        self.count(self.path.len() as u32);
        verdict
    }

    /// An execution of so many steps was looked at.
    fn count(&mut self, steps: u32) {
        let stats = &mut self.search.stats;
        stats.executions += 1;
        stats.transitions += u64::from(steps);
        stats.depth_max = stats.depth_max.max(steps);
    }

    /// The result; without a verdict nothing was found.
    fn outcome(self, verdict: Option<Verdict>) -> Outcome {
        let reason = if self.cut { Reason::Steps } else { Reason::NotExhaustive };
        self.search.outcome(self.engine, verdict.unwrap_or(Verdict::Inconclusive(reason)))
    }
}
