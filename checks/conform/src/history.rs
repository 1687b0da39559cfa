//! What happened to one SPTE: is there any order of steps that explains all that was seen of it?
//!
//! Guarantee: an event is explained only if some order of the model's steps, each within the time
//! in which it must have happened, leads from the empty SPTE through everything that all events
//! before it saw, to what it saw itself.
//!
//! Mechanism: a nondeterministic automaton. Its states are the values that the SPTE may have now,
//! each with how far every event in flight has got. Between two points of the trace the set is
//! closed under all steps that may happen there: those of the events in flight, and those that no
//! event reports. At its point an event must have done its step; after it, and before the next
//! event of its thread, it reads the SPTE once more. What does not fit is taken out of the set; an
//! empty set is an unexplained event.

use std::collections::BTreeSet;

use kvmmu_model::Spte;

use crate::event::Pos;
use crate::rules::{Mapped, Rules};
use crate::windows::{Allowed, Windows};

/// An event about this SPTE, as steps that some thread takes.
#[derive(Clone, Debug)]
pub struct Op {
    /// The event.
    pub event: usize,
    /// Its thread.
    pub thread: u32,
    /// The event of the thread before it: the step comes later.
    pub opens: Pos,
    /// The event itself: the step came before it; what it read again, after it.
    pub at: Pos,
    /// The event of the thread after it: the second read came earlier.
    pub closes: Pos,
    /// The frame.
    pub gfn: u64,
    /// The step.
    pub does: Does,
    /// What it read again, if it does.
    pub seen: Option<Spte>,
    /// The fault goes on in the slow path, where the host may break a shared page first: that drops
    /// the SPTE.
    pub goes_slow: bool,
}

/// A step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Does {
    /// A cmpxchg that succeeded.
    Fix(Spte, Spte),
    /// A read.
    Read(Spte),
    /// Hardware's walk for a fault finds nothing present: such entries are not cached.
    Miss,
    /// A read of a value that was replaced before the cmpxchg, five times.
    Lose(Spte),
    /// `make_spte` of one of these is written under `mmu_lock`.
    Set(Vec<Mapped>),
    /// The SPTE says that no slot has the frame: this is written under `mmu_lock`.
    Mmio(Spte),
    /// Whatever is there is cleared under `mmu_lock`.
    Zap,
    /// The dirty log is fetched or cleared: a writable SPTE that is in it is write-protected under
    /// `mmu_lock`, once.
    Harvest {
        /// Every writable SPTE is in it: only one that was made writable just now may not be yet.
        must: bool,
    },
}

/// An event that nothing explains.
#[derive(Clone, Debug)]
pub struct Unexplained {
    /// The event.
    pub event: usize,
    /// One sentence.
    pub why: String,
    /// The values that the model would allow here.
    pub allowed: Vec<Spte>,
}

/// How far an event has got in a state: four bits.
mod progress {
    /// Its step is still to come.
    pub(super) const BEFORE: u128 = 0;
    /// Its step was taken.
    pub(super) const DONE: u128 = 1;
    /// It has read again, or does not.
    pub(super) const OVER: u128 = 2;
    /// It has read what another thread must replace now.
    pub(crate) const LOSING: u128 = 3;
}
use progress::{BEFORE, DONE, LOSING, OVER};

/// An SPTE with more events in flight is not followed.
pub const SLOTS: usize = 32;

/// An SPTE that may be in more states at one point is not followed. Recorded traces stay below 100;
/// events in flight that may have taken their steps in any order can double it one by one.
pub const STATES_MAX: usize = 1 << 12;

/// No more steps between states are followed in a trace of so many events: a second for a short
/// one, half a minute for 100,000 events. Recorded traces need 50 for each event.
pub fn steps_max(events: usize) -> u64 {
    (1 << 20) + 256 * events as u64
}

/// What came of one SPTE.
#[derive(Clone, Default, Debug)]
pub struct Followed {
    /// The events that nothing explains.
    pub found: Vec<Unexplained>,
    /// Where the checker gave up, and why: what comes later is not judged.
    pub gave_up: Option<(usize, String)>,
}

/// A value that the SPTE may have, and how far each event in flight has got then.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct State {
    value: u64,
    progress: u128,
}

impl State {
    fn of(self, slot: usize) -> u128 {
        self.progress >> (4 * slot) & 0xf
    }
    fn with(self, slot: usize, progress: u128) -> State {
        let cleared = self.progress & !(0xf << (4 * slot));
        State { progress: cleared | progress << (4 * slot), ..self }
    }
    fn valued(self, value: Spte) -> State {
        State { value: value.0, ..self }
    }
}

/// The automaton of one SPTE.
#[derive(Debug)]
pub struct Automaton<'a> {
    rules: &'a Rules,
    windows: &'a Windows,
    ops: &'a [Op],
    /// Which event each slot is for.
    slots: [Option<usize>; SLOTS],
    states: BTreeSet<State>,
    /// Everything was explained up to here.
    now: Pos,
    followed: Followed,
    /// Steps that may still be followed.
    budget: &'a mut u64,
}

/// What happens at a point, in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Point {
    Close,
    At,
    Open,
}

/// Runs the automaton over the events of one SPTE, which are in the order of the trace. It takes
/// the steps that it follows from `budget`.
pub fn check(rules: &Rules, windows: &Windows, ops: &[Op], budget: &mut u64) -> Followed {
    let mut points = Vec::with_capacity(3 * ops.len());
    for (i, op) in ops.iter().enumerate() {
        points.push((op.opens, Point::Open, i));
        points.push((op.closes, Point::Close, i));
        if !matches!(op.does, Does::Zap | Does::Harvest { .. }) {
            points.push((op.at, Point::At, i));
        }
    }
    points.sort_unstable();
    let states = BTreeSet::from([State { value: 0, progress: 0 }]);
    let slots = [None; SLOTS];
    let followed = Followed::default();
    let mut automaton = Automaton { rules, windows, ops, slots, states, now: 0, followed, budget };
    for (at, point, op) in points {
        if let Err(why) = automaton.reach(at, point, op) {
            automaton.followed.gave_up = Some((ops[op].event, why));
            break;
        }
    }
    automaton.followed
}

impl Automaton<'_> {
    /// Goes on to a point of an event. `Err` says why that is too much.
    fn reach(&mut self, at: Pos, point: Point, op: usize) -> Result<(), String> {
        self.advance(at)?;
        match point {
            Point::Open => self.open(op)?,
            Point::At => self.passes(op, |progress| progress == DONE || progress == OVER),
            Point::Close => self.close(op),
        }
        Ok(())
    }

    /// Lets time pass: everything that may happen before `to`.
    fn advance(&mut self, to: Pos) -> Result<(), String> {
        if to == self.now {
            return Ok(());
        }
        let during = |gfn| self.windows.during(self.now, to, gfn);
        let allowed = self.gfn().map_or_else(Allowed::default, during);
        self.states = self.states.iter().map(|state| self.hasten(*state)).collect();
        let mut work: Vec<State> = self.states.iter().copied().collect();
        let mut next = Vec::new();
        while let Some(state) = work.pop() {
            self.unobserved(state, allowed, &mut next);
            self.observed(state, &mut next);
            for state in next.drain(..) {
                let state = self.hasten(state);
                if self.states.insert(state) {
                    work.push(state);
                }
            }
            if self.states.len() > STATES_MAX {
                return Err(format!(
                    "the SPTE may be in more than {STATES_MAX} states here: too many events at once"
                ));
            }
            *self.budget = self.budget.saturating_sub(1);
            if *self.budget == 0 {
                return Err("there are too many orders of steps to follow in this trace".to_owned());
            }
        }
        self.now = to;
        Ok(())
    }

    /// The same state with every event as far as reading alone gets it. Whatever can happen without
    /// a read can happen after it, so the state before need not be kept: otherwise each of many
    /// threads would double the states.
    fn hasten(&self, mut state: State) -> State {
        loop {
            let before = state;
            for (slot, op) in self.in_flight() {
                let value = Spte(state.value);
                match (state.of(slot), &op.does) {
                    (BEFORE, Does::Read(old)) if value == *old && !self.waits(state, op) => {
                        state = state.with(slot, DONE);
                    }
                    (BEFORE, Does::Miss) if !self.rules.is_leaf(value) => {
                        state = state.with(slot, DONE);
                    }
                    // What the event reads again: after its point.
                    (DONE, _) if self.now >= op.at && op.seen.is_none_or(|seen| value == seen) => {
                        state = state.with(slot, OVER);
                    }
                    _ => {}
                }
            }
            if state == before {
                return state;
            }
        }
    }

    /// The frame that the SPTE maps about now.
    fn gfn(&self) -> Option<u64> {
        let in_flight = self.slots.iter().flatten().map(|op| self.ops[*op].gfn).next();
        in_flight.or_else(|| {
            let i = self.ops.partition_point(|op| op.at <= self.now);
            self.ops.get(i.saturating_sub(1)).map(|op| op.gfn)
        })
    }

    /// Steps that no event reports.
    fn unobserved(&self, state: State, allowed: Allowed, next: &mut Vec<State>) {
        let value = Spte(state.value);
        next.extend(self.rules.by_hardware(value).map(|new| state.valued(new)));
        if value == Spte::ZERO || self.is_locked(state) {
            return;
        }
        if allowed.write_protect {
            next.extend(self.rules.write_protected(value).map(|new| state.valued(new)));
        }
        if allowed.age {
            next.extend(self.rules.aged(value).map(|new| state.valued(new)));
        }
        // A table takes the place of a large page, and no event reports it.
        if allowed.zap || self.rules.level(value) > 1 {
            next.push(state.valued(Spte::ZERO));
        }
    }

    /// Steps of events in flight.
    fn observed(&self, state: State, next: &mut Vec<State>) {
        for (slot, op) in self.in_flight() {
            let takes_lock =
                !matches!(op.does, Does::Fix(..) | Does::Read(_) | Does::Lose(_) | Does::Miss);
            let begins = state.of(slot) == BEFORE;
            if self.waits(state, op) || begins && takes_lock && self.is_locked(state) {
                continue;
            }
            let value = Spte(state.value);
            let done = state.with(slot, DONE);
            match (state.of(slot), &op.does) {
                (BEFORE, Does::Zap) => next.push(state.with(slot, OVER).valued(Spte::ZERO)),
                (BEFORE, Does::Harvest { must }) => {
                    let over = state.with(slot, OVER);
                    let new = self.rules.write_protected(value);
                    if *must && (new.is_none() || self.marks(state)) {
                        next.push(over);
                    }
                    // A large page is in several words of the bitmap.
                    let again = if self.rules.level(value) > 1 { state } else { over };
                    next.extend(new.map(|new| over.valued(new)));
                    next.extend(new.map(|new| again.valued(new)));
                }
                (BEFORE, Does::Fix(old, new)) if value == *old => next.push(done.valued(*new)),
                (BEFORE, Does::Lose(old)) if value == *old => next.push(state.with(slot, LOSING)),
                (LOSING, Does::Lose(old)) if value != *old => next.push(done),
                (BEFORE, Does::Set(sets)) => {
                    let new = sets.iter().filter_map(|set| self.set(value, *set));
                    next.extend(new.map(|new| done.valued(new)));
                    if op.goes_slow {
                        next.push(state.valued(Spte::ZERO));
                    }
                }
                (BEFORE, Does::Mmio(new)) => next.push(done.valued(*new)),
                (OVER, Does::Read(_)) if op.goes_slow => next.push(state.valued(Spte::ZERO)),
                _ => {}
            }
        }
    }

    /// `mmu_set_spte`: the page does not change under a present SPTE, for the host takes back what
    /// it replaces; and 6.1 reports changes only.
    fn set(&self, value: Spte, set: Mapped) -> Option<Spte> {
        let new = self.rules.new_leaf(set, value);
        let same = !self.rules.is_leaf(value) || self.rules.format().pfn(value) == set.pfn;
        (same && !(self.rules.set_means_changed() && value == new)).then_some(new)
    }

    /// Somebody holds `mmu_lock`: between writing the SPTE and reading it for the event. It keeps
    /// everybody away but hardware and fast faults.
    fn is_locked(&self, state: State) -> bool {
        self.in_flight().any(|(slot, op)| {
            matches!(op.does, Does::Set(_) | Does::Mmio(_)) && state.of(slot) == DONE
        })
    }

    /// Somebody has made the SPTE writable and may not have marked the page dirty yet: the event
    /// comes after that.
    fn marks(&self, state: State) -> bool {
        self.in_flight().any(|(slot, op)| {
            matches!(op.does, Does::Fix(..)) && state.of(slot) == DONE && self.now < op.at
        })
    }

    /// An earlier event of the same thread is not over yet.
    fn waits(&self, state: State, op: &Op) -> bool {
        self.in_flight().any(|(slot, other)| {
            // A harvest's own events come while it is under way.
            let ordered = !matches!(other.does, Does::Harvest { .. });
            ordered && other.thread == op.thread && other.event < op.event && state.of(slot) != OVER
        })
    }

    fn in_flight(&self) -> impl Iterator<Item = (usize, &Op)> {
        let op = |(slot, op): (usize, &Option<usize>)| op.map(|op| (slot, &self.ops[op]));
        self.slots.iter().enumerate().filter_map(op)
    }

    fn open(&mut self, op: usize) -> Result<(), String> {
        let Some(slot) = self.slots.iter().position(Option::is_none) else {
            return Err(format!("more than {SLOTS} events are in flight at this SPTE"));
        };
        self.slots[slot] = Some(op);
        Ok(())
    }

    fn close(&mut self, op: usize) {
        if self.ops[op].does != (Does::Harvest { must: false }) {
            self.passes(op, |progress| progress == OVER);
        }
        if let Some(slot) = self.slots.iter().position(|s| *s == Some(op)) {
            self.slots[slot] = None;
            self.states = self.states.iter().map(|s| s.with(slot, BEFORE)).collect();
        }
    }

    /// Keeps the states in which an event has got far enough.
    fn passes(&mut self, op: usize, enough: impl Fn(u128) -> bool) {
        let Some(slot) = self.slots.iter().position(|s| *s == Some(op)) else { return };
        let kept: BTreeSet<State> =
            self.states.iter().copied().filter(|s| enough(s.of(slot))).collect();
        if kept.is_empty() {
            let stepped = |s: &State| matches!(s.of(slot), DONE | OVER);
            let stepped = self.states.iter().any(stepped);
            let why = self.why(&self.ops[op], stepped);
            self.fail(op, &why);
        } else {
            self.states = kept;
        }
    }

    /// An event cannot be explained: go on from what it saw.
    fn fail(&mut self, op: usize, why: &str) {
        let allowed: BTreeSet<u64> = self.states.iter().map(|s| s.value).collect();
        let allowed = allowed.into_iter().map(Spte).collect();
        let Op { event, does, seen, .. } = &self.ops[op];
        self.followed.found.push(Unexplained { event: *event, why: why.to_owned(), allowed });
        let value = match (seen, does) {
            (Some(seen), _) => *seen,
            (None, Does::Fix(_, new)) => *new,
            (None, Does::Read(old) | Does::Lose(old)) => *old,
            (None, Does::Mmio(new)) => *new,
            // The SPTE may be present as before: nothing was seen.
            (None, Does::Miss) => return self.forget(op),
            (None, Does::Set(_) | Does::Zap | Does::Harvest { .. }) => Spte::ZERO,
        };
        let mut state = State { value: value.0, progress: 0 };
        for slot in 0..SLOTS {
            let Some(other) = self.slots[slot].map(|op| &self.ops[op]) else { continue };
            if other.at <= self.ops[op].at {
                state = state.with(slot, OVER);
            }
        }
        self.states = BTreeSet::from([state]);
    }

    /// Goes on as if an event had taken its step, whatever the SPTE held.
    fn forget(&mut self, op: usize) {
        let Some(slot) = self.slots.iter().position(|s| *s == Some(op)) else { return };
        self.states = self.states.iter().map(|s| s.with(slot, OVER)).collect();
    }

    /// One sentence.
    fn why(&self, op: &Op, stepped: bool) -> String {
        if stepped {
            return match op.seen {
                Some(seen) if matches!(op.does, Does::Set(_)) => format!(
                    "the model's make_spte gives nothing here that can be seen as {seen:?} after it"
                ),
                Some(seen) => format!(
                    "the SPTE was seen with {seen:?} right after, which no step that is possible \
                     here leads to"
                ),
                None => "it has no place in any order of the model's steps".to_owned(),
            };
        }
        match &op.does {
            Does::Zap | Does::Mmio(_) | Does::Harvest { .. } => {
                "it has no place in any order of the model's steps".to_owned()
            }
            Does::Fix(old, _) | Does::Read(old) => {
                format!("it read {old:?}, which the SPTE cannot have had here")
            }
            Does::Miss => {
                "hardware found nothing present, but the SPTE was there all the time".to_owned()
            }
            Does::Lose(old) => format!(
                "it read {old:?} and gave up, though nobody can have replaced that in between"
            ),
            Does::Set(_) => "the SPTE is present here with another page or the same value \
                             already: whatever dropped or changed it is missing"
                .to_owned(),
        }
    }
}
