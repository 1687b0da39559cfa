//! What the cheapest known way to each state costs.

/// A cost for each key: open addressing, as in [`crate::visited`].
pub(crate) struct Costs {
    /// 0: free.
    keys: Vec<u128>,
    costs: Vec<u32>,
    len: usize,
}

impl Costs {
    /// How many keys have one.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn new() -> Costs {
        Costs { keys: vec![0; 1 << 12], costs: vec![0; 1 << 12], len: 0 }
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

    /// Sets the cost of a key.
    pub(crate) fn set(&mut self, key: u128, cost: u32) {
        let key = key.max(1);
        let mut slot = self.find(key);
        if self.keys[slot] == 0 {
            if self.len * 8 >= self.keys.len() * 5 {
                self.grow();
                slot = self.find(key);
            }
            self.len += 1;
        }
        (self.keys[slot], self.costs[slot]) = (key, cost);
    }

    fn grow(&mut self) {
        let n = self.keys.len() * 2;
        let keys = core::mem::replace(&mut self.keys, vec![0; n]);
        let costs = core::mem::replace(&mut self.costs, vec![0; n]);
        for (key, cost) in keys.into_iter().zip(costs).filter(|(key, _)| *key != 0) {
            let slot = self.find(key);
            (self.keys[slot], self.costs[slot]) = (key, cost);
        }
    }
}
