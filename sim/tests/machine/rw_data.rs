//! Goal: the data of a read-write lock is what the last writer left, readers see it whole, and what
//! a thread saw is a part of the state. Method: programs of a few lines, explored completely by
//! states, by the naive explorer and by dpor.

use kvmmu_model::lock::{Arch, LockInfo, Section};
use kvmmu_model::{
    Lock, LockClass, LockId, LockKind, Ordering::SeqCst, Platform, RwLock, Until, Word,
};
use kvmmu_sim::dpor::Dpor;
use kvmmu_sim::outcome::Verdict;
use kvmmu_sim::rule::Rule;
use kvmmu_sim::stateful::Stateful;
use kvmmu_sim::{Goal, Sim};

use super::ad::{Ad, AdInstance, Body, check, explore, found, instance, kind, program, var};

/// An `rwlock_t` of nobody.
const RWLOCK: LockInfo = LockInfo {
    name: "rw",
    short: "rw",
    kind: LockKind::Rwlock,
    arch: Arch::Any,
    section: Section::File("tests"),
    leaf: false,
    protects: &[],
    comment: "",
};

/// The two ways to make one: it sleeps, or it spins.
fn locks() -> [LockId; 2] {
    [LockClass::VarRwLock.one(), LockClass::Own(&RWLOCK).one()]
}

/// What naive and states agree on; dpor must, too.
#[track_caller]
fn verdict(program: &Ad<impl Fn(&Sim) -> AdInstance + Sync>) -> Verdict {
    let verdict = check(program);
    let dpor = explore(program, &mut Dpor::default(), Goal::ANY).verdict;
    assert_eq!(kind(&dpor), kind(&verdict));
    verdict
}

#[test]
fn readers_see_what_a_writer_left_and_nothing_of_what_it_is_at() {
    for id in locks() {
        let build = move |sim: &Sim| {
            let (sim, lock) = (*sim, sim.rw_lock(id, [0u16; 2]));
            let word = sim.word(var(0), 0);
            let write = move || {
                let mut guard = lock.write();
                guard[0] = 1;
                // The other threads run here, with the data half written.
                word.load(SeqCst);
                guard[1] = 1;
            };
            let done = move || {
                write();
                word.store(1, SeqCst);
            };
            let read = move || {
                let guard = lock.read();
                let before = *guard;
                word.load(SeqCst);
                if before[0] != before[1] || before != *guard {
                    sim.violate(Rule::Own("torn"), || format!("{before:?}, {:?}", *guard));
                }
            };
            let after = move || {
                word.wait_until(Until::Is(1));
                if *lock.read() != [1, 1] {
                    sim.violate(Rule::Own("stale"), String::new);
                }
            };
            let bodies: Vec<Body> = vec![Box::new(done), Box::new(read), Box::new(after)];
            instance(bodies, move || {
                if *lock.read() != [1, 1] {
                    sim.violate(Rule::Own("lost"), String::new);
                }
            })
        };
        assert_eq!(verdict(&program(3, build)), Verdict::Holds);
    }
}

/// Two threads add 1 to the data: by one critical section, or reading and writing by one each.
fn two_add(id: LockId, at_once: bool) -> Ad<impl Fn(&Sim) -> AdInstance + Sync> {
    program(2, move |sim: &Sim| {
        let (sim, lock) = (*sim, sim.rw_lock(id, 0u64));
        let word = sim.word(var(0), 0);
        let add = move || {
            if at_once {
                let mut guard = lock.write();
                let old = *guard;
                word.load(SeqCst);
                *guard = old + 1;
            } else {
                let old = *lock.read();
                *lock.write() = old + 1;
            }
        };
        instance(vec![Box::new(add), Box::new(add)], move || {
            let sum = *lock.read();
            if sum != 2 {
                sim.violate(Rule::Own("lost-update"), || sum.to_string());
            }
        })
    })
}

#[test]
fn no_update_of_a_writer_is_lost() {
    for id in locks() {
        assert_eq!(verdict(&two_add(id, true)), Verdict::Holds);
        let found = found(verdict(&two_add(id, false)));
        assert_eq!((found.rule.name(), found.detail.as_str()), ("lost-update", "1"));
    }
}

/// Goal: runs that differ only in the data, or only in what a reader saw of it, are different
/// states. Method: what only one of them does is found.
#[test]
fn data_and_what_was_seen_of_it_are_parts_of_the_state() {
    for id in locks() {
        for wanted in [1u64, 2] {
            // The last writer wins: all else is the same at the end.
            let last = move |sim: &Sim| {
                let (sim, lock) = (*sim, sim.rw_lock(id, 0u64));
                let write = |value| -> Body { Box::new(move || *lock.write() = value) };
                instance(vec![write(1), write(2)], move || {
                    if *lock.read() == wanted {
                        sim.violate(Rule::Own("wanted"), String::new);
                    }
                })
            };
            assert_eq!(found(verdict(&program(2, last))).rule.name(), "wanted");
        }
        for wanted in [0u64, 1] {
            // What the reader saw decides after everything is over.
            let seen = move |sim: &Sim| {
                let (sim, lock) = (*sim, sim.rw_lock(id, 0u64));
                let word = sim.word(var(0), 0);
                let write = move || *lock.write() = 1;
                let read = move || {
                    let value = *lock.read();
                    word.load(SeqCst);
                    if value == wanted {
                        sim.violate(Rule::Own("wanted"), String::new);
                    }
                };
                instance(vec![Box::new(write), Box::new(read)], || {})
            };
            assert_eq!(found(verdict(&program(2, seen))).rule.name(), "wanted");
        }
    }
}

/// How many states two threads reach of which each takes the lock once.
fn states(build: impl Fn(&Sim) -> AdInstance + Sync) -> u64 {
    let outcome = explore(&program(2, build), &mut Stateful::default(), Goal::ANY);
    assert_eq!(outcome.verdict, Verdict::Holds);
    outcome.stats.states
}

#[test]
fn two_readers_commute_and_two_writers_do_not() {
    for id in locks() {
        let readers = states(move |sim: &Sim| {
            let lock = sim.rw_lock(id, 7u64);
            let read = move || drop(lock.read());
            instance(vec![Box::new(read), Box::new(read)], || {})
        });
        let word = states(|sim: &Sim| {
            let word = sim.word(var(0), 7);
            let load = move || {
                word.load(SeqCst);
            };
            instance(vec![Box::new(load), Box::new(load)], || {})
        });
        assert_eq!(readers, word, "readers are to one another as loads of a word");
        let writers = states(move |sim: &Sim| {
            let lock = sim.rw_lock(id, 7u64);
            let write = |value| -> Body { Box::new(move || *lock.write() = value) };
            instance(vec![write(1), write(2)], || {})
        });
        assert!(writers > readers, "{writers} states of writers, {readers} of readers");
        // Of two who are inside at once it does not matter who came first.
        let inside = states(move |sim: &Sim| {
            let lock = sim.rw_lock(id, 7u64);
            let word = sim.word(var(0), 0);
            let read = move || {
                let _guard = lock.read();
                word.load(SeqCst);
            };
            instance(vec![Box::new(read), Box::new(read)], || {})
        });
        assert_eq!(inside, 9, "a grid: each has taken no step, one, or both");
    }
}

#[test]
fn nobody_sleeps_inside_an_rwlock_t() {
    for write in [false, true] {
        let build = move |sim: &Sim| {
            let lock = sim.rw_lock(LockClass::Own(&RWLOCK).one(), 0u64);
            let mutex = sim.lock(LockClass::VarLock.one(), ());
            let body = move || {
                let held = (write.then(|| lock.write()), (!write).then(|| lock.read()));
                drop(mutex.lock());
                drop(held);
            };
            instance(vec![Box::new(body)], || {})
        };
        let found = found(verdict(&program(1, build)));
        let how = if write { "writing" } else { "reading" };
        let detail = format!("lock may sleep, and rw (for {how}) is held");
        assert_eq!((found.rule.name(), found.detail), ("lock-sleep", detail));
    }
    // The other way round it spins.
    let build = |sim: &Sim| {
        let lock = sim.rw_lock(LockClass::Own(&RWLOCK).one(), 0u64);
        let mutex = sim.lock(LockClass::VarLock.one(), ());
        let body = move || {
            let _mutex = mutex.lock();
            *lock.write() += 1;
            let _read = lock.read();
        };
        instance(vec![Box::new(body)], || {})
    };
    assert_eq!(verdict(&program(1, build)), Verdict::Holds);
}
