//! What an exploration is asked for and what it answers, as plain data: goals, stories, actors,
//! schedules, events and outcomes. Nothing here runs, and nothing here needs another room.

pub mod actor;
pub mod event;
pub mod goal;
pub mod names;
pub mod outcome;
pub mod rule;
pub mod schedule;

pub(crate) mod story;
