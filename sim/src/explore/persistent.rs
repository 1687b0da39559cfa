//! Persistent sets on states: of most states one thread alone is explored.
//!
//! Why that is enough, and what is preserved: docs/engine.md. A state is explored by one thread
//! first. When that is done, each of its steps is compared with what the other threads may still
//! touch after it (their [`Future`], which was found on the way); if the order of some matters,
//! their threads are explored too. All threads are where a step violates something, and where one
//! leads to a state whose future is not known yet, because it is on the path or its component is
//! not complete.

use std::io;

use serde::{Deserialize, Serialize};

use super::clause::Clause;
use super::futures::{FootprintId, Future, Futures, Step, Sum, Waiting, threads};
use super::keep::{Reading, Unusable, Writing};
use super::predictor::{Guess, Predictor};
use crate::machine::footprint::Footprint;
use crate::machine::memory::bytes;
use crate::record::actor::Actor;
use crate::record::schedule::Move;
use crate::run::engine::Engine;

/// A move that was made from a state of the path, and what may come after it.
#[derive(Serialize, Deserialize, Clone, Copy, Debug)]
struct Made {
    thread: u8,
    footprint: FootprintId,
    then: Future,
}

/// A state on the path.
#[derive(Serialize, Deserialize, Clone, Debug)]
struct Partial {
    /// The threads that can move, and those of them that are explored.
    enabled: u32,
    taken: u32,
    waiting: u32,
    /// Threads that stood against exploring the first one alone.
    against: u32,
    /// The first of its moves in `made`, and of what threads wait for in `waits`.
    made: u32,
    waits: u32,
    /// The step that led to it.
    by: (u8, FootprintId),
    /// The thread to explore first was guessed.
    guessed: bool,
}

/// What the reduction keeps while a search runs.
#[derive(Debug)]
pub(crate) struct Persistent {
    pub(crate) futures: Futures,
    predictor: Predictor,
    path: Vec<Partial>,
    made: Vec<Made>,
    waits: Vec<FootprintId>,
    /// Of the states of the path whose thread was guessed.
    guesses: Vec<Guess>,
    sum: Sum,
    /// A clause that is removed, for tests.
    removed: Option<Clause>,
}

impl Persistent {
    /// For a program of so many threads, by all clauses or all but one.
    pub(crate) fn new(threads: usize, removed: Option<Clause>) -> Persistent {
        Persistent {
            futures: Futures::new(threads),
            predictor: Predictor::new(),
            path: Vec::new(),
            made: Vec::new(),
            waits: Vec::new(),
            guesses: Vec::new(),
            sum: Sum::default(),
            removed,
        }
    }

    /// How much memory it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.futures.bytes()
            + bytes(&self.path)
            + bytes(&self.made)
            + bytes(&self.waits)
            + bytes(&self.guesses)
    }

    /// Writes all of it.
    pub(crate) fn write(&self, to: &mut Writing<'_>) -> io::Result<()> {
        self.futures.write(to)?;
        self.predictor.write(to)?;
        to.put(&(&self.path, &self.made, &self.waits, &self.guesses))
    }

    /// Reads what [`Persistent::write`] wrote, of a program of as many threads.
    pub(crate) fn read(&mut self, from: &mut Reading<'_>) -> Result<(), Unusable> {
        self.futures.read(from)?;
        self.predictor.read(from)?;
        (self.path, self.made, self.waits, self.guesses) = from.get()?;
        Ok(())
    }

    /// Interns what a step touched.
    pub(crate) fn intern(&mut self, footprint: &Footprint) -> FootprintId {
        self.futures.intern(footprint)
    }

    /// What each set of threads may touch, by its bits; none where that may be anything.
    pub(crate) fn by_set(&self, future: Future) -> Vec<Option<Footprint>> {
        self.futures.by_set(future)
    }

    /// A new state goes on the path: puts the moves to make first in front of the others, and
    /// returns how many they are and whether they are likely to be all.
    pub(crate) fn push(
        &mut self,
        engine: &Engine,
        by: Option<(Actor, FootprintId)>,
        moves: &mut [Move],
    ) -> (usize, bool) {
        let enabled = engine.enabled();
        let live = engine.unfinished();
        let (made, waits) = (self.made.len() as u32, self.waits.len() as u32);
        let waiting = live & !enabled;
        for t in threads(waiting) {
            let footprint = self.futures.intern(&engine.waits_on(Actor::at(t)));
            self.waits.push(footprint);
        }
        let (mut taken, mut sure) = (enabled, false);
        let guessed = enabled & (enabled - 1) != 0;
        if guessed {
            let of = |t: usize| moves.iter().filter(|m| m.actor.index() == t).count();
            let last = by.map(|(actor, _)| actor.index());
            let guess = self.predictor.guess(engine, enabled, live, last, of);
            (taken, sure) = (1 << guess.thread, guess.sure);
            self.guesses.push(guess);
        }
        let by = by.map_or((0, FootprintId::NOTHING), |(actor, footprint)| {
            (actor.index() as u8, footprint)
        });
        self.path.push(Partial { enabled, taken, waiting, against: 0, made, waits, by, guessed });
        (to_front(moves, taken), sure)
    }

    /// The step from the last state of the path led to where nothing is left to do, or to a state
    /// that is not looked into: what may come after it.
    pub(crate) fn led_to(&mut self, by: Option<(Actor, FootprintId)>, then: Future) {
        if let Some((actor, footprint)) = by {
            let open = then == Future::ANYTHING && !Clause::Open.stands(self.removed);
            let then = if open { Future::NOTHING } else { then };
            self.made.push(Made { thread: actor.index() as u8, footprint, then });
        }
    }

    /// The future of a state where no thread can move.
    pub(crate) fn dead_end(&mut self, engine: &Engine) -> Future {
        if !Clause::WaitsAtEnd.stands(self.removed) {
            return Future::NOTHING;
        }
        self.sum.clear(&self.futures);
        for t in threads(engine.unfinished()) {
            let footprint = self.futures.intern(&engine.waits_on(Actor::at(t)));
            self.sum.add(&mut self.futures, t, footprint, Future::NOTHING);
        }
        self.sum.intern(&mut self.futures)
    }

    /// A step violated something: all threads of the last state of the path have to be explored.
    pub(crate) fn take_all(&mut self) {
        if let Some(last) = self.path.last_mut()
            && Clause::Violation.stands(self.removed)
        {
            last.taken = last.enabled;
        }
    }

    /// The moves to make of the last state have been made; `rest` are its others. Puts those that
    /// have to be made, too, in front, and returns how many they are.
    pub(crate) fn extend(&mut self, rest: &mut [Move]) -> usize {
        self.find_more();
        self.path.last().map_or(0, |last| to_front(rest, last.taken))
    }

    /// Compares the moves that were made of the last state with the futures of the other threads.
    fn find_more(&mut self) {
        let Some(last) = self.path.last_mut() else { return };
        let (others, removed) = ((last.enabled | last.waiting) & !last.taken, self.removed);
        let again = last.against != 0;
        if last.taken == last.enabled || again && !Clause::EveryRound.stands(removed) {
            return;
        }
        let futures = &mut self.futures;
        let waiting =
            Waiting { threads: last.waiting, footprints: &self.waits[last.waits as usize..] };
        let mut made = &self.made[last.made as usize..];
        if !Clause::EveryStep.stands(removed) {
            made = &made[..made.len().min(1)];
        }
        let mut more = 0;
        for made in made {
            let future = before(futures, made.then, others, &waiting, removed);
            if futures.independent(made.footprint, future) {
                continue;
            }
            let mut some = 0;
            for t in threads(last.enabled & others) {
                let alone = futures.of(made.then, 1 << t);
                if !futures.independent(made.footprint, alone) {
                    some |= 1 << t;
                }
            }
            last.against |= if some == 0 { others } else { some };
            let all = if Clause::AllAdded.stands(removed) { last.enabled } else { 0 };
            more |= if some == 0 { all } else { some };
        }
        last.taken |= more & last.enabled;
    }

    /// The last state leaves the path: its future.
    pub(crate) fn pop(&mut self) -> Future {
        let Some(last) = self.path.pop() else { return Future::ANYTHING };
        let future = match self.made[last.made as usize..] {
            [Made { thread, footprint, then }] if last.waiting == 0 && self.removed.is_none() => {
                let partial = last.taken != last.enabled;
                let step = Step { thread, footprint, then, partial };
                self.futures.of_step(step, &mut self.sum)
            }
            _ => self.sum_up(&last),
        };
        if last.guessed
            && let Some(guess) = self.guesses.pop()
        {
            let enough = last.taken & (last.taken - 1) == 0;
            self.predictor.learn(&guess, last.enabled | last.waiting, enough, last.against);
        }
        self.made.truncate(last.made as usize);
        self.waits.truncate(last.waits as usize);
        let (thread, footprint) = last.by;
        if !self.path.is_empty() {
            self.made.push(Made { thread, footprint, then: future });
        }
        future
    }
}

impl Persistent {
    /// The future of a state whose moves have been made.
    fn sum_up(&mut self, state: &Partial) -> Future {
        let futures = &mut self.futures;
        let footprints = &self.waits[state.waits as usize..];
        let waiting = Waiting { threads: state.waiting, footprints };
        let stands = |clause: Clause| clause.stands(self.removed);
        self.sum.clear(futures);
        let mut then = Future::NOTHING;
        for made in &self.made[state.made as usize..] {
            then = made.then;
            let step = if stands(Clause::Step) { made.footprint } else { FootprintId::NOTHING };
            let after = if stands(Clause::Then) { then } else { Future::NOTHING };
            self.sum.add(futures, usize::from(made.thread), step, after);
        }
        if stands(Clause::Waits) {
            for (t, footprint) in waiting.iter() {
                self.sum.add(futures, t, footprint, Future::NOTHING);
            }
        }
        if state.taken != state.enabled && stands(Clause::Rest) {
            let may = |futures: &mut Futures, set| match stands(Clause::WaitEnded) {
                true => futures.before(then, set, &waiting),
                false => futures.before(then, set & !waiting.threads, &Waiting::NONE),
            };
            self.sum.add_rest(futures, state.taken, may);
        }
        self.sum.intern(futures)
    }
}

/// [`Futures::before`] without one clause.
#[inline]
fn before(
    futures: &mut Futures,
    then: Future,
    others: u32,
    waiting: &Waiting,
    removed: Option<Clause>,
) -> FootprintId {
    match removed {
        Some(Clause::WaitEnded) => futures.before(then, others & !waiting.threads, &Waiting::NONE),
        Some(Clause::Together) => threads(others).fold(FootprintId::NOTHING, |all, t| {
            let alone = futures.before(then, 1 << t, waiting);
            futures.union(all, alone)
        }),
        _ => futures.before(then, others, waiting),
    }
}

/// Puts the moves of these threads in front, in order, and returns how many they are.
fn to_front(moves: &mut [Move], threads: u32) -> usize {
    moves.sort_by_key(|m| threads >> m.actor.index() & 1 == 0);
    moves.iter().take_while(|m| threads >> m.actor.index() & 1 == 1).count()
}
