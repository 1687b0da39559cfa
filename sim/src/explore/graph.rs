//! The state graph of a program, recorded to check the keys of states: equal keys must mean states
//! that nothing can distinguish, and different keys should mean states that differ.

use std::collections::BTreeMap;

use super::classes::{count, partition};
use crate::machine::hash::Chain;
use crate::machine::pending::Kind;
use crate::machine::snapshot::Snapshots;
use crate::record::actor::Actor;
use crate::record::schedule::Move;
use crate::run::engine::Engine;

/// States and the moves between them.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    numbers: BTreeMap<u128, u32>,
    labels: Vec<u64>,
    edges: Vec<Vec<(Move, u32)>>,
    /// Times that a state had the key of another, but looked different or led elsewhere.
    pub clashes: u64,
    /// The first of these, in words.
    pub first_clash: Option<String>,
}

impl Graph {
    /// The engine is in the state with this key; `edge` says how it came there. Returns the state's
    /// number.
    pub(crate) fn arrive(&mut self, engine: &Engine, key: u128, edge: Option<(u32, Move)>) -> u32 {
        let label = label(engine);
        let next = self.labels.len() as u32;
        let number = *self.numbers.entry(key).or_insert(next);
        if number == next {
            self.labels.push(label);
            self.edges.push(Vec::new());
        } else if self.labels[number as usize] != label {
            self.clash(|| format!("looks different: {}", describe(engine)));
        }
        if let Some((from, step)) = edge {
            self.edges[from as usize].push((step, number));
        }
        number
    }

    /// The engine is in a known state: its moves must lead where they led before.
    pub(crate) fn compare(&mut self, engine: &mut Engine, node: u32) {
        let mut here = Snapshots::new();
        engine.save(&mut here);
        for (step, to) in self.edges[node as usize].clone() {
            engine.restore(&here, 0);
            let before = describe(engine);
            let what = if !engine.can(step) {
                "is not possible any more"
            } else {
                engine.step(step);
                match self.numbers.get(&engine.key()) {
                    _ if engine.is_violated() => "violates something now",
                    Some(found) if *found == to => continue,
                    Some(_) => "leads to another known state",
                    None => "leads to a new state",
                }
            };
            self.clash(|| format!("move {step:?} {what}: {before}"));
        }
        engine.restore(&here, 0);
    }

    fn clash(&mut self, text: impl FnOnce() -> String) {
        self.clashes += 1;
        self.first_clash.get_or_insert_with(text);
    }

    /// How many states there are.
    pub fn states(&self) -> usize {
        self.labels.len()
    }

    /// The keys of the states.
    pub fn keys(&self) -> impl Iterator<Item = u128> {
        self.numbers.keys().copied()
    }

    /// How many states there would be if states that nothing distinguishes, now or in any future,
    /// were one, where the shared state is seen.
    pub fn quotient(&self) -> usize {
        let steps = |state: usize| {
            let step =
                |(step, to): &(Move, u32)| (Chain::EMPTY.then_hash(step).part(0) as u64, Some(*to));
            self.edges[state].iter().map(step)
        };
        count(partition(self.labels.clone(), steps))
    }
}

/// The pending operations of all threads.
fn describe(engine: &Engine) -> String {
    let text = |t: usize| {
        let pending = engine.pending(t);
        let (name, kind, site) = (&engine.thread_names()[t], pending.kind, pending.site);
        format!("{name} {kind:?} {}:{}:{}", site.file(), site.line(), site.column())
    };
    (0..engine.threads()).map(text).collect::<Vec<_>>().join("; ")
}

/// The shared state and what each thread will do.
fn label(engine: &Engine) -> u64 {
    look(engine, Chain::EMPTY.then_hash(&engine.shared_key())).part(0) as u64
}

/// Appends what each thread will do.
pub(super) fn look(engine: &Engine, mut chain: Chain) -> Chain {
    for t in 0..engine.threads() {
        let pending = engine.pending(t);
        let actor = Actor::Thread(t as u8);
        chain = chain.then_hash(&(pending.kind, engine.is_enabled(actor)));
        if pending.kind != Kind::Done {
            chain = chain.then_site(pending.site);
            chain = chain.then_hash(&(pending.loc, pending.arg, engine.choices(actor)));
        }
    }
    chain
}
