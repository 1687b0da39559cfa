//! Every Mazurkiewicz trace once, by dynamic partial-order reduction with source sets and sleep
//! sets (Abdulla, Aronis, Jonsson, Sagonas, POPL 2014): executions that differ only in the order of
//! steps that commute are one. Complete executions are never redundant; some are cut when sleep
//! sets show that they would be.
//!
//! Which steps commute follows from what they touched when they were executed
//! ([`crate::footprint`]), never from what they announced. A step runs from one shared access to
//! the next and may touch more than its access, so four things differ from the literature:
//!
//! 1. Sleep sets hold steps with the footprint that they had; it stays right until something that
//!    they depend on happens, and then they wake.
//! 2. A step with several outcomes has all of them explored, each asleep on its own.
//! 3. Actors may block. A blocked actor's step never ran, so at the end of each execution, cut or
//!    not, what it waits for takes the place of its footprint. Steps that follow a violation never
//!    run either: a violating step depends on everything else that was possible then.
//! 4. What a step touches may depend on what it reads. `Tree::promise` and
//!    `Tree::races_with_sleepers` in `dpor/tree.rs` say where that matters. This part has no proof
//!    in the literature behind it: it rests on the comparison with the naive explorer.

mod trail;
mod tree;

use std::collections::BTreeSet;

use super::explorer::{Explorer, Limits, Progress};
use super::search::Search;
use super::trace_hash::TraceHash;
use crate::machine::memory::bytes;
use crate::machine::snapshot::Snapshots;
use crate::record::actor::Actor;
use crate::record::goal::Goal;
use crate::record::outcome::{Outcome, Reason, Verdict};
use crate::record::schedule::Move;
use crate::run::engine::Engine;
use crate::run::program::Program;

use tree::{Next, Node, Sleeper, Tree};

/// Clocks count 16 bits of steps.
const STEPS_MAX: u32 = u16::MAX as u32 - 1;

/// A way of so many steps is worth a snapshot at its end.
const SNAPSHOT_STEPS: usize = 2;

/// Which of several actors is explored first. Complete executions are the same, up to the order of
/// steps that commute; how many are cut, and so the time, depends on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Order {
    /// The last one. Programs name their vCPUs first, and those have the longest ones.
    #[default]
    HighestFirst,
    /// The first one.
    LowestFirst,
}

impl Order {
    #[inline(always)]
    fn pick(self, actors: u32) -> usize {
        match self {
            Order::HighestFirst => actors.ilog2() as usize,
            Order::LowestFirst => actors.trailing_zeros() as usize,
        }
    }
}

/// Dynamic partial-order reduction.
#[derive(Clone, Debug, Default)]
pub struct Dpor {
    /// Which actor is explored first.
    pub order: Order,
    /// Take additions to commute whose results are seen (`fetch_add`), as those are taken whose
    /// results are not (`add`). Right for programs that ignore what `fetch_add` returns.
    pub adds_commute: bool,
    /// Record what complete executions amount to, to compare it with the naive explorer's. Slow.
    pub record: Option<Record>,
}

/// What complete executions amount to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Record {
    /// Hashes of their Mazurkiewicz traces.
    pub traces: BTreeSet<u128>,
    /// Keys of the shared state where they end.
    pub finals: BTreeSet<u128>,
    /// How many of them violated something.
    pub violations: u64,
}

struct Walk<'e, 's, 'p> {
    engine: &'e mut Engine,
    search: &'s mut Search<'p>,
    limits: Limits,
    order: Order,
    record: Option<Record>,
    tree: Tree,
    snapshots: Snapshots,
    /// For each snapshot, how many steps led there.
    depths: Vec<u32>,
}

/// How an execution ended.
enum End {
    /// No move was left, or a violation ended it.
    Complete,
    /// Only steps that are asleep were left.
    Cut,
}

impl Explorer for Dpor {
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
        let mut walk = Walk {
            engine,
            search: &mut search,
            limits: Limits { steps_max: limits.steps_max.min(STEPS_MAX), ..*limits },
            order: self.order,
            record: self.record.as_ref().map(|_| Record::default()),
            tree: Tree::default(),
            snapshots: Snapshots::new(),
            depths: Vec::new(),
        };
        let verdict = walk.run();
        self.record = walk.record;
        search.stats.lumped = engine.lumped();
        search.outcome(engine, verdict)
    }
}

impl Walk<'_, '_, '_> {
    fn run(&mut self) -> Verdict {
        self.engine.reset();
        loop {
            let end = match self.descend() {
                Ok(end) => end,
                Err(reason) => return Verdict::Inconclusive(reason),
            };
            self.races_of_blocked();
            match end {
                End::Cut => self.search.stats.blocked += 1,
                End::Complete => {
                    if let Some(verdict) = self.complete() {
                        return verdict;
                    }
                }
            }
            if !self.backtrack() {
                return Verdict::Holds;
            }
            let (tree, snapshots, depths) = (&self.tree, &self.snapshots, &self.depths);
            let taken = || tree.bytes() + snapshots.bytes() + bytes(depths);
            if let Some(reason) = self.search.tick(taken) {
                return Verdict::Inconclusive(reason);
            }
        }
    }

    /// Goes on until nothing is left to explore.
    fn descend(&mut self) -> Result<End, Reason> {
        loop {
            let enabled = self.engine.enabled();
            if enabled == 0 {
                return Ok(End::Complete);
            }
            let from = self.tree.nodes.last().map_or(0, |node| node.asleep.1);
            let asleep = (from, self.tree.sleepers.len() as u32);
            let inherited = asleep.1;
            let (backtrack, done, promised) = (0, 0, 0);
            let mut node =
                Node { enabled, backtrack, done, asleep, inherited, choices: 1, promised };
            node.done = self.all_asleep(&node);
            let awake = enabled & !node.done;
            if awake == 0 {
                self.tree.sleepers.truncate(from as usize);
                return Ok(End::Cut);
            }
            if self.tree.nodes.len() as u32 >= self.limits.steps_max {
                return Err(Reason::Steps);
            }
            // Staying with the actor makes schedules that people can read.
            let last = self.tree.trail.events.last().map_or(0, |event| event.actor());
            let actor = if awake >> last & 1 == 1 { last } else { self.order.pick(awake) };
            node.backtrack = 1 << actor;
            self.tree.nodes.push(node);
            self.take_first(Actor::at(actor));
        }
    }

    /// The actors all of whose steps are asleep.
    #[inline(always)]
    fn all_asleep(&self, node: &Node) -> u32 {
        let sleepers = self.tree.asleep(node);
        sleepers.iter().fold(0, |done, sleeper| {
            let actor = sleeper.step.actor;
            let count = || sleepers.iter().filter(|s| s.step.actor == actor).count();
            let choices = self.engine.choices(actor) as usize;
            done | u32::from(choices == 1 || choices == count()) << actor.index()
        })
    }

    /// Takes the step of this actor from the last node, with the first outcome that is not asleep.
    #[inline(always)]
    fn take_first(&mut self, actor: Actor) {
        let choices = self.engine.choices(actor);
        if let Some(node) = self.tree.nodes.last_mut() {
            node.choices = choices;
        }
        let choice = if choices == 1 { Some(0) } else { self.awake_choice(actor, 0) };
        debug_assert!(choice.is_some(), "an actor that is asleep was picked");
        self.take(Move { actor, choice: choice.unwrap_or(0) });
    }

    /// The first outcome from `choice` on, of this actor's step from the last node, that is not
    /// asleep.
    fn awake_choice(&self, actor: Actor, choice: u8) -> Option<u8> {
        let node = self.tree.nodes.last()?;
        let asleep = |choice: &u8| {
            let step = Move { actor, choice: *choice };
            self.tree.asleep(node).iter().any(|sleeper| sleeper.step == step)
        };
        (choice..node.choices).find(|choice| !asleep(choice))
    }

    /// Takes a step from the last node.
    #[inline(always)]
    fn take(&mut self, step: Move) {
        let actor = step.actor.index();
        let kind = self.engine.next_kind(step.actor);
        let footprint = self.engine.step(step);
        self.search.stats.transitions += 1;
        let past = self.tree.races(&Next { actor, kind, footprint });
        self.tree.pass_sleepers(actor, &footprint);
        self.tree.check_promises(actor, &footprint);
        self.tree.trail.push(step, footprint, past);
        let events = &self.tree.trail.events;
        Search::note_cycle(self.engine, || events.iter().map(|event| event.step).collect());
    }

    /// The execution ended with actors that could not go on: finds the races of what they wait
    /// for. Those that a violating step has kept from going on are to go on before it.
    fn races_of_blocked(&mut self) {
        let mut blocked = self.engine.unfinished();
        if blocked == 0 {
            return;
        }
        if self.engine.is_violated() {
            if let Some(node) = self.tree.nodes.last_mut() {
                node.backtrack |= node.enabled;
                blocked &= !node.enabled;
            }
        } else {
            blocked &= !self.engine.enabled();
        }
        while blocked != 0 {
            let actor = blocked.trailing_zeros() as usize;
            blocked &= blocked - 1;
            let footprint = self.engine.waits_on(Actor::at(actor));
            let kind = self.engine.next_kind(Actor::at(actor));
            self.tree.races(&Next { actor, kind, footprint });
        }
    }

    /// The execution is complete: what is wrong with it, if that settles the verdict.
    fn complete(&mut self) -> Option<Verdict> {
        let stats = &mut self.search.stats;
        stats.executions += 1;
        stats.depth_max = stats.depth_max.max(self.tree.trail.len() as u32);
        let executions = stats.executions;
        if let Some(record) = &mut self.record {
            let mut trace = TraceHash::default();
            for event in &self.tree.trail.events {
                let clock = trace.push(event.step, &event.footprint);
                assert_eq!(clock, event.clock, "two ways to compute happens-before");
            }
            record.traces.insert(trace.hash());
            record.finals.insert(self.engine.shared_key());
        }
        if let Some(violation) = self.engine.conclude() {
            if let Some(record) = &mut self.record {
                record.violations += 1;
            }
            let goal = self.engine.goal().clone();
            let path = || self.tree.trail.events.iter().map(|event| event.step).collect();
            if let Some(verdict) = self.search.judge(&goal, violation, path) {
                return Some(verdict);
            }
        }
        let full = executions >= self.limits.executions_max;
        full.then_some(Verdict::Inconclusive(Reason::Executions))
    }

    /// Makes the next step that has to be explored; false if there is none.
    fn backtrack(&mut self) -> bool {
        while let Some(event) = self.tree.trail.pop() {
            let at = self.tree.trail.len();
            self.tree.forget_watches();
            let node = &mut self.tree.nodes[at];
            let actor = event.actor();
            // What the nodes below had asleep goes, and the step that was explored falls asleep.
            self.tree.sleepers.truncate(node.asleep.1 as usize);
            self.tree.sleepers.push(Sleeper { step: event.step, footprint: event.footprint });
            node.asleep.1 += 1;
            let choices = node.choices;
            if choices > 1
                && let Some(choice) = self.awake_choice(event.step.actor, event.step.choice + 1)
            {
                self.return_to(at);
                self.take(Move { choice, ..event.step });
                return true;
            }
            let node = &mut self.tree.nodes[at];
            node.done |= 1 << actor;
            let rest = node.backtrack & !node.done;
            if rest != 0 {
                self.return_to(at);
                self.take_first(Actor::at(self.order.pick(rest)));
                return true;
            }
            self.tree.leave();
        }
        false
    }

    /// Brings the engine back to the state of the last node, `at` steps from the start: restores
    /// the last snapshot on the way there, and leaves one at the end of the way.
    #[inline(always)]
    fn return_to(&mut self, at: usize) {
        let keep = self.depths.partition_point(|depth| *depth as usize <= at);
        if keep < self.depths.len() {
            self.depths.truncate(keep);
            self.engine.truncate(&mut self.snapshots, keep);
        }
        let from = match self.depths.last() {
            Some(depth) => {
                self.engine.restore(&self.snapshots, keep - 1);
                *depth as usize
            }
            None => {
                self.engine.reset();
                0
            }
        };
        for event in &self.tree.trail.events[from..at] {
            self.engine.step(event.step);
        }
        if at - from >= SNAPSHOT_STEPS {
            self.engine.save(&mut self.snapshots);
            self.depths.push(at as u32);
        }
    }
}
