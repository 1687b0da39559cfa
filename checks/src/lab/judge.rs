//! From what an exploration found and what was expected to one word and one sentence.

use kvmmu_model::{GuardSet, Release};
use kvmmu_scenarios::scenario::{Expected, Witness};
use kvmmu_sim::outcome::{Found, Outcome, Reason, Seen, Stats, Verdict};
use kvmmu_sim::rule::Rule;
use serde::{Deserialize, Serialize};

use crate::cli::exit::Exit;
use crate::lab::memory::size_text;
use crate::lab::run::MEMORY_MODEL;
use crate::lab::search::{LARGE, Search, Strategy};
use crate::lab::variant::{Variant, join};

/// The first word of a verdict line. In JSON in small letters.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[serde(rename_all = "lowercase")]
pub enum Word {
    /// Nothing was violated and everything was explored; nothing else was expected.
    Holds,
    /// The expected violation was found, with its story.
    Caught,
    /// A violation was found where nothing was expected either way.
    Breaks,
    /// Nothing was violated, but a guard is missing whose loss the memory model cannot show.
    Unjudged,
    /// A bound was hit before a verdict.
    Bound,
    /// Not what was expected.
    Unexpected,
}

impl Word {
    /// As it is printed.
    pub const fn text(self) -> &'static str {
        match self {
            Word::Holds => "holds",
            Word::Caught => "caught",
            Word::Breaks => "breaks",
            Word::Unjudged => "unjudged",
            Word::Bound => "bound",
            Word::Unexpected => "UNEXPECTED",
        }
    }

    /// The exit code of a run with only this verdict.
    pub const fn exit(self) -> Exit {
        match self {
            Word::Holds | Word::Caught | Word::Breaks => Exit::Expected,
            Word::Unjudged | Word::Bound => Exit::Inconclusive,
            Word::Unexpected => Exit::Unexpected,
        }
    }
}

/// A judged exploration.
#[derive(Clone, Debug)]
pub struct Judged {
    /// The verdict.
    pub word: Word,
    /// The rest of the line: what was found, and within which bound and memory model.
    pub text: String,
    /// The violation to replay, whether expected or not.
    pub found: Option<Found>,
    /// Witnesses that were never seen, if that matters here.
    pub unseen: Vec<String>,
    /// The witnesses that were seen, by number from 1 on.
    pub seen: Vec<usize>,
    /// Guards that it lacks and that no step asked for, if nothing was violated.
    pub idle: Vec<&'static str>,
    /// True if it holds and nothing shows that any run came near a race: the file asks for no
    /// witness and names no variant that fails.
    pub vacuous: bool,
    /// True if everything within the bounds was explored.
    pub complete: bool,
    /// The bound that was hit.
    pub reason: Option<Reason>,
    /// Threads may have shared the search: what it took depends on timing.
    pub large: bool,
    /// What it took.
    pub stats: Stats,
}

/// Compares `outcome` with what is expected of `variant`.
pub fn judge(variant: &Variant, search: &Search, outcome: &Outcome) -> Judged {
    let expected = match &variant.expect {
        Some(e) => Some(e.verdict),
        None if variant.without.is_empty() => Some(Expected::Holds),
        None => None,
    };
    let extent = extent(search, outcome);
    let mut judged = Judged {
        word: Word::Bound,
        text: String::new(),
        found: None,
        unseen: Vec::new(),
        seen: seen(variant, &outcome.seen),
        idle: Vec::new(),
        vacuous: false,
        complete: outcome.verdict == Verdict::Holds,
        reason: None,
        large: is_large(outcome),
        stats: outcome.stats,
    };
    match &outcome.verdict {
        Verdict::Violated(found) => {
            let (word, text) = violated(variant, expected, found);
            judged.word = word;
            judged.text = format!("{text}, {extent}");
            judged.found = Some(found.clone());
        }
        Verdict::Holds => held(variant, expected, outcome, &extent, &mut judged),
        Verdict::Inconclusive(reason) => {
            judged.reason = Some(*reason);
            judged.found = outcome.others.first().cloned();
            let other = match outcome.others.first() {
                Some(other) => format!(" (so far only {})", violation(other)),
                None => String::new(),
            };
            judged.text = format!("{extent}{other}; {}", next(*reason));
            if let Some(unjudged) = unjudged(variant.without, MEMORY_MODEL) {
                judged.text += &format!("; {unjudged}, whatever the bound");
            }
        }
    }
    judged
}

/// Nothing that was looked for was violated.
fn held(
    variant: &Variant,
    expected: Option<Expected>,
    outcome: &Outcome,
    extent: &str,
    judged: &mut Judged,
) {
    if let Some(other) = outcome.others.first() {
        judged.word = Word::Unexpected;
        judged.found = Some(other.clone());
        let wanted = wanted(variant);
        judged.text =
            format!("caught by another bug: {}; not by {wanted}; {extent}", violation(other));
        return;
    }
    judged.idle = never_reached(variant, &outcome.seen);
    let idle = match judged.idle.as_slice() {
        [] => String::new(),
        idle => format!("; never reached: {}", idle.join(", ")),
    };
    if expected == Some(Expected::Violated) {
        judged.word = Word::Unexpected;
        judged.text = format!("holds, but {} was expected; {extent}{idle}", wanted(variant));
        return;
    }
    if variant.without.is_empty() {
        judged.unseen = unseen(variant, &outcome.seen);
    }
    judged.word = Word::Holds;
    judged.text = format!("{extent}{idle}");
    judged.vacuous = variant.shows_nothing();
    if let Some(unjudged) = unjudged(variant.without, MEMORY_MODEL) {
        judged.word = Word::Unjudged;
        judged.vacuous = false;
        judged.text = format!("{unjudged}; {}", judged.text);
    }
    if !judged.unseen.is_empty() {
        judged.word = Word::Unexpected;
        judged.text = format!("holds, but never saw {}; {extent}", judged.unseen.join("; nor "));
    }
}

/// Says of which of these missing guards a run that violates nothing has judged nothing, if there
/// are any: the machine, whose memory model is named, orders the steps of a thread by itself.
pub fn unjudged(without: GuardSet, model: &str) -> Option<String> {
    let unjudged = without.unjudged_under_sc();
    (!unjudged.is_empty()).then(|| format!("not judged under {model}: {}", join(unjudged, ", ")))
}

/// The missing guards to whose place no step came: their absence says nothing here. A release lacks
/// what it lacks, wherever a scenario goes.
pub fn never_reached(variant: &Variant, seen: &Seen) -> Vec<&'static str> {
    if Release::that_lacks(variant.without).is_some() {
        return Vec::new();
    }
    let idle = variant.without.iter().filter(|g| !seen.asked.contains(*g));
    idle.map(|g| g.info().name).collect()
}

/// What a violation means for the expectation.
fn violated(variant: &Variant, expected: Option<Expected>, found: &Found) -> (Word, String) {
    match expected {
        None => (Word::Breaks, violation(found)),
        Some(Expected::Holds) => (Word::Unexpected, format!("violated: {}", violation(found))),
        Some(Expected::Violated) => {
            let goal = variant.goal();
            let property = goal.rule.is_none_or(|p| p == found.rule);
            let story = goal.story.is_none() || found.story;
            if property && story {
                let told = match &goal.story {
                    Some(story) => format!(", {}", story.text),
                    None => String::new(),
                };
                (Word::Caught, format!("{}{told}", found.rule))
            } else {
                let text = format!(
                    "caught by another bug: {}; not by {}",
                    violation(found),
                    wanted(variant)
                );
                (Word::Unexpected, text)
            }
        }
    }
}

/// A violation in words.
fn violation(found: &Found) -> String {
    match found.detail.is_empty() {
        true => found.rule.to_string(),
        false => format!("{} ({})", found.rule, found.detail),
    }
}

/// What the scenario's file says its counterexample shows.
pub fn wanted(variant: &Variant) -> String {
    let goal = variant.goal();
    let property = goal.rule.map_or("a violation", Rule::name);
    match goal.story {
        Some(story) => format!("{property} with the story '{}'", story.text),
        None => property.to_owned(),
    }
}

/// The witnesses that were not seen.
fn unseen(variant: &Variant, seen: &Seen) -> Vec<String> {
    let witnesses = variant.scenario.sometimes.iter().enumerate();
    let unseen = witnesses.filter(|(i, witness)| !is_seen(*i, witness, seen));
    unseen.map(|(_, witness)| format!("'{}'", witness.text)).collect()
}

/// The witnesses that were seen, by number from 1 on.
fn seen(variant: &Variant, seen: &Seen) -> Vec<usize> {
    let witnesses = variant.scenario.sometimes.iter().enumerate();
    let seen = witnesses.filter(|(i, witness)| is_seen(*i, witness, seen));
    seen.map(|(i, _)| i + 1).collect()
}

/// True if the witness with index `i` was seen.
fn is_seen(i: usize, witness: &Witness, seen: &Seen) -> bool {
    let whole = i < 64 && seen.witnesses >> i & 1 == 1;
    let one = match witness.story.0.as_slice() {
        [only] => only.thread.is_none() && seen.mark(only.mark),
        _ => false,
    };
    whole || one
}

/// How much was explored, within which bound, and under which memory model.
fn extent(search: &Search, outcome: &Outcome) -> String {
    let stats = &outcome.stats;
    let amount = match stats.states {
        _ if is_large(outcome) => format!("over {}", counted(LARGE, "state")),
        0 => counted(stats.executions, "execution"),
        states => counted(states, "state"),
    };
    let all = match &outcome.verdict {
        Verdict::Holds => "all explored".to_owned(),
        Verdict::Violated(_) => return format!("{amount}, {MEMORY_MODEL}"),
        Verdict::Inconclusive(reason) => format!("NOT all, {}", bound(search, *reason)),
    };
    format!("{amount}, {all}, {MEMORY_MODEL}")
}

/// True if threads may have shared the search, so that what it took depends on timing.
fn is_large(outcome: &Outcome) -> bool {
    let plain = outcome.verdict == Verdict::Holds && outcome.others.is_empty();
    plain && outcome.stats.states > LARGE
}

/// `1 state`, `2 states`.
pub fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// The bound that was hit.
pub fn bound(search: &Search, reason: Reason) -> String {
    match reason {
        Reason::NotExhaustive => {
            let strategy = match search.strategy {
                Strategy::Pct => "pct",
                _ => "random",
            };
            format!("{strategy} samples, seed {}", search.seed)
        }
        Reason::Executions => format!("executions <= {}", search.executions_max),
        Reason::States => format!("states <= {}", search.states_max),
        Reason::Memory => match search.memory {
            Some(memory) => format!("memory <= {} together", size_text(memory.max())),
            None => "memory".to_owned(),
        },
        Reason::Steps => format!("steps <= {}", search.steps_max),
        Reason::Time => match search.time_max {
            Some(time) => format!("time <= {time:?}"),
            None => "time".to_owned(),
        },
        Reason::Switches => "fewer context switches".to_owned(),
        Reason::Interrupted => "interrupted".to_owned(),
        Reason::InternalError => "internal error".to_owned(),
    }
}

/// What to try after a bound was hit.
pub fn next(reason: Reason) -> &'static str {
    match reason {
        Reason::NotExhaustive => "--strategy auto explores everything",
        Reason::Executions => "raise --executions-max",
        Reason::States => "raise --states-max or lower --size",
        Reason::Memory => "raise --memory-max, or lower --jobs or --size",
        Reason::Steps => "raise --steps-max or look for a loop",
        Reason::Time => "raise --time-max",
        Reason::Switches => "--strategy stateful has no bound on them",
        Reason::InternalError => "please report this",
        Reason::Interrupted => "run it again and let it finish",
    }
}

/// True if a variant lacks no guard and is expected to be violated: a canary.
pub fn is_canary(variant: &Variant) -> bool {
    variant.without == GuardSet::EMPTY
        && variant.expect.as_ref().is_some_and(|e| e.verdict == Expected::Violated)
}
