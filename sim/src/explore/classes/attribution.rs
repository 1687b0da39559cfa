//! Which parts of the state tell states apart that no future tells apart: values that nobody will
//! read any more. They are found by leaving one after the other out of the key.

use std::collections::BTreeMap;

use super::partition::count;
use super::walk::{Step, Visitor};
use crate::machine::hash::Chain;
use crate::machine::pending::Kind;
use crate::run::engine::Engine;
use crate::run::parts::THREAD_PARTS;

/// How many states are looked at, about.
const STATES_MAX: usize = 200_000;
/// How many parts are named at most.
const PARTS_MAX: usize = 10;
/// How many places at most where a thread stands.
const PLACES_MAX: usize = 5;
/// If a part merges fewer than one in so many keys, two together are looked at.
const FEW: usize = 50;

/// What tells states of one class apart.
#[derive(Clone, Debug)]
pub struct Attribution {
    /// How many states were looked at: all those of some classes, if there are very many.
    pub states: usize,
    /// The classes that they are of.
    pub classes: usize,
    /// How many keys they would have if no part were left out: as many as states, unless the parts
    /// miss something.
    pub keys: usize,
    /// What is left out of the key, the best first, each with those before it.
    pub parts: Vec<Part>,
}

/// A part of the state that is left out of the key.
#[derive(Clone, Debug)]
pub struct Part {
    /// What it is called; two, if leaving out one of them alone would do little.
    pub names: Vec<String>,
    /// How many keys are left without it and those before it.
    pub keys: usize,
    /// The bits in which the values differ, if it is one word.
    pub bits: Option<u64>,
    /// Where a thread stands in most of the states that are merged: that which has the part, or
    /// any.
    pub places: Vec<Place>,
}

/// A place in the source where a thread stands.
#[derive(Clone, Debug)]
pub struct Place {
    /// The thread and its pending operation.
    pub name: String,
    /// How many states that differ are merged while it stands there.
    pub merged: usize,
}

/// The values of all parts, for the states of some classes.
pub(super) struct Rows {
    /// The class of each state that the walk comes to.
    classes: Vec<u64>,
    /// States are kept whose class is a multiple of this.
    every: u64,
    names: Vec<String>,
    /// Which of the parts are words.
    words: Vec<bool>,
    threads: usize,
    /// The classes of those that are kept, and the values, state by state.
    kept: Vec<u64>,
    values: Vec<u64>,
    /// For each state that is kept and each thread the number of the place where it stands.
    places: Vec<u32>,
    numbers: BTreeMap<String, u32>,
}

impl Rows {
    pub(super) fn new(engine: &Engine, classes: Vec<u64>) -> Rows {
        let names = engine.part_names();
        let every = classes.len().div_ceil(STATES_MAX).max(1) as u64;
        Rows {
            classes,
            every,
            names,
            words: engine.part_words(),
            threads: engine.threads(),
            kept: Vec::new(),
            values: Vec::new(),
            places: Vec::new(),
            numbers: BTreeMap::new(),
        }
    }
}

impl Visitor for Rows {
    fn arrive(&mut self, engine: &mut Engine, state: u32, _: bool) {
        let class = self.classes[state as usize];
        if !class.is_multiple_of(self.every) {
            return;
        }
        self.kept.push(class);
        engine.parts(&mut self.values);
        for t in 0..self.threads {
            let pending = engine.pending(t);
            let (thread, kind, site) = (&engine.thread_names()[t], pending.kind, pending.site);
            let place = match kind {
                Kind::Done => format!("{thread} Done"),
                _ => format!("{thread} {kind:?} {}:{}", site.file(), site.line()),
            };
            let next = self.numbers.len() as u32;
            self.places.push(*self.numbers.entry(place).or_insert(next));
        }
    }

    fn leave(&mut self, _: u32, _: &[Step]) {}
}

impl Rows {
    /// Leaves out the part without which the fewest keys are left, then the next, and so on.
    pub(super) fn attribute(&self) -> Attribution {
        let table = Table::new(self);
        let mut keys = table.keys();
        let (states, classes) = (self.kept.len(), count(self.kept.clone()));
        // The others are the only ones of their classes.
        let single = states - table.rows.len();
        let all = single + count(keys.clone());
        let mut attribution = Attribution { states, classes, keys: all, parts: Vec::new() };
        let mut left: Vec<usize> = (0..table.parts.len()).collect();
        let mut now = count(keys.clone());
        while attribution.parts.len() < PARTS_MAX {
            let best = |groups: &mut dyn Iterator<Item = Vec<usize>>| {
                groups.map(|group| (count(table.without(&keys, &group)), group)).min()
            };
            let mut found = best(&mut left.iter().map(|part| vec![*part]));
            if found.as_ref().is_some_and(|(fewer, _)| (now - fewer) * FEW < now) {
                let pairs = left.iter().flat_map(|a| left.iter().map(move |b| vec![*a, *b]));
                let two = best(&mut pairs.filter(|pair| pair[0] < pair[1]));
                let merged = |found: &Option<(usize, _)>| found.as_ref().map_or(0, |f| now - f.0);
                if merged(&two) > 2 * merged(&found) {
                    found = two;
                }
            }
            let Some((fewer, group)) = found.filter(|(fewer, _)| *fewer < now) else { break };
            let without = table.without(&keys, &group);
            attribution.parts.push(Part {
                names: group.iter().map(|part| self.names[table.parts[*part].of].clone()).collect(),
                keys: single + fewer,
                bits: match group[..] {
                    [part] => self.words[table.parts[part].of].then_some(table.parts[part].bits),
                    _ => None,
                },
                places: self.places(&table, group[0], &keys, &without),
            });
            left.retain(|part| !group.contains(part));
            (keys, now) = (without, fewer);
        }
        attribution
    }

    /// Where threads stand in most of the states that have several keys with the part and one
    /// without it.
    fn places(&self, table: &Table, part: usize, with: &[u64], without: &[u64]) -> Vec<Place> {
        let first = self.names.len() - THREAD_PARTS * self.threads;
        let threads = match table.parts[part].of.checked_sub(first).map(|i| i / THREAD_PARTS) {
            Some(thread) => thread..thread + 1,
            None => 0..self.threads,
        };
        let mut merged = vec![0; self.numbers.len()];
        for thread in threads {
            let mut count = |keys: &[u64], sign: isize| {
                let place = |row: &usize| self.places[row * self.threads + thread];
                let places = table.rows.iter().map(place);
                let mut pairs: Vec<(u64, u32)> = keys.iter().copied().zip(places).collect();
                pairs.sort_unstable();
                pairs.dedup();
                pairs.iter().for_each(|(_, place)| merged[*place as usize] += sign);
            };
            count(with, 1);
            count(without, -1);
        }
        let place = |(name, number): (&String, &u32)| {
            let merged = merged[*number as usize].max(0) as usize;
            (merged != 0).then(|| Place { name: name.clone(), merged })
        };
        let mut places: Vec<Place> = self.numbers.iter().filter_map(place).collect();
        places.sort_by_key(|place| core::cmp::Reverse(place.merged));
        places.truncate(PLACES_MAX);
        places
    }
}

/// The states of classes that have several, and the parts that differ within classes.
struct Table {
    /// The rows of these states.
    rows: Vec<usize>,
    /// Their classes.
    classes: Vec<u64>,
    parts: Vec<Column>,
}

/// A part of these states.
struct Column {
    /// Which part.
    of: usize,
    /// The bits that differ within classes.
    bits: u64,
    /// What it adds to the key of each.
    values: Vec<u64>,
}

impl Table {
    fn new(all: &Rows) -> Table {
        let width = all.names.len();
        let mut order: Vec<usize> = (0..all.kept.len()).collect();
        order.sort_by_key(|row| all.kept[*row]);
        let same = |a: &usize, b: &usize| all.kept[*a] == all.kept[*b];
        let groups = || order.chunk_by(same).filter(|group| group.len() > 1);
        let value = |row: usize, part: usize| all.values[row * width + part];
        let mut bits = vec![0; width];
        for (group, part) in groups().flat_map(|group| (0..width).map(move |part| (group, part))) {
            let differ = |row: &usize| value(*row, part) ^ value(group[0], part);
            bits[part] |= group.iter().map(differ).fold(0, |all, bits| all | bits);
        }
        let rows: Vec<usize> = groups().flatten().copied().collect();
        let add = |row: &usize, part| {
            Chain::EMPTY.then(part as u64).then(value(*row, part)).part(0) as u64
        };
        let column = |of: usize| {
            let values = rows.iter().map(|row| add(row, of)).collect();
            Column { of, bits: bits[of], values }
        };
        let parts = (0..width).filter(|part| bits[*part] != 0).map(column).collect();
        let classes = rows.iter().map(|row| all.kept[*row]).collect();
        Table { rows, classes, parts }
    }

    /// The keys of these states: the sum of all parts and the class.
    fn keys(&self) -> Vec<u64> {
        let mut keys = self.classes.clone();
        for part in &self.parts {
            keys.iter_mut().zip(&part.values).for_each(|(key, v)| *key = key.wrapping_add(*v));
        }
        keys
    }

    /// Keys without some parts.
    fn without(&self, keys: &[u64], parts: &[usize]) -> Vec<u64> {
        let mut keys = keys.to_vec();
        for part in parts {
            let values = &self.parts[*part].values;
            keys.iter_mut().zip(values).for_each(|(key, v)| *key = key.wrapping_sub(*v));
        }
        keys
    }
}
