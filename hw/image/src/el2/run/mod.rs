//! Scenarios: those that the image holds, one run of one, all runs of all, and what was found.

pub(crate) mod all;
pub(crate) mod catalogue;
pub(crate) mod limits;
pub(crate) mod once;
pub(crate) mod report;

mod schedules;
mod tally;
mod tell;
