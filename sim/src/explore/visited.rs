//! A set of 127-bit keys with one flag each, and a number each where that is asked for: open
//! addressing, no hashing (keys are hashes).

use crate::machine::memory::{Account, bytes, zeros};

/// The set.
#[derive(Debug)]
pub(crate) struct Visited {
    /// 0: free. Otherwise a key, whose lowest bit is its flag.
    slots: Vec<u128>,
    /// The number of each key; empty if they have none.
    numbers: Vec<u32>,
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
    /// The key, with this flag and this number.
    Known(bool, u32),
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
    /// No keys, which have numbers or not. What they take is on `account`.
    pub(crate) fn new(mut account: Account, numbered: bool) -> Visited {
        let n = 1 << 12;
        let numbers = vec![0; if numbered { n } else { 0 }];
        // The first few are free.
        account.hold(n * size_of::<u128>() + bytes(&numbers));
        Visited { slots: vec![0; n], numbers, len: 0, generation: 0, account }
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
            let number = self.numbers.get(slot).copied().unwrap_or(0);
            return Insert::Known(self.slots[slot] & 1 == 1, number);
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
        let slot = self.slot(place);
        self.slots[slot] = place.key;
    }

    /// Sets the number of a key; it is 0 before.
    #[inline]
    pub(crate) fn set_number(&mut self, place: Place, number: u32) {
        let slot = self.slot(place);
        self.numbers[slot] = number;
    }

    #[inline(always)]
    fn slot(&self, place: Place) -> usize {
        let moved = place.generation != self.generation;
        if moved { self.find(place.key) } else { place.slot }
    }

    /// Makes room for twice as many; false if there is none.
    #[cold]
    fn grow(&mut self) -> bool {
        let (old, new) = (self.slots.len(), self.slots.len() * 2);
        let numbered = !self.numbers.is_empty();
        let each = size_of::<u128>() + if numbered { size_of::<u32>() } else { 0 };
        // Both are there until all keys have moved.
        if !self.account.hold((old + new) * each) {
            return false;
        }
        let numbers = if numbered { zeros(new) } else { Some(Vec::new()) };
        let (Some(slots), Some(numbers)) = (zeros(new), numbers) else {
            self.account.hold(old * each);
            return false;
        };
        let slots = core::mem::replace(&mut self.slots, slots);
        let numbers = core::mem::replace(&mut self.numbers, numbers);
        self.generation += 1;
        for (at, key) in slots.into_iter().enumerate().filter(|(_, key)| *key != 0) {
            let slot = self.find(key & !1);
            self.slots[slot] = key;
            if numbered {
                self.numbers[slot] = numbers[at];
            }
        }
        self.account.hold(new * each)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_set_and_keeps_flags_and_numbers() {
        let mut visited = Visited::new(Account::default(), true);
        let key = |i: u128| i.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835) << 1;
        let mut places = Vec::new();
        for i in 0..10_000 {
            let Insert::New(place) = visited.insert(key(i)) else { panic!("{i} is new") };
            places.push(place);
        }
        places.iter().step_by(2).for_each(|place| visited.clear_flag(*place));
        places.iter().zip(0..).for_each(|(place, i)| visited.set_number(*place, i));
        for i in 0..10_000 {
            let Insert::Known(flag, n) = visited.insert(key(i)) else { panic!("{i} is known") };
            assert_eq!((flag, u128::from(n)), (i % 2 == 1, i));
        }
        assert_eq!(visited.len(), 10_000);
    }
}
