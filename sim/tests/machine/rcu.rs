//! Goal: read sections, grace periods and callbacks of RCU do what their documentation says, and
//! what is wrong with their use is found. Method: programs of a few lines, explored completely by
//! states and by the naive explorer.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use kvmmu_model::{
    CpuId, Lock, LockClass, Object, Ordering::SeqCst, Platform, RCU_CALLBACKS_MAX, Rcu, RwLock,
    Srcu, Tag, Until, Word,
};
use kvmmu_sim::outcome::{Reason, Verdict};
use kvmmu_sim::rule::Rule;
use kvmmu_sim::stateful::Stateful;
use kvmmu_sim::{Goal, Sim, SimRcu};

use super::ad::{Ad, AdInstance, Body, check, explore, found, instance, program, var};

fn domain(sim: &Sim) -> SimRcu {
    sim.rcu(LockClass::VarRcu.one())
}

fn threads<const N: usize>(bodies: [Body; N]) -> AdInstance {
    instance(bodies.into_iter().collect(), || {})
}

/// The property that a program violates, and how.
fn breach<F: Fn(&Sim) -> AdInstance + Sync>(threads: usize, build: F) -> (&'static str, String) {
    let found = found(check(&program(threads, build)));
    (found.rule.name(), found.detail)
}

/// How an object is used that is replaced and freed.
#[derive(Clone, Copy)]
struct Publish {
    /// Readers read it in a section.
    section: bool,
    /// It is freed by a callback, and not at once.
    deferred: bool,
}

/// A pointer to one of two tables is moved from the first to the second, and the first is freed.
fn publish(how: Publish) -> Ad<impl Fn(&Sim) -> AdInstance + Sync> {
    program(3, move |sim: &Sim| {
        let (sim, rcu) = (*sim, domain(sim));
        let pointer = sim.word(var(0), 0);
        let tables = [1, 2].map(|i| sim.word(Tag::nth(Object::Page, i), 0));
        let freed = sim.cell(false);
        let free = move |table: u64| {
            sim.freed(&[tables[table as usize]]);
            freed.set(true);
        };
        let read = move || {
            let _section = how.section.then(|| rcu.read_lock());
            let at = pointer.load(SeqCst);
            tables[at as usize].load(SeqCst);
        };
        let update = move || {
            pointer.store(1, SeqCst);
            if how.deferred {
                rcu.call(0)
            } else {
                free(0)
            }
            rcu.close();
        };
        let rcu_core = move || {
            while let Some(table) = rcu.wait_ripe() {
                free(table);
            }
        };
        let bodies: Vec<Body> = vec![Box::new(read), Box::new(update), Box::new(rcu_core)];
        instance(bodies, move || {
            if !freed.get() {
                sim.violate(Rule::Own("leak"), String::new);
            }
        })
    })
}

#[test]
fn what_a_reader_sees_is_freed_after_its_section() {
    assert_eq!(check(&publish(Publish { section: true, deferred: true })), Verdict::Holds);
    for how in
        [Publish { section: false, deferred: true }, Publish { section: true, deferred: false }]
    {
        assert_eq!(found(check(&publish(how))).rule.name(), "use-after-free");
    }
}

#[test]
fn states_are_as_many_as_there_are_and_the_same_in_each_run() {
    let states = || {
        let publish = publish(Publish { section: true, deferred: true });
        let outcome = explore(&publish, &mut Stateful::default(), Goal::ANY);
        (outcome.stats.states, outcome.stats.transitions)
    };
    assert_eq!(states(), (35, 60));
    assert_eq!(states(), states());
}

/// A reader stays in its section until the callback has run. It begins the section before the
/// call, or after.
fn reader_that_waits(before: bool) -> Ad<impl Fn(&Sim) -> AdInstance + Sync> {
    program(3, move |sim: &Sim| {
        let rcu = domain(sim);
        let (turn, ran) = (sim.word(var(0), 0), sim.word(var(1), 0));
        let reader = move || {
            if !before {
                turn.wait_until(Until::Is(1));
            }
            let _section = rcu.read_lock();
            turn.fetch_add(1, SeqCst);
            ran.wait_until(Until::Is(1));
        };
        let caller = move || {
            if before {
                turn.wait_until(Until::Is(1));
            }
            rcu.call(0);
            turn.fetch_add(1, SeqCst);
        };
        let rcu_core = move || {
            rcu.wait_ripe();
            ran.store(1, SeqCst);
        };
        threads([Box::new(reader), Box::new(caller), Box::new(rcu_core)])
    })
}

#[test]
fn a_section_holds_up_the_callbacks_that_were_called_in_it_and_no_others() {
    assert_eq!(check(&reader_that_waits(false)), Verdict::Holds);
    let found = found(check(&reader_that_waits(true)));
    assert_eq!(found.rule.name(), "deadlock");
    assert!(found.detail.contains("t2 waits for a callback of rcu_domain to be ripe"));
}

#[test]
fn sections_nest_and_the_callers_own_counts() {
    let build = |sim: &Sim| {
        let (sim, rcu) = (*sim, domain(sim));
        let table = sim.word(Tag::nth(Object::Page, 1), 0);
        let caller = move || {
            let outer = rcu.read_lock();
            let inner = rcu.read_lock();
            rcu.call(0);
            drop(inner);
            table.load(SeqCst);
            drop(outer);
        };
        let rcu_core = move || {
            rcu.wait_ripe();
            sim.freed(&[table]);
        };
        threads([Box::new(caller), Box::new(rcu_core)])
    };
    assert_eq!(check(&program(2, build)), Verdict::Holds);
}

#[test]
fn a_grace_period_and_a_callback_wait_for_the_same_sections() {
    let build = |wait: bool| {
        move |sim: &Sim| {
            let (sim, rcu) = (*sim, domain(sim));
            let (pointer, table) = (sim.word(var(0), 0), sim.word(Tag::nth(Object::Page, 1), 0));
            let read = move || {
                let _section = rcu.read_lock();
                if pointer.load(SeqCst) == 0 {
                    table.load(SeqCst);
                }
            };
            let update = move || {
                pointer.store(1, SeqCst);
                if wait {
                    rcu.synchronize();
                }
                sim.freed(&[table]);
            };
            threads([Box::new(read), Box::new(update)])
        }
    };
    assert_eq!(check(&program(2, build(true))), Verdict::Holds);
    assert_eq!(breach(2, build(false)).0, "use-after-free");
}

/// The orders in which callbacks 1 and 2 run that are called in this order, by these threads, and
/// ripe together.
fn orders(callers: [usize; 2]) -> BTreeSet<u64> {
    let seen: Arc<Mutex<BTreeSet<u64>>> = Arc::default();
    let orders = Arc::clone(&seen);
    let verdict = check(&program(4, move |sim: &Sim| {
        let (sim, rcu) = (*sim, domain(sim));
        // Callback `i` is called at `i`, and the section ends at 3.
        let (turn, order) = (sim.word(var(0), 0), sim.cell(0_u64));
        let call = move |thread: usize| {
            for (i, _) in callers.iter().enumerate().filter(|(_, caller)| **caller == thread) {
                let i = i as u64 + 1;
                turn.wait_until(Until::Is(i));
                rcu.call(i);
                turn.store(i + 1, SeqCst);
            }
        };
        let reader = move || {
            let _section = rcu.read_lock();
            turn.store(1, SeqCst);
            turn.wait_until(Until::Is(3));
        };
        let rcu_core = move || {
            for _ in 0..2 {
                let callback = rcu.wait_ripe().expect("no thread closes the domain");
                order.with(|order| *order = *order * 10 + callback);
                sim.observe(&order.get());
            }
        };
        let bodies: Vec<Body> = vec![
            Box::new(move || call(0)),
            Box::new(move || call(1)),
            Box::new(reader),
            Box::new(rcu_core),
        ];
        let orders = Arc::clone(&orders);
        instance(bodies, move || {
            orders.lock().expect("one thread").insert(order.get());
        })
    }));
    assert_eq!(verdict, Verdict::Holds);
    std::mem::take(&mut *seen.lock().expect("one thread"))
}

#[test]
fn callbacks_of_one_thread_run_in_order_and_those_of_two_in_any() {
    assert_eq!(orders([0, 0]), BTreeSet::from([12]));
    assert_eq!(orders([0, 1]), BTreeSet::from([12, 21]));
    assert_eq!(orders([1, 0]), BTreeSet::from([12, 21]));
}

#[test]
fn callbacks_that_wait_when_the_domain_is_closed_run() {
    let build = |sim: &Sim| {
        let (sim, rcu) = (*sim, domain(sim));
        let sum = sim.cell(0_u64);
        let caller = move || {
            let _section = rcu.read_lock();
            rcu.call(1);
            rcu.call(2);
            rcu.close();
        };
        let rcu_core = move || {
            while let Some(callback) = rcu.wait_ripe() {
                sum.with(|sum| *sum += callback);
            }
        };
        let bodies: Vec<Body> = vec![Box::new(caller), Box::new(rcu_core), Box::new(rcu_core)];
        instance(bodies, move || {
            if sum.get() != 3 {
                sim.violate(Rule::Own("ran"), || format!("{sum:?}"));
            }
        })
    };
    assert_eq!(check(&program(3, build)), Verdict::Holds);
}

/// An assertion failed.
const PANIC: Verdict = Verdict::Inconclusive(Reason::InternalError);

/// As many calls as this, which no thread runs.
fn calls(n: usize) -> Verdict {
    check(&program(1, move |sim: &Sim| {
        let rcu = domain(sim);
        threads([Box::new(move || (0..n as u64).for_each(|i| rcu.call(i)))])
    }))
}

#[test]
fn one_callback_too_many_is_asserted() {
    assert_eq!(calls(RCU_CALLBACKS_MAX), Verdict::Holds);
    assert_eq!(calls(RCU_CALLBACKS_MAX + 1), PANIC);
}

#[test]
fn a_call_after_the_end_is_asserted() {
    let verdict = check(&program(1, |sim: &Sim| {
        let rcu = domain(sim);
        threads([Box::new(move || {
            rcu.close();
            rcu.call(0);
        })])
    }));
    assert_eq!(verdict, PANIC);
}

#[test]
fn nothing_sleeps_in_a_section() {
    type Sleep = fn(Sim) -> Body;
    let sleeps: [(Sleep, &str); 5] = [
        (
            |sim| {
                let mutex = sim.lock(LockClass::KvmLock.one(), ());
                Box::new(move || drop(mutex.lock()))
            },
            "kvm_lock may sleep, and a read section of rcu_domain is held",
        ),
        (
            |sim| {
                let rw_lock = sim.rw_lock(LockClass::MmapLock.one(), ());
                Box::new(move || drop(rw_lock.read()))
            },
            "mm->mmap_lock (for reading) may sleep, and a read section of rcu_domain is held",
        ),
        (
            |sim| {
                let srcu = sim.srcu(LockClass::KvmSrcu.one());
                Box::new(move || srcu.synchronize())
            },
            "a grace period of kvm->srcu may sleep, and a read section of rcu_domain is held",
        ),
        (
            |sim| {
                let other = sim.rcu(LockClass::VarRcu.nth(1));
                Box::new(move || assert_eq!(other.wait_ripe(), None))
            },
            "what follows may sleep, and a read section of rcu_domain is held",
        ),
        (
            |sim| Box::new(move || sim.might_sleep()),
            "what follows may sleep, and a read section of rcu_domain is held",
        ),
    ];
    for (sleep, what) in sleeps {
        let (property, detail) = breach(1, move |sim: &Sim| {
            let (rcu, sleep) = (domain(sim), sleep(*sim));
            threads([Box::new(move || {
                let _section = rcu.read_lock();
                sleep();
            })])
        });
        assert_eq!((property, detail.as_str()), ("lock-sleep", what));
    }
    let (property, detail) = breach(1, |sim: &Sim| {
        let rcu = domain(sim);
        threads([Box::new(move || {
            let _section = rcu.read_lock();
            rcu.synchronize();
        })])
    });
    assert_eq!(property, "lock-usage");
    assert!(detail.starts_with("a grace period of rcu_domain inside a read section of rcu_domain"));
}

#[test]
fn waiting_for_rcu_sleeps_and_calling_it_does_not() {
    type Op = fn(SimRcu);
    let ops: [(Op, bool); 4] = [
        (|rcu| drop(rcu.read_lock()), false),
        (|rcu| rcu.call(0), false),
        (|rcu| rcu.synchronize(), true),
        (|rcu| assert_eq!(rcu.wait_ripe(), None), true),
    ];
    for (op, sleeps) in ops {
        for irqs_off in [false, true] {
            let verdict = check(&program(1, move |sim: &Sim| {
                let (sim, rcu) = (*sim, domain(sim));
                let spinlock = sim.lock(LockClass::TscWriteLock.one(), ());
                threads([Box::new(move || {
                    if irqs_off {
                        sim.local_irq_disable(CpuId(0));
                        op(rcu);
                        sim.local_irq_enable(CpuId(0));
                    } else {
                        let _guard = spinlock.lock();
                        op(rcu);
                    }
                })])
            }));
            match verdict {
                Verdict::Violated(found) if sleeps => assert_eq!(found.rule.name(), "lock-sleep"),
                verdict => assert_eq!((verdict, sleeps), (Verdict::Holds, false)),
            }
        }
    }
}

#[test]
fn a_spinlock_and_srcu_may_be_taken_in_a_section() {
    let build = |sim: &Sim| {
        let (rcu, srcu) = (domain(sim), sim.srcu(LockClass::KvmSrcu.one()));
        let spinlock = sim.lock(LockClass::VarSpinlock.one(), ());
        threads([Box::new(move || {
            let _section = rcu.read_lock();
            let _guard = spinlock.lock();
            let _srcu = srcu.read_lock();
        })])
    };
    assert_eq!(check(&program(1, build)), Verdict::Holds);
}

#[test]
fn a_section_is_not_left_open() {
    let (property, detail) = breach(1, |sim: &Sim| {
        let rcu: &'static SimRcu = Box::leak(Box::new(domain(sim)));
        threads([Box::new(move || std::mem::forget(rcu.read_lock()))])
    });
    assert_eq!(property, "lock-usage");
    assert_eq!(detail, "the thread ends and still has a read section of rcu_domain");
}
