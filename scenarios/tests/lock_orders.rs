//! Goal: cycles of lock orders are found if and only if there are some.
//! Method: random sets of nestings, compared with a search over all simple paths.

use kvmmu_model::lock::rules;
use kvmmu_model::{Hold, LockClass, Mode};
use kvmmu_scenarios::lockdep::{LockOrders, Nesting};
use proptest::prelude::*;

/// A few locks, each in the modes that it has: held, and asked for.
fn hold() -> impl Strategy<Value = Hold> {
    use LockClass::{CpuHotplugLock, IrqLock, KvmLock, KvmSrcu, MmapLock, SlotsLock};
    prop_oneof![
        Just(Hold::new(KvmLock, Mode::Exclusive)),
        Just(Hold::new(SlotsLock, Mode::Exclusive)),
        Just(Hold::new(IrqLock, Mode::Exclusive)),
        Just(Hold::new(KvmSrcu, Mode::Read)),
        Just(Hold::new(MmapLock, Mode::Read)),
        Just(Hold::new(CpuHotplugLock, Mode::Read)),
        Just(Hold::new(CpuHotplugLock, Mode::Exclusive)),
    ]
}

fn nesting() -> impl Strategy<Value = Nesting> {
    let grace_period = Hold::new(LockClass::KvmSrcu, Mode::Synchronize);
    (hold(), prop_oneof![6 => hold(), 1 => Just(grace_period)])
        .prop_map(|(outer, inner)| Nesting { outer, inner })
        .prop_filter("of two classes", |n| n.outer.class != n.inner.class)
}

/// The length of the shortest way that closes a cycle with `way`, by trying all.
fn shortest(nestings: &[Nesting], way: &mut Vec<Nesting>) -> Option<usize> {
    let (first, last) = (way[0], way[way.len() - 1]);
    if !rules::waits(last.inner) {
        return None;
    }
    if last.inner.class == first.outer.class {
        return Some(way.len());
    }
    let fits = |n: &&Nesting| n.outer.class == last.inner.class;
    let next: Vec<Nesting> = nestings.iter().filter(fits).copied().collect();
    let mut best: Option<usize> = None;
    for nesting in next {
        if way.iter().any(|n| n.outer.class == nesting.outer.class) {
            continue;
        }
        way.push(nesting);
        let found = shortest(nestings, way);
        best = [best, found].into_iter().flatten().min();
        way.pop();
    }
    best
}

proptest! {
    #[test]
    fn a_cycle_is_found_if_there_is_one(nestings in prop::collection::vec(nesting(), 1..12)) {
        let mut orders = LockOrders::default();
        for nesting in &nestings {
            orders.insert(*nesting);
        }
        let mut any = false;
        for nesting in &nestings {
            let cycle = orders.cycle(*nesting);
            let expected = shortest(&nestings, &mut vec![*nesting]);
            prop_assert_eq!(cycle.as_ref().map(Vec::len), expected);
            any |= cycle.is_some();
            let Some(cycle) = cycle else { continue };
            prop_assert_eq!(cycle[0], *nesting);
            for (i, n) in cycle.iter().enumerate() {
                prop_assert!(nestings.contains(n));
                prop_assert_eq!(n.inner.class, cycle[(i + 1) % cycle.len()].outer.class);
            }
        }
        prop_assert_eq!(!orders.cycles().is_empty(), any);
    }

    #[test]
    fn orders_are_merged_in_any_order(
        first in prop::collection::vec(nesting(), 0..8),
        second in prop::collection::vec(nesting(), 0..8),
    ) {
        let of = |nestings: &[Nesting]| {
            let mut orders = LockOrders::default();
            for n in nestings {
                orders.count([n.outer].into_iter(), n.inner, 2);
            }
            orders
        };
        let (mut one, mut other) = (of(&first), of(&second));
        let (a, b) = (one.clone(), other.clone());
        one.merge(&b);
        other.merge(&a);
        prop_assert_eq!(&one, &other);
        let all = of(&[first, second].concat());
        prop_assert_eq!(one, all);
    }
}
