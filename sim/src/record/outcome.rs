//! What an exploration found: one shape out of every explorer.

use kvmmu_model::{Guard, GuardSet, Mark};
use kvmmu_scenarios::lockdep::LockOrders;
use kvmmu_scenarios::scenario::SOMETIMES_MAX;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::rule::Rule;
use super::schedule::Schedule;

/// The result of an exploration.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What can be said.
    pub verdict: Verdict,
    /// The first violation of each property and story that was not the one looked for.
    pub others: Vec<Found>,
    /// What was seen somewhere in the exploration.
    pub seen: Seen,
    /// The orders in which locks were taken.
    pub locks: LockOrders,
    /// What it took.
    pub stats: Stats,
}

/// What can be said.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Everything within the bounds was explored and nothing that was looked for was violated; what
    /// else was is in [`Outcome::others`].
    Holds,
    /// The violation that was looked for.
    Violated(Found),
    /// A bound was hit, or a strategy that is not exhaustive found nothing.
    Inconclusive(Reason),
}

/// A violation and how to get there.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// The rule that was violated.
    pub rule: Rule,
    /// What is wrong, in words.
    pub detail: String,
    /// The way there.
    pub schedule: Schedule,
    /// True if the way passes the story that was asked for.
    pub story: bool,
}

/// Why an exploration ended early.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// The strategy samples; it cannot show that something holds.
    NotExhaustive,
    /// `executions_max` was hit.
    Executions,
    /// `states_max` was hit.
    States,
    /// `memory` has no room, or the allocator has none.
    Memory,
    /// An execution grew longer than `steps_max`.
    Steps,
    /// Executions with more context switches than were asked for were left out.
    Switches,
    /// `time_max` was hit.
    Time,
    /// Somebody asked to stop.
    Interrupted,
    /// The model, the scenario or the simulator panicked: see [`Outcome::others`], property
    /// `internal-error`.
    InternalError,
}

/// Marks and witnesses seen somewhere.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    /// Bit `mark as u8` is set if the mark was seen.
    pub marks: u128,
    /// Bit `i` is set if the `i`-th witness sequence was completed.
    pub witnesses: u64,
    /// Guards that some step asked for. The others were never reached, and removing them changes
    /// nothing.
    #[serde(serialize_with = "write_guards", deserialize_with = "read_guards")]
    pub asked: GuardSet,
}

const _: () = assert!(Mark::ALL.len() <= u128::BITS as usize);
const _: () = assert!(SOMETIMES_MAX <= u64::BITS as usize);

impl Seen {
    /// Adds what was seen elsewhere.
    pub fn merge(&mut self, other: &Seen) {
        self.marks |= other.marks;
        self.witnesses |= other.witnesses;
        self.asked = other.asked.iter().fold(self.asked, GuardSet::with);
    }

    /// True if the mark was seen.
    pub fn mark(&self, mark: Mark) -> bool {
        self.marks >> mark as u8 & 1 == 1
    }
}

/// By their names.
fn write_guards<S: Serializer>(guards: &GuardSet, to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(guards.iter().map(|guard| guard.info().name).collect::<Vec<_>>())
}

fn read_guards<'de, D: Deserializer<'de>>(from: D) -> Result<GuardSet, D::Error> {
    let guard = |name: &String| {
        let unknown = || de::Error::custom(format_args!("no guard is called '{name}'"));
        Guard::by_name(name).ok_or_else(unknown)
    };
    Vec::<String>::deserialize(from)?.iter().map(guard).collect()
}

/// What an exploration took. Functions of input, seed and bounds, except `Reason::Time`.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Complete executions (terminal states for `stateful`).
    pub executions: u64,
    /// Executions cut because another order of the same steps was or will be explored.
    pub blocked: u64,
    /// Distinct states (`stateful`, `naive`).
    pub states: u64,
    /// Steps taken for the first time, replays not counted.
    pub transitions: u64,
    /// Steps taken in all.
    pub steps: u64,
    /// The longest execution, in steps.
    pub depth_max: u32,
    /// Shared objects that dpor takes for one, because more of them were touched than it tells
    /// apart: steps on them seem to conflict, so that more orders are explored than need be.
    pub lumped: u16,
}
