//! Which locks each thread holds, and the checks of [`kvmmu_scenarios::lockdep`] on them.
//!
//! A thread's locks are bits of one number, so that the usual case is cheap: an acquisition in a
//! context that was judged before is one look into a small table. What a thread holds follows from
//! what it has done since its checkpoints, so it is not part of the key of a state.

use core::cell::{Cell, RefCell};
use core::panic::Location;
use std::collections::BTreeMap;

use kvmmu_model::{Hold, LockClass, LockId, Mode, Object, Tag};
use kvmmu_scenarios::Property;
use kvmmu_scenarios::lockdep::{self, Finding, LockOrders, Lockdep, Nesting};
use serde::{Deserialize, Serialize};

use super::state::{Machine, Mode as Running};
use crate::record::goal::Goal;
use crate::record::names::Wait;
use crate::record::rule::Rule;

/// Bits of [`super::thread::Thread::held`] that are no locks: interrupts are off.
pub(crate) const IRQS_OFF: u64 = 1 << 63;
/// The thread runs a step that is meant to be lockless.
pub(crate) const LOCKLESS: u64 = 1 << 62;
/// How many bits there are for locks. A read-write lock has two.
const BITS: usize = 62;
/// Contexts that are found at once.
const CONTEXTS: usize = 512;

/// The locks of a machine and what was seen of them.
pub(crate) struct Locks {
    /// False: nothing is checked.
    on: Cell<bool>,
    /// What each bit stands for.
    bits: RefCell<Vec<(Hold, Tag)>>,
    /// The bits of each class, by its row of the table; those of a file's own locks come last.
    by_class: [Cell<u64>; LockClass::ALL.len() + 1],
    /// Contexts in which nothing was wrong, and how often they were met.
    contexts: Box<[Cell<Context>]>,
    /// Contexts that had to leave their place in the table.
    others: RefCell<BTreeMap<(u64, u8), u64>>,
    /// Contexts in which something was wrong.
    refused: RefCell<BTreeMap<(u64, u8), u64>>,
    lockdep: RefCell<Lockdep>,
    /// A nesting that is looked for.
    wanted: Cell<Option<Nesting>>,
    /// A cycle ends the execution that closes it. Otherwise what is looked for may lie behind it,
    /// and a search that takes no step twice would not come there again.
    cycles_end: Cell<bool>,
    /// The first cycle that ended no execution, until it is taken.
    cycle: RefCell<Option<String>>,
    has_cycle: Cell<bool>,
}

/// A lock that was asked for and what was held then.
#[derive(Clone, Copy, Default)]
struct Context {
    held: u64,
    /// The bit and [`SYNCHRONIZE`].
    asked: u8,
    times: u64,
}

/// What was seen of locks, by the bits of the program.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) struct LocksSeen {
    /// What was held, what was asked for, and how often.
    contexts: Vec<(u64, u8, u64)>,
    refused: Vec<(u64, u8, u64)>,
    /// Nestings that closed cycles which are not reported yet.
    untold: Vec<(u8, u8)>,
}

/// Marks a grace period among [`Context::asked`].
const SYNCHRONIZE: u8 = 0x80;

impl Locks {
    pub(crate) fn new() -> Locks {
        Locks {
            on: Cell::new(true),
            bits: RefCell::default(),
            by_class: [const { Cell::new(0) }; LockClass::ALL.len() + 1],
            contexts: vec![Cell::new(Context::default()); CONTEXTS].into_boxed_slice(),
            others: RefCell::default(),
            refused: RefCell::default(),
            lockdep: RefCell::default(),
            wanted: Cell::new(None),
            cycles_end: Cell::new(true),
            cycle: RefCell::default(),
            has_cycle: Cell::new(false),
        }
    }

    pub(crate) fn clear(&self) {
        self.on.set(true);
        self.bits.borrow_mut().clear();
        self.by_class.iter().for_each(|bits| bits.set(0));
        self.lockdep.borrow_mut().cycles_first = false;
        self.forget();
        self.wanted.set(None);
        self.cycles_end.set(true);
    }

    /// Forgets what was seen.
    pub(crate) fn forget(&self) {
        self.contexts.iter().for_each(|context| context.set(Context::default()));
        self.others.borrow_mut().clear();
        self.refused.borrow_mut().clear();
        self.lockdep.borrow_mut().forget();
        self.has_cycle.set(false);
    }

    /// True if a cycle was closed while something else was reported, and is not reported yet.
    pub(crate) fn has_untold_cycle(&self) -> bool {
        self.lockdep.borrow().has_untold()
    }

    /// Checks locks from now on, or not; ends an execution at the nesting that is looked for.
    pub(crate) fn configure(&self, on: bool, goal: &Goal) {
        self.on.set(on);
        self.wanted.set(goal.nesting);
        let wanted = goal.rule == Some(Property::LockCycle.into());
        self.lockdep.borrow_mut().cycles_first = wanted;
        self.cycles_end.set(wanted || goal.rule.is_none());
    }

    /// A cycle that was found and did not end the execution, once.
    #[inline(always)]
    pub(crate) fn take_cycle(&self) -> Option<String> {
        if !self.has_cycle.get() {
            return None;
        }
        self.has_cycle.set(false);
        self.cycle.take()
    }

    /// Gives a lock, held in this way, its bit.
    pub(crate) fn add(&self, id: LockId, mode: Mode) -> u8 {
        let mut bits = self.bits.borrow_mut();
        assert!(bits.len() < BITS, "more than {BITS} locks");
        let bit = bits.len() as u8;
        bits.push((Hold::new(id.class, mode), Tag::lock(id)));
        let of_class = &self.by_class[id.class.row()];
        of_class.set(of_class.get() | 1 << bit);
        bit
    }

    /// What was seen so far.
    pub(crate) fn orders(&self) -> LockOrders {
        let mut orders = self.lockdep.borrow().orders.clone();
        let others = self.others.borrow();
        let mut all: BTreeMap<(u64, u8), u64> = others.clone();
        for context in self.contexts.iter().map(Cell::get).filter(|c| c.times > 0) {
            *all.entry((context.held, context.asked)).or_insert(0) += context.times;
        }
        for (context, times) in self.refused.borrow().iter() {
            *all.entry(*context).or_insert(0) += times;
        }
        for ((held, asked), times) in all {
            orders.count(self.holds(held).map(|(hold, _)| hold), self.asked(asked), times);
        }
        orders
    }

    /// All that was seen.
    pub(crate) fn seen(&self) -> LocksSeen {
        let list = |map: &BTreeMap<(u64, u8), u64>| {
            map.iter().map(|((held, asked), times)| (*held, *asked, *times)).collect()
        };
        let mut contexts = self.others.borrow().clone();
        for Context { held, asked, times } in self.contexts.iter().map(Cell::get) {
            if times > 0 {
                *contexts.entry((held, asked)).or_insert(0) += times;
            }
        }
        let bits = self.bits.borrow();
        let bit = |hold: Hold| bits.iter().position(|(other, _)| *other == hold).unwrap_or(0) as u8;
        let asked = |hold: Hold| match hold.mode {
            // Whatever else the bit stands for, it is one of the class.
            Mode::Synchronize => {
                let class = bits.iter().position(|(other, _)| other.class == hold.class);
                class.unwrap_or(0) as u8 | SYNCHRONIZE
            }
            _ => bit(hold),
        };
        let lockdep = self.lockdep.borrow();
        let untold = lockdep.untold().map(|n| (bit(n.outer), asked(n.inner))).collect();
        LocksSeen { contexts: list(&contexts), refused: list(&self.refused.borrow()), untold }
    }

    /// Has seen this and nothing else. False: it has to do with other locks.
    pub(crate) fn recall(&self, seen: &LocksSeen) -> bool {
        self.forget();
        let there = |asked: u8| usize::from(asked & !SYNCHRONIZE) < self.bits.borrow().len();
        let mut contexts = seen.contexts.iter().chain(&seen.refused);
        let mut untold = seen.untold.iter();
        if !contexts.all(|c| there(c.1)) || !untold.all(|n| there(n.0) && there(n.1)) {
            return false;
        }
        let map = |list: &[(u64, u8, u64)]| {
            list.iter().map(|(held, asked, times)| ((*held, *asked), *times)).collect()
        };
        *self.others.borrow_mut() = map(&seen.contexts);
        *self.refused.borrow_mut() = map(&seen.refused);
        let mut lockdep = self.lockdep.borrow_mut();
        for (held, asked, _) in seen.contexts.iter().chain(&seen.refused) {
            let inner = self.asked(*asked);
            let outer = self.holds(*held).map(|(outer, _)| outer);
            for outer in outer.filter(|outer| outer.class != inner.class) {
                lockdep.recall(Nesting { outer, inner }, false);
            }
        }
        for (outer, inner) in &seen.untold {
            let (outer, inner) = (self.asked(*outer), self.asked(*inner));
            lockdep.recall(Nesting { outer, inner }, true);
        }
        true
    }

    fn asked(&self, asked: u8) -> Hold {
        let (hold, _) = self.bits.borrow()[usize::from(asked & !SYNCHRONIZE)];
        if asked & SYNCHRONIZE == 0 { hold } else { Hold { mode: Mode::Synchronize, ..hold } }
    }

    /// The locks among these bits.
    fn holds(&self, held: u64) -> impl Iterator<Item = (Hold, Tag)> + Clone {
        let bits: Vec<(Hold, Tag)> = self.bits.borrow().clone();
        bits.into_iter().enumerate().filter(move |(i, _)| held >> i & 1 == 1).map(|(_, lock)| lock)
    }

    /// Judges an acquisition that was not met before.
    fn judge(&self, held: u64, asked: u8) -> Option<Finding> {
        let wanted = self.asked(asked);
        let (_, tag) = self.bits.borrow()[usize::from(asked & !SYNCHRONIZE)];
        let holds = self.holds(held).map(|(hold, of)| (hold, of == tag));
        self.lockdep.borrow_mut().ask(holds, held & IRQS_OFF != 0, wanted)
    }
}

impl Machine {
    /// The running thread asks for a lock.
    #[inline(always)]
    pub(crate) fn ask(&self, bit: u8, site: &'static Location<'static>) {
        self.ask_for(bit, site);
    }

    /// The running thread asks for a grace period.
    #[inline(always)]
    pub(crate) fn ask_to_synchronize(&self, bit: u8, site: &'static Location<'static>) {
        self.ask_for(bit | SYNCHRONIZE, site);
    }

    #[inline(always)]
    fn ask_for(&self, asked: u8, site: &'static Location<'static>) {
        let locks = &self.locks;
        if !locks.on.get() || self.mode.get() == Running::Build {
            return;
        }
        let held = self.thread().held.get() & !LOCKLESS;
        let place =
            (held ^ held >> 17).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(asked) << 55;
        let place = &locks.contexts[(place >> 55) as usize % CONTEXTS];
        let context = place.get();
        if context.times > 0 && context.held == held && context.asked == asked {
            place.set(Context { times: context.times + 1, ..context });
        } else {
            self.ask_new(held, asked, place, site);
        }
    }

    #[cold]
    fn ask_new(
        &self,
        held: u64,
        asked: u8,
        place: &Cell<Context>,
        site: &'static Location<'static>,
    ) {
        let locks = &self.locks;
        if let Some(Nesting { outer, inner }) = locks.wanted.get()
            && locks.asked(asked) == inner
            && locks.holds(held).any(|(hold, _)| hold == outer)
        {
            self.refuse(asked, site);
            self.violate(Rule::Nesting, String::new, site);
            return;
        }
        let known = locks.others.borrow().contains_key(&(held, asked));
        if !known && let Some(finding) = locks.judge(held, asked) {
            self.refuse(asked, site);
            *locks.refused.borrow_mut().entry((held, asked)).or_insert(0) += 1;
            self.found(finding, site);
            if self.is_violated() {
                return;
            }
        }
        let old = place.replace(Context { held, asked, times: 1 });
        if old.times > 0 {
            *locks.others.borrow_mut().entry((old.held, old.asked)).or_insert(0) += old.times;
        }
    }

    /// Notes for a trace which acquisition is a violation.
    fn refuse(&self, asked: u8, site: &'static Location<'static>) {
        if self.tracer.on() {
            let (_, tag) = self.locks.bits.borrow()[usize::from(asked & !SYNCHRONIZE)];
            let (mode, object) = (Some(self.locks.asked(asked).mode), Some(tag));
            let (thread, file, line) = (self.running.get(), site.file(), site.line());
            self.tracer.refused.set(Some(Wait { thread, object, mode, file, line }));
        }
    }

    #[cold]
    fn found(&self, finding: Finding, site: &'static Location<'static>) {
        if finding.property == Property::LockCycle && !self.locks.cycles_end.get() {
            if !self.locks.has_cycle.replace(true) {
                *self.locks.cycle.borrow_mut() = Some(finding.detail);
            }
            return;
        }
        self.violate(finding.property.into(), || finding.detail, site);
    }

    /// The running thread has the lock.
    #[inline(always)]
    pub(crate) fn hold(&self, bit: u64) {
        let held = &self.thread().held;
        held.set(held.get() | bit);
    }

    /// The running thread gives the lock back.
    #[inline(always)]
    pub(crate) fn unhold(&self, bit: u64) {
        let held = &self.thread().held;
        held.set(held.get() & !bit);
    }

    /// True if the running thread has one of these bits.
    #[inline(always)]
    pub(crate) fn holds_any(&self, bits: u64) -> bool {
        self.thread().held.get() & bits != 0
    }

    /// The running thread touches an object that something protects.
    #[inline(always)]
    pub(crate) fn check_protected(
        &self,
        object: Object,
        write: bool,
        site: &'static Location<'static>,
    ) {
        let locks = &self.locks;
        if !locks.on.get() || self.mode.get() == Running::Build || self.holds_any(LOCKLESS) {
            return;
        }
        let enough = |class: LockClass| locks.by_class[class.row()].get();
        let bits = lockdep::protectors(object, write).map(enough).fold(0, |all, bits| all | bits);
        if !self.holds_any(bits) {
            self.found(lockdep::unprotected(object, write), site);
        }
    }

    /// What follows may sleep.
    pub(crate) fn check_sleep(&self, site: &'static Location<'static>) {
        if !self.locks.on.get() || self.mode.get() == Running::Build {
            return;
        }
        let held = self.thread().held.get();
        let holds = self.locks.holds(held).map(|(hold, _)| hold);
        if held != 0
            && let Some(finding) = lockdep::might_sleep(holds, held & IRQS_OFF != 0)
        {
            self.found(finding, site);
        }
    }

    /// A lock is released by who does not hold it.
    #[cold]
    pub(crate) fn foreign_release(&self, tag: Tag, site: &'static Location<'static>) {
        if self.locks.on.get() && !std::thread::panicking() {
            self.found(lockdep::foreign_release(tag.object), site);
        }
    }

    /// The running thread has ended with locks held.
    #[cold]
    pub(crate) fn ended_holding(&self, thread: u8, held: u64, site: &'static Location<'static>) {
        if !self.locks.on.get() || self.is_violated() {
            return;
        }
        let holds = self.locks.holds(held).map(|(hold, _)| hold);
        let Finding { property, detail } = lockdep::held_at_end(holds, held & IRQS_OFF != 0);
        self.report_violation(thread, site, property.into(), detail);
    }
}
