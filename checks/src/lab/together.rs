//! The lock orders of several scenarios together, and the cycles that none of them has alone: the
//! orders that the table declares take part.

use kvmmu_model::lock::order::ORDERS;
use kvmmu_scenarios::lockdep::{LockOrders, Nesting};

/// The lock orders of several scenarios.
#[derive(Clone, Debug, Default)]
pub struct Together {
    merged: LockOrders,
    each: Vec<(String, LockOrders)>,
}

/// A nesting of a cycle.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// The nesting.
    pub nesting: Nesting,
    /// The first scenario that has it; empty: none, it is declared.
    pub scenario: String,
}

/// The nestings of a cycle: each inner lock is the outer one of the next.
pub type Cycle = Vec<Part>;

impl Together {
    /// Adds what was seen in a scenario.
    pub fn add(&mut self, scenario: &str, locks: &LockOrders) {
        self.merged.merge(locks);
        self.each.push((scenario.to_owned(), locks.clone()));
    }

    /// Everything.
    pub fn merged(&self) -> &LockOrders {
        &self.merged
    }

    /// What was seen in each scenario.
    pub fn each(&self) -> &[(String, LockOrders)] {
        &self.each
    }

    /// What was seen, and every order that is declared ([`ORDERS`]).
    pub fn with_declared(&self) -> LockOrders {
        let mut orders = self.merged.clone();
        for order in ORDERS {
            orders.insert(Nesting { outer: order.outer, inner: order.inner });
        }
        orders
    }

    /// The cycles that no scenario has alone. Declared orders have none by themselves.
    pub fn cycles(&self) -> Vec<Cycle> {
        let all = |locks: &LockOrders, cycle: &[Nesting]| cycle.iter().all(|n| locks.times(*n) > 0);
        let of_one = |cycle: &[Nesting]| self.each.iter().any(|(_, locks)| all(locks, cycle));
        let mut found = self.with_declared().cycles();
        found.retain(|cycle| !of_one(cycle));
        found.sort_by_key(Vec::len);
        // One order may close many: the shortest cycle shows what is wrong with it.
        let seen = |n: &&Nesting| self.merged.times(**n) > 0;
        let mut told: Vec<Vec<Nesting>> = Vec::new();
        for cycle in found {
            let again = |t: &Vec<Nesting>| t.iter().filter(seen).all(|n| cycle.contains(n));
            if !told.iter().any(again) {
                told.push(cycle);
            }
        }
        told.into_iter().map(|cycle| cycle.into_iter().map(|n| self.part(n)).collect()).collect()
    }

    fn part(&self, nesting: Nesting) -> Part {
        let has = self.each.iter().find(|(_, locks)| locks.times(nesting) > 0);
        let scenario = has.map_or_else(String::new, |(name, _)| name.clone());
        Part { nesting, scenario }
    }
}
