//! A search over states by several engines: who takes part, and what becomes of what they found.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{Stateful, Walk};
use crate::explore::explorer::{Limits, Progress};
use crate::explore::futures::Futures;
use crate::explore::keep::Keep;
use crate::explore::search::Search;
use crate::explore::shared::{Cores, Member, Part, Shared};
use crate::explore::states::States;
use crate::explore::visited::Visited;
use crate::record::outcome::{Outcome, Reason, Stats, Verdict};
use crate::run::engine::Engine;
use crate::run::program::Program;

/// Who helps a search.
pub(super) struct Team<'t> {
    cores: &'static Cores,
    /// Has another engine take part, on a thread of its own.
    join: &'t dyn Fn(Arc<Shared>),
}

impl Stateful {
    /// Explores alone, and with help from `cores` once the search is large.
    pub(super) fn explore_together(
        &mut self,
        engine: &mut Engine,
        program: &dyn Program,
        cores: &'static Cores,
        limits: &Limits,
        progress: Progress<'_>,
        keep: Option<&mut dyn Keep>,
    ) -> Outcome {
        let (before, unwatched) = (engine.learned(), engine.settled_witnesses());
        let (goal, started) = (engine.goal().clone(), Instant::now());
        let (reduced, removed, finals) = (self.reduced, self.removed, self.finals.clone());
        let helper = Stateful { reduced, removed, finals, ..Stateful::default() };
        let (states_max, executions_max) = (u64::MAX, u64::MAX);
        let helped = Limits { time_max: None, states_max, executions_max, ..*limits };
        let orders = AtomicU64::new(1);
        let mut search = Search::new(engine, limits, progress);
        let (verdict, cut, shared, finals) = thread::scope(|scope| {
            let join = |shared: Arc<Shared>| {
                // ORDERING: a number, with which nothing else is published.
                let order = orders.fetch_add(1, Ordering::Relaxed);
                let (goal, helper, helped) = (goal.clone(), &helper, &helped);
                let work = move || {
                    let mut engine = Engine::new(program, goal);
                    engine.settle(unwatched);
                    help(helper, &mut engine, helped, &shared, order);
                    cores.give();
                };
                if thread::Builder::new().spawn_scoped(scope, work).is_err() {
                    cores.give();
                }
            };
            let team = Team { cores, join: &join };
            let mut walk = Walk::new(self, engine, &mut search, limits);
            walk.keep = keep.map(|keep| keep as &mut dyn Keep);
            walk.team = Some(&team);
            let verdict = walk.run();
            let shared = walk.states.member.take().map(|member| member.shared);
            if let Some(shared) = &shared {
                shared.end(false);
            }
            (verdict, walk.cut, shared, walk.finals)
        });
        self.finals = finals;
        let Some(shared) = shared else { return search.outcome(engine, verdict) };
        let stopped = matches!(
            verdict,
            Verdict::Inconclusive(Reason::Time | Reason::Memory | Reason::Interrupted)
        ) && !shared.has_given_up();
        let parts = shared.take_parts();
        // A cycle may have been closed by what several of them saw.
        let mut locks = engine.lock_orders();
        parts.iter().for_each(|part| locks.merge(&part.locks));
        let plain = verdict == Verdict::Holds && cut.is_none() && !shared.has_given_up();
        // A class inside itself is no cycle.
        let ordered = locks.cycles().iter().all(|cycle| cycle.len() == 1);
        // How deep a search goes depends on its order: who comes to a state by a short path spares
        // others a long one, which alone might have been too long.
        let deepest = parts.iter().map(|part| part.stats.depth_max).max().unwrap_or(0);
        let shallow = search.stats.depth_max.max(deepest) < limits.steps_max / 2;
        let plain = plain && search.has_found_nothing(engine) && ordered && shallow;
        if !stopped && !plain {
            engine.recall(&before);
            let left = |max: Duration| max.saturating_sub(started.elapsed());
            let limits = Limits { time_max: limits.time_max.map(left), ..*limits };
            return self.explore_alone(engine, &limits, progress, None);
        }
        let mut stats = Stats::default();
        for part in parts {
            search.add_elsewhere(part.stats.steps, &part.seen, &part.locks);
            stats.executions += part.stats.executions;
            stats.states += part.stats.states;
            stats.transitions += part.stats.transitions;
            stats.depth_max = stats.depth_max.max(part.stats.depth_max);
            if let (Some(finals), Some(more)) = (&mut self.finals, part.finals) {
                finals.extend(more);
            }
        }
        search.stats.executions += stats.executions;
        search.stats.states += stats.states;
        search.stats.transitions += stats.transitions;
        search.stats.depth_max = search.stats.depth_max.max(stats.depth_max);
        search.outcome(engine, verdict)
    }
}

/// Takes part in a search.
fn help(
    stateful: &Stateful,
    engine: &mut Engine,
    limits: &Limits,
    shared: &Arc<Shared>,
    order: u64,
) {
    engine.share_numbers(&shared.numbers);
    let go_on = |_: &Stats| !shared.is_over();
    let mut search = Search::new(engine, limits, &go_on);
    let mut walk = Walk::new(stateful, engine, &mut search, limits);
    let member = Member::new(Arc::clone(shared), core::iter::empty(), None);
    (walk.states.member, walk.order) = (Some(Box::new(member)), order);
    let verdict = walk.run();
    let (cut, finals) = (walk.cut, walk.finals);
    // Where it left something out or found something, others have taken states for done that are
    // not, or have not seen what it saw.
    match verdict {
        _ if cut.is_some() || !search.has_found_nothing(engine) => shared.give_up(),
        Verdict::Holds => shared.end(true),
        Verdict::Inconclusive(Reason::Interrupted | Reason::Memory) => {}
        _ => shared.give_up(),
    }
    let Outcome { seen, locks, stats, .. } = search.outcome(engine, verdict);
    shared.add(Part { stats, seen, locks, finals });
}

impl Walk<'_, '_, '_, '_> {
    /// From time to time: takes in who is free to help, and looks whether others are done.
    #[cold]
    pub(super) fn look_around(&mut self) -> Option<Verdict> {
        if let Some(member) = &self.states.member {
            if member.full {
                return Some(Verdict::Inconclusive(Reason::Memory));
            }
            if member.shared.is_over() {
                let done = member.shared.is_done();
                let verdict = Verdict::Inconclusive(Reason::Interrupted);
                return Some(if done { Verdict::Holds } else { verdict });
            }
        }
        let team = self.team?;
        while self.search.stats.states > team.cores.from() && team.cores.take() {
            match self.share() {
                Some(shared) => (team.join)(shared),
                None => {
                    team.cores.give();
                    self.team = None;
                    break;
                }
            }
        }
        None
    }

    /// What engines share that take part in this search; none if there is no room.
    fn share(&mut self) -> Option<Arc<Shared>> {
        if let Some(member) = &self.states.member {
            return Some(Arc::clone(&member.shared));
        }
        let account = self.search.account();
        let own = self.persistent.as_ref().map(|persistent| &persistent.futures);
        let copy = own.map_or_else(|| Futures::new(self.engine.threads()), Futures::copy);
        let numbers = self.engine.numbers();
        let shared = Arc::new(Shared::new(&self.states.own, &account, copy, numbers)?);
        self.engine.share_numbers(&shared.numbers);
        let open = self.cycles.places();
        let open = open.map(|place| (place, self.states.own.get(place).unwrap_or(0)));
        let member = Member::new(Arc::clone(&shared), open, own);
        self.states = States { own: Visited::new(account), member: Some(Box::new(member)) };
        Some(shared)
    }
}
