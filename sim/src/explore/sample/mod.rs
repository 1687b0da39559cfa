//! Runs one execution after another, each move picked by a strategy that samples.

pub mod pct;
pub mod random;
pub mod rng;

use super::explorer::{Limits, Progress};
use super::search::Search;
use crate::record::outcome::{Outcome, Reason, Verdict};
use crate::record::schedule::Move;
use crate::run::engine::Engine;

/// How many executions there are if there is no limit: sampling never ends by itself.
const EXECUTIONS: u64 = 10_000;

/// Picks moves.
pub(crate) trait Pick {
    /// An execution begins.
    fn begin(&mut self, actors: usize);
    /// Picks one of `moves`, which is not empty.
    fn pick(&mut self, moves: &[Move]) -> usize;
}

/// Runs executions until the goal is met or a limit is hit.
pub(crate) fn sample(
    engine: &mut Engine,
    limits: &Limits,
    progress: Progress<'_>,
    pick: &mut dyn Pick,
) -> Outcome {
    let mut search = Search::new(engine, limits, progress);
    let executions_max = match limits.executions_max {
        u64::MAX => EXECUTIONS,
        n => n,
    };
    let mut path = Vec::new();
    let mut moves = Vec::new();
    let mut cut = false;
    while search.stats.executions < executions_max {
        path.clear();
        engine.reset();
        pick.begin(engine.actors().count());
        let verdict = loop {
            if let Some(reason) = search.tick(|| 0) {
                break Some(Verdict::Inconclusive(reason));
            }
            moves.clear();
            engine.moves(&mut moves);
            if moves.is_empty() {
                let goal = engine.goal().clone();
                let violation = engine.finish();
                break violation.and_then(|v| search.judge(&goal, v, || path.clone()));
            }
            if path.len() as u32 >= limits.steps_max {
                cut = true;
                break None;
            }
            let step = moves[pick.pick(&moves)];
            engine.step(step);
            path.push(step);
            Search::note_cycle(engine, || path.clone());
        };
        search.stats.executions += 1;
        search.stats.transitions += path.len() as u64;
        search.stats.depth_max = search.stats.depth_max.max(path.len() as u32);
        if let Some(verdict) = verdict {
            return search.outcome(engine, verdict);
        }
    }
    let reason = if cut { Reason::Steps } else { Reason::NotExhaustive };
    search.outcome(engine, Verdict::Inconclusive(reason))
}
