//! Goal: loom and shuttle free by RCU what no reader sees any more, and find what is wrong with its
//! use. Method: that of `locks`, which runs these programs, too.

use std::sync::Arc;

use kvmmu_engines::machine::{Body, EngineMachine, perform};
use kvmmu_engines::search::Search;
use kvmmu_model::{
    Lock, LockClass, Object, Ordering::SeqCst, Platform, RCU_CALLBACKS_MAX, Rcu, Tag, Until, Word,
};

use super::locks::{Case, case};
use crate::Tool;

/// What an engine is expected to say of them.
pub(super) const CASES: &[Case] = &[
    case("freed by a callback", freed_by_a_callback, None, None),
    case(
        "read outside of RCU, freed by a callback",
        read_outside_rcu,
        Some(("use-after-free", "page")),
        Some("use-after-free"),
    ),
    case(
        "unlinked and freed at once",
        freed_at_once,
        Some(("use-after-free", "page")),
        Some("use-after-free"),
    ),
    case("callbacks called and run by two", callbacks_of_two, None, None),
    case(
        "a mutex in a section of RCU",
        sleeps_in_a_section,
        Some(("lock-sleep", "a read section of rcu_domain is held")),
        None,
    ),
    case(
        "callbacks waited for in a section of RCU",
        waits_in_a_section,
        Some(("lock-sleep", "a read section of rcu_domain is held")),
        None,
    ),
    case(
        "a grace period in its own section",
        synchronizes_in_a_section,
        Some(("lock-usage", "waits for itself")),
        Some("deadlock"),
    ),
];

type Machine = EngineMachine<Tool>;

fn freed_by_a_callback(search: &Arc<Search>) {
    published(search, true, true);
}

fn read_outside_rcu(search: &Arc<Search>) {
    published(search, false, true);
}

fn freed_at_once(search: &Arc<Search>) {
    published(search, true, false);
}

/// A table is replaced, and freed by a thread that runs callbacks, or at once; a reader finds one
/// or the other, in a section or not.
fn published(search: &Arc<Search>, section: bool, deferred: bool) {
    perform::<Tool, _>(search, 3, |p| {
        let rcu = Arc::new(p.rcu(LockClass::VarRcu.one()));
        let current = Arc::new(p.word(Tag::one(Object::Var), 0));
        let tables = Arc::new([0, 1].map(|i| p.word(Tag::nth(Object::Page, i), 7)));
        let reader = {
            let (rcu, current) = (Arc::clone(&rcu), Arc::clone(&current));
            let tables = Arc::clone(&tables);
            move || {
                let _outer = section.then(|| rcu.read_lock());
                let _nested = section.then(|| rcu.read_lock());
                let table = current.load(SeqCst);
                tables[table as usize].load(SeqCst);
            }
        };
        let free = |p: &Machine| {
            let (p, tables) = (p.clone(), Arc::clone(&tables));
            move |table: u64| p.freed(&tables[table as usize..][..1])
        };
        let (at_once, later) = (free(p), free(p));
        let rcu_core = Arc::clone(&rcu);
        let updater = move || {
            current.swap(1, SeqCst);
            if deferred {
                rcu.call(0)
            } else {
                at_once(0)
            }
            rcu.close();
        };
        let rcu_core = move || {
            while let Some(table) = rcu_core.wait_ripe() {
                later(table);
            }
        };
        (vec![Box::new(reader) as Body, Box::new(updater), Box::new(rcu_core)], || ())
    });
}

/// Two threads call, of which the second closes the domain when both have; a third thread and the
/// stop phase run callbacks.
fn callbacks_of_two(search: &Arc<Search>) {
    perform::<Tool, _>(search, 3, |p| {
        let rcu = Arc::new(p.rcu(LockClass::VarRcu.one()));
        let (called, sum) = (p.word(Tag::nth(Object::Var, 0), 0), Tag::nth(Object::Var, 1));
        let (called, sum) = (Arc::new(called), Arc::new(p.word(sum, 0)));
        let first = {
            let (rcu, called) = (Arc::clone(&rcu), Arc::clone(&called));
            move || {
                let _section = rcu.read_lock();
                rcu.call(1);
                called.swap(1, SeqCst);
            }
        };
        let second = {
            let rcu = Arc::clone(&rcu);
            move || {
                rcu.call(2);
                called.wait_until(Until::Is(1));
                rcu.close();
            }
        };
        let (runner, total) = (Arc::clone(&rcu), Arc::clone(&sum));
        let rcu_core = move || {
            let callback = runner.wait_ripe().expect("two are called");
            total.fetch_add(callback, SeqCst);
        };
        let stop = move || {
            let callback = rcu.wait_ripe().expect("one is left");
            assert_eq!(sum.load(SeqCst) + callback, 3, "a callback ran twice");
            assert_eq!(rcu.wait_ripe(), None);
        };
        (vec![Box::new(first) as Body, Box::new(second), Box::new(rcu_core)], stop)
    });
}

/// A mutex inside a read section.
fn sleeps_in_a_section(search: &Arc<Search>) {
    perform::<Tool, _>(search, 1, |p| {
        let rcu = p.rcu(LockClass::VarRcu.one().contended(false));
        let mutex = p.lock(LockClass::VarLock.one().contended(false), ());
        let body = move || {
            let _section = rcu.read_lock();
            let _mutex = mutex.lock();
        };
        (vec![Box::new(body) as Body], || ())
    });
}

/// A thread in a section of one domain waits for callbacks of another. It fills the queue.
fn waits_in_a_section(search: &Arc<Search>) {
    perform::<Tool, _>(search, 1, |p| {
        let rcu = p.rcu(LockClass::VarRcu.nth(0));
        let other = p.rcu(LockClass::VarRcu.nth(1));
        let body = move || {
            (0..RCU_CALLBACKS_MAX as u64).for_each(|i| other.call(i));
            let _section = rcu.read_lock();
            assert_eq!(other.wait_ripe(), Some(0));
        };
        (vec![Box::new(body) as Body], || ())
    });
}

/// A thread waits for its own read section.
fn synchronizes_in_a_section(search: &Arc<Search>) {
    perform::<Tool, _>(search, 1, |p| {
        let rcu = p.rcu(LockClass::VarRcu.one());
        let body = move || {
            let _section = rcu.read_lock();
            rcu.synchronize();
        };
        (vec![Box::new(body) as Body], || ())
    });
}
