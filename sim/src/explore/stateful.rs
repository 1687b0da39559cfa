//! Depth-first search over states: a state that was seen is not looked at again.
//!
//! Two states are one if 95 bits of their keys agree: with n states the chance that any two do by
//! accident is below n^2 / 2^96. Snapshots are taken where more than one move is possible, and
//! restored instead of replaying.
//!
//! With [`Stateful::reduced`], states where one thread is enough are explored by that thread:
//! see `persistent.rs`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::clause::Clause;
use super::cycles::Cycles;
use super::explorer::{Explorer, Limits, Progress};
use super::futures::{FootprintId, Future};
use super::graph::Graph;
use super::keep::Keep;
use super::persistent::Persistent;
use super::search::Search;
use super::states::States;
use super::visited::{Insert, Place, Visited};
use crate::machine::footprint::Footprint;
use crate::machine::hash::Chain;
use crate::machine::memory::bytes;
use crate::machine::snapshot::Snapshots;
use crate::record::actor::Actor;
use crate::record::goal::{Goal, Violation};
use crate::record::outcome::{Outcome, Reason, Verdict};
use crate::record::rule::Rule;
use crate::record::schedule::Move;
use crate::run::engine::Engine;
use crate::run::program::Program;

mod kept;
mod team;

use kept::Resumed;
use team::Team;

/// Depth-first search over states.
#[derive(Clone, Debug, Default)]
pub struct Stateful {
    /// Leave out executions with more context switches than this.
    pub switches_max: Option<u32>,
    /// Record the state graph, to check that equal keys mean equal states. Slow.
    pub graph: Option<Graph>,
    /// Explore one thread where that is enough: the same verdicts, violations, witnesses, lock
    /// orders and ends of executions from fewer states. Has no effect with one of the two above.
    pub reduced: bool,
    /// If it is there: the keys of the shared state where executions end without violation.
    pub finals: Option<BTreeSet<u128>>,
    /// If it is there: the futures that a reduced search found.
    pub futures: Option<FuturesFound>,
    /// A clause that a reduced search goes without, so that it misses something: for tests.
    #[doc(hidden)]
    pub removed: Option<Clause>,
}

/// For the key of each state, of which the lowest 33 bits are clear, what each set of threads may
/// touch from there on, by the bits of the set; none where that may be anything.
pub type FuturesFound = BTreeMap<u128, Vec<Option<Footprint>>>;

/// A state on the path.
#[derive(Serialize, Deserialize)]
struct Frame {
    /// Its moves, in `Walk::moves`, the next one to make, and the end of those to make.
    moves: core::ops::Range<usize>,
    next: usize,
    until: usize,
    /// Its snapshot, if it has several moves.
    snapshot: Option<usize>,
    /// The actor that made the last move, and how often that changed on the way here.
    last: Option<Actor>,
    switches: u32,
    /// Its number in the graph.
    node: u32,
}

struct Walk<'e, 's, 'p, 'k> {
    engine: &'e mut Engine,
    search: &'s mut Search<'p>,
    limits: Limits,
    switches_max: Option<u32>,
    graph: Option<Graph>,
    states: States,
    snapshots: Snapshots,
    moves: Vec<Move>,
    frames: Vec<Frame>,
    cycles: Cycles,
    persistent: Option<Persistent>,
    finals: Option<BTreeSet<u128>>,
    futures: Option<Vec<(u128, Future)>>,
    /// A bound that left something out.
    cut: Option<Reason>,
    /// True while the engine is in the state of the last frame.
    here: bool,
    /// Where the search is saved.
    keep: Option<&'k mut dyn Keep>,
    /// Who helps once the search is large.
    team: Option<&'k Team<'k>>,
    /// Engines that share a search make moves in different orders, by this number.
    order: u64,
}

/// How a state was reached.
#[derive(Clone, Copy)]
struct By {
    step: Move,
    /// What the step touched, if that is kept.
    footprint: FootprintId,
}

impl Explorer for Stateful {
    fn explore(
        &mut self,
        program: &dyn Program,
        goal: &Goal,
        limits: &Limits,
        progress: Progress<'_>,
    ) -> Outcome {
        let mut engine = Engine::new(program, goal.clone());
        self.explore_with(&mut engine, Some(program), limits, progress, None)
    }

    /// Has no effect on what [`Stateful::graph`], `finals` and `futures` ask for: that begins.
    fn explore_kept(
        &mut self,
        program: &dyn Program,
        goal: &Goal,
        limits: &Limits,
        progress: Progress<'_>,
        keep: &mut dyn Keep,
    ) -> Outcome {
        let mut engine = Engine::new(program, goal.clone());
        self.explore_with(&mut engine, Some(program), limits, progress, Some(keep))
    }
}

impl Stateful {
    /// [`Explorer::explore`] by an engine that is there, whose footprints number locations as they
    /// did before.
    pub fn explore_by(
        &mut self,
        engine: &mut Engine,
        limits: &Limits,
        progress: Progress<'_>,
    ) -> Outcome {
        self.explore_with(engine, None, limits, progress, None)
    }

    /// [`Stateful::explore_by`], saved if there is where to, and with help from the threads that
    /// `limits` names if `program` is what the engine runs.
    pub(super) fn explore_with(
        &mut self,
        engine: &mut Engine,
        program: Option<&dyn Program>,
        limits: &Limits,
        progress: Progress<'_>,
        keep: Option<&mut dyn Keep>,
    ) -> Outcome {
        let records = self.graph.is_some() || self.futures.is_some() || self.switches_max.is_some();
        let keep = keep.filter(|_| !records && self.finals.is_none());
        let shares = !records && keep.as_ref().is_none_or(|keep| keep.may_be_shared());
        match (program, limits.cores.filter(|_| shares)) {
            (Some(program), Some(cores)) => {
                self.explore_together(engine, program, cores, limits, progress, keep)
            }
            _ => self.explore_alone(engine, limits, progress, keep),
        }
    }

    fn explore_alone(
        &mut self,
        engine: &mut Engine,
        limits: &Limits,
        progress: Progress<'_>,
        keep: Option<&mut dyn Keep>,
    ) -> Outcome {
        let mut search = Search::new(engine, limits, progress);
        let mut walk = Walk::new(self, engine, &mut search, limits);
        walk.keep = keep;
        let verdict = walk.run();
        self.graph = walk.graph;
        self.finals = walk.finals;
        if let (Some(futures), Some(persistent)) = (walk.futures, &walk.persistent) {
            let found = futures.into_iter().map(|(key, future)| (key, persistent.by_set(future)));
            self.futures = Some(found.collect());
        }
        search.outcome(engine, verdict)
    }
}

impl<'e, 's, 'p, 'k> Walk<'e, 's, 'p, 'k> {
    /// A search that has not begun.
    fn new(
        stateful: &Stateful,
        engine: &'e mut Engine,
        search: &'s mut Search<'p>,
        limits: &Limits,
    ) -> Walk<'e, 's, 'p, 'k> {
        let Stateful { switches_max, removed, .. } = *stateful;
        let reduced = stateful.reduced && switches_max.is_none() && stateful.graph.is_none();
        let states = States::new(Visited::new(search.account()));
        let persistent = reduced.then(|| Persistent::new(engine.threads(), removed));
        Walk {
            engine,
            search,
            limits: *limits,
            switches_max,
            graph: stateful.graph.as_ref().map(|_| Graph::default()),
            states,
            snapshots: Snapshots::new(),
            moves: Vec::new(),
            frames: Vec::new(),
            cycles: Cycles::default(),
            persistent,
            finals: stateful.finals.as_ref().map(|_| BTreeSet::new()),
            futures: stateful.futures.as_ref().map(|_| Vec::new()),
            cut: None,
            here: false,
            keep: None,
            team: None,
            order: 0,
        }
    }
}

impl Walk<'_, '_, '_, '_> {
    fn run(&mut self) -> Verdict {
        match self.resume() {
            Err(why) => {
                self.search.refuse(kept::refused(&why));
                return Verdict::Inconclusive(Reason::InternalError);
            }
            Ok(Resumed::Yes) => {}
            Ok(Resumed::NoRoom) => return Verdict::Inconclusive(Reason::Memory),
            Ok(Resumed::No) => {
                self.engine.reset();
                if let Some(verdict) = self.arrive(None, 0, None) {
                    return verdict;
                }
                self.here = true;
            }
        }
        loop {
            if self.states.len() > self.limits.states_max {
                return self.end_early(Reason::States);
            }
            let Some(frame) = self.frames.last_mut() else { break };
            if frame.next == frame.until
                && frame.until != frame.moves.end
                && let Some(persistent) = &mut self.persistent
            {
                let rest = &mut self.moves[frame.until..frame.moves.end];
                let more = persistent.extend(rest);
                if let Some(place) = self.cycles.top() {
                    arrange(&mut rest[..more], self.order, place);
                }
                frame.until += more;
            }
            if frame.next == frame.until {
                if let Some(verdict) = self.leave() {
                    return verdict;
                }
                self.here = false;
                continue;
            }
            let step = self.moves[frame.next];
            frame.next += 1;
            let (from, last) = (frame.node, frame.last);
            let switches = frame.switches + last.is_some_and(|last| last != step.actor) as u32;
            if self.switches_max.is_some_and(|max| switches > max) {
                self.cut = self.cut.or(Some(Reason::Switches));
                continue;
            }
            if !self.here {
                self.go_back();
            }
            let footprint = self.engine.step(step);
            if self.switches_max.is_none() {
                self.states.expect(Visited::place(self.engine.key()));
            }
            let footprint =
                self.persistent.as_mut().map_or(FootprintId::NOTHING, |p| p.intern(&footprint));
            self.search.stats.transitions += 1;
            let (frames, moves) = (&self.frames, &self.moves);
            Search::note_cycle(self.engine, || path(frames, moves));
            let depth = self.frames.len();
            if let Some(verdict) =
                self.arrive(Some(By { step, footprint }), switches, Some((from, step)))
            {
                if verdict == Verdict::Inconclusive(Reason::Memory) {
                    self.take_back();
                    return self.end_early(Reason::Memory);
                }
                return verdict;
            }
            self.here = self.frames.len() > depth;
            let (snapshots, moves, frames) = (&self.snapshots, &self.moves, &self.frames);
            let (cycles, persistent) = (&self.cycles, self.persistent.as_ref());
            let member = self.states.member.as_ref();
            let taken = || {
                let path = snapshots.bytes() + bytes(moves) + bytes(frames) + cycles.bytes();
                let shared = member.map_or(0, |member| member.bytes());
                path + shared + persistent.map_or(0, Persistent::bytes)
            };
            if let Some(reason) = self.search.tick(taken) {
                return self.end_early(reason);
            }
            if self.search.has_looked() {
                self.save_if_due(None);
                if let Some(verdict) = self.look_around() {
                    return verdict;
                }
            }
        }
        self.cut.map_or(Verdict::Holds, Verdict::Inconclusive)
    }

    /// Brings the engine back to the last state of the path: by its snapshot, or else from the last
    /// one on the way there.
    fn go_back(&mut self) {
        let top = self.frames.len() - 1;
        let near = self.frames.iter().rposition(|frame| frame.snapshot.is_some());
        match near.and_then(|at| self.frames[at].snapshot) {
            Some(at) => self.engine.restore(&self.snapshots, at),
            None => self.engine.reset(),
        }
        let from = near.unwrap_or(0);
        for frame in &self.frames[from..top] {
            self.engine.step(self.moves[frame.next - 1]);
        }
        if from != top {
            // It may be needed again.
            self.engine.save(&mut self.snapshots);
            self.frames[top].snapshot = Some(self.snapshots.len() - 1);
        }
    }

    /// The engine is in some state: looks whether it is new, and at its moves if so.
    fn arrive(
        &mut self,
        by: Option<By>,
        switches: u32,
        edge: Option<(u32, Move)>,
    ) -> Option<Verdict> {
        if self.engine.is_violated() {
            if let Some(persistent) = &mut self.persistent {
                // The violation keeps others from going on: they go on before it.
                persistent.led_to(by.map(By::pair), Future::NOTHING);
                persistent.take_all();
            }
            return self.end();
        }
        let last = by.map(|by| by.step.actor);
        let mut key = self.engine.key();
        if self.switches_max.is_some() {
            let last = last.map_or(u64::from(u8::MAX), |actor| actor.index() as u64);
            let bound = (switches as u64) << 8 | last;
            key ^= Chain::EMPTY.then(bound).part(u8::MAX);
        }
        let place = Visited::place(key);
        let inserted = self.states.insert(place);
        let node = match &mut self.graph {
            Some(graph) => graph.arrive(self.engine, key, edge),
            None => 0,
        };
        match inserted {
            Insert::New => {}
            Insert::Full => return Some(Verdict::Inconclusive(Reason::Memory)),
            Insert::Known(open, number) => {
                if let Some(persistent) = &mut self.persistent {
                    // The future of an open state is not known yet: no step commutes with it, so
                    // that all threads are explored here.
                    let then = match open {
                        true => Future::ANYTHING,
                        false => self.states.future(number, &mut persistent.futures),
                    };
                    persistent.led_to(by.map(By::pair), then);
                }
                if let (true, Some(By { step, .. })) = (open, by) {
                    let (frames, moves) = (&self.frames, &self.moves);
                    let story = self.engine.story_is_complete();
                    self.cycles.meet(place, step, || (path(frames, moves), story));
                }
                return self.compare(node);
            }
        }
        self.search.stats.states += 1;
        self.expand(place, by, switches, node)
    }

    /// A new state: puts it on the path, unless nothing can be done there.
    fn expand(
        &mut self,
        place: Place,
        by: Option<By>,
        switches: u32,
        node: u32,
    ) -> Option<Verdict> {
        let last = by.map(|by| by.step.actor);
        let first = self.moves.len();
        self.engine.moves(&mut self.moves);
        let moves = first..self.moves.len();
        let depth = self.frames.len() as u32;
        self.search.stats.depth_max = self.search.stats.depth_max.max(depth);
        if moves.is_empty() {
            if let Some(persistent) = &mut self.persistent {
                let future = persistent.dead_end(self.engine);
                persistent.led_to(by.map(By::pair), future);
                self.know(place, future);
            }
            self.states.close(place);
            return self.end();
        }
        if depth >= self.limits.steps_max {
            self.states.close(place);
            if let Some(persistent) = &mut self.persistent {
                persistent.led_to(by.map(By::pair), Future::ANYTHING);
            }
            self.moves.truncate(first);
            self.cut = Some(Reason::Steps);
            return None;
        }
        let (mut until, mut once) = (moves.end, moves.len() == 1);
        if let Some(persistent) = &mut self.persistent {
            let (n, sure) =
                persistent.push(self.engine, by.map(By::pair), &mut self.moves[moves.clone()]);
            until = first + n;
            once |= n == 1 && sure;
        }
        arrange(&mut self.moves[first..until], self.order, place);
        let snapshot = (!once).then(|| {
            self.engine.save(&mut self.snapshots);
            self.snapshots.len() - 1
        });
        self.cycles.push(place, last, self.engine.enabled());
        self.frames.push(Frame { next: first, until, moves, snapshot, last, switches, node });
        None
    }

    /// In a known state: checks that its moves lead where they led before, if there is a graph.
    fn compare(&mut self, node: u32) -> Option<Verdict> {
        if let Some(graph) = &mut self.graph
            && self.switches_max.is_none()
        {
            graph.compare(self.engine, node);
        }
        None
    }

    /// The last state of the path is done with.
    fn leave(&mut self) -> Option<Verdict> {
        let frame = self.frames.pop()?;
        self.moves.truncate(frame.moves.start);
        if let Some(at) = frame.snapshot {
            self.engine.truncate(&mut self.snapshots, at);
        }
        if let (Some(persistent), Some(place)) = (&mut self.persistent, self.cycles.top()) {
            let future = persistent.pop();
            self.know(place, future);
        }
        let lap = self.cycles.pop(&mut self.states)?;
        let actors = self.engine.actors().filter(|actor| lap.actors >> actor.index() & 1 == 1);
        let names = actors.map(|actor| self.engine.actor_name(actor));
        let detail = format!("{} can go round for ever", names.collect::<Vec<_>>().join(", "));
        let violation = Violation { rule: Rule::LIVELOCK, detail, story: lap.story };
        self.judge(violation, Some(lap.path))
    }

    /// The future of a state is known now.
    fn know(&mut self, place: Place, future: Future) {
        if let Some(persistent) = &self.persistent {
            self.states.know(place, future, &persistent.futures);
        }
        if let Some(futures) = &mut self.futures {
            futures.push((place.key(), future));
        }
    }

    /// The execution ends here.
    fn end(&mut self) -> Option<Verdict> {
        self.search.stats.executions += 1;
        if self.search.stats.executions > self.limits.executions_max {
            return Some(Verdict::Inconclusive(Reason::Executions));
        }
        let key = self.engine.shared_key();
        let Some(violation) = self.engine.finish() else {
            self.finals.as_mut().map(|finals| finals.insert(key));
            return None;
        };
        self.judge(violation, None)
    }

    fn judge(&mut self, violation: Violation, lap: Option<Vec<Move>>) -> Option<Verdict> {
        let goal = self.engine.goal().clone();
        let (frames, moves) = (&self.frames, &self.moves);
        self.search.judge(&goal, violation, || lap.unwrap_or_else(|| path(frames, moves)))
    }
}

impl By {
    fn pair(self) -> (Actor, FootprintId) {
        (self.step.actor, self.footprint)
    }
}

/// Puts the moves of a state in an order: 0 is the ordinary one, 1 the opposite.
#[inline(always)]
fn arrange(moves: &mut [Move], order: u64, place: Place) {
    let drawn = || (place.key() >> 64) as u64 ^ order.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    if order == 1 || order > 1 && drawn().count_ones() & 1 == 1 {
        moves.reverse();
    }
}

/// The moves that lead to the end of the path.
fn path(frames: &[Frame], moves: &[Move]) -> Vec<Move> {
    frames.iter().map(|frame| moves[frame.next - 1]).collect()
}
