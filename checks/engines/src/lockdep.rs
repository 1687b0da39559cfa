//! Which locks each thread of an execution holds, and the checks of
//! [`kvmmu_scenarios::lockdep`] on them: the rules of the simulator's machine, applied here.
//!
//! A thread's locks are bits of one number. What was asked for with what held is judged once for
//! all executions of a search, so that the parts of a cycle may come from different ones. Nothing
//! here is a step, and nothing is seen by the tool.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use kvmmu_model::{Hold, LockClass, LockId, Mode, Object, Tag};
use kvmmu_scenarios::lockdep::{self, Finding, Lockdep};

use crate::machine::Run;
use crate::primitives::Primitives;
use crate::search::hold;

/// A bit that is no lock: interrupts are off.
pub(crate) const IRQS_OFF: u64 = 1 << 63;
/// The thread runs a step that is meant to be lockless.
pub(crate) const LOCKLESS: u64 = 1 << 62;
/// How many bits there are for locks. A read-write lock has two.
const BITS: usize = 62;
/// Marks a grace period among bits that are asked for.
const SYNCHRONIZE: u8 = 0x80;

/// What a search has seen of locks, over all of its executions. Each execution makes the same locks
/// in the same order, so that bits mean the same in all of them.
#[derive(Debug, Default)]
pub(crate) struct Judged {
    lockdep: Lockdep,
    /// What was held and what was asked for, where nothing was wrong.
    fine: BTreeSet<(u64, u8)>,
}

/// The locks of one execution.
#[derive(Debug)]
pub(crate) struct Locks {
    /// What each bit stands for.
    bits: Mutex<Vec<(Hold, Tag)>>,
    /// The bits of each class, by its row of the table; those of a file's own locks come last.
    by_class: [AtomicU64; LockClass::ALL.len() + 1],
    /// What each thread holds; the last is the stop phase, and the thread that builds the world.
    held: Box<[AtomicU64]>,
}

impl Locks {
    pub(crate) fn new(threads: usize) -> Locks {
        Locks {
            bits: Mutex::default(),
            by_class: [const { AtomicU64::new(0) }; LockClass::ALL.len() + 1],
            held: (0..=threads).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// How many threads there are, without the stop phase.
    pub(crate) fn threads(&self) -> usize {
        self.held.len() - 1
    }

    /// Gives a lock, held in this way, its bit.
    ///
    /// # Panics
    /// If there are too many.
    pub(crate) fn add(&self, id: LockId, mode: Mode) -> u8 {
        let mut bits = hold(&self.bits);
        assert!(bits.len() < BITS, "more than {BITS} locks");
        let bit = bits.len() as u8;
        bits.push((Hold::new(id.class, mode), Tag::lock(id)));
        self.by_class[id.class.row()].fetch_or(1 << bit, Relaxed);
        bit
    }

    /// The locks among these bits.
    fn holds(&self, held: u64) -> impl Iterator<Item = (Hold, Tag)> + Clone {
        let bits = hold(&self.bits).clone();
        bits.into_iter().enumerate().filter(move |(i, _)| held >> i & 1 == 1).map(|(_, lock)| lock)
    }
}

impl<X: Primitives> Run<X> {
    /// What the running thread holds.
    fn held(&self) -> &AtomicU64 {
        &self.locks.held[self.thread()]
    }

    /// True if locks are checked now. An execution in which something was violated goes on without
    /// its observers, and this is one: what it would see first, it could not report.
    fn checks_locks(&self) -> bool {
        let search = &self.search;
        search.scenario.lock_checks && !self.is_setup() && !search.spent.load(Relaxed)
    }

    /// The running thread asks for a lock.
    pub(crate) fn ask(&self, bit: u8) {
        self.ask_for(bit);
    }

    /// The running thread asks for a grace period.
    pub(crate) fn ask_to_synchronize(&self, bit: u8) {
        self.ask_for(bit | SYNCHRONIZE);
    }

    fn ask_for(&self, asked: u8) {
        if !self.checks_locks() {
            return;
        }
        let held = self.held().load(Relaxed) & !LOCKLESS;
        let mut judged = hold(&self.search.judged);
        if judged.fine.contains(&(held, asked)) {
            return;
        }
        let (mut wanted, tag) = hold(&self.locks.bits)[usize::from(asked & !SYNCHRONIZE)];
        if asked & SYNCHRONIZE != 0 {
            wanted.mode = Mode::Synchronize;
        }
        let holds = self.locks.holds(held).map(|(hold, of)| (hold, of == tag));
        match judged.lockdep.ask(holds, held & IRQS_OFF != 0, wanted) {
            Some(finding) => self.found(finding),
            None => drop(judged.fine.insert((held, asked))),
        }
    }

    fn found(&self, Finding { property, detail }: Finding) {
        self.search.violate(property, detail);
    }

    /// The running thread has these.
    pub(crate) fn hold(&self, bits: u64) {
        self.held().fetch_or(bits, Relaxed);
    }

    /// The running thread gives these back.
    pub(crate) fn unhold(&self, bits: u64) {
        self.held().fetch_and(!bits, Relaxed);
    }

    /// True if the running thread has one of these.
    pub(crate) fn holds_any(&self, bits: u64) -> bool {
        self.held().load(Relaxed) & bits != 0
    }

    /// The running thread gives a lock back, which it should have.
    pub(crate) fn release(&self, bit: u8, tag: Tag) {
        if !self.holds_any(1 << bit) && self.checks_locks() {
            self.found(lockdep::foreign_release(tag.object));
        }
        self.unhold(1 << bit);
    }

    /// The running thread touches an object that something protects.
    pub(crate) fn check_protected(&self, object: Object, write: bool) {
        if !self.checks_locks() || self.holds_any(LOCKLESS) {
            return;
        }
        let enough = |class: LockClass| self.locks.by_class[class.row()].load(Relaxed);
        let bits = lockdep::protectors(object, write).map(enough).fold(0, |all, bits| all | bits);
        if !self.holds_any(bits) {
            self.found(lockdep::unprotected(object, write));
        }
    }

    /// What follows may sleep.
    pub(crate) fn check_sleep(&self) {
        let held = self.held().load(Relaxed);
        if held != 0 && self.checks_locks() {
            let holds = self.locks.holds(held).map(|(hold, _)| hold);
            if let Some(finding) = lockdep::might_sleep(holds, held & IRQS_OFF != 0) {
                self.found(finding);
            }
        }
    }

    /// The running thread has ended.
    pub(crate) fn check_end(&self) {
        let held = self.held().load(Relaxed);
        if held == 0 || !self.checks_locks() {
            return;
        }
        let holds = self.locks.holds(held).map(|(hold, _)| hold);
        self.found(lockdep::held_at_end(holds, held & IRQS_OFF != 0));
    }
}
