//! The checks of lock usage that every machine makes: what is wrong with an acquisition by itself,
//! and the orders of all acquisitions together.
//!
//! As with the kernel's lockdep, an acquisition is judged when it is asked for, and a cycle is
//! found from its parts, which may come from different executions: nothing has to deadlock.
//! Machines keep what each thread holds; [`Lockdep::ask`] says what that means for the next lock.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use kvmmu_model::lock::rules::{self, Breach};
use kvmmu_model::lock::{Hold, LockClass, LockKind, Mode};
use kvmmu_model::{Object, Protection};

use crate::property::Property;

/// A lock that is taken while another is held.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Nesting {
    /// What is held.
    pub outer: Hold,
    /// What is asked for.
    pub inner: Hold,
}

/// The orders in which locks were taken, over many executions.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LockOrders {
    nestings: BTreeMap<Nesting, u64>,
    acquisitions: BTreeMap<Hold, u64>,
}

/// What is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The property that is violated.
    pub property: Property,
    /// How, in words.
    pub detail: String,
}

impl LockOrders {
    /// Notes a nesting. True if it is the first of its kind.
    pub fn insert(&mut self, nesting: Nesting) -> bool {
        let count = self.nestings.len();
        self.nestings.entry(nesting).or_insert(0);
        self.nestings.len() != count
    }

    /// So many acquisitions were made with these locks held.
    pub fn count(&mut self, held: impl Iterator<Item = Hold>, inner: Hold, times: u64) {
        *self.acquisitions.entry(inner).or_insert(0) += times;
        for outer in held {
            *self.nestings.entry(Nesting { outer, inner }).or_insert(0) += times;
        }
    }

    /// Adds what was seen elsewhere.
    pub fn merge(&mut self, other: &LockOrders) {
        for (nesting, times) in &other.nestings {
            *self.nestings.entry(*nesting).or_insert(0) += times;
        }
        for (hold, times) in &other.acquisitions {
            *self.acquisitions.entry(*hold).or_insert(0) += times;
        }
    }

    /// Every nesting and how often it was seen, in the order of the table of locks.
    pub fn nestings(&self) -> impl Iterator<Item = (Nesting, u64)> {
        self.nestings.iter().map(|(nesting, times)| (*nesting, *times))
    }

    /// How often a nesting was seen.
    pub fn times(&self, nesting: Nesting) -> u64 {
        self.nestings.get(&nesting).copied().unwrap_or(0)
    }

    /// Every lock that was taken, in each way, and how often.
    pub fn acquisitions(&self) -> impl Iterator<Item = (Hold, u64)> {
        self.acquisitions.iter().map(|(hold, times)| (*hold, *times))
    }

    /// The shortest cycle through this nesting, which comes first: each inner lock is the next
    /// one's outer lock. `None`: there is none.
    ///
    /// A nesting counts only where the inner lock may have to be waited for: entering a read
    /// section of SRCU never waits, its grace period does. Readers of a semaphore wait behind a
    /// writer that waits, and a writer is taken to exist.
    pub fn cycle(&self, through: Nesting) -> Option<Vec<Nesting>> {
        if !rules::waits(through.inner) {
            return None;
        }
        let mut ways = vec![vec![through]];
        let mut seen = vec![through.inner.class];
        let mut next = 0;
        while next < ways.len() {
            let way = ways[next].clone();
            next += 1;
            let last = way.last().map_or(through, |nesting| *nesting);
            if last.inner.class == through.outer.class {
                return Some(way);
            }
            for nesting in self.nestings.keys().filter(|n| n.outer.class == last.inner.class) {
                let class = nesting.inner.class;
                let closes = class == through.outer.class;
                if rules::waits(nesting.inner) && (closes || !seen.contains(&class)) {
                    seen.push(class);
                    let mut longer = way.clone();
                    longer.push(*nesting);
                    ways.push(longer);
                }
            }
        }
        None
    }

    /// The cycle that [`Lockdep::ask`] reported in these words, the nesting that closed it first.
    pub fn told(&self, detail: &str) -> Option<Vec<Nesting>> {
        let cycles = self.nestings.keys().filter_map(|nesting| self.cycle(*nesting));
        cycles.clone().find(|cycle| cycle_text(cycle) == detail).or_else(|| cycles.clone().next())
    }

    /// The cycles of everything that was seen, each reported once, from its first nesting on.
    pub fn cycles(&self) -> Vec<Vec<Nesting>> {
        let mut found: Vec<Vec<Nesting>> = Vec::new();
        for nesting in self.nestings.keys() {
            if let Some(cycle) = self.cycle(*nesting)
                && !found.iter().any(|other| cycle.iter().all(|n| other.contains(n)))
            {
                found.push(cycle);
            }
        }
        found
    }
}

/// What a machine keeps over all executions of a program.
#[derive(Clone, Debug, Default)]
pub struct Lockdep {
    /// What was seen so far.
    pub orders: LockOrders,
    /// An acquisition that breaks a rule and closes a cycle is reported as the cycle. Which
    /// acquisition closes one depends on what was seen before; what it breaks by itself does not.
    pub cycles_first: bool,
    /// Nestings that closed a cycle when something else was reported.
    untold: BTreeSet<Nesting>,
}

impl Lockdep {
    /// Forgets what was seen.
    pub fn forget(&mut self) {
        *self = Lockdep { cycles_first: self.cycles_first, ..Lockdep::default() };
    }

    /// True if a cycle is known that is not reported yet.
    pub fn has_untold(&self) -> bool {
        !self.untold.is_empty()
    }

    /// The cycles that are known and not reported yet, by the nestings that closed them.
    pub fn untold(&self) -> impl Iterator<Item = Nesting> {
        self.untold.iter().copied()
    }

    /// A nesting is known; whether it closed a cycle that is not reported yet.
    pub fn recall(&mut self, nesting: Nesting, untold: bool) {
        self.orders.insert(nesting);
        if untold {
            self.untold.insert(nesting);
        }
    }

    /// A thread asks for a lock. `held` is what it holds, and whether that is this very lock.
    pub fn ask(
        &mut self,
        held: impl Iterator<Item = (Hold, bool)> + Clone,
        irqs_off: bool,
        wanted: Hold,
    ) -> Option<Finding> {
        let breach = rules::check(held.clone(), irqs_off, wanted);
        let told = breach.filter(|_| !self.cycles_first).map(|breach| broken(breach, wanted));
        let mut cycle = None;
        for (outer, _) in held.filter(|(hold, _)| hold.class != wanted.class) {
            let nesting = Nesting { outer, inner: wanted };
            let first = self.orders.insert(nesting);
            if !first && !self.untold.remove(&nesting) {
                continue;
            }
            let Some(closed) = self.orders.cycle(nesting) else { continue };
            if told.is_some() || cycle.is_some() {
                self.untold.insert(nesting);
            }
            cycle = cycle.or(Some(closed));
        }
        let circular = cycle.map(|cycle| circular(&cycle));
        told.or(circular).or_else(|| breach.map(|breach| broken(breach, wanted)))
    }
}

fn circular(cycle: &[Nesting]) -> Finding {
    Finding { property: Property::LockCycle, detail: cycle_text(cycle) }
}

/// A nesting in words: `kvm->lock is taken inside vcpu->mutex`.
pub fn nesting_text(nesting: Nesting) -> String {
    let verb = match nesting.inner.mode {
        Mode::Synchronize => "waited for",
        _ => "taken",
    };
    let (inner, outer) = (wanted_text(nesting.inner), held_text(nesting.outer));
    format!("{inner} is {verb} inside {outer}")
}

/// A cycle in words.
pub fn cycle_text(cycle: &[Nesting]) -> String {
    let orders: Vec<String> = cycle.iter().map(|n| nesting_text(*n)).collect();
    orders.join(", ")
}

fn broken(breach: Breach, wanted: Hold) -> Finding {
    let asked = wanted_text(wanted);
    let (property, detail) = match breach {
        Breach::Recursion(held) => (
            Property::LockUsage,
            format!("{asked} inside {}: the thread waits for itself", held_text(held)),
        ),
        Breach::SleepsUnder(held) => {
            (Property::LockSleep, format!("{asked} may sleep, and {} is held", held_text(held)))
        }
        Breach::SleepsIrqsOff => {
            (Property::LockSleep, format!("{asked} may sleep, and interrupts are off"))
        }
        Breach::Order(held, order) => {
            let (outer, inner) = (order.outer.class.info().name, order.inner.class.info().name);
            let chain = match order.inner.class == held.class {
                true => String::new(),
                false => format!(", and that outside {}", held.class.info().name),
            };
            let held = held_text(held);
            let detail =
                format!("{asked} inside {held}; the document has {outer} outside {inner}{chain}");
            (Property::LockOrder, detail)
        }
        Breach::InsideLeaf(held) => {
            (Property::LockLeaf, format!("{asked} inside {}, a leaf", held_text(held)))
        }
    };
    Finding { property, detail }
}

/// What is wrong with sleeping here, if anything: `might_sleep()`.
pub fn might_sleep(held: impl Iterator<Item = Hold>, irqs_off: bool) -> Option<Finding> {
    let mut held = held;
    let forbids = held.find(|hold| hold.class.info().kind.forbids_sleep());
    let why = match (forbids, irqs_off) {
        (Some(hold), _) => format!("{} is held", held_text(hold)),
        (None, true) => "interrupts are off".to_string(),
        (None, false) => return None,
    };
    Some(Finding {
        property: Property::LockSleep,
        detail: format!("what follows may sleep, and {why}"),
    })
}

/// A thread has ended and still holds locks, or has interrupts off.
pub fn held_at_end(held: impl Iterator<Item = Hold>, irqs_off: bool) -> Finding {
    let mut names: Vec<String> = held.map(held_text).collect();
    if irqs_off {
        names.push("interrupts off".to_string());
    }
    Finding {
        property: Property::LockUsage,
        detail: format!("the thread ends and still has {}", names.join(", ")),
    }
}

/// A lock was released by a thread that does not hold it.
pub fn foreign_release(lock: Object) -> Finding {
    Finding {
        property: Property::LockUsage,
        detail: format!("{} is released by who does not hold it", lock.name()),
    }
}

/// An object was touched by a thread that does not hold what protects it.
pub fn unprotected(object: Object, write: bool) -> Finding {
    let how = if write { "written" } else { "read" };
    let needs = match object.protection() {
        Protection::WrittenUnder(lock) => format!("without {}", lock.info().name),
        Protection::Published { updater, .. } if write => {
            format!("without {}", updater.info().name)
        }
        Protection::Published { updater, readers } => {
            let (updater, readers) = (updater.info().name, readers.info().name);
            format!("outside a read section of {readers} and without {updater}")
        }
        Protection::Lockless => String::new(),
    };
    Finding {
        property: Property::LockProtection,
        detail: format!("{} is {how} {needs}", object.name()),
    }
}

/// A held lock in words: `kvm->slots_lock`, `a read section of kvm->srcu`.
pub fn held_text(hold: Hold) -> String {
    let name = hold.class.info().name;
    match (hold.class.info().kind, hold.mode) {
        (LockKind::Srcu | LockKind::Rcu, Mode::Read) => format!("a read section of {name}"),
        (_, Mode::Read) => format!("{name} (for reading)"),
        (kind, _) if kind.has_readers() => format!("{name} (for writing)"),
        _ => name.to_string(),
    }
}

/// A wanted lock in words: `kvm->slots_lock`, `a grace period of kvm->srcu`.
pub fn wanted_text(hold: Hold) -> String {
    match hold.mode {
        Mode::Synchronize => format!("a grace period of {}", hold.class.info().name),
        _ => held_text(hold),
    }
}

/// What protects an object from being touched in this way; empty if nothing needs to. Holding one
/// of them is enough.
pub fn protectors(object: Object, write: bool) -> impl Iterator<Item = LockClass> {
    let (first, second) = match (object.protection(), write) {
        (Protection::WrittenUnder(lock), true) => (Some(lock), None),
        (Protection::Published { updater, .. }, true) => (Some(updater), None),
        (Protection::Published { updater, readers }, false) => (Some(updater), Some(readers)),
        _ => (None, None),
    };
    first.into_iter().chain(second)
}
