//! Takes a program step by step, in the order that an explorer chooses.
//!
//! Steps are taken by actors. Between two steps every thread, which is one kind of them, is
//! suspended before a shared access, with that access published: [`Engine::moves`] says which
//! actors could take theirs, [`Engine::step`] lets one of them. What a thread does before its first
//! access has happened before the first step.

use core::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use kvmmu_model::{Mode as LockMode, Object};

use super::program::Program;
use crate::machine::THREADS_MAX;
use crate::machine::coroutine::Coroutines;
use crate::machine::footprint::{Footprint, Locs};
use crate::machine::irq;
use crate::machine::notice;
use crate::machine::pending::{Kind, Pending};
use crate::machine::platform::Sim;
use crate::machine::snapshot::Snapshots;
use crate::machine::state::{Machine, Mode};
use crate::machine::{rw_lock, srcu};
use crate::record::actor::Actor;
use crate::record::event::Event;
use crate::record::goal::{Goal, Violation};
use crate::record::names::{Names, Wait};
use crate::record::outcome::{Found, Seen};
use crate::record::rule::Rule;
use crate::record::schedule::Move;

/// A program on a simulated machine.
pub struct Engine {
    pub(super) machine: &'static Machine,
    coroutines: Coroutines,
    names: Vec<String>,
    goal: Goal,
    /// Changes whenever a thread runs; equal versions of a thread are equal threads.
    versions: Vec<u64>,
    next_version: u64,
    /// Every thread before its first access.
    initial: Snapshots,
    initial_violation: Option<Violation>,
    pub(super) initial_seen: Seen,
    /// The machine as built, before any thread ran.
    built: Snapshots,
    steps: u64,
    /// What objects are called in the run that is traced.
    object_names: Names,
    /// A cycle of lock orders that was found, though something else is looked for.
    pub(crate) cycle: Option<Found>,
}

impl Engine {
    /// Builds the program and runs each thread up to its first access.
    ///
    /// # Panics
    /// If the program has no thread or too many.
    pub fn new(program: &dyn Program, goal: Goal) -> Engine {
        let names = program.threads();
        let n = names.len();
        assert!(
            (1..=THREADS_MAX).contains(&n),
            "{n} threads: from 1 to {THREADS_MAX} are supported"
        );
        let machine = Machine::take();
        machine.without.set(program.without());
        machine.locks.configure(program.lock_checks(), &goal);
        machine.ignored_checkpoint.set(program.ignored_checkpoint());
        irq::build(machine, n);
        let instance = program.build(&Sim::new(machine));
        machine.watch(notice::automata(&program.witnesses(), &goal));
        let mut engine = Engine {
            machine,
            coroutines: Coroutines::new(instance),
            names,
            goal,
            versions: vec![0; n + 1],
            next_version: 1,
            initial: Snapshots::new(),
            initial_violation: None,
            initial_seen: Seen::default(),
            built: Snapshots::new(),
            steps: 0,
            object_names: Names::default(),
            cycle: None,
        };
        engine.spawn();
        engine.save_into(Target::Built);
        engine.start();
        engine.save_into(Target::Initial);
        engine.initial_seen = machine.seen();
        engine
    }

    /// Makes the threads, and the thread of the stop phase behind them.
    fn spawn(&mut self) {
        let machine = self.machine;
        for t in 0..self.names.len() {
            self.coroutines.spawn(&machine.switch, move || {
                run_caught(machine, || machine.switch.with_instance(|instance| instance.run(t)));
            });
        }
        self.coroutines.spawn(&machine.switch, move || {
            machine.switch.suspend();
            run_caught(machine, || machine.switch.with_instance(|instance| instance.stop()));
        });
    }

    /// Runs each thread up to its first access.
    fn start(&mut self) {
        self.machine.mode.set(Mode::Scheduled);
        for t in 0..self.names.len() {
            self.resume(t, t as u8, 0);
        }
        self.resume(self.names.len(), THREADS_MAX as u8, 0);
        self.initial_violation = self.machine.violation.borrow().clone();
    }

    #[inline(always)]
    fn resume(&mut self, coroutine: usize, thread: u8, choice: u8) {
        self.machine.begin_step(thread, choice);
        let ended = self.coroutines.resume(coroutine, &self.machine.switch);
        self.machine.end_step(ended);
        self.versions[coroutine] = self.next_version;
        self.next_version += 1;
    }

    /// Back to the state before the first step. With tracing on, threads start afresh, so that
    /// events before their first access are recorded too.
    pub fn reset(&mut self) {
        if self.machine.tracer.on() {
            self.load_from(Target::Built);
            self.machine.tracer.restart(true);
            *self.machine.violation.borrow_mut() = None;
            self.start();
            self.object_names = Names::default();
            self.ask_names(0);
            return;
        }
        self.load_from(Target::Initial);
        *self.machine.violation.borrow_mut() = self.initial_violation.clone();
    }

    /// Turns the recording of events on or off, and resets.
    pub fn set_tracing(&mut self, on: bool) {
        self.machine.tracer.restart(on);
        self.reset();
    }

    /// The events since the last reset or the last call.
    pub fn take_events(&mut self) -> Vec<Event> {
        self.machine.tracer.take()
    }

    /// What the objects of the events of [`Engine::take_events`] are called.
    pub fn take_names(&mut self) -> Names {
        core::mem::take(&mut self.object_names)
    }

    /// Asks the program what its objects are called, from this event on.
    fn ask_names(&mut self, event: usize) {
        let names = self.coroutines.instance().object_names();
        if !names.is_empty() {
            self.object_names.from(event, names);
        }
    }

    /// The names of the threads.
    pub fn thread_names(&self) -> &[String] {
        &self.names
    }

    /// The name of an actor.
    pub fn actor_name(&self, actor: Actor) -> &str {
        match actor {
            Actor::Thread(t) => &self.names[t as usize],
        }
    }

    /// What is looked for.
    pub fn goal(&self) -> &Goal {
        &self.goal
    }

    /// How many threads there are.
    #[inline]
    pub fn threads(&self) -> usize {
        self.names.len()
    }

    /// How many steps were taken since the engine was made.
    pub fn steps_taken(&self) -> u64 {
        self.steps
    }

    /// Whether footprints take additions to commute whose results are seen.
    pub(crate) fn set_adds_commute(&mut self, commute: bool) {
        self.machine.adds_commute.set(commute);
    }

    /// How many shared objects share a number in footprints.
    pub(crate) fn lumped(&self) -> u16 {
        self.machine.lumped()
    }

    /// All actors of the program, in the order of [`Actor::index`].
    #[inline(always)]
    pub fn actors(&self) -> impl Iterator<Item = Actor> + use<> {
        (0..self.threads() as u8).map(Actor::Thread)
    }

    /// What thread `t` will do next.
    #[inline]
    pub fn pending(&self, t: usize) -> Pending {
        self.machine.threads[t].pending.get()
    }

    /// What kind of step the actor takes next.
    #[inline]
    pub fn next_kind(&self, actor: Actor) -> Kind {
        match actor {
            Actor::Thread(t) => self.pending(t as usize).kind,
        }
    }

    /// True if the actor can take its next step now.
    #[inline]
    pub fn is_enabled(&self, actor: Actor) -> bool {
        match actor {
            Actor::Thread(t) => {
                let thread = &self.machine.threads[t as usize];
                self.machine.is_enabled(thread, &thread.pending.get())
            }
        }
    }

    /// The actors that can take a step now, one bit each; none after a violation.
    #[inline]
    pub fn enabled(&self) -> u32 {
        if self.machine.violation.borrow().is_some() {
            return 0;
        }
        self.actors().fold(0, |mask, actor| mask | (self.is_enabled(actor) as u32) << actor.index())
    }

    /// The threads that have not ended, one bit each: that of the actor.
    #[inline]
    pub fn unfinished(&self) -> u32 {
        let live = |t: usize| self.machine.threads[t].pending.get().kind != Kind::Done;
        (0..self.threads()).fold(0, |mask, t| mask | (live(t) as u32) << t)
    }

    /// How many outcomes the next step of the actor may have: choices `0..n`.
    #[inline]
    pub fn choices(&self, actor: Actor) -> u8 {
        match actor {
            Actor::Thread(t) => self.thread_choices(t as usize),
        }
    }

    #[inline(always)]
    fn thread_choices(&self, t: usize) -> u8 {
        let pending = self.pending(t);
        match pending.kind {
            Kind::Access => self.coroutines.instance().choices(pending.arg).max(1),
            Kind::WaitAny => self.machine.arena.get(pending.cell).count_ones().max(1) as u8,
            _ => 1,
        }
    }

    /// What the next step of the actor waits for, if it may have to wait: what it reads to find out
    /// whether it can go on, and the lock that it takes.
    pub fn waits_on(&self, actor: Actor) -> Footprint {
        let Actor::Thread(t) = actor;
        let t = usize::from(t);
        let (m, pending) = (self.machine, self.pending(t));
        let place = || Locs::of(m.bit(pending.loc));
        let (reads, acquired) = match pending.kind {
            Kind::Acquire => (place(), 1 << pending.arg),
            Kind::WaitIs | Kind::WaitNot | Kind::WaitNotAll | Kind::WaitClear | Kind::WaitAny => {
                (place(), 0)
            }
            Kind::WaitChange => (m.threads[t].attempt.mask(), 0),
            _ => (Locs::NONE, 0),
        };
        Footprint { reads, acquired, ..Footprint::default() }
    }

    /// Appends the moves that can be made now, by actor and choice.
    #[inline]
    pub fn moves(&self, moves: &mut Vec<Move>) {
        let mut enabled = self.enabled();
        while enabled != 0 {
            let actor = Actor::at(enabled.trailing_zeros() as usize);
            enabled &= enabled - 1;
            let choices = 0..self.choices(actor);
            moves.extend(choices.map(|choice| Move { actor, choice }));
        }
    }

    /// Makes a move, which must be one of [`Engine::moves`]: of a thread its pending access, and
    /// what follows up to its next one.
    #[inline]
    pub fn step(&mut self, step: Move) -> Footprint {
        self.steps += 1;
        if self.machine.tracer.on() {
            return self.step_traced(step);
        }
        self.act(step);
        self.machine.footprint()
    }

    /// Lets the actor act.
    #[inline(always)]
    fn act(&mut self, Move { actor, choice }: Move) {
        match actor {
            Actor::Thread(thread) => self.resume(thread as usize, thread, choice),
        }
    }

    /// [`Engine::step`] while a trace is taken.
    #[cold]
    fn step_traced(&mut self, step: Move) -> Footprint {
        let tracer = &self.machine.tracer;
        tracer.step.set(tracer.step.get() + 1);
        let before = tracer.count();
        self.act(step);
        let footprint = self.machine.footprint();
        if self.machine.tracer.wrote(before, self.coroutines.instance().renames()) {
            self.ask_names(before);
        }
        footprint
    }

    /// True if the move can be made now.
    pub fn can(&self, step: Move) -> bool {
        let mut actors = self.actors();
        actors.any(|actor| actor == step.actor)
            && self.enabled() >> step.actor.index() & 1 == 1
            && step.choice < self.choices(step.actor)
    }

    /// The violation that ended the execution, if one did.
    pub fn violation(&self) -> Option<Violation> {
        self.machine.violation.borrow().clone()
    }

    /// True if a violation ended the execution.
    #[inline]
    pub fn is_violated(&self) -> bool {
        self.machine.violation.borrow().is_some()
    }

    /// Where no move is left: the violation, if there is one, that the steps, a deadlock or the
    /// stop phase amount to. Afterwards the state is what it was, without any violation.
    pub fn finish(&mut self) -> Option<Violation> {
        let m = self.machine;
        let mut before = core::mem::take(&mut self.built);
        before.push(m.key.get(), &m.arena, &m.threads, &self.versions, &self.coroutines);
        let violation = self.conclude();
        let key = before.load(1, &m.arena, &m.threads, &mut self.versions, &mut self.coroutines);
        m.key.set(key);
        before.truncate(1, &m.arena, self.versions.len());
        self.built = before;
        violation
    }

    /// [`Engine::finish`] for those who do not need the state any more: the next thing must be
    /// [`Engine::reset`] or [`Engine::restore`].
    pub fn conclude(&mut self) -> Option<Violation> {
        if self.is_violated() {
            return self.machine.violation.borrow_mut().take();
        }
        let (m, n) = (self.machine, self.threads());
        if let Some((rule, detail)) = self.stuck() {
            let first = self.unfinished().trailing_zeros() as usize;
            m.report_violation(first as u8, self.pending(first).site, rule, detail);
            return m.violation.borrow_mut().take();
        }
        if m.tracer.on() {
            m.tracer.step.set(m.tracer.step.get() + 1);
        }
        m.threads[THREADS_MAX].clear();
        m.mode.set(Mode::Stop);
        self.resume(n, THREADS_MAX as u8, 0);
        m.mode.set(Mode::Scheduled);
        m.violation.borrow_mut().take()
    }

    /// Why threads are left that cannot go on.
    fn stuck(&self) -> Option<(Rule, String)> {
        let live = self.unfinished();
        if live == 0 {
            return None;
        }
        let unfinished: Vec<usize> = (0..self.threads()).filter(|t| live >> t & 1 == 1).collect();
        let retries = unfinished.iter().all(|t| self.pending(*t).kind == Kind::WaitChange);
        let rule = if retries { Rule::LIVELOCK } else { Rule::DEADLOCK };
        let waits: Vec<String> = unfinished.iter().map(|t| self.waits_for(*t)).collect();
        Some((rule, waits.join("; ")))
    }

    /// What each thread waits for that has not ended and cannot go on now.
    pub fn waits(&self) -> Vec<Wait> {
        let wait = |t: usize| {
            let pending = self.pending(t);
            let (file, line) = (pending.site.file(), pending.site.line());
            let named = !matches!(pending.kind, Kind::WaitChange | Kind::Access | Kind::Tlb);
            let object = named.then(|| self.machine.tag(pending.loc));
            Wait { thread: t as u8, object, mode: self.asked_mode(pending), file, line }
        };
        let live = self.unfinished();
        let waits = |t: &usize| live >> t & 1 == 1 && !self.is_enabled(Actor::at(*t));
        (0..self.threads()).filter(waits).map(wait).collect()
    }

    /// The locks that threads ask for and do not have yet, whether or not they could have them now.
    /// After a violation by an acquisition: that one alone. Only while a trace is taken.
    pub fn asks(&self) -> Vec<Wait> {
        if self.is_violated() {
            return self.machine.tracer.refused.get().into_iter().collect();
        }
        let ask = |t: usize| {
            let pending = self.pending(t);
            let (file, line) = (pending.site.file(), pending.site.line());
            let mode = self.asked_mode(pending)?;
            let object = Some(self.machine.tag(pending.loc));
            Some(Wait { thread: t as u8, object, mode: Some(mode), file, line })
        };
        let live = self.unfinished();
        (0..self.threads()).filter(|t| live >> t & 1 == 1).filter_map(ask).collect()
    }

    /// How a pending operation wants the lock that it is for, if it is for one.
    fn asked_mode(&self, pending: Pending) -> Option<LockMode> {
        if pending.loc == Pending::NOWHERE {
            return None;
        }
        let Object::Lock(class) = self.machine.tag(pending.loc).object else { return None };
        let sections = class.info().kind.has_sections();
        match pending.kind {
            Kind::Acquire => Some(LockMode::Exclusive),
            Kind::Rmw | Kind::WaitClear if sections => Some(srcu::mode_of(&pending)),
            Kind::Rmw | Kind::WaitClear => Some(rw_lock::mode_of(&pending)),
            _ => None,
        }
    }

    fn waits_for(&self, t: usize) -> String {
        let pending = self.pending(t);
        let what = match pending.kind {
            Kind::WaitChange => "a change, before it retries".to_string(),
            Kind::WaitAny => {
                format!("a callback of {} to be ripe", self.machine.name(pending.loc))
            }
            _ => {
                let name = self.machine.name(pending.loc);
                match self.asked_mode(pending) {
                    Some(LockMode::Synchronize) => format!("a grace period of {name}"),
                    Some(LockMode::Read) => format!("{name} for reading"),
                    _ => name,
                }
            }
        };
        format!(
            "{} waits for {what} ({}:{})",
            self.names[t],
            pending.site.file(),
            pending.site.line()
        )
    }

    /// The 128-bit key of the state: of the shared state and of what every thread has seen.
    #[inline]
    pub fn key(&self) -> u128 {
        let threads = &self.machine.threads[..self.threads()];
        threads.iter().fold(self.shared_key(), |key, thread| key ^ thread.part.get())
    }

    /// The 128-bit key of the shared state alone.
    #[inline]
    pub fn shared_key(&self) -> u128 {
        let mut key = self.machine.key.get();
        self.unread(&mut |loc| key ^= self.machine.part_of_blob(loc));
        key
    }

    /// The cells that nobody will read.
    #[inline]
    pub(super) fn unread(&self, forget: &mut dyn FnMut(u16)) {
        self.coroutines.instance().unread(forget);
    }

    /// True if the goal's story is complete, or there is none.
    pub fn story_is_complete(&self) -> bool {
        self.machine.story_is_complete()
    }

    /// What a location is called.
    pub fn name(&self, loc: u16) -> String {
        self.machine.name(loc)
    }

    /// Adds a snapshot of the current state.
    #[inline]
    pub fn save(&self, snapshots: &mut Snapshots) {
        let m = self.machine;
        snapshots.push(m.key.get(), &m.arena, &m.threads, &self.versions, &self.coroutines);
    }

    /// Brings back the `at`-th snapshot, all of which must be of this engine.
    #[inline]
    pub fn restore(&mut self, snapshots: &Snapshots, at: usize) {
        let m = self.machine;
        let key =
            snapshots.load(at, &m.arena, &m.threads, &mut self.versions, &mut self.coroutines);
        m.key.set(key);
        if self.is_violated() {
            *m.violation.borrow_mut() = None;
        }
    }

    /// Keeps the first `n` snapshots.
    #[inline]
    pub fn truncate(&self, snapshots: &mut Snapshots, n: usize) {
        snapshots.truncate(n, &self.machine.arena, self.versions.len());
    }

    fn save_into(&mut self, target: Target) {
        let mut snapshots = Snapshots::new();
        self.save(&mut snapshots);
        match target {
            Target::Built => self.built = snapshots,
            Target::Initial => self.initial = snapshots,
        }
    }

    fn load_from(&mut self, target: Target) {
        let place = match target {
            Target::Built => &mut self.built,
            Target::Initial => &mut self.initial,
        };
        let snapshots = core::mem::take(place);
        self.restore(&snapshots, 0);
        match target {
            Target::Built => self.built = snapshots,
            Target::Initial => self.initial = snapshots,
        }
    }
}

/// The two snapshots that an engine keeps.
enum Target {
    Built,
    Initial,
}

/// Runs the body of a thread. A panic is a violation of its own kind.
fn run_caught(machine: &Machine, body: impl FnOnce()) {
    let Err(payload) = catch_unwind(AssertUnwindSafe(body)) else { return };
    let text = payload.downcast_ref::<&str>().map(|s| (*s).to_string());
    let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
    let text = text.unwrap_or_else(|| "a panic".to_string());
    machine.record_violation(Rule::InternalError, text);
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.machine.leave();
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("threads", &self.names).finish_non_exhaustive()
    }
}
