//! Goal: read-write locks, SRCU and the checks of lock usage do what their documentation says.
//! Method: programs of a few lines, explored completely by states and by the naive explorer.

use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::rc::Rc;

use kvmmu_model::{
    CpuId, Hold, Lock, LockClass, Mode, Object, Ordering::SeqCst, Platform, RwLock, Srcu, Tag, Word,
};
use kvmmu_scenarios::lockdep::Nesting;
use kvmmu_sim::Actor;
use kvmmu_sim::dpor::Dpor;
use kvmmu_sim::outcome::{Outcome, Stats, Verdict};
use kvmmu_sim::replay::replay;
use kvmmu_sim::rule::Rule;
use kvmmu_sim::schedule::{Move, Schedule};
use kvmmu_sim::stateful::Stateful;
use kvmmu_sim::{Engine, Explorer, Goal, Limits, Sim, SimGuard, SimLock};

use super::ad::{Ad, AdInstance, Body, check, explore, found, instance, program, var};

fn threads<const N: usize>(bodies: [Body; N]) -> AdInstance {
    instance(bodies.into_iter().collect(), || {})
}

/// What a program without lock checks amounts to.
fn unchecked<F: Fn(&Sim) -> AdInstance + Sync>(program: Ad<F>) -> Verdict {
    check(&Ad { lock_checks: false, ..program })
}

/// The property that a program violates, and how.
fn breach<F: Fn(&Sim) -> AdInstance + Sync>(threads: usize, build: F) -> (&'static str, String) {
    let found = found(check(&program(threads, build)));
    (found.rule.name(), found.detail)
}

#[test]
fn writers_exclude_everybody_and_readers_share() {
    for second in [Mode::Read, Mode::Exclusive] {
        let build = move |sim: &Sim| {
            let (sim, lock) = (*sim, sim.rw_lock(LockClass::VarRwLock.one(), ()));
            // 0: free; a reader adds 1, a writer 16.
            let (state, word) = (sim.word(var(0), 0), sim.word(var(1), 0));
            let wrong = move |others: u64, write: bool| {
                if others > 15 || write && others != 0 {
                    sim.violate(Rule::Own("overlap"), || format!("{others} beside"));
                }
            };
            let read = move || {
                let _guard = lock.read();
                wrong(state.fetch_add(1, SeqCst), false);
                word.load(SeqCst);
                state.fetch_add(1_u64.wrapping_neg(), SeqCst);
            };
            let write = move || {
                let _guard = lock.write();
                wrong(state.fetch_add(16, SeqCst), true);
                word.load(SeqCst);
                state.fetch_add(16_u64.wrapping_neg(), SeqCst);
            };
            let other: Body = if second == Mode::Read { Box::new(read) } else { Box::new(write) };
            threads([Box::new(write), other])
        };
        assert_eq!(check(&program(2, build)), Verdict::Holds);
    }
}

#[test]
fn what_is_written_through_a_reference_of_an_earlier_step_is_taken_back() {
    let build = |sim: &Sim| {
        // More than one block of the arena: its end is not beside the words of the lock.
        let (sim, lock) = (*sim, sim.lock(LockClass::VarLock.one(), [0_u16; 512]));
        let word = sim.word(var(0), 0);
        let owner = move || {
            let mut guard = lock.lock();
            let data = &mut *guard;
            word.load(SeqCst);
            if data[511] != 0 {
                sim.violate(Rule::Own("taken back"), || format!("{} is left", data[511]));
            }
            data[511] = 1;
            word.load(SeqCst);
        };
        let other = move || {
            word.fetch_add(1, SeqCst);
            word.fetch_add(1, SeqCst);
        };
        threads([Box::new(owner), Box::new(other)])
    };
    assert_eq!(check(&program(2, build)), Verdict::Holds);
}

#[test]
fn two_readers_can_be_inside_at_once() {
    let build = |sim: &Sim| {
        let (sim, lock) = (*sim, sim.rw_lock(LockClass::VarRwLock.one(), ()));
        let state = sim.word(var(0), 0);
        let read = move || {
            let _guard = lock.read();
            if state.fetch_add(1, SeqCst) == 1 {
                sim.violate(Rule::Own("together"), String::new);
            }
            state.fetch_add(1_u64.wrapping_neg(), SeqCst);
        };
        threads([Box::new(read), Box::new(read)])
    };
    assert_eq!(breach(2, build).0, "together");
}

/// A thread reads and waits for another reader, who cannot get in past a writer that waits.
fn readers_and_a_writer(writer: bool) -> Ad<impl Fn(&Sim) -> AdInstance + Sync> {
    program(2 + usize::from(writer), move |sim: &Sim| {
        let lock = sim.rw_lock(LockClass::VarRwLock.one(), ());
        let read = sim.word(var(0), 0);
        let first = move || {
            let _guard = lock.read();
            read.wait_until(kvmmu_model::Until::Is(1));
        };
        let second = move || {
            let _guard = lock.read();
            read.store(1, SeqCst);
        };
        let mut bodies: Vec<Body> = vec![Box::new(first), Box::new(second)];
        if writer {
            bodies.push(Box::new(move || drop(lock.write())));
        }
        instance(bodies, || {})
    })
}

#[test]
fn readers_wait_behind_a_writer_that_waits() {
    assert_eq!(check(&readers_and_a_writer(false)), Verdict::Holds);
    let found = found(check(&readers_and_a_writer(true)));
    assert_eq!(found.rule.name(), "deadlock");
}

/// A pointer to one of two values is moved from the first to the second, and the first is freed.
fn publish(wait: bool) -> Ad<impl Fn(&Sim) -> AdInstance + Sync> {
    program(3, move |sim: &Sim| {
        let (sim, srcu) = (*sim, sim.srcu(LockClass::VarSrcu.one()));
        let pointer = sim.word(var(0), 0);
        let values = [1, 2].map(|i| sim.word(Tag::nth(Object::Page, i), 0));
        let read = move || {
            let _section = srcu.read_lock();
            let at = pointer.load(SeqCst);
            values[at as usize].load(SeqCst);
        };
        let update = move || {
            pointer.store(1, SeqCst);
            if wait {
                srcu.synchronize();
            }
            sim.freed(&[values[0]]);
        };
        threads([Box::new(read), Box::new(move || (0..2).for_each(|_| read())), Box::new(update)])
    })
}

#[test]
fn a_grace_period_waits_for_the_sections_that_began_before_it() {
    assert_eq!(check(&publish(true)), Verdict::Holds);
    assert_eq!(found(check(&publish(false))).rule.name(), "use-after-free");
}

#[test]
fn a_grace_period_does_not_wait_for_later_sections() {
    // The reader begins a section after the grace period did, and stays until that is over: it
    // would wait for ever if the grace period waited for it.
    let build = |sim: &Sim| {
        let srcu = sim.srcu(LockClass::VarSrcu.one());
        let (reads, over) = (sim.word(var(0), 0), sim.word(var(1), 0));
        let first = move || {
            let _section = srcu.read_lock();
            reads.store(1, SeqCst);
            reads.wait_until(kvmmu_model::Until::Is(2));
        };
        let update = move || {
            reads.wait_until(kvmmu_model::Until::Not(0));
            srcu.synchronize();
            over.store(1, SeqCst);
        };
        let later = move || {
            reads.wait_until(kvmmu_model::Until::Not(0));
            let section = srcu.read_lock();
            reads.store(2, SeqCst);
            drop(section);
        };
        threads([Box::new(first), Box::new(update), Box::new(later)])
    };
    assert_eq!(check(&program(3, build)), Verdict::Holds);
}

#[test]
fn read_sections_nest() {
    let build = |sim: &Sim| {
        let (sim, srcu) = (*sim, sim.srcu(LockClass::VarSrcu.one()));
        let (state, word) = (sim.word(Tag::nth(Object::Page, 1), 0), sim.word(var(0), 0));
        let read = move || {
            let _outer = srcu.read_lock();
            let alive = word.load(SeqCst) == 0;
            drop(srcu.read_lock());
            if alive {
                state.load(SeqCst);
            }
        };
        let update = move || {
            word.store(1, SeqCst);
            srcu.synchronize();
            sim.freed(&[state]);
        };
        threads([Box::new(read), Box::new(update)])
    };
    assert_eq!(check(&program(2, build)), Verdict::Holds);
}

/// Two mutexes of different classes, in two orders: of the document, or of nobody's.
fn inversion(outer: LockClass, inner: LockClass) -> Ad<impl Fn(&Sim) -> AdInstance + Sync> {
    program(2, move |sim: &Sim| {
        let (outer, inner) = (sim.lock(outer.one(), ()), sim.lock(inner.one(), ()));
        let right = move || {
            let _outer = outer.lock();
            let _inner = inner.lock();
        };
        let wrong = move || {
            let _inner = inner.lock();
            let _outer = outer.lock();
        };
        threads([Box::new(right), Box::new(wrong)])
    })
}

#[test]
fn a_documented_order_is_enforced_in_runs_that_do_not_deadlock() {
    let found = found(check(&inversion(LockClass::KvmMutex, LockClass::IrqLock)));
    assert_eq!(found.rule.name(), "lock-order");
    assert_eq!(
        found.detail,
        "kvm->lock inside kvm->irq_lock; the document has kvm->lock outside kvm->irq_lock"
    );
}

#[test]
fn an_order_that_follows_from_two_documented_ones_is_enforced() {
    let found = found(check(&inversion(LockClass::KvmMutex, LockClass::HvLock)));
    assert_eq!(found.rule.name(), "lock-order");
    assert!(found.detail.contains("kvm->lock outside vcpu->mutex, and that outside"));
}

#[test]
fn a_cycle_is_found_without_the_deadlock() {
    let program = inversion(LockClass::KvmLock, LockClass::SlotsLock);
    // One thread after the other: this never deadlocks.
    let mut engine = Engine::new(&program, Goal::ANY);
    for thread in [0, 0, 1] {
        assert!(!engine.is_violated());
        engine.step(Move { actor: Actor::Thread(thread), choice: 0 });
    }
    assert_eq!(engine.violation().expect("a cycle").rule.name(), "lock-cycle");
    let found = found(check(&program));
    assert_eq!(found.rule.name(), "lock-cycle");
    assert_eq!(
        found.detail,
        "kvm_lock is taken inside kvm->slots_lock, kvm->slots_lock is taken inside kvm_lock"
    );
    assert_eq!(self::found(unchecked(program)).rule.name(), "deadlock");
}

#[test]
fn a_search_for_a_cycle_finds_it_where_an_order_is_broken_too() {
    let program = inversion(LockClass::KvmMutex, LockClass::VcpuMutex);
    for explorer in [&mut Stateful::default() as &mut dyn Explorer, &mut Dpor::default()] {
        let outcome =
            explore(&program, explorer, Goal::of(kvmmu_scenarios::Property::LockCycle.into()));
        assert_eq!(found(outcome.verdict).rule.name(), "lock-cycle");
    }
}

#[test]
fn grace_periods_and_read_sections_are_part_of_cycles() {
    let build = |sim: &Sim| {
        let slots_lock = sim.lock(LockClass::SlotsLock.one(), ());
        let srcu = sim.srcu(LockClass::KvmSrcu.one());
        let update = move || {
            let _lock = slots_lock.lock();
            srcu.synchronize();
        };
        let read = move || {
            let _section = srcu.read_lock();
            drop(slots_lock.lock());
        };
        threads([Box::new(update), Box::new(read)])
    };
    let (property, detail) = breach(2, build);
    assert_eq!(property, "lock-cycle");
    assert!(detail.contains("a grace period of kvm->srcu is waited for inside kvm->slots_lock"));
    assert_eq!(found(unchecked(program(2, build))).rule.name(), "deadlock");
}

#[test]
fn entering_a_read_section_is_no_part_of_a_cycle() {
    let build = |sim: &Sim| {
        let lock = sim.lock(LockClass::SlotsLock.one(), ());
        let srcu = sim.srcu(LockClass::KvmSrcu.one());
        let first = move || {
            let _lock = lock.lock();
            drop(srcu.read_lock());
        };
        let second = move || {
            let _section = srcu.read_lock();
            drop(lock.lock());
        };
        threads([Box::new(first), Box::new(second)])
    };
    assert_eq!(check(&program(2, build)), Verdict::Holds);
}

#[test]
fn readers_of_a_semaphore_are_part_of_cycles() {
    let build = |sim: &Sim| {
        let lock = sim.lock(LockClass::SlotsLock.one(), ());
        let rw_lock = sim.rw_lock(LockClass::MmapLock.one(), ());
        let first = move || {
            let _lock = lock.lock();
            drop(rw_lock.read());
        };
        let second = move || {
            let _read = rw_lock.read();
            drop(lock.lock());
        };
        let writer = move || drop(rw_lock.write());
        threads([Box::new(first), Box::new(second), Box::new(writer)])
    };
    assert_eq!(breach(3, build).0, "lock-cycle");
    assert_eq!(found(unchecked(program(3, build))).rule.name(), "deadlock");
}

#[test]
fn nobody_sleeps_under_a_spinlock_or_with_interrupts_off() {
    type Sleep = fn(Sim) -> Body;
    let sleeps: [(Sleep, &str); 4] = [
        (
            |sim| {
                let mutex = sim.lock(LockClass::KvmLock.one(), ());
                Box::new(move || drop(mutex.lock()))
            },
            "kvm_lock may sleep",
        ),
        (
            |sim| {
                let srcu = sim.srcu(LockClass::KvmSrcu.one());
                Box::new(move || srcu.synchronize())
            },
            "a grace period of kvm->srcu may sleep",
        ),
        (
            |sim| {
                let rw_lock = sim.rw_lock(LockClass::MmapLock.one(), ());
                Box::new(move || drop(rw_lock.read()))
            },
            "mm->mmap_lock (for reading) may sleep",
        ),
        (|sim| Box::new(move || sim.might_sleep()), "what follows may sleep"),
    ];
    for (sleep, what) in sleeps {
        for class in [LockClass::KvmCountLock, LockClass::PageTableLock] {
            let (property, detail) = breach(1, move |sim: &Sim| {
                let (spinlock, sleep) = (sim.lock(class.one(), ()), sleep(*sim));
                threads([Box::new(move || {
                    let _guard = spinlock.lock();
                    sleep();
                })])
            });
            assert_eq!(property, "lock-sleep");
            assert_eq!(detail, format!("{what}, and {} is held", class.info().name));
        }
        let (property, detail) = breach(1, move |sim: &Sim| {
            let (sim, sleep) = (*sim, sleep(*sim));
            threads([Box::new(move || {
                sim.local_irq_disable(CpuId(0));
                sleep();
                sim.local_irq_enable(CpuId(0));
            })])
        });
        assert_eq!((property, detail), ("lock-sleep", format!("{what}, and interrupts are off")));
    }
}

#[test]
fn nothing_is_taken_inside_a_leaf() {
    let (property, detail) = breach(1, |sim: &Sim| {
        let leaf = sim.lock(LockClass::TscWriteLock.one(), ());
        let other = sim.lock(LockClass::VarSpinlock.one(), ());
        threads([Box::new(move || {
            let _leaf = leaf.lock();
            drop(other.lock());
        })])
    });
    assert_eq!(property, "lock-leaf");
    assert_eq!(detail, "spinlock inside kvm_arch::tsc_write_lock, a leaf");
}

#[test]
fn what_a_lock_protects_is_written_by_its_owner() {
    let build = |locked: bool| {
        move |sim: &Sim| {
            let lock = sim.lock(LockClass::VarLock.one(), ());
            let word = sim.word(Tag::one(Object::LockedVar), 0);
            threads([Box::new(move || {
                word.load(SeqCst);
                let guard = locked.then(|| lock.lock());
                word.store(1, SeqCst);
                drop(guard);
            })])
        }
    };
    assert_eq!(check(&program(1, build(true))), Verdict::Holds);
    let (property, detail) = breach(1, build(false));
    assert_eq!(property, "lock-protection");
    assert_eq!(detail, "locked_var is written without lock");
    assert_eq!(unchecked(program(1, build(false))), Verdict::Holds);
}

#[test]
fn what_is_published_is_read_inside_a_read_section_or_under_the_updaters_lock() {
    let build = |how: u8| {
        move |sim: &Sim| {
            let lock = sim.lock(LockClass::SlotsLock.one(), ());
            let srcu = sim.srcu(LockClass::KvmSrcu.one());
            let word = sim.word(Tag::one(Object::Memslots), 0);
            threads([Box::new(move || {
                let _guard = (how == 1).then(|| lock.lock());
                let _section = (how == 2).then(|| srcu.read_lock());
                word.load(SeqCst);
            })])
        }
    };
    assert_eq!(check(&program(1, build(1))), Verdict::Holds);
    assert_eq!(check(&program(1, build(2))), Verdict::Holds);
    let (property, detail) = breach(1, build(0));
    assert_eq!(property, "lock-protection");
    assert_eq!(
        detail,
        "kvm->memslots is read outside a read section of kvm->srcu and without kvm->slots_lock"
    );
}

#[test]
fn a_lock_is_not_taken_twice() {
    let (property, detail) = breach(1, |sim: &Sim| {
        let lock = sim.lock(LockClass::KvmMutex.one(), ());
        threads([Box::new(move || {
            let _first = lock.lock();
            drop(lock.lock());
        })])
    });
    assert_eq!(property, "lock-usage");
    assert_eq!(detail, "kvm->lock inside kvm->lock: the thread waits for itself");
    // Nor does anybody wait for his own read section.
    let (property, detail) = breach(1, |sim: &Sim| {
        let srcu = sim.srcu(LockClass::KvmSrcu.one());
        threads([Box::new(move || {
            let _section = srcu.read_lock();
            srcu.synchronize();
        })])
    });
    assert_eq!(property, "lock-usage");
    assert!(detail.starts_with("a grace period of kvm->srcu inside a read section of kvm->srcu"));
}

#[test]
fn a_lock_is_released_by_its_owner() {
    let (property, detail) = breach(2, |sim: &Sim| {
        let lock: &'static SimLock<()> =
            Box::leak(Box::new(sim.lock(LockClass::KvmMutex.one(), ())));
        let word = sim.word(var(0), 0);
        // Not dropped with the program: nobody owns the lock then.
        let passed: Rc<Cell<Option<ManuallyDrop<SimGuard<'static, ()>>>>> = Rc::default();
        let (giver, taker) = (Rc::clone(&passed), passed);
        threads([
            Box::new(move || {
                giver.set(Some(ManuallyDrop::new(lock.lock())));
                word.store(1, SeqCst);
                word.wait_until(kvmmu_model::Until::Is(2));
            }),
            Box::new(move || {
                word.wait_until(kvmmu_model::Until::Is(1));
                drop(taker.take().map(ManuallyDrop::into_inner));
            }),
        ])
    });
    assert_eq!(property, "lock-usage");
    assert_eq!(detail, "kvm->lock is released by who does not hold it");
}

#[test]
fn no_lock_is_held_at_the_end() {
    let (property, detail) = breach(1, |sim: &Sim| {
        let lock: &'static SimLock<()> =
            Box::leak(Box::new(sim.lock(LockClass::KvmMutex.one(), ())));
        threads([Box::new(move || std::mem::forget(lock.lock()))])
    });
    assert_eq!(property, "lock-usage");
    assert_eq!(detail, "the thread ends and still has kvm->lock");
}

#[test]
fn a_lock_that_nobody_contends_for_is_no_step_but_counts() {
    let build = |sim: &Sim| {
        let mutex = sim.lock(LockClass::VcpuMutex.one().contended(false), ());
        let inner = sim.lock(LockClass::HvLock.one(), ());
        threads([Box::new(move || {
            let _mutex = mutex.lock();
            drop(inner.lock());
        })])
    };
    let outcome = explore(&program(1, build), &mut Stateful::default(), Goal::ANY);
    assert_eq!(outcome.stats.transitions, 1);
    let nesting = exclusive(LockClass::VcpuMutex, LockClass::HvLock);
    assert_eq!(outcome.locks.nestings().collect::<Vec<_>>(), [(nesting, 1)]);
}

fn exclusive(outer: LockClass, inner: LockClass) -> Nesting {
    let hold = |class| Hold::new(class, Mode::Exclusive);
    Nesting { outer: hold(outer), inner: hold(inner) }
}

#[test]
fn a_nesting_can_be_looked_for_and_its_schedule_replays() {
    let program = inversion(LockClass::KvmLock, LockClass::SlotsLock);
    for (outer, inner) in
        [(LockClass::KvmLock, LockClass::SlotsLock), (LockClass::SlotsLock, LockClass::KvmLock)]
    {
        let nesting = exclusive(outer, inner);
        let outcome = explore(&program, &mut Stateful::default(), Goal::nesting(nesting));
        let found = found(outcome.verdict);
        assert_eq!(found.rule.name(), "nesting");
        let mut engine = Engine::new(&program, Goal::ANY);
        let run = replay(&mut engine, &Schedule(found.schedule.0)).expect("it fits");
        assert!(
            run.events.last().expect("events").held.iter().any(|t| t.object == Object::Lock(outer))
        );
    }
    let nesting = exclusive(LockClass::KvmLock, LockClass::IrqLock);
    let outcome = explore(&program, &mut Stateful::default(), Goal::nesting(nesting));
    assert_eq!(outcome.verdict, Verdict::Holds);
}

#[test]
fn counts_of_nestings_do_not_depend_on_the_run() {
    let run = || -> Outcome {
        let program = inversion(LockClass::KvmMutex, LockClass::IrqLock);
        Dpor::default().explore(
            &program,
            &Goal::of(Rule::Own("no-such-property")),
            &Limits::default(),
            &|_: &Stats| true,
        )
    };
    let (first, second) = (run(), run());
    assert!(first.locks.nestings().count() == 2);
    assert_eq!(first.locks, second.locks);
}
