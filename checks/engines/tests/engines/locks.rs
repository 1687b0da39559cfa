//! Goal: loom and shuttle find what is wrong with the use of locks, in runs that do not deadlock,
//! too; and their read-write locks, SRCU and RCU keep what they promise. Method: small programs on
//! the tool's machine, each with lock checks and without, where the tool alone is left to complain.
//! The crate that includes this has a type `Tool`.

use std::sync::Arc;

use kvmmu_engines::machine::{Body, perform};
use kvmmu_engines::search::{EngineOutcome, Search};
use kvmmu_model::lock::{Arch, LockInfo, Section};
use kvmmu_model::{
    CpuId, Lock, LockClass, LockKind, Object, Ordering::SeqCst, Platform, RwLock, Srcu, Tag, Until,
    Word,
};
use kvmmu_scenarios::Scenario;
use kvmmu_scenarios::builtin::FILES;
use kvmmu_scenarios::loader;

use crate::Tool;

/// A scenario that expects nothing, and whose threads nobody runs.
pub(crate) fn nothing(lock_checks: bool) -> Scenario {
    let (name, text) = FILES.iter().find(|(name, _)| name.contains("canary")).expect("a canary");
    let mut scenario = loader::load(name, text, 1).expect("a built-in scenario");
    scenario.expects.clear();
    scenario.sometimes.clear();
    scenario.lock_checks = lock_checks;
    scenario
}

/// A program.
pub(crate) type Program = fn(&Arc<Search>);

/// What an engine is expected to say of a program with lock checks, and without.
pub(super) struct Case {
    /// What it is called.
    name: &'static str,
    /// It.
    program: Program,
    /// The property that is violated with lock checks and a part of the detail; none: it holds.
    on: Option<(&'static str, &'static str)>,
    /// The property that is violated without them.
    off: Option<&'static str>,
}

pub(super) const fn case(
    name: &'static str,
    program: Program,
    on: Option<(&'static str, &'static str)>,
    off: Option<&'static str>,
) -> Case {
    Case { name, program, on, off }
}

const CASES: &[Case] = &[
    case("one order", one_order, None, None),
    case(
        "inversion",
        inversion,
        Some(("lock-cycle", "kvm_lock is taken inside kvm->lock")),
        Some("deadlock"),
    ),
    case(
        "inversion in turns",
        inversion_in_turns,
        Some(("lock-cycle", "kvm->lock is taken inside kvm_lock")),
        None,
    ),
    case(
        "against the document",
        against_the_document,
        Some(("lock-order", "the document has kvm->lock outside vcpu->mutex")),
        None,
    ),
    case(
        "grace period against a reader",
        grace_period_against_a_reader,
        Some(("lock-cycle", "a grace period of kvm->srcu is waited for inside kvm->slots_lock")),
        Some("deadlock"),
    ),
    case("freed after the grace period", freed_after_the_grace_period, None, None),
    case(
        "freed at once",
        freed_at_once,
        Some(("use-after-free", "memslots")),
        Some("use-after-free"),
    ),
    case(
        "read outside of SRCU",
        read_outside_srcu,
        Some(("lock-protection", "kvm->memslots is read")),
        None,
    ),
    case(
        "written without the lock",
        written_without_the_lock,
        Some(("lock-protection", "mmu_notifier_seq is written without kvm->mmu_lock")),
        None,
    ),
    case("a mutex in a spinlock", sleeps, Some(("lock-sleep", "spinlock is held")), None),
    case(
        "sleeps with interrupts off",
        sleeps_with_interrupts_off,
        Some(("lock-sleep", "interrupts are off")),
        None,
    ),
    case(
        "a reader behind a writer",
        reader_behind_a_writer,
        Some(("lock-usage", "waits for itself")),
        Some("deadlock"),
    ),
    case("writers exclude", writers_exclude, None, None),
    case("data of a read-write lock", guarded_data, None, None),
    case(
        "a mutex inside an rwlock_t",
        sleeps_reading,
        Some(("lock-sleep", "rw (for reading) is held")),
        None,
    ),
    case("held at the end", held_at_the_end, Some(("lock-usage", "still has lock")), None),
    case(
        "two locks of files, of one type",
        own_locks,
        Some(("lock-cycle", "other is taken inside mine, mine is taken inside other")),
        None,
    ),
    case("recursion", recursion, Some(("lock-usage", "waits for itself")), Some("deadlock")),
];

/// Runs every program with lock checks and without, and returns a line for each surprise.
pub(crate) fn surprises(check: impl Fn(&Scenario, Program) -> EngineOutcome) -> Vec<String> {
    let mut lines = Vec::new();
    for Case { name, program, on, off } in CASES.iter().chain(super::rcu::CASES) {
        for (lock_checks, expected) in [(true, *on), (false, off.map(|property| (property, "")))] {
            let outcome = check(&nothing(lock_checks), *program);
            println!("{name}, lock checks {lock_checks}: {outcome}");
            let agrees = match (&outcome, expected) {
                (EngineOutcome::Holds { .. }, None) => true,
                (EngineOutcome::Violated { property, detail, .. }, Some((name, part))) => {
                    property.name() == name && detail.contains(part)
                }
                _ => false,
            };
            if !agrees {
                lines.push(format!("{name}, lock checks {lock_checks}: {outcome}"));
            }
        }
    }
    lines
}

/// Two locks, taken in both orders.
fn inversion(search: &Arc<Search>) {
    inverted(search, |thread| thread == 1);
}

/// Two locks, taken in one order.
fn one_order(search: &Arc<Search>) {
    inverted(search, |_| false);
}

fn inverted(search: &Arc<Search>, inverted: fn(usize) -> bool) {
    perform::<Tool, _>(search, 2, |p| {
        // Of these the document says nothing.
        let outer = p.lock(LockClass::KvmLock.one(), ());
        let inner = p.lock(LockClass::KvmMutex.one(), ());
        let locks = Arc::new([outer, inner]);
        let body = |thread| -> Body {
            let locks = Arc::clone(&locks);
            Box::new(move || {
                let first = usize::from(inverted(thread));
                let _outer = locks[first].lock();
                let _inner = locks[1 - first].lock();
            })
        };
        ((0..2).map(body).collect(), || ())
    });
}

/// The same, but never at the same time: a cycle that cannot deadlock.
fn inversion_in_turns(search: &Arc<Search>) {
    perform::<Tool, _>(search, 2, |p| {
        let locks =
            Arc::new([p.lock(LockClass::KvmLock.one(), ()), p.lock(LockClass::KvmMutex.one(), ())]);
        let turn = Arc::new(p.word(Tag::one(Object::Var), 0));
        let body = |thread: usize| -> Body {
            let (locks, turn) = (Arc::clone(&locks), Arc::clone(&turn));
            Box::new(move || {
                turn.wait_until(Until::Is(thread as u64));
                {
                    let _outer = locks[thread].lock();
                    let _inner = locks[1 - thread].lock();
                }
                // Not a store: loom orders one with the reads of a wait as it likes.
                turn.swap(thread as u64 + 1, SeqCst);
            })
        };
        ((0..2).map(body).collect(), || ())
    });
}

/// A lock as a scenario file declares one.
const fn declared(name: &'static str, kind: LockKind) -> LockInfo {
    LockInfo {
        name,
        short: name,
        kind,
        arch: Arch::Any,
        section: Section::File("engines"),
        leaf: false,
        protects: &[],
        comment: "",
    }
}

/// Two of them, taken in both orders by one thread.
fn own_locks(search: &Arc<Search>) {
    const MINE: LockInfo = declared("mine", LockKind::Mutex);
    const OTHER: LockInfo = declared("other", LockKind::Mutex);
    perform::<Tool, _>(search, 1, |p| {
        let mine = p.lock(LockClass::Own(&MINE).one(), ());
        let other = p.lock(LockClass::Own(&OTHER).one(), ());
        let body = move || {
            {
                let _outer = other.lock();
                let _inner = mine.lock();
            }
            let _outer = mine.lock();
            let _inner = other.lock();
        };
        (vec![Box::new(body) as Body], || ())
    });
}

/// A scenario file with two mutexes of its own, taken in both orders.
pub(crate) fn file_with_locks(lock_checks: bool) -> Scenario {
    let lock = |name: &str| format!("[[lock]]\nname = \"{name}\"\ntype = \"mutex\"\n");
    let thread = |name: &str, [a, b]: [&str; 2]| {
        format!(
            "[[thread]]\nname = \"{name}\"\n\
             run = [\"lock {a}\", \"lock {b}\", \"unlock {b}\", \"unlock {a}\"]\n"
        )
    };
    let text = format!(
        "title = \"t\"\nsource = \"s\"\nabout = \"a\"\npaging = \"direct\"\nspte = \"ept\"\n\
         [[slot]]\ngfn = 0\npages = 1\n{}{}{}{}[check]\nlock-checks = {lock_checks}\n",
        lock("mine"),
        lock("other"),
        thread("user", ["mine", "other"]),
        thread("user1", ["other", "mine"]),
    );
    loader::load("own.toml", &text, 1).unwrap_or_else(|e| panic!("{e}"))
}

/// kvm->lock outside of vcpu->mutex, and inside: the document has the first.
fn against_the_document(search: &Arc<Search>) {
    perform::<Tool, _>(search, 1, |p| {
        let kvm_lock = p.lock(LockClass::KvmMutex.one(), ());
        let vcpu_mutex = p.lock(LockClass::VcpuMutex.one(), ());
        let body = move || {
            let _outer = vcpu_mutex.lock();
            let _inner = kvm_lock.lock();
        };
        (vec![Box::new(body) as Body], || ())
    });
}

/// A grace period inside a lock that a read section asks for.
fn grace_period_against_a_reader(search: &Arc<Search>) {
    perform::<Tool, _>(search, 2, |p| {
        let lock = Arc::new(p.lock(LockClass::SlotsLock.one(), ()));
        let srcu = Arc::new(p.srcu(LockClass::KvmSrcu.one()));
        let (lock2, srcu2) = (Arc::clone(&lock), Arc::clone(&srcu));
        let updater = move || {
            let _lock = lock.lock();
            srcu.synchronize();
        };
        let reader = move || {
            let _section = srcu2.read_lock();
            let _lock = lock2.lock();
        };
        (vec![Box::new(updater) as Body, Box::new(reader)], || ())
    });
}

/// An object is replaced, and freed after a grace period; readers find it whole.
fn freed_after_the_grace_period(search: &Arc<Search>) {
    published(search, true);
}

/// The same without waiting.
fn freed_at_once(search: &Arc<Search>) {
    published(search, false);
}

fn published(search: &Arc<Search>, waits: bool) {
    perform::<Tool, _>(search, 3, |p| {
        let lock = p.lock(LockClass::SlotsLock.one(), ());
        let srcu = Arc::new(p.srcu(LockClass::KvmSrcu.one()));
        let current = Arc::new(p.word(Tag::one(Object::Memslots), 0));
        let arrays = [0, 1].map(|i| p.word(Tag::nth(Object::MemslotArray, i), 7));
        let arrays = Arc::new(arrays);
        let reader = || -> Body {
            let (srcu, current) = (Arc::clone(&srcu), Arc::clone(&current));
            let arrays = Arc::clone(&arrays);
            Box::new(move || {
                let _outer = srcu.read_lock();
                let _nested = srcu.read_lock();
                let array = current.load(SeqCst);
                arrays[array as usize].load(SeqCst);
            })
        };
        let mut bodies = vec![reader(), reader()];
        let (p, srcu) = (p.clone(), Arc::clone(&srcu));
        bodies.push(Box::new(move || {
            let _lock = lock.lock();
            current.store(1, SeqCst);
            if waits {
                srcu.synchronize();
            }
            p.freed(&arrays[..1]);
        }));
        (bodies, || ())
    });
}

/// `kvm->memslots` is read by who may not.
fn read_outside_srcu(search: &Arc<Search>) {
    perform::<Tool, _>(search, 1, |p| {
        let srcu = p.srcu(LockClass::KvmSrcu.one().contended(false));
        let current = p.word(Tag::one(Object::Memslots), 0);
        let body = move || {
            drop(srcu.read_lock());
            current.load(SeqCst);
        };
        (vec![Box::new(body) as Body], || ())
    });
}

/// `mmu_notifier_seq` is written by the owner of `mmu_lock`, by nobody's leave, and waited for.
fn written_without_the_lock(search: &Arc<Search>) {
    perform::<Tool, _>(search, 1, |p| {
        let lock = p.lock(LockClass::MmuLock.one(), ());
        let seq = p.word(Tag::one(Object::NotifierSeq), 0);
        let p = p.clone();
        let body = move || {
            let guard = lock.lock();
            seq.fetch_add(1, SeqCst);
            drop(guard);
            seq.wait_until(Until::Is(1));
            p.lockless(|| seq.store(2, SeqCst));
            seq.store(3, SeqCst);
        };
        (vec![Box::new(body) as Body], || ())
    });
}

/// A mutex inside a spinlock.
fn sleeps(search: &Arc<Search>) {
    perform::<Tool, _>(search, 1, |p| {
        let spinlock = p.lock(LockClass::VarSpinlock.one(), ());
        let mutex = p.lock(LockClass::VarLock.one().contended(false), ());
        let body = move || {
            let _spinlock = spinlock.lock();
            let _mutex = mutex.lock();
        };
        (vec![Box::new(body) as Body], || ())
    });
}

/// `might_sleep()` with interrupts off.
fn sleeps_with_interrupts_off(search: &Arc<Search>) {
    perform::<Tool, _>(search, 1, |p| {
        let p = p.clone();
        let body = move || {
            p.might_sleep();
            p.local_irq_disable(CpuId(0));
            p.might_sleep();
            p.local_irq_enable(CpuId(0));
        };
        (vec![Box::new(body) as Body], || ())
    });
}

/// Two readers, and a writer that comes between: a reader waits behind it.
fn reader_behind_a_writer(search: &Arc<Search>) {
    perform::<Tool, _>(search, 2, |p| {
        let lock = Arc::new(p.rw_lock(LockClass::VarRwLock.one(), ()));
        let other = Arc::clone(&lock);
        let reader = move || {
            let _first = lock.read();
            let _second = lock.read();
        };
        let writer = move || drop(other.write());
        (vec![Box::new(reader) as Body, Box::new(writer)], || ())
    });
}

/// Two writers and a reader of a word that the lock protects.
fn writers_exclude(search: &Arc<Search>) {
    perform::<Tool, _>(search, 3, |p| {
        let lock = Arc::new(p.rw_lock(LockClass::CpuHotplugLock.one(), ()));
        let word = Arc::new(p.word(Tag::one(Object::CpuOnlineMask), 0));
        let writer = || -> Body {
            let (lock, word) = (Arc::clone(&lock), Arc::clone(&word));
            Box::new(move || {
                let _lock = lock.write();
                let old = word.load(SeqCst);
                word.store(old + 1, SeqCst);
                word.store(old + 2, SeqCst);
            })
        };
        let mut bodies = vec![writer(), writer()];
        let (reader, seen) = (Arc::clone(&lock), Arc::clone(&word));
        bodies.push(Box::new(move || {
            let _lock = reader.read();
            assert_eq!(seen.load(SeqCst) % 2, 0, "a reader beside a writer");
        }));
        (bodies, move || assert_eq!(word.load(SeqCst), 4, "writers beside one another"))
    });
}

const RWLOCK: LockInfo = declared("rw", LockKind::Rwlock);

/// Two writers and a reader of the data of a lock.
fn guarded_data(search: &Arc<Search>) {
    perform::<Tool, _>(search, 3, |p| {
        let lock = Arc::new(p.rw_lock(LockClass::Own(&RWLOCK).one(), [0u64; 2]));
        let word = Arc::new(p.word(Tag::one(Object::Var), 0));
        let writer = || -> Body {
            let (lock, word) = (Arc::clone(&lock), Arc::clone(&word));
            Box::new(move || {
                let mut data = lock.write();
                let old = data[0];
                data[0] = old + 1;
                word.load(SeqCst);
                data[1] = old + 1;
            })
        };
        let mut bodies = vec![writer(), writer()];
        let reader = Arc::clone(&lock);
        bodies.push(Box::new(move || {
            let data = reader.read();
            assert_eq!(data[0], data[1], "a reader beside a writer");
        }));
        (bodies, move || assert_eq!(*lock.read(), [2, 2], "an update is lost"))
    });
}

/// A mutex inside an `rwlock_t` that is held for reading.
fn sleeps_reading(search: &Arc<Search>) {
    perform::<Tool, _>(search, 1, |p| {
        let lock = p.rw_lock(LockClass::Own(&RWLOCK).one(), ());
        let mutex = p.lock(LockClass::VarLock.one().contended(false), ());
        let body = move || {
            let _lock = lock.read();
            let _mutex = mutex.lock();
        };
        (vec![Box::new(body) as Body], || ())
    });
}

/// A lock that is still held at the end.
fn held_at_the_end(search: &Arc<Search>) {
    perform::<Tool, _>(search, 1, |p| {
        let lock = p.lock(LockClass::VarLock.one().contended(false), ());
        (vec![Box::new(move || std::mem::forget(lock.lock())) as Body], || ())
    });
}

/// A lock that its owner takes again.
fn recursion(search: &Arc<Search>) {
    perform::<Tool, _>(search, 1, |p| {
        let lock = p.lock(LockClass::VarLock.one(), ());
        let body = move || {
            let _outer = lock.lock();
            let _inner = lock.lock();
        };
        (vec![Box::new(body) as Body], || ())
    });
}
