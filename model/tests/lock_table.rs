//! Goal: the table of locks and the orders say what locking.rst says, and do not contradict
//! themselves.
//! Method: look through both tables, and hold single acquisitions against the rules.

use kvmmu_model::lock::order::{self, Authority, ORDERS};
use kvmmu_model::lock::rules::{self, Breach};
use kvmmu_model::lock::{Arch, Section};
use kvmmu_model::{Hold, LockClass, LockKind, Mode};

fn exclusive(class: LockClass) -> Hold {
    Hold::new(class, Mode::Exclusive)
}

#[test]
fn the_locks_of_the_document_are_there_with_their_types() {
    use LockClass as C;
    use LockKind::{Mutex, RawSpinlock, Spinlock, Srcu};
    let reference: Vec<_> =
        C::ALL.iter().filter(|c| c.info().section == Section::Reference).collect();
    assert_eq!(
        reference,
        [
            &C::KvmLock,
            &C::KvmCountLock,
            &C::TscWriteLock,
            &C::MmuLock,
            &C::KvmSrcu,
            &C::BlockedVcpuOnCpuLock
        ]
    );
    let kinds: Vec<_> = reference.iter().map(|c| (c.info().kind, c.info().arch)).collect();
    use Arch::{Any, X86};
    assert_eq!(
        kinds,
        [
            (Mutex, Any),
            (RawSpinlock, Any),
            (RawSpinlock, X86),
            (Spinlock, Any),
            (Srcu, Any),
            (Spinlock, X86)
        ]
    );
    let orders: Vec<_> = C::ALL.iter().filter(|c| c.info().section == Section::Orders).collect();
    assert_eq!(orders, [&C::KvmMutex, &C::VcpuMutex, &C::SlotsLock, &C::IrqLock, &C::HvLock]);
}

#[test]
fn every_entry_is_filled_in_and_names_are_unique() {
    for class in LockClass::ALL {
        let info = class.info();
        assert!(!info.comment.is_empty() && info.name.is_ascii(), "{}", info.name);
        assert!(info.section == Section::Test || !info.protects.is_empty(), "{}", info.name);
        assert_eq!(LockClass::by_name(info.name), Some(*class));
        assert_eq!(LockClass::by_name(info.short), Some(*class));
    }
}

#[test]
fn the_document_has_five_orders() {
    let names: Vec<_> = order::documented()
        .map(|o| (o.outer.class.info().short, o.inner.class.info().short))
        .collect();
    assert_eq!(
        names,
        [
            ("kvm->lock", "vcpu->mutex"),
            ("kvm->lock", "slots_lock"),
            ("kvm->lock", "irq_lock"),
            ("slots_lock", "irq_lock"),
            ("vcpu->mutex", "hv_lock"),
        ]
    );
}

#[test]
fn all_orders_together_have_no_cycle_and_break_no_rule() {
    // From each inner lock on, along everything that may have to be waited for.
    for start in ORDERS.iter().filter(|o| rules::waits(o.inner)) {
        let mut reached = vec![start.inner.class];
        let mut next = 0;
        while let Some(class) = reached.get(next).copied() {
            next += 1;
            let inner = ORDERS.iter().filter(|o| o.outer.class == class && rules::waits(o.inner));
            for order in inner {
                assert!(order.inner.class != start.outer.class, "{start:?} ... {order:?}");
                if !reached.contains(&order.inner.class) {
                    reached.push(order.inner.class);
                }
            }
        }
    }
    for order in ORDERS {
        let held = [(order.outer, false)];
        assert_eq!(rules::check(held.into_iter(), false, order.inner), None, "{order:?}");
        assert!(!order.nested_by.is_empty());
    }
    for (i, order) in ORDERS.iter().enumerate() {
        let same = |o: &&order::Order| (o.outer, o.inner) == (order.outer, order.inner);
        assert_eq!(ORDERS.iter().position(|o| same(&o)), Some(i), "twice: {order:?}");
    }
}

#[test]
fn documented_orders_come_first() {
    let documented = order::documented().count();
    assert!(ORDERS[..documented].iter().all(|o| o.authority == Authority::Document));
}

#[test]
fn the_first_rule_that_is_broken_is_told() {
    let held = |hold: Hold| [(hold, false)].into_iter();
    let count = exclusive(LockClass::KvmCountLock);
    // A mutex inside a raw spinlock that is a leaf: that it sleeps is worse.
    let found = rules::check(held(count), false, exclusive(LockClass::KvmLock));
    assert_eq!(found, Some(Breach::SleepsUnder(count)));
    // A spinlock inside it sleeps nowhere.
    let found = rules::check(held(count), false, exclusive(LockClass::MmuLock));
    assert_eq!(found, Some(Breach::InsideLeaf(count)));
    // A read section waits for nobody: it may be entered anywhere.
    let srcu = Hold::new(LockClass::KvmSrcu, Mode::Read);
    assert_eq!(rules::check(held(count), true, srcu), None);
    let grace_period = Hold::new(LockClass::KvmSrcu, Mode::Synchronize);
    let found = rules::check([].into_iter(), true, grace_period);
    assert_eq!(found, Some(Breach::SleepsIrqsOff));
}

#[test]
fn orders_chain() {
    assert!(rules::outside(LockClass::KvmMutex, LockClass::HvLock));
    assert!(rules::outside(LockClass::KvmMutex, LockClass::IrqLock));
    assert!(!rules::outside(LockClass::VcpuMutex, LockClass::SlotsLock));
    let hv_lock = exclusive(LockClass::HvLock);
    let found = rules::check([(hv_lock, false)].into_iter(), false, exclusive(LockClass::KvmMutex));
    let Some(Breach::Order(held, order)) = found else { panic!("{found:?}") };
    assert_eq!((held, order.inner.class), (hv_lock, LockClass::VcpuMutex));
}

#[test]
fn nothing_sleeps_in_a_section_of_rcu_and_entering_one_waits_for_nothing() {
    let section = |class| Hold::new(class, Mode::Read);
    let grace_period = |class| Hold::new(class, Mode::Synchronize);
    let held = |hold: Hold| [(hold, false)].into_iter();
    let (rcu, srcu) = (section(LockClass::VarRcu), section(LockClass::VarSrcu));
    let mutex = exclusive(LockClass::VarLock);
    assert_eq!(rules::check(held(srcu), false, mutex), None);
    assert_eq!(rules::check(held(rcu), false, mutex), Some(Breach::SleepsUnder(rcu)));
    let spinlock = exclusive(LockClass::VarSpinlock);
    assert_eq!(rules::check(held(rcu), false, spinlock), None);
    // A section may be entered anywhere; its grace period sleeps.
    let leaf = exclusive(LockClass::TscWriteLock);
    assert_eq!(rules::check(held(leaf), true, rcu), None);
    let found = rules::check(held(leaf), false, grace_period(LockClass::VarRcu));
    assert_eq!(found, Some(Breach::SleepsUnder(leaf)));
    // Sections nest, and no thread waits for its own.
    assert_eq!(rules::check([(rcu, true)].into_iter(), false, rcu), None);
    let own = rules::check([(rcu, true)].into_iter(), false, grace_period(LockClass::VarRcu));
    assert_eq!(own, Some(Breach::Recursion(rcu)));
}
