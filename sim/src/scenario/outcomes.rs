//! The outcomes that the simulated machine allows: those of all complete executions.
//!
//! Guarantee: with an exhaustive strategy and a verdict of `Holds` the set is complete for the
//! scenario, the missing guards and the memory model. It is a function of these and of the bounds
//! alone. Nothing is looked for meanwhile: properties of the scenario are not watched, since what a
//! broken kernel leaves behind is an outcome as well, and a search for a violation would end at the
//! first. What the machine always watches still ends the execution that breaks it; [`Collected`]
//! says which of these there were, since such an execution has no outcome.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use kvmmu_model::GuardSet;
use kvmmu_scenarios::Scenario;
use kvmmu_scenarios::outcome::Outcome;

use super::race::{Race, Record};
use crate::explore::{Explorer, Limits, Progress};
use crate::record::goal::Goal;
use crate::record::outcome::{Found, Stats, Verdict};
use crate::record::rule::Rule;

/// No rule is called so: whatever is violated, the search goes on.
const NOTHING: Rule = Rule::Own("nothing");

/// What a search for outcomes gave.
#[derive(Clone, Debug)]
pub struct Collected {
    /// Each outcome, and in how many final states or executions it was met.
    pub outcomes: BTreeMap<Outcome, u64>,
    /// `Holds`: these are all, if the strategy is exhaustive. Never `Violated`.
    pub verdict: Verdict,
    /// The first of each kind of violation: executions that end there have no outcome.
    pub broken: Vec<Found>,
    /// What it took.
    pub stats: Stats,
}

/// Collects the outcomes of `scenario` without these guards.
pub fn collect(
    scenario: &Scenario,
    without: GuardSet,
    explorer: &mut dyn Explorer,
    limits: &Limits,
    progress: Progress<'_>,
) -> Collected {
    let bare = Scenario {
        always: Vec::new(),
        sometimes: Vec::new(),
        lock_checks: false,
        ..scenario.clone()
    };
    let record = Record::default();
    let race = Race::new(bare, without).recording(&record);
    // A worker may make an execution that another makes again: each is to be counted once.
    let limits = Limits { workers: 1, ..*limits };
    let found = explorer.explore(&race, &Goal::of(NOTHING), &limits, progress);
    let outcomes = core::mem::take(&mut *record.lock().unwrap_or_else(PoisonError::into_inner));
    Collected { outcomes, verdict: found.verdict, broken: found.others, stats: found.stats }
}
