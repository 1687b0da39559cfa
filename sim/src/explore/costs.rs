//! What the cheapest known way to each state costs.

use crate::machine::memory::{Account, zeros};

/// A cost for each key: open addressing, as in [`super::visited`].
pub(crate) struct Costs {
    /// 0: free.
    keys: Vec<u128>,
    costs: Vec<u32>,
    len: usize,
    account: Account,
}

/// What a key and its cost take.
const SLOT_BYTES: usize = size_of::<u128>() + size_of::<u32>();

impl Costs {
    /// How many keys have one.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// No costs. What they take is on `account`.
    pub(crate) fn new(mut account: Account) -> Costs {
        // The first few are free.
        account.hold(SLOT_BYTES << 12);
        Costs { keys: vec![0; 1 << 12], costs: vec![0; 1 << 12], len: 0, account }
    }

    fn find(&self, key: u128) -> usize {
        let mask = self.keys.len() - 1;
        let mut slot = (key >> 64) as usize & mask;
        while self.keys[slot] != 0 && self.keys[slot] != key {
            slot = (slot + 1) & mask;
        }
        slot
    }

    /// The cost of a key; `u32::MAX` if it has none.
    pub(crate) fn get(&self, key: u128) -> u32 {
        let slot = self.find(key.max(1));
        if self.keys[slot] == 0 { u32::MAX } else { self.costs[slot] }
    }

    /// Sets the cost of a key; false if there is no room for it.
    pub(crate) fn set(&mut self, key: u128, cost: u32) -> bool {
        let key = key.max(1);
        let mut slot = self.find(key);
        if self.keys[slot] == 0 {
            if self.len * 8 >= self.keys.len() * 5 {
                if !self.grow() {
                    return false;
                }
                slot = self.find(key);
            }
            self.len += 1;
        }
        (self.keys[slot], self.costs[slot]) = (key, cost);
        true
    }

    /// Makes room for twice as many; false if there is none.
    fn grow(&mut self) -> bool {
        let (old, n) = (self.keys.len(), self.keys.len() * 2);
        // Both are there until all keys have moved.
        if !self.account.hold((old + n) * SLOT_BYTES) {
            return false;
        }
        let (Some(keys), Some(costs)) = (zeros(n), zeros(n)) else {
            self.account.hold(old * SLOT_BYTES);
            return false;
        };
        let keys = core::mem::replace(&mut self.keys, keys);
        let costs = core::mem::replace(&mut self.costs, costs);
        for (key, cost) in keys.into_iter().zip(costs).filter(|(key, _)| *key != 0) {
            let slot = self.find(key);
            (self.keys[slot], self.costs[slot]) = (key, cost);
        }
        self.account.hold(n * SLOT_BYTES)
    }
}
