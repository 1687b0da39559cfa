//! One search over the executions of a variant: what it looks for, and what it has seen so far.
//!
//! No thread of an execution ever panics over a violation: it is recorded, the execution goes on to
//! its end without its observers, and the search ends before the next one. So nothing is unwound
//! while a tool's locks are held, and violations that are not what is looked for do not end a
//! search.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt;
use std::panic;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, Once};
use std::time::Instant;

use kvmmu_model::{GuardSet, Mark};
use kvmmu_scenarios::scenario::{Expected, Witness};
use kvmmu_scenarios::{Property, Scenario};

use crate::lockdep::Judged;

/// What an engine says of a variant.
#[derive(Clone, PartialEq, Debug)]
pub enum EngineOutcome {
    /// Nothing was violated.
    Holds {
        /// How many executions there were.
        executions: u64,
        /// True if these are all, within `bound`.
        complete: bool,
        /// The bound within which they are all; `None`: no bound but the scenario's own size.
        bound: Option<String>,
        /// The scenario's witnesses that no execution showed.
        unseen: Vec<String>,
    },
    /// A property is violated.
    Violated {
        /// Which.
        property: Property,
        /// In words.
        detail: String,
        /// True if it is the expected property, with the expected story; true if nothing is
        /// expected.
        story_matched: bool,
        /// What happened on the way, and in which thread, by index.
        marks: Vec<(Mark, u8)>,
        /// How many executions it took.
        executions: u64,
    },
    /// A bound was hit before a verdict.
    Inconclusive {
        /// Which.
        reason: String,
        /// How many executions there were.
        executions: u64,
    },
}

impl EngineOutcome {
    /// What two searches of a variant by the same engine say together: the one that says more, with
    /// the witnesses that neither has seen.
    #[must_use]
    pub fn and(self, other: EngineOutcome) -> EngineOutcome {
        use EngineOutcome::{Holds, Inconclusive, Violated};
        match (self, other) {
            (found @ Violated { story_matched: true, .. }, _)
            | (_, found @ Violated { story_matched: true, .. })
            | (found @ Violated { .. }, _)
            | (_, found @ Violated { .. })
            | (found @ Inconclusive { .. }, _)
            | (_, found @ Inconclusive { .. }) => found,
            (
                Holds { executions, complete, bound, mut unseen },
                Holds { executions: more, unseen: also, complete: all, .. },
            ) => {
                unseen.retain(|witness| also.contains(witness));
                let (executions, complete) = (executions + more, complete && all);
                Holds { executions, complete, bound, unseen }
            }
        }
    }
}

impl fmt::Display for EngineOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EngineOutcome::Holds { executions, complete, bound, unseen } => {
                write!(f, "nothing violated in {}, ", counted(*executions))?;
                match (complete, bound) {
                    (false, _) => f.write_str("sampled")?,
                    (true, None) => f.write_str("all explored")?,
                    (true, Some(bound)) => write!(f, "all explored within {bound}")?,
                }
                if unseen.is_empty() {
                    Ok(())
                } else {
                    write!(f, ", never saw {}", unseen.join("; nor "))
                }
            }
            EngineOutcome::Violated { property, detail, story_matched, executions, .. } => {
                let story = if *story_matched { "" } else { ", not as expected" };
                write!(f, "{} ({detail}){story}, {}", property.name(), counted(*executions))
            }
            EngineOutcome::Inconclusive { reason, executions } => {
                write!(f, "no verdict: {reason}, {}", counted(*executions))
            }
        }
    }
}

/// `1 execution`, `2 executions`.
fn counted(executions: u64) -> String {
    format!("{executions} execution{}", if executions == 1 { "" } else { "s" })
}

/// The panic that ends a search from inside.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StopSearch;

/// A violation.
#[derive(Clone, Debug)]
struct Found {
    property: Property,
    detail: String,
    marks: Vec<(Mark, u8)>,
}

/// A search, shared by all of its executions. Touching it is no step and synchronises nothing: both
/// tools run one thread at a time.
#[derive(Debug)]
pub struct Search {
    pub(crate) scenario: Scenario,
    pub(crate) without: GuardSet,
    property: Option<Property>,
    story: Option<Witness>,
    /// Words that some execution writes, by the order of their making. Only those and the freed
    /// ones are tracked.
    written: Mutex<BTreeSet<u32>>,
    /// Words that some execution frees.
    freed: Mutex<BTreeSet<u32>>,
    /// A word was written that was not tracked: the executions so far do not count.
    stale: AtomicBool,
    found: Mutex<Option<Found>>,
    other: Mutex<Option<Found>>,
    cut: Mutex<Option<String>>,
    seen: Mutex<Vec<bool>>,
    executions: AtomicU64,
    deadline: Option<Instant>,
    executions_max: u64,
    /// What was seen of locks.
    pub(crate) judged: Mutex<Judged>,
    /// Of the running execution: its marks.
    marks: Mutex<Vec<(Mark, u8)>>,
    /// Of the running execution: a property was violated.
    pub(crate) spent: AtomicBool,
    /// Of the running execution: threads in a native wait.
    pub(crate) waiters: AtomicU32,
    /// Of the running execution: those among them that wait to repeat a fault.
    pub(crate) retrying: AtomicU32,
}

/// Locks a mutex of `std` that is never held over a step.
pub(crate) fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Search {
    /// A search for what the scenario expects of this variant, or for any violation.
    pub(crate) fn new(
        scenario: &Scenario,
        without: GuardSet,
        executions_max: u64,
        deadline: Option<Instant>,
    ) -> Search {
        let expect = scenario
            .expects
            .iter()
            .find(|e| e.without == without && e.verdict == Expected::Violated);
        Search {
            property: expect.and_then(|e| e.property),
            story: expect.and_then(|e| e.story.clone()),
            seen: Mutex::new(vec![false; scenario.sometimes.len()]),
            scenario: scenario.clone(),
            without,
            written: Mutex::default(),
            freed: Mutex::default(),
            stale: AtomicBool::new(false),
            found: Mutex::default(),
            other: Mutex::default(),
            cut: Mutex::default(),
            executions: AtomicU64::new(0),
            deadline,
            executions_max,
            judged: Mutex::default(),
            marks: Mutex::default(),
            spent: AtomicBool::new(false),
            waiters: AtomicU32::new(0),
            retrying: AtomicU32::new(0),
        }
    }

    /// An execution is about to begin. False: the search is over.
    pub(crate) fn begin(&self) -> bool {
        if hold(&self.found).is_some() || hold(&self.cut).is_some() {
            return false;
        }
        let executions = self.executions.load(Relaxed);
        if executions >= self.executions_max {
            return self.cut_off(format!("executions <= {}", self.executions_max));
        }
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return self.cut_off("time".to_owned());
        }
        self.executions.store(executions + 1, Relaxed);
        hold(&self.marks).clear();
        self.spent.store(false, Relaxed);
        self.waiters.store(0, Relaxed);
        self.retrying.store(0, Relaxed);
        true
    }

    fn cut_off(&self, reason: String) -> bool {
        *hold(&self.cut) = Some(reason);
        false
    }

    /// An execution has ended.
    pub(crate) fn end(&self) {
        if self.spent.load(Relaxed) {
            return;
        }
        let marks = hold(&self.marks);
        let witnesses = self.scenario.sometimes.iter();
        for (seen, witness) in hold(&self.seen).iter_mut().zip(witnesses) {
            *seen = *seen || witness.story.is_told_by(marks.iter().copied());
        }
    }

    /// True if the word with this number is tracked.
    pub(crate) fn is_tracked(&self, word: u32) -> bool {
        self.is_written(word) || hold(&self.freed).contains(&word)
    }

    /// True if some execution has written the word.
    pub(crate) fn is_written(&self, word: u32) -> bool {
        hold(&self.written).contains(&word)
    }

    /// A word that was not tracked is written: from the next execution on it is.
    pub(crate) fn track(&self, word: u32) {
        if hold(&self.written).insert(word) {
            self.stale.store(true, Relaxed);
        }
    }

    /// The same for one that is freed, or used again.
    pub(crate) fn track_freed(&self, word: u32) {
        if hold(&self.freed).insert(word) {
            self.stale.store(true, Relaxed);
        }
    }

    /// True if the executions so far do not count; they are forgotten, but for a violation that was
    /// looked for: it did happen.
    pub(crate) fn restart(&self) -> bool {
        let stale = self.stale.swap(false, Relaxed) && hold(&self.found).is_none();
        if stale {
            self.executions.store(0, Relaxed);
            *hold(&self.other) = None;
            hold(&self.seen).fill(false);
            *hold(&self.judged) = Judged::default();
        }
        stale
    }

    /// True if [`Search::restart`] would say so.
    pub(crate) fn is_stale(&self) -> bool {
        self.stale.load(Relaxed)
    }

    pub(crate) fn mark(&self, mark: Mark, thread: u8) {
        hold(&self.marks).push((mark, thread));
    }

    /// A property is violated in the running execution.
    pub(crate) fn violate(&self, property: Property, detail: String) {
        if self.spent.swap(true, Relaxed) {
            return;
        }
        let marks = hold(&self.marks).clone();
        let matched = self.property.is_none_or(|p| p == property)
            && self
                .story
                .as_ref()
                .is_none_or(|story| story.story.is_told_by(marks.iter().copied()));
        let slot = if matched { &self.found } else { &self.other };
        hold(slot).get_or_insert(Found { property, detail, marks });
    }

    /// The tool has panicked: by [`StopSearch`], or because of what it found.
    pub(crate) fn panicked(&self, payload: &(dyn std::any::Any + Send)) {
        if payload.is::<StopSearch>() {
            return;
        }
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("a panic");
        let line = text.lines().next().unwrap_or_default();
        if text.contains("deadlock") {
            let retries = self.retrying.load(Relaxed) > 0;
            let property = if retries { Property::Livelock } else { Property::Deadlock };
            // It did happen, whatever was violated before: no observer says so, but the tool.
            self.spent.store(false, Relaxed);
            self.violate(property, line.to_owned());
        } else if text.contains("maximum number of branches") {
            self.cut_off("branches in one execution".to_owned());
        } else if text.contains("exceeded max_steps") {
            self.cut_off("steps in one execution".to_owned());
        } else {
            let place = PLACE.take().map_or(String::new(), |place| format!(" ({place})"));
            self.cut_off(format!("internal error: {line}{place}"));
        }
    }

    /// The verdict. `exhausted`: the tool came to the end of its executions by itself; `complete`:
    /// those were all that there are.
    pub(crate) fn outcome(
        &self,
        exhausted: bool,
        complete: bool,
        bound: Option<String>,
    ) -> EngineOutcome {
        let executions = self.executions.load(Relaxed);
        let violated = |found: &Found, story_matched| EngineOutcome::Violated {
            property: found.property,
            detail: found.detail.clone(),
            story_matched,
            marks: found.marks.clone(),
            executions,
        };
        if let Some(found) = &*hold(&self.found) {
            return violated(found, true);
        }
        let cut = hold(&self.cut).clone();
        match (&*hold(&self.other), cut) {
            (other, cut) if cut.is_some() || !exhausted => {
                let mut reason = cut.unwrap_or_else(|| "cut off".to_owned());
                if let Some(other) = other {
                    reason +=
                        &format!(" (so far only {}: {})", other.property.name(), other.detail);
                }
                EngineOutcome::Inconclusive { reason, executions }
            }
            (Some(other), _) => violated(other, false),
            (None, _) => {
                let witnesses = self.scenario.sometimes.iter().zip(hold(&self.seen).clone());
                let unseen = witnesses.filter(|(_, seen)| !seen).map(|(w, _)| w.text.clone());
                EngineOutcome::Holds { executions, complete, bound, unseen: unseen.collect() }
            }
        }
    }
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
    /// Where this OS thread panicked last.
    static PLACE: Cell<Option<String>> = const { Cell::new(None) };
}

/// Runs `search` with panics of this OS thread kept off the standard error stream, and returns the
/// payload of one that ended it.
pub(crate) fn quietly(search: impl FnOnce()) -> Option<Box<dyn std::any::Any + Send>> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let inner = panic::take_hook();
        panic::set_hook(Box::new(move |info| match QUIET.get() {
            true => PLACE.set(info.location().map(ToString::to_string)),
            false => inner(info),
        }));
    });
    QUIET.set(true);
    let result = panic::catch_unwind(panic::AssertUnwindSafe(search));
    QUIET.set(false);
    result.err()
}
