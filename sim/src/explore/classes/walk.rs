//! A walk over all states of a program, depth first, for those who look at each of them.

use std::collections::BTreeMap;

use kvmmu_model::GuardSet;

use crate::explore::explorer::Limits;
use crate::explore::visited::{Insert, Place, Visited};
use crate::machine::memory::Account;
use crate::machine::snapshot::Snapshots;
use crate::record::outcome::Reason;
use crate::record::rule::Rule;
use crate::record::schedule::Move;
use crate::run::engine::Engine;

/// What is seen of a step from outside.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Shown {
    step: Move,
    /// What it completes.
    witnesses: u64,
    missed: GuardSet,
    /// What it violates, and whether the goal's story is complete.
    violation: Option<(Rule, bool)>,
}

/// A step of the graph.
#[derive(Clone, Copy)]
pub(super) struct Step {
    /// The number of what is seen of it, in the order in which the walk saw such things first.
    pub(super) shown: u32,
    to: u32,
}

/// Nowhere: a violation ends the execution.
const END: u32 = u32::MAX;

impl Step {
    /// The state that it leads to; none after a violation.
    pub(super) fn to(self) -> Option<u32> {
        (self.to != END).then_some(self.to)
    }
}

/// Who looks at states and steps.
pub(super) trait Visitor {
    /// The engine is in a new state, and is to be so afterwards. States are numbered in the order
    /// of arrival, the same in each walk.
    fn arrive(&mut self, engine: &mut Engine, state: u32, is_end: bool);
    /// All steps of a state were made, by actor and choice.
    fn leave(&mut self, state: u32, steps: &[Step]);
}

/// A state on the path.
struct Frame {
    place: Place,
    state: u32,
    /// Its moves, and the next one to make.
    moves: core::ops::Range<usize>,
    next: usize,
    /// Its snapshot, if it has several.
    snapshot: Option<usize>,
}

struct Walk<'e, 'v, V> {
    engine: &'e mut Engine,
    visitor: &'v mut V,
    limits: Limits,
    visited: Visited,
    frames: Vec<Frame>,
    snapshots: Snapshots,
    /// The moves of the path's states, and what came of those that were made.
    moves: Vec<Move>,
    steps: Vec<Step>,
    shown: BTreeMap<Shown, u32>,
    cyclic: bool,
}

/// Takes the visitor to each state that the program can reach. True if there are cycles.
pub(super) fn walk(
    engine: &mut Engine,
    limits: &Limits,
    visitor: &mut impl Visitor,
) -> Result<bool, Reason> {
    engine.set_tracing(false);
    let mut walk = Walk {
        engine,
        visitor,
        limits: *limits,
        visited: Visited::new(Account::new(limits.memory)),
        frames: Vec::new(),
        snapshots: Snapshots::new(),
        moves: Vec::new(),
        steps: Vec::new(),
        shown: BTreeMap::new(),
        cyclic: false,
    };
    walk.run()?;
    Ok(walk.cyclic)
}

impl<V: Visitor> Walk<'_, '_, V> {
    fn run(&mut self) -> Result<(), Reason> {
        if !self.engine.is_violated() {
            self.arrive()?;
        }
        while let Some(frame) = self.frames.last_mut() {
            let at = frame.next;
            if at == frame.moves.end {
                self.leave();
                continue;
            }
            frame.next += 1;
            if let (true, Some(snapshot)) = (at > frame.moves.start, frame.snapshot) {
                self.engine.restore(&self.snapshots, snapshot);
            }
            let shown = self.step(self.moves[at]);
            let to = if self.engine.is_violated() { END } else { self.arrive()? };
            self.steps[at] = Step { shown, to };
        }
        Ok(())
    }

    /// Makes a move: the number of what was seen.
    fn step(&mut self, step: Move) -> u32 {
        self.engine.forget_seen();
        self.engine.step(step);
        let seen = self.engine.seen();
        let violation = self.engine.violation().map(|violation| (violation.rule, violation.story));
        let (witnesses, missed) = (seen.witnesses, self.engine.missed());
        let shown = Shown { step, witnesses, missed, violation };
        let next = self.shown.len() as u32;
        *self.shown.entry(shown).or_insert(next)
    }

    /// The engine is in some state: its number. If it is new, it is on the path now.
    fn arrive(&mut self) -> Result<u32, Reason> {
        let state = self.visited.len() as u32;
        let place = Visited::place(self.engine.key());
        match self.visited.insert(place) {
            Insert::New => self.visited.set_number(place, state),
            Insert::Known(open, number) => {
                self.cyclic |= open;
                return Ok(number);
            }
            Insert::Full => return Err(Reason::Memory),
        }
        if u64::from(state) >= self.limits.states_max || state == END {
            return Err(Reason::States);
        }
        let first = self.moves.len();
        self.engine.moves(&mut self.moves);
        let moves = first..self.moves.len();
        self.steps.resize(moves.end, Step { shown: 0, to: END });
        self.visitor.arrive(self.engine, state, moves.is_empty());
        let snapshot = (moves.len() > 1).then(|| {
            self.engine.save(&mut self.snapshots);
            self.snapshots.len() - 1
        });
        self.frames.push(Frame { place, state, moves, next: first, snapshot });
        Ok(state)
    }

    /// The last state of the path is done with.
    fn leave(&mut self) {
        let Some(frame) = self.frames.pop() else { return };
        self.visitor.leave(frame.state, &self.steps[frame.moves.clone()]);
        self.moves.truncate(frame.moves.start);
        self.steps.truncate(frame.moves.start);
        self.visited.clear_flag(frame.place);
        if let Some(at) = frame.snapshot {
            self.engine.truncate(&mut self.snapshots, at);
        }
    }
}
