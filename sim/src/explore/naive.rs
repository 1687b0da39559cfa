//! Every interleaving, one after the other, by replay and without any reduction: the oracle that
//! the other explorers are tested against.

use std::collections::BTreeSet;

use super::explorer::{Explorer, Limits, Progress};
use super::search::Search;
use super::trace_hash::TraceHash;
use crate::machine::footprint::Footprint;
use crate::record::goal::Goal;
use crate::record::outcome::{Outcome, Reason, Verdict};
use crate::record::schedule::Move;
use crate::run::engine::Engine;
use crate::run::program::Program;

/// Every interleaving. The sets are filled by [`Explorer::explore`].
#[derive(Clone, Debug, Default)]
pub struct Naive {
    /// Take two `fetch_add`s to commute when traces are compared, as two `add`s do.
    pub adds_commute: bool,
    /// Hashes of the Mazurkiewicz traces of complete executions.
    pub traces: BTreeSet<u128>,
    /// Keys of the shared state where executions end.
    pub finals: BTreeSet<u128>,
    /// Keys of all states.
    pub states: BTreeSet<u128>,
    /// How many executions violated something.
    pub violations: u64,
    path: Vec<(Move, Footprint)>,
    /// The moves at each step of the path, and how many of them have been made.
    branches: Vec<(Vec<Move>, usize)>,
}

/// What a key takes in a set whose nodes are half full.
const KEY_BYTES: usize = 40;

impl Explorer for Naive {
    fn explore(
        &mut self,
        program: &dyn Program,
        goal: &Goal,
        limits: &Limits,
        progress: Progress<'_>,
    ) -> Outcome {
        let engine = &mut Engine::new(program, goal.clone());
        engine.set_adds_commute(self.adds_commute);
        let mut search = Search::new(engine, limits, progress);
        let verdict = self.all(engine, limits, &mut search);
        search.stats.states = self.states.len() as u64;
        search.outcome(engine, verdict)
    }
}

impl Naive {
    fn all(&mut self, engine: &mut Engine, limits: &Limits, search: &mut Search<'_>) -> Verdict {
        *self = Naive { adds_commute: self.adds_commute, ..Naive::default() };
        let mut violated = None;
        self.states.insert(engine.key());
        loop {
            if let Err(reason) = self.descend(engine, limits, search) {
                return violated.unwrap_or(Verdict::Inconclusive(reason));
            }
            let path = || self.path.iter().map(|(m, _)| *m).collect();
            self.traces.insert(TraceHash::of(&self.path));
            self.finals.insert(engine.shared_key());
            search.stats.executions += 1;
            search.stats.depth_max = search.stats.depth_max.max(self.path.len() as u32);
            let goal = engine.goal().clone();
            if let Some(violation) = engine.finish() {
                self.violations += 1;
                let verdict = search.judge(&goal, violation, path);
                violated = violated.or(verdict);
            }
            if search.stats.executions >= limits.executions_max {
                return violated.unwrap_or(Verdict::Inconclusive(Reason::Executions));
            }
            if !self.backtrack(engine, search) {
                return violated.unwrap_or(Verdict::Holds);
            }
        }
    }

    /// How much memory it takes: paths are short, sets are not.
    fn bytes(&self) -> usize {
        (self.traces.len() + self.finals.len() + self.states.len()) * KEY_BYTES
    }

    /// Goes on, always by the first move, until none is left.
    fn descend(
        &mut self,
        engine: &mut Engine,
        limits: &Limits,
        search: &mut Search<'_>,
    ) -> Result<(), Reason> {
        loop {
            if let Some(reason) = search.tick(|| self.bytes()) {
                return Err(reason);
            }
            let mut moves = Vec::new();
            engine.moves(&mut moves);
            let Some(step) = moves.first().copied() else { return Ok(()) };
            if self.path.len() as u32 >= limits.steps_max {
                return Err(Reason::Steps);
            }
            if self.states.len() as u64 > limits.states_max {
                return Err(Reason::States);
            }
            self.branches.push((moves, 1));
            self.take(engine, step, search);
        }
    }

    fn take(&mut self, engine: &mut Engine, step: Move, search: &mut Search<'_>) {
        let footprint = engine.step(step);
        search.stats.transitions += 1;
        self.path.push((step, footprint));
        Search::note_cycle(engine, || self.path.iter().map(|(m, _)| *m).collect());
        if !engine.is_violated() {
            self.states.insert(engine.key());
            search.stats.states = self.states.len() as u64;
        }
    }

    /// Makes the next move that has not been made; false if there is none.
    fn backtrack(&mut self, engine: &mut Engine, search: &mut Search<'_>) -> bool {
        while let Some((moves, made)) = self.branches.last_mut() {
            self.path.pop();
            let Some(step) = moves.get(*made).copied() else {
                self.branches.pop();
                continue;
            };
            *made += 1;
            engine.reset();
            for (step, _) in &self.path {
                engine.step(*step);
            }
            self.take(engine, step, search);
            return true;
        }
        false
    }
}
