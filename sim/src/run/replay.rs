//! Takes a schedule again and says what happened.

use core::fmt;

use super::engine::Engine;
use crate::record::event::Event;
use crate::record::goal::Violation;
use crate::record::names::{Names, Wait};
use crate::record::schedule::{Move, Schedule};

/// A schedule and what happens in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Replay {
    /// What happened, the stop phase included if the schedule is complete.
    pub events: Vec<Event>,
    /// What it violated.
    pub violation: Option<Violation>,
    /// True if no move was left.
    pub complete: bool,
    /// What the objects of the events are called.
    pub names: Names,
    /// What threads wait for after the last step; empty after a violation that is no deadlock.
    pub waits: Vec<Wait>,
    /// The locks that threads ask for after the last step and do not have yet; after a violation by
    /// an acquisition that one alone.
    pub asks: Vec<Wait>,
    /// The key of the state that each step led to.
    pub keys: Vec<u128>,
}

/// A schedule does not fit the program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplayError {
    /// Which step, counted from 1.
    pub step: usize,
    /// The move that cannot be made.
    pub wanted: Move,
    /// The moves that could.
    pub possible: Vec<Move>,
}

impl fmt::Display for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |m: &Move| Schedule(vec![*m]).to_string();
        let possible: Vec<String> = self.possible.iter().map(text).collect();
        let possible = if possible.is_empty() { "none".into() } else { possible.join(", ") };
        let (step, wanted) = (self.step, text(&self.wanted));
        write!(f, "step {step}: move {wanted} is not possible; possible are: {possible}")
    }
}

impl core::error::Error for ReplayError {}

/// Takes the schedule's moves from the first state on.
///
/// # Errors
/// If a move cannot be made where the schedule makes it.
pub fn replay(engine: &mut Engine, schedule: &Schedule) -> Result<Replay, ReplayError> {
    engine.set_tracing(true);
    let result = run(engine, schedule);
    engine.set_tracing(false);
    result
}

fn run(engine: &mut Engine, schedule: &Schedule) -> Result<Replay, ReplayError> {
    let mut keys = Vec::with_capacity(schedule.0.len());
    for (i, step) in schedule.0.iter().enumerate() {
        if !engine.can(*step) {
            let mut possible = Vec::new();
            engine.moves(&mut possible);
            return Err(ReplayError { step: i + 1, wanted: *step, possible });
        }
        engine.step(*step);
        keys.push(engine.key());
    }
    let complete = engine.enabled() == 0;
    let waits = if engine.is_violated() { Vec::new() } else { engine.waits() };
    let asks = engine.asks();
    let violation = if complete { engine.finish() } else { None };
    let (events, names) = (engine.take_events(), engine.take_names());
    Ok(Replay { events, violation, complete, names, waits, asks, keys })
}
