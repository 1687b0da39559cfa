//! Hashes of Mazurkiewicz traces: executions that differ only in the order of steps that commute
//! are one. The happens-before of an execution comes from the footprints of its steps.

use crate::machine::ACTORS_MAX;
use crate::machine::footprint::{Footprint, LOCS, bits};
use crate::machine::hash::Chain;
use crate::record::schedule::Move;

/// For each actor, how many of its steps happened before.
pub type Clock = [u16; ACTORS_MAX];

/// Adds to `clock` what happened before `other` too.
#[inline]
pub fn join(clock: &mut Clock, other: &Clock) {
    clock.iter_mut().zip(other).for_each(|(c, o)| *c = (*c).max(*o));
}

/// Computes the vector clock of each step of an execution, and a hash of the trace.
#[derive(Clone, Debug)]
pub struct TraceHash {
    actors: [Clock; ACTORS_MAX],
    /// For each location: everything up to the last writes and reads of it, and additions to it.
    writes: Box<[Clock; LOCS]>,
    reads: Box<[Clock; LOCS]>,
    adds: Box<[Clock; LOCS]>,
    locks: Box<[Clock; 64]>,
    hash: u128,
}

/// An empty execution.
impl Default for TraceHash {
    fn default() -> TraceHash {
        let zero = [0; ACTORS_MAX];
        TraceHash {
            actors: [zero; ACTORS_MAX],
            writes: Box::new([zero; LOCS]),
            reads: Box::new([zero; LOCS]),
            adds: Box::new([zero; LOCS]),
            locks: Box::new([zero; 64]),
            hash: 0,
        }
    }
}

impl TraceHash {
    /// Appends a step and returns its clock.
    pub fn push(&mut self, step: Move, footprint: &Footprint) -> Clock {
        let t = step.actor.index();
        let mut clock = self.actors[t];
        clock[t] += 1;
        let Footprint { reads, writes, adds, .. } = *footprint;
        for bit in (writes | adds).numbers() {
            join(&mut clock, &self.writes[bit]);
            join(&mut clock, &self.reads[bit]);
        }
        for bit in writes.numbers() {
            join(&mut clock, &self.adds[bit]);
        }
        for bit in reads.numbers() {
            join(&mut clock, &self.writes[bit]);
            join(&mut clock, &self.adds[bit]);
        }
        for bit in bits(footprint.locks()) {
            join(&mut clock, &self.locks[bit]);
        }
        writes.numbers().for_each(|bit| join(&mut self.writes[bit], &clock));
        adds.numbers().for_each(|bit| join(&mut self.adds[bit], &clock));
        reads.numbers().for_each(|bit| join(&mut self.reads[bit], &clock));
        bits(footprint.locks()).for_each(|bit| join(&mut self.locks[bit], &clock));
        self.actors[t] = clock;
        let mut chain = Chain::EMPTY.then((step.actor.index() as u64) << 8 | step.choice as u64);
        for part in clock.chunks_exact(4) {
            chain = chain.then(part.iter().fold(0, |v, c| v << 16 | *c as u64));
        }
        // A sum, not a chain: the order of the steps is in their clocks.
        self.hash = self.hash.wrapping_add(chain.part(0));
        clock
    }

    /// The hash of the trace so far.
    pub fn hash(&self) -> u128 {
        self.hash
    }

    /// The hash of the trace of an execution.
    pub fn of(steps: &[(Move, Footprint)]) -> u128 {
        let mut trace = TraceHash::default();
        for (step, footprint) in steps {
            trace.push(*step, footprint);
        }
        trace.hash()
    }
}
