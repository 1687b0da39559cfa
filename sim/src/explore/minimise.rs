//! Makes a counterexample short: fewest context switches first, then fewest steps.
//!
//! Dijkstra's algorithm over (state, last actor) with the cost (switches, steps). States are
//! reached by replay, so that one costs a few words of memory. If that hits a bound, the schedule
//! that is there is improved by merging blocks of steps of one actor while the goal is still met.
//! Of the time there is, a quarter is kept for that.

use std::time::Instant;

use super::costs::Costs;
use super::explorer::{Limits, Progress};
use super::search::Search;
use crate::machine::hash::Chain;
use crate::machine::memory::bytes;
use crate::machine::snapshot::Snapshots;
use crate::record::actor::Actor;
use crate::record::goal::{Goal, Violation};
use crate::record::outcome::Reason;
use crate::record::schedule::{Move, Schedule};
use crate::run::engine::Engine;

/// A shortened schedule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Minimised {
    /// The schedule.
    pub schedule: Schedule,
    /// True if there is none with fewer switches, nor one with as few and fewer steps.
    pub exact: bool,
    /// The bound that kept it from being so; `None` also for a cycle, which is left as it is.
    pub cut: Option<Reason>,
    /// How many states were looked at.
    pub states: u64,
}

/// Shortens a schedule that meets the engine's goal, within the bounds of `limits` in states, time
/// and memory. `progress` is called from time to time; if it returns false, what is there has to
/// do.
pub fn minimise(
    engine: &mut Engine,
    schedule: &Schedule,
    limits: &Limits,
    progress: Progress<'_>,
) -> Minimised {
    let begun = Instant::now();
    let most = Limits { time_max: limits.time_max.map(|time| time / 4 * 3), ..*limits };
    let mut search = Search::new(engine, &most, progress);
    let start = attempt(engine, &schedule.0, &mut search);
    let Ok(Some(start)) = start else {
        // A cycle, which no end of an execution shows: as it is.
        return Minimised { schedule: schedule.clone(), exact: false, cut: start.err(), states: 0 };
    };
    let cheapest = Cheapest::new(engine, &mut search, limits.states_max).run();
    let states = search.stats.states;
    let (exact, cut) = (matches!(cheapest, Ok(Some(_))), cheapest.as_ref().err().copied());
    let schedule = match cheapest {
        Ok(Some(cheapest)) => cheapest,
        Err(Reason::Interrupted) => start,
        Ok(None) | Err(_) => {
            let rest = limits.time_max.map(|time| time.saturating_sub(begun.elapsed()));
            let limits = Limits { time_max: rest, ..*limits };
            let mut search = Search::new(engine, &limits, progress);
            search.stats.states = states;
            merge_blocks(engine, start, &mut search)
        }
    };
    engine.reset();
    Minimised { schedule: Schedule(schedule), exact, cut, states }
}

/// True if this is what the goal looks for.
pub(crate) fn meets(goal: &Goal, violation: &Violation) -> bool {
    violation.story && goal.rule.is_none_or(|wanted| wanted == violation.rule)
}

/// Makes the moves; if they lead to the goal, returns those that were needed.
///
/// # Errors
///
/// The bound that was hit on the way.
fn attempt(
    engine: &mut Engine,
    moves: &[Move],
    search: &mut Search<'_>,
) -> Result<Option<Vec<Move>>, Reason> {
    engine.reset();
    let mut taken = 0;
    for step in moves {
        if engine.is_violated() {
            break;
        }
        if !engine.can(*step) {
            return Ok(None);
        }
        engine.step(*step);
        taken += 1;
        if let Some(reason) = search.tick(|| 0) {
            return Err(reason);
        }
    }
    if engine.enabled() != 0 {
        return Ok(None);
    }
    let goal = engine.goal().clone();
    let met = engine.finish().is_some_and(|violation| meets(&goal, &violation));
    Ok(met.then(|| moves[..taken].to_vec()))
}

/// A way to a state: that of another entry, some moves of its actor, and a move, which is of
/// another actor or not the ordinary one.
#[derive(Clone, Copy)]
struct Entry {
    parent: u32,
    run: u32,
    step: Move,
    /// How long the way is.
    steps: u32,
}

/// The parent of an entry that begins in the first state.
const ROOT: u32 = u32::MAX;

/// A search by (switches, steps): one level after the other, within a level until nothing gets
/// cheaper.
struct Cheapest<'e, 's, 'p> {
    engine: &'e mut Engine,
    search: &'s mut Search<'p>,
    entries: Vec<Entry>,
    costs: Costs,
    here: Snapshots,
    states_max: u64,
    /// Entries of the next level.
    next: Vec<u32>,
    /// The shortest way to the goal on this level: an entry, and moves after it.
    best: Option<(u32, u32)>,
}

impl<'e, 's, 'p> Cheapest<'e, 's, 'p> {
    fn new(
        engine: &'e mut Engine,
        search: &'s mut Search<'p>,
        states_max: u64,
    ) -> Cheapest<'e, 's, 'p> {
        let costs = Costs::new(search.account());
        let (entries, next, here) = (Vec::new(), Vec::new(), Snapshots::new());
        Cheapest { engine, search, entries, costs, here, states_max, next, best: None }
    }

    /// The cheapest way; `None`: there is none.
    fn run(mut self) -> Result<Option<Vec<Move>>, Reason> {
        self.engine.reset();
        self.here = Snapshots::new();
        self.engine.save(&mut self.here);
        let mut moves = Vec::new();
        self.engine.moves(&mut moves);
        let mut level = Vec::new();
        for step in moves {
            level.extend(self.discover(0, Entry { parent: ROOT, run: 0, step, steps: 1 })?);
        }
        let mut switches = 0;
        while !level.is_empty() {
            level.sort_by_key(|entry| self.entries[*entry as usize].steps);
            let mut at = 0;
            while let Some(entry) = level.get(at).copied() {
                self.expand(switches, entry, &mut level)?;
                at += 1;
            }
            if let Some((entry, run)) = self.best {
                return Ok(Some(self.path(entry, run)));
            }
            level = core::mem::take(&mut self.next);
            switches += 1;
        }
        Ok(None)
    }

    /// Lets the entry's actor go on as long as that leads somewhere new, and notes where others
    /// could take over.
    fn expand(&mut self, switches: u32, entry: u32, level: &mut Vec<u32>) -> Result<(), Reason> {
        let path = self.path(entry, 0);
        self.engine.reset();
        for step in &path {
            self.engine.step(*step);
        }
        let Entry { step: Move { actor, .. }, mut steps, .. } = self.entries[entry as usize];
        let mut moves = Vec::new();
        for run in 0.. {
            if self.best.is_some_and(|(best, run)| self.entries[best as usize].steps + run <= steps)
            {
                return Ok(());
            }
            let (entries, next) = (&self.entries, &self.next);
            let taken = || bytes(entries) + bytes(next) + bytes(level);
            if let Some(reason) = self.search.tick(taken) {
                return Err(reason);
            }
            moves.clear();
            self.engine.moves(&mut moves);
            if moves.is_empty() {
                if self.engine.finish().is_some_and(|v| meets(self.engine.goal(), &v)) {
                    self.best = Some((entry, run));
                }
                return Ok(());
            }
            let (key, cost) = (key(self.engine, actor), cost(switches, steps));
            let known = self.costs.get(key);
            // An entry's own first state has its cost already.
            if known < cost || (known == cost && run > 0) {
                return Ok(());
            }
            self.learn(key, cost)?;
            if self.costs.len() as u64 > self.states_max {
                return Err(Reason::States);
            }
            self.engine.truncate(&mut self.here, 0);
            self.engine.save(&mut self.here);
            let on = Move { actor, choice: 0 };
            for step in moves.iter().filter(|step| **step != on) {
                let other = (step.actor != actor) as u32;
                let found = Entry { parent: entry, run, step: *step, steps: steps + 1 };
                let found = self.discover(switches + other, found)?;
                let list = if other == 0 { &mut *level } else { &mut self.next };
                list.extend(found);
            }
            if !moves.contains(&on) {
                return Ok(());
            }
            self.engine.restore(&self.here, 0);
            self.engine.step(on);
            steps += 1;
        }
        Ok(())
    }

    /// Notes what a state costs.
    fn learn(&mut self, key: u128, cost: u32) -> Result<(), Reason> {
        let known = self.costs.set(key, cost);
        self.search.stats.states = self.costs.len() as u64;
        if known { Ok(()) } else { Err(Reason::Memory) }
    }

    /// Makes the entry's move from the state in `here`; keeps the entry if it leads to the goal or
    /// is the cheapest way to a state.
    fn discover(&mut self, switches: u32, entry: Entry) -> Result<Option<u32>, Reason> {
        self.engine.restore(&self.here, 0);
        self.engine.step(entry.step);
        match self.engine.violation() {
            Some(violation) if !meets(self.engine.goal(), &violation) => return Ok(None),
            Some(_) => {}
            None => {
                let key = key(self.engine, entry.step.actor);
                let cost = cost(switches, entry.steps);
                if self.costs.get(key) <= cost {
                    return Ok(None);
                }
                self.learn(key, cost)?;
            }
        }
        self.entries.push(entry);
        Ok(Some(self.entries.len() as u32 - 1))
    }

    /// The moves of an entry, and `run` more of its actor.
    fn path(&self, mut entry: u32, mut run: u32) -> Vec<Move> {
        let mut path = Vec::new();
        while let Some(Entry { parent, run: before, step, .. }) = self.entries.get(entry as usize) {
            let on = Move { actor: step.actor, choice: 0 };
            path.extend(core::iter::repeat_n(on, run as usize));
            path.push(*step);
            (entry, run) = (*parent, *before);
        }
        path.reverse();
        path
    }
}

fn cost(switches: u32, steps: u32) -> u32 {
    switches.min(0xFF) << 24 | steps.min(0xFF_FFFF)
}

/// The key of the state and of the actor that led to it.
fn key(engine: &Engine, last: Actor) -> u128 {
    engine.key() ^ Chain::EMPTY.then(last.index() as u64).part(u8::MAX)
}

/// Moves each block of steps next to another block of its actor, as long as that helps and no
/// bound is hit.
fn merge_blocks(engine: &mut Engine, mut best: Vec<Move>, search: &mut Search<'_>) -> Vec<Move> {
    loop {
        let mut blocks: Vec<Vec<Move>> = Vec::new();
        for step in &best {
            match blocks.last_mut() {
                Some(block) if block[0].actor == step.actor => block.push(*step),
                _ => blocks.push(vec![*step]),
            }
        }
        let cost = |moves: &[Move]| (Schedule(moves.to_vec()).context_switches(), moves.len());
        let better = merges(&blocks).find_map(|candidate| {
            let moves = attempt(engine, &candidate, search).transpose()?;
            let better = moves.as_ref().map_or(true, |moves| cost(moves) < cost(&best));
            better.then_some(moves)
        });
        match better {
            Some(Ok(better)) => best = better,
            Some(Err(_)) | None => return best,
        }
    }
}

/// The schedules with one block moved up to, or down to, another block of its actor.
fn merges(blocks: &[Vec<Move>]) -> impl Iterator<Item = Vec<Move>> + use<'_> {
    let n = blocks.len();
    let same = move |i: usize, j: usize| blocks[i][0].actor == blocks[j][0].actor;
    let pairs = (0..n).flat_map(move |i| (i + 1..n).map(move |j| (i, j)));
    pairs.filter(move |(i, j)| same(*i, *j)).flat_map(move |(i, j)| {
        let order = |up: bool| {
            let (from, to) = if up { (j, i + 1) } else { (i, j - 1) };
            let mut order: Vec<usize> = (0..n).collect();
            let block = order.remove(from);
            order.insert(to, block);
            order.into_iter().flat_map(|b| blocks[b].iter().copied()).collect::<Vec<Move>>()
        };
        [order(true), order(false)]
    })
}
