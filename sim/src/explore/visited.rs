//! A set of 127-bit keys with one flag each: open addressing, no hashing (keys are hashes).

use crate::machine::memory::{Account, zeros};

/// The set.
#[derive(Debug)]
pub(crate) struct Visited {
    /// 0: free. Otherwise a key, whose lowest bit is its flag.
    slots: Vec<u128>,
    len: usize,
    /// Changes when places do.
    generation: u32,
    account: Account,
}

/// Where a key is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    slot: usize,
    generation: u32,
    key: u128,
}

/// What was there.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Insert {
    /// Nothing: it is there now, with its flag set.
    New(Place),
    /// The key, with this flag.
    Known(bool),
    /// Nothing, and there is no room for it.
    Full,
}

impl Place {
    /// The key, without its lowest bit.
    pub(crate) fn key(self) -> u128 {
        self.key
    }
}

impl Visited {
    /// No keys. What they take is on `account`.
    pub(crate) fn new(mut account: Account) -> Visited {
        // The first few are free.
        account.hold(size_of::<u128>() << 12);
        Visited { slots: vec![0; 1 << 12], len: 0, generation: 0, account }
    }

    /// How many keys there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// A key as it is kept.
    pub(crate) fn normal(key: u128) -> u128 {
        match key & !1 {
            0 => 2,
            key => key,
        }
    }

    #[inline(always)]
    fn find(&self, key: u128) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot = (key >> 64) as usize & mask;
        while self.slots[slot] != 0 && self.slots[slot] & !1 != key {
            slot = (slot + 1) & mask;
        }
        slot
    }

    /// Adds a key and sets its flag, if it is not there.
    #[inline]
    pub(crate) fn insert(&mut self, key: u128) -> Insert {
        let key = Visited::normal(key);
        let mut slot = self.find(key);
        if self.slots[slot] != 0 {
            return Insert::Known(self.slots[slot] & 1 == 1);
        }
        if self.len * 8 >= self.slots.len() * 5 {
            if !self.grow() {
                return Insert::Full;
            }
            slot = self.find(key);
        }
        self.slots[slot] = key | 1;
        self.len += 1;
        Insert::New(Place { slot, generation: self.generation, key })
    }

    /// Clears the flag of a key.
    #[inline]
    pub(crate) fn clear_flag(&mut self, place: Place) {
        let moved = place.generation != self.generation;
        let slot = if moved { self.find(place.key) } else { place.slot };
        self.slots[slot] = place.key;
    }

    /// Makes room for twice as many; false if there is none.
    #[cold]
    fn grow(&mut self) -> bool {
        let (old, new) = (self.slots.len(), self.slots.len() * 2);
        // Both are there until all keys have moved.
        if !self.account.hold((old + new) * size_of::<u128>()) {
            return false;
        }
        let Some(bigger) = zeros(new) else {
            self.account.hold(old * size_of::<u128>());
            return false;
        };
        let slots = core::mem::replace(&mut self.slots, bigger);
        self.generation += 1;
        for key in slots.into_iter().filter(|key| *key != 0) {
            let slot = self.find(key & !1);
            self.slots[slot] = key;
        }
        self.account.hold(new * size_of::<u128>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_set_and_keeps_flags() {
        let mut visited = Visited::new(Account::default());
        let key = |i: u128| i.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835) << 1;
        let mut places = Vec::new();
        for i in 0..10_000 {
            let Insert::New(place) = visited.insert(key(i)) else { panic!("{i} is new") };
            places.push(place);
        }
        places.iter().step_by(2).for_each(|place| visited.clear_flag(*place));
        for i in 0..10_000 {
            let Insert::Known(flag) = visited.insert(key(i)) else { panic!("{i} is known") };
            assert_eq!(flag, i % 2 == 1);
        }
        assert_eq!(visited.len(), 10_000);
    }
}
