//! Forced schedules.
//!
//! A story is a list of moments, each a mark and the thread that passes it. While it is forced only
//! the thread whose moment is next runs; every other thread is held where it begins, or at a place
//! that [`Force`] names, for each thread and, if the [`Plan`] says so, until its next moment. When
//! a moment is passed the turn goes to the thread of the next one; after the last one the others
//! run freely. If the thread whose turn it is ends, or does not get there in time (it waits for
//! somebody who is held), the story is given up, and the run says where: this order of things is
//! not possible, or not by holding threads so.

use alloc::vec::Vec;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize};

use kvmmu_model::Mark;
use spin::RwLock;

use super::random::Random;
use super::recorder::{is_recorded, this_thread};
use crate::args::CPUS_MAX;
use crate::el2::cpu::smp;
use crate::el2::cpu::wait::{self, Deadline};

/// How long a thread has to get to its moment, in microseconds.
const STORY_US: u64 = 100_000;
/// How long they have to get to where they are held, in microseconds.
const OTHERS_US: u64 = 50_000;

/// A mark that a thread passed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Moment {
    /// The thread.
    pub(crate) thread: usize,
    /// What happened.
    pub(crate) mark: Mark,
}

/// Where threads are held whose turn it is not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Force {
    /// Nowhere: the CPUs decide.
    Nothing,
    /// Nowhere, but at each mark a thread may be delayed for a random span.
    Delays,
    /// At the next mark, whatever they hold: the walk of a fast fault, say, or `mmu_lock`.
    AtMarks,
    /// Where they hold no spinlock.
    WithoutLocks,
    /// Where they hold no spinlock and interrupts are on: nobody has to wait for them there.
    WithoutSections,
    /// Before they write an SPTE or invalidate TLBs, or their guest makes an access: between their
    /// look and what they do about it.
    BeforeEffects,
    /// Before they write an SPTE or invalidate TLBs, wherever their guest is.
    BeforeStores,
    /// Where they turn interrupts off: between a look at requests and what makes a sender wait.
    AtSections,
}

impl Force {
    const ALL: [Force; 8] = [
        Force::Nothing,
        Force::Delays,
        Force::AtMarks,
        Force::WithoutLocks,
        Force::WithoutSections,
        Force::BeforeEffects,
        Force::BeforeStores,
        Force::AtSections,
    ];

    fn of(number: u8) -> Force {
        Force::ALL[usize::from(number)]
    }
}

/// How a thread is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Hold {
    /// Where.
    pub(crate) at: Force,
    /// It begins at once, and is held there; else it is held where it begins. What is early is
    /// waited for by who passes the first moment.
    pub(crate) early: bool,
    /// How many of these places it passes before it is held.
    pub(crate) passes: u8,
}

impl Hold {
    /// It waits for its turn where it begins, and there.
    pub(crate) const fn at(at: Force) -> Hold {
        Hold { at, early: false, passes: 0 }
    }
    /// It begins at once, and waits for its turn there.
    pub(crate) const fn early(at: Force) -> Hold {
        Hold { at, early: true, passes: 0 }
    }
    /// The same, but it passes so many places first.
    pub(crate) const fn after(self, passes: u8) -> Hold {
        Hold { passes, ..self }
    }
}

/// How a run is made to go.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The story that is forced; empty: none.
    pub(crate) moments: Vec<Moment>,
    /// How each thread is held; the last of these is that of all who follow.
    pub(crate) first: Vec<Hold>,
    /// How the thread of each moment is held when it has passed that. Empty: as before.
    pub(crate) then: Vec<Hold>,
}

impl Plan {
    /// No story.
    pub(crate) fn free(force: Force) -> Plan {
        Plan::forced(Vec::new(), Hold::at(force))
    }
    /// A story, in which all are held in the same way.
    pub(crate) fn forced(moments: Vec<Moment>, hold: Hold) -> Plan {
        Plan { moments, first: alloc::vec![hold], then: Vec::new() }
    }
}

/// How a thread is held.
static FORCE: [AtomicU8; CPUS_MAX] = [const { AtomicU8::new(Force::Nothing as u8) }; CPUS_MAX];
/// How many places a thread passes before it is held.
static PASSES: [AtomicU8; CPUS_MAX] = [const { AtomicU8::new(0) }; CPUS_MAX];
/// Which threads begin at once, a bit each.
static EARLY: AtomicU64 = AtomicU64::new(0);
/// Spinlocks that a CPU holds.
static SPINLOCKS: [AtomicU8; CPUS_MAX] = [const { AtomicU8::new(0) }; CPUS_MAX];
/// Sections with interrupts off that it is in.
static SECTIONS: [AtomicU8; CPUS_MAX] = [const { AtomicU8::new(0) }; CPUS_MAX];
/// Where the random delays of a CPU come from.
static DELAYS: [AtomicU64; CPUS_MAX] = [const { AtomicU64::new(1) }; CPUS_MAX];
/// The longest delay, in spins: a power of two.
const DELAY_MAX: u32 = 15;

/// How the running thread is held.
fn force() -> Force {
    // ORDERING: relaxed: only this thread's CPU touches it while it runs.
    Force::of(FORCE[this_thread()].load(Relaxed))
}

/// How a thread is held from now on.
fn set_hold(thread: usize, hold: Hold) {
    // ORDERING: relaxed: as in `force`.
    FORCE[thread].store(hold.at as u8, Relaxed);
    // ORDERING: relaxed: as above.
    PASSES[thread].store(hold.passes, Relaxed);
}

/// Something that others may wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Held {
    /// A spinlock.
    Spinlock,
    /// A section with interrupts off.
    Section,
}

impl Held {
    /// How many the running CPU has.
    fn count(self) -> &'static AtomicU8 {
        match self {
            Held::Spinlock => &SPINLOCKS[smp::this_cpu()],
            Held::Section => &SECTIONS[smp::this_cpu()],
        }
    }
    fn is_none(self) -> bool {
        // ORDERING: relaxed: only this CPU touches it.
        self.count().load(Relaxed) == 0
    }
}

/// The CPU holds one more.
#[inline]
pub(crate) fn begin_holding(held: Held) {
    if is_recorded() {
        // ORDERING: relaxed: only this CPU touches it.
        held.count().fetch_add(1, Relaxed);
        match force() {
            Force::Delays if held == Held::Section => delay(),
            Force::AtSections if held == Held::Section => STORY.hold_here(this_thread()),
            _ => {}
        }
    }
}

/// The CPU holds one less.
#[inline]
pub(crate) fn end_holding(held: Held) {
    if is_recorded() {
        // ORDERING: relaxed: only this CPU touches it.
        held.count().fetch_sub(1, Relaxed);
        between_steps(false);
    }
}

/// What a thread is about to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Effect {
    /// Its guest makes an access.
    Guest,
    /// It writes an SPTE, or invalidates TLBs.
    Store,
}

/// The running thread is about to do something.
#[inline]
pub(crate) fn before(effect: Effect) {
    if is_recorded() {
        match force() {
            Force::Delays => delay(),
            Force::BeforeEffects => STORY.hold_here(this_thread()),
            Force::BeforeStores if effect == Effect::Store => STORY.hold_here(this_thread()),
            _ => {}
        }
    }
}

/// The running thread has given a lock back that sleeps.
#[inline]
pub(crate) fn released() {
    if is_recorded() {
        between_steps(false);
    }
}

/// Begins a run of so many threads by a plan.
pub(crate) fn begin(threads: usize, plan: Plan, seed: u64) {
    let Plan { moments, first, then } = plan;
    let hold = |thread: usize| first.get(thread).or(first.last()).copied();
    let holds = (0..CPUS_MAX).map(|thread| hold(thread).unwrap_or(Hold::at(Force::Nothing)));
    let mut early = 0;
    for (thread, hold) in holds.enumerate() {
        set_hold(thread, hold);
        early |= u64::from(hold.early) << thread;
    }
    // ORDERING: relaxed, here and below: the other CPUs get their work after.
    EARLY.store(early, Relaxed);
    STORY.reset(moments, then);
    STORY.running.store(threads, Relaxed);
    STORY.holding.store(0, Relaxed);
    for (cpu, delays) in DELAYS.iter().enumerate() {
        delays.store(Random::new(seed + cpu as u64).next(), Relaxed);
        SPINLOCKS[cpu].store(0, Relaxed);
        SECTIONS[cpu].store(0, Relaxed);
    }
}

/// The threads have ended, and nothing is forced any more: says which moment was next if the story
/// was not told to its end.
pub(crate) fn end() -> Option<usize> {
    // ORDERING: relaxed: nobody else runs.
    let position = STORY.position.load(Relaxed);
    let stopped_at = (position < STORY.moments.read().len()).then_some(position);
    STORY.reset(Vec::new(), Vec::new());
    stopped_at
}

/// A thread begins, when it is its turn or at once.
pub(crate) fn thread_begins(thread: usize) {
    // ORDERING: relaxed: constant while the other CPUs run.
    if EARLY.load(Relaxed) >> thread & 1 == 1 {
        STORY.let_others_go_first(thread);
    } else {
        STORY.hold(thread);
    }
}

/// A thread has ended.
pub(crate) fn thread_ends(thread: usize) {
    STORY.ended(thread);
}

/// The running thread passed a mark.
pub(crate) fn passed(moment: Moment) {
    STORY.passed(moment);
    between_steps(true);
}

/// A place at which a thread may be held or delayed.
#[inline(never)]
fn between_steps(at_mark: bool) {
    let thread = this_thread();
    let (no_lock, no_section) = (Held::Spinlock.is_none(), Held::Section.is_none());
    match force() {
        Force::Nothing => return,
        Force::Delays => return delay(),
        Force::AtMarks if at_mark => STORY.hold_here(thread),
        Force::WithoutLocks if no_lock => STORY.hold_here(thread),
        Force::WithoutSections if no_lock && no_section => STORY.hold_here(thread),
        _ => {}
    }
    if no_lock && no_section {
        STORY.wait_at_end(thread);
    }
}

/// Lets a random span pass, one time of four.
fn delay() {
    let cpu = smp::this_cpu();
    // ORDERING: relaxed: only this CPU touches it.
    let mut random = Random::of(DELAYS[cpu].load(Relaxed));
    let value = random.next();
    // ORDERING: relaxed: as above.
    DELAYS[cpu].store(value, Relaxed);
    if value.is_multiple_of(4) {
        (0..random.span(DELAY_MAX)).for_each(|_| core::hint::spin_loop());
    }
}

/// The story that is forced.
static STORY: Story = Story {
    moments: RwLock::new(Vec::new()),
    then: RwLock::new(Vec::new()),
    position: AtomicUsize::new(0),
    given_up: AtomicBool::new(false),
    running: AtomicUsize::new(0),
    holding: AtomicUsize::new(0),
};

struct Story {
    moments: RwLock<Vec<Moment>>,
    then: RwLock<Vec<Hold>>,
    /// Which moment is next.
    position: AtomicUsize,
    given_up: AtomicBool,
    /// How many threads have not ended.
    running: AtomicUsize,
    /// How many are held.
    holding: AtomicUsize,
}

impl Story {
    fn reset(&self, moments: Vec<Moment>, then: Vec<Hold>) {
        *self.moments.write() = moments;
        *self.then.write() = then;
        // ORDERING: relaxed: nobody else runs.
        self.position.store(0, Relaxed);
        // ORDERING: relaxed: as above.
        self.given_up.store(false, Relaxed);
    }

    /// The next moment; none if the story is over, or was given up.
    fn next(&self) -> Option<Moment> {
        // ORDERING: acquire pairs with `passed`: what was done before a moment is seen after.
        let position = self.position.load(Acquire);
        // ORDERING: relaxed: a hint.
        if self.given_up.load(Relaxed) {
            return None;
        }
        self.moments.read().get(position).copied()
    }

    /// The running thread passed a mark: on to the next moment if it was the one.
    fn passed(&self, moment: Moment) {
        if self.next() == Some(moment) {
            // ORDERING: relaxed: only this thread moves on from here.
            let position = self.position.load(Relaxed);
            if let Some(then) = self.then.read().get(position) {
                set_hold(moment.thread, *then);
            }
            // ORDERING: release: the next thread sees what was done before.
            self.position.fetch_add(1, Release);
        }
    }

    /// Holds a thread until it is its turn, at a place that it is to be held at.
    fn hold_here(&self, thread: usize) {
        // ORDERING: relaxed: only this thread's CPU touches it while it runs.
        let passes = PASSES[thread].load(Relaxed);
        if passes == 0 || self.may_go(thread) {
            return self.hold(thread);
        }
        // ORDERING: relaxed: as above.
        PASSES[thread].store(passes - 1, Relaxed);
    }

    /// True if a thread need not be held.
    fn may_go(&self, thread: usize) -> bool {
        self.next().is_none_or(|next| next.thread == thread)
    }

    /// Holds a thread until it is its turn.
    fn hold(&self, thread: usize) {
        let may_go = || self.may_go(thread);
        if may_go() {
            return;
        }
        // ORDERING: release: who waits for this sees what was done before.
        self.holding.fetch_add(1, Release);
        loop {
            // ORDERING: acquire: as in `next`.
            let position = self.position.load(Acquire);
            let moved = || may_go() || self.position.load(Acquire) != position;
            if !wait::until_deadline(Deadline::after_us(STORY_US), moved) {
                // ORDERING: relaxed: a hint.
                self.given_up.store(true, Relaxed);
            }
            if may_go() {
                // ORDERING: relaxed: nobody waits for fewer.
                self.holding.fetch_sub(1, Relaxed);
                return;
            }
        }
    }

    /// The thread whose moment is the first waits until the others are where they are held.
    fn let_others_go_first(&self, thread: usize) {
        if self.next().is_some_and(|next| next.thread == thread) {
            // ORDERING: acquire: what the others did is seen.
            let are_held = || self.running.load(Acquire) <= self.holding.load(Acquire) + 1;
            wait::until_deadline(Deadline::after_us(OTHERS_US), are_held);
        }
    }

    /// Holds the thread of the last moment, once that is passed, where it holds nothing that others
    /// wait for, until the other threads have ended.
    fn wait_at_end(&self, thread: usize) {
        // ORDERING: acquire: as in `next`.
        let position = self.position.load(Acquire);
        let is_last = {
            let moments = self.moments.read();
            position == moments.len() && moments.last().is_some_and(|m| m.thread == thread)
        };
        // ORDERING: relaxed: a hint.
        if is_last && !self.given_up.load(Relaxed) {
            // ORDERING: acquire: what the others did is seen.
            let alone = || self.running.load(Acquire) <= 1;
            wait::until_deadline(Deadline::after_us(STORY_US), alone);
            // Once is enough.
            // ORDERING: relaxed: a hint.
            self.given_up.store(true, Relaxed);
        }
    }

    fn ended(&self, thread: usize) {
        // ORDERING: release: as in `wait_at_end`.
        self.running.fetch_sub(1, Release);
        if self.next().is_some_and(|next| next.thread == thread) {
            // ORDERING: relaxed: a hint.
            self.given_up.store(true, Relaxed);
        }
    }
}
