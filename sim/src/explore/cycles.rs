//! Finds cycles in which actors go round for ever, while a depth-first search runs.
//!
//! Strongly connected components, by paths (Gabow). A component is a livelock only if it is fair:
//! each actor that is enabled somewhere in it also moves in it. A vCPU that spins until a
//! preempted thread gets on is none. A fair cycle strictly inside an unfair component is not found.

use std::collections::BTreeMap;
use std::io;

use serde::{Deserialize, Serialize};

use super::keep::{Reading, Unusable, Writing};
use super::states::States;
use super::visited::Place;
use crate::machine::memory::bytes;
use crate::record::actor::Actor;
use crate::record::schedule::Move;

/// What is known of the component of a state on the path.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) struct Part {
    place: Place,
    /// The actor that led to the state.
    by: u32,
    /// The lowest depth of the path that the state reaches.
    low: u32,
    /// How many open states there were when this one was met.
    open: u32,
    /// Actors that move within the component, and actors that are enabled somewhere in it.
    moved: u32,
    enabled: u32,
    /// A cycle of the component, if it has one. Few have: states on the path shall be small.
    lap: Option<Box<Lap>>,
}

/// A cycle.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) struct Lap {
    /// A way from the first state to the cycle and once round it.
    pub(crate) path: Vec<Move>,
    /// The actors that move in the cycle's component, one bit each.
    pub(crate) actors: u32,
    /// True if the goal's story is complete there; it is everywhere in the component, then.
    pub(crate) story: bool,
}

/// The components that are not complete. States carry the visited set's flag as long as theirs is
/// not.
#[derive(Debug, Default)]
pub(crate) struct Cycles {
    path: Vec<Part>,
    /// States that have left the path, but whose component has not, and their places in the list.
    open: Vec<Place>,
    places: BTreeMap<Place, usize>,
}

/// What an entry of [`Cycles::places`] takes, in a node that is half full.
const PLACE_BYTES: usize = 64;

impl Cycles {
    /// How much memory they take.
    pub(crate) fn bytes(&self) -> usize {
        bytes(&self.path) + bytes(&self.open) + self.places.len() * PLACE_BYTES
    }

    /// Writes them.
    pub(crate) fn write(&self, to: &mut Writing<'_>) -> io::Result<()> {
        to.put(&self.path)?;
        to.put(&self.open)
    }

    /// Reads what [`Cycles::write`] wrote.
    pub(crate) fn read(from: &mut Reading<'_>) -> Result<Cycles, Unusable> {
        let (path, open): (_, Vec<Place>) = (from.get()?, from.get()?);
        let places = open.iter().enumerate().map(|(at, place)| (*place, at)).collect();
        Ok(Cycles { path, open, places })
    }

    /// The states that are open.
    pub(crate) fn places(&self) -> impl Iterator<Item = Place> {
        self.path.iter().map(|part| part.place).chain(self.open.iter().copied())
    }

    /// How long the path is.
    pub(crate) fn depth(&self) -> usize {
        self.path.len()
    }

    /// A new state goes on the path. `by` made the move that led there; `enabled` are the actors
    /// that can go on.
    #[inline]
    pub(crate) fn push(&mut self, place: Place, by: Option<Actor>, enabled: u32) {
        let by = by.map_or(0, |actor| 1 << actor.index());
        let (low, open) = (self.path.len() as u32, self.open.len() as u32);
        self.path.push(Part { place, by, low, open, moved: 0, enabled, lap: None });
    }

    /// The last state of the path.
    pub(crate) fn top(&self) -> Option<Place> {
        self.path.last().map(|part| part.place)
    }

    /// `step` leads from the last state of the path to `place`, whose component is not complete.
    /// `lap` gives the way there and whether the story is complete.
    #[cold]
    pub(crate) fn meet(
        &mut self,
        place: Place,
        step: Move,
        lap: impl FnOnce() -> (Vec<Move>, bool),
    ) {
        let open = self.places.get(&place).copied();
        let depth = match open {
            // Some state of the path has it below itself: the deepest one that is older.
            Some(at) => self.path.partition_point(|part| part.open as usize <= at).checked_sub(1),
            None => self.path.iter().rposition(|part| part.place == place),
        };
        if let (Some(depth), Some(top)) = (depth, self.path.last_mut()) {
            top.low = top.low.min(depth as u32);
            top.moved |= 1 << step.actor.index();
            if open.is_none() && top.lap.is_none() {
                let (path, story) = lap();
                top.lap = Some(Box::new(Lap { path, actors: 0, story }));
            }
        }
    }

    /// The last state leaves the path. If that completes a component in which actors can go round
    /// for ever, returns how.
    #[inline]
    pub(crate) fn pop(&mut self, states: &mut States) -> Option<Lap> {
        let part = self.path.pop()?;
        if (part.low as usize) < self.path.len() {
            self.keep_open(part);
            return None;
        }
        states.close(part.place);
        for place in self.open.drain(part.open as usize..) {
            self.places.remove(&place);
            states.close(place);
        }
        let fair = part.enabled & !part.moved == 0;
        part.lap.filter(|_| fair).map(|lap| Lap { actors: part.moved, ..*lap })
    }

    #[cold]
    fn keep_open(&mut self, part: Part) {
        self.places.insert(part.place, self.open.len());
        self.open.push(part.place);
        if let Some(below) = self.path.last_mut() {
            below.low = below.low.min(part.low);
            below.moved |= part.moved | part.by;
            below.enabled |= part.enabled;
            below.lap = below.lap.take().or(part.lap);
        }
    }
}
