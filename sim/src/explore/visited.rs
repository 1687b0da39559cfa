//! A set of 95-bit keys with a flag and a number each, in 19 to 24 bytes a key.
//!
//! The keys are hashes, and so their own places: they stand in order in a table that has gaps, each
//! as near behind its place as those before it leave room (linear probing in order, "Robin Hood").
//! A key that is not there is found missing at the first larger one; the table grows in small steps
//! by copying it from front to back.

use std::io;

use serde::{Deserialize, Serialize};

use super::keep::{Reading, Unusable, Writing};
use crate::machine::memory::{Account, zeros};

/// The set.
#[derive(Debug)]
pub(crate) struct Visited {
    /// 0: free. Otherwise from the top: a key, its flag, and its number.
    slots: Vec<u128>,
    /// How many places there are; behind the last one there is room for [`SPILL`] keys more.
    places: usize,
    len: usize,
    account: Account,
}

/// A key that is there.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Place(u128);

impl Place {
    /// The highest 95 bits of the key; those below are clear.
    pub(crate) fn key(self) -> u128 {
        self.0
    }
}

/// What was there.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Insert {
    /// Nothing: it is there now, with its flag set and the number 0.
    New,
    /// The key, with this flag and this number.
    Known(bool, u32),
    /// Nothing, and there is no room for it.
    Full,
}

const NUMBER: u128 = u32::MAX as u128;
const FLAG: u128 = NUMBER + 1;
const KEY: u128 = !(NUMBER | FLAG);
const SLOT_BYTES: usize = size_of::<u128>();
/// How many places an empty set has.
const PLACES_MIN: usize = 1 << 12;
/// How many keys go behind the last place. If there are more, the table grows.
const SPILL: usize = 64;

/// How many keys so many places take: of a hundred, 85.
fn keys_max(places: usize) -> usize {
    places / 20 * 17
}

impl Visited {
    /// No keys. What they take is on `account`.
    pub(crate) fn new(mut account: Account) -> Visited {
        // The first few are free.
        account.hold((PLACES_MIN + SPILL) * SLOT_BYTES);
        Visited { slots: vec![0; PLACES_MIN + SPILL], places: PLACES_MIN, len: 0, account }
    }

    /// How many keys there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// A key as it is kept.
    #[inline(always)]
    pub(crate) fn place(key: u128) -> Place {
        // 0 is free.
        Place((key & KEY).max(FLAG << 1))
    }

    /// Where a key would stand if it were alone.
    #[inline(always)]
    fn home(places: usize, key: u128) -> usize {
        (((key >> 64) * places as u128) >> 64) as usize
    }

    /// The slot of a key, or where it belongs.
    #[inline(always)]
    fn find(&self, key: u128) -> usize {
        let mut slot = Visited::home(self.places, key);
        while let Some(there) = self.slots.get(slot)
            && *there != 0
            && there & KEY < key
        {
            slot += 1;
        }
        slot
    }

    /// Says that a key will be asked for soon: has its place fetched from memory meanwhile.
    #[inline(always)]
    pub(crate) fn expect(&self, Place(key): Place) {
        core::hint::black_box(self.slots[Visited::home(self.places, key)]);
    }

    /// Adds a key and sets its flag, if it is not there.
    #[inline]
    pub(crate) fn insert(&mut self, Place(key): Place) -> Insert {
        let slot = self.find(key);
        match self.slots.get(slot) {
            Some(there) if there & KEY == key => {
                Insert::Known(there & FLAG != 0, (there & NUMBER) as u32)
            }
            _ => self.insert_at(slot, key),
        }
    }

    fn insert_at(&mut self, slot: usize, key: u128) -> Insert {
        let free = self.slots.iter().skip(slot).position(|there| *there == 0);
        let Some(behind) = free.filter(|_| self.len < keys_max(self.places)) else {
            return if self.grow() { self.insert_at(self.find(key), key) } else { Insert::Full };
        };
        self.slots.copy_within(slot..slot + behind, slot + 1);
        self.slots[slot] = key | FLAG;
        self.len += 1;
        Insert::New
    }

    /// The number of a key, if it is there.
    #[inline]
    pub(crate) fn get(&self, Place(key): Place) -> Option<u32> {
        let there = *self.slots.get(self.find(key))?;
        (there & KEY == key).then_some((there & NUMBER) as u32)
    }

    /// The keys whose flags are clear, and their numbers.
    pub(crate) fn closed(&self) -> impl Iterator<Item = (Place, u32)> {
        let all = self.slots.iter().filter(|slot| **slot != 0 && **slot & FLAG == 0);
        all.map(|slot| (Place(slot & KEY), (slot & NUMBER) as u32))
    }

    /// Clears the flag of a key.
    #[inline]
    pub(crate) fn clear_flag(&mut self, Place(key): Place) {
        let slot = self.find(key);
        self.slots[slot] &= !FLAG;
    }

    /// Sets the number of a key.
    #[inline]
    pub(crate) fn set_number(&mut self, Place(key): Place, number: u32) {
        let slot = self.find(key);
        self.slots[slot] = self.slots[slot] & !NUMBER | u128::from(number);
    }

    /// Makes room for a quarter more; false if there is none.
    #[cold]
    fn grow(&mut self) -> bool {
        let (old, places) = (self.slots.len(), self.places / 4 * 5);
        let new = places + SPILL;
        // Both are there until all keys have moved.
        if !self.account.hold((old + new) * SLOT_BYTES) {
            return false;
        }
        let mut slots = zeros(new).unwrap_or_default();
        if fill(&mut slots, places, &self.slots) {
            (self.slots, self.places) = (slots, places);
        }
        self.account.hold(self.slots.len() * SLOT_BYTES) && self.places == places
    }
}

impl Visited {
    /// Writes all keys.
    pub(crate) fn write(&self, to: &mut Writing<'_>) -> io::Result<()> {
        to.put(&(self.places as u64, self.len as u64))?;
        self.slots.iter().filter(|slot| **slot != 0).try_for_each(|slot| to.put(slot))
    }

    /// Reads what [`Visited::write`] wrote into an empty set; [`Insert::Full`] if there is no room.
    pub(crate) fn read(&mut self, from: &mut Reading<'_>) -> Result<Insert, Unusable> {
        let (places, len) = from.get::<(u64, u64)>()?;
        let (places, len) = (places as usize, len as usize);
        if !(PLACES_MIN..usize::MAX / SLOT_BYTES / 2).contains(&places) || len > places {
            return Err(Unusable::new("its set of states is none"));
        }
        let all = places + SPILL;
        let slots = self.account.hold(all * SLOT_BYTES).then(|| zeros(all)).flatten();
        let Some(slots) = slots else { return Ok(Insert::Full) };
        *self = Visited { slots, places, len, account: core::mem::take(&mut self.account) };
        let (mut next, mut last) = (0, 0);
        for _ in 0..len {
            let key: u128 = from.get()?;
            next = next.max(Visited::home(places, key));
            match self.slots.get_mut(next) {
                Some(slot) if key > last => *slot = key,
                _ => return Err(Unusable::new("its states are not in order")),
            }
            (next, last) = (next + 1, key);
        }
        Ok(Insert::New)
    }
}

/// A set that is made of keys in their order.
#[derive(Debug)]
pub(crate) struct Filling {
    slots: Vec<u128>,
    places: usize,
    next: usize,
    len: usize,
    account: Account,
}

impl Filling {
    /// For so many keys, and some more; none if there is no room.
    pub(crate) fn new(mut account: Account, keys: usize) -> Option<Filling> {
        let places = (keys / 17 * 20 + keys / 4).max(PLACES_MIN);
        let all = places + SPILL;
        let slots = account.hold(all * SLOT_BYTES).then(|| zeros(all)).flatten()?;
        Some(Filling { slots, places, next: 0, len: 0, account })
    }

    /// The next larger key, with a clear flag; false if there is no room.
    pub(crate) fn add(&mut self, Place(key): Place, number: u32) -> bool {
        self.next = place_next(&mut self.slots, self.places, self.next, key | u128::from(number));
        self.len += 1;
        self.next <= self.slots.len()
    }

    /// The set.
    pub(crate) fn done(self) -> Visited {
        let Filling { slots, places, len, account, .. } = self;
        Visited { slots, places, len, account }
    }
}

/// Copies keys in their order to an empty table; false if the last of them find no room, which with
/// hashes for keys has a chance of less than 2^-60.
fn fill(slots: &mut [u128], places: usize, from: &[u128]) -> bool {
    let mut next = 0;
    for there in from.iter().filter(|there| **there != 0) {
        next = place_next(slots, places, next, *there);
    }
    next <= slots.len()
}

/// Puts a key behind all others, the last of which is before `next`. Gives what is before which
/// this one is then.
#[inline(always)]
fn place_next(slots: &mut [u128], places: usize, next: usize, key: u128) -> usize {
    let at = next.max(Visited::home(places, key));
    if let Some(slot) = slots.get_mut(at) {
        *slot = key;
    }
    at + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn it_is_a_set_and_keeps_flags_and_numbers() {
        let mut random = 1_u128;
        let mut draw = || {
            random = random.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835).wrapping_add(1);
            random >> 32
        };
        // Keys all over, and some that belong to the last place.
        for last in [0, 50] {
            let mut visited = Visited::new(Account::default());
            let mut wanted = BTreeMap::new();
            for round in 0..60_000_u32 {
                let key = match draw() % 5000 {
                    n if n < last => u128::MAX << 76 | n << 40,
                    n => n.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835),
                };
                let key = Visited::place(key);
                match draw() % 8 {
                    0 if wanted.contains_key(&key) => {
                        visited.clear_flag(key);
                        visited.set_number(key, round);
                        wanted.insert(key, (false, round));
                    }
                    _ => match (visited.insert(key), wanted.get(&key)) {
                        (Insert::New, None) => {
                            wanted.insert(key, (true, 0));
                        }
                        (Insert::Known(flag, number), Some(there)) => {
                            assert_eq!((flag, number), *there);
                        }
                        (got, there) => panic!("{got:?} beside {there:?}"),
                    },
                }
                assert_eq!(visited.len(), wanted.len());
            }
            let keys: Vec<u128> = visited.slots.iter().filter(|s| **s != 0).copied().collect();
            assert!(keys.is_sorted() && keys.len() == wanted.len() && keys.len() > 3000);
        }
    }

    #[test]
    fn a_key_takes_at_most_24_bytes() {
        let mut visited = Visited::new(Account::default());
        let mut key = 0_u128;
        for i in 0..300_000 {
            key = key.wrapping_add(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
            assert!(matches!(visited.insert(Visited::place(key)), Insert::New));
            let bytes = visited.slots.len() * SLOT_BYTES;
            assert!(i < PLACES_MIN || bytes <= 24 * visited.len(), "{bytes} for {i} keys");
        }
    }
}
