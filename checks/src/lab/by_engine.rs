//! `kvmmu check --engine loom|shuttle`: one variant, judged.

use std::time::{Duration, Instant};

use kvmmu_engines::shuttle::Strategy;
use kvmmu_engines::{EngineOutcome, LOOM_MODEL, SHUTTLE_MODEL, loom, shuttle};
use kvmmu_scenarios::scenario::{self, Expected};

use crate::lab::judge::{Word, unjudged, wanted};
use crate::lab::variant::Variant;

/// Samples of shuttle for each strategy, unless the command line says otherwise.
const RUNS: u64 = 10_000;

/// What the command line says of a search by one of these engines.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// The seed of shuttle's choices.
    pub seed: u64,
    /// shuttle's strategy; `None`: PCT, then random.
    pub strategy: Option<Strategy>,
    /// The most executions.
    pub executions_max: Option<u64>,
    /// The longest time.
    pub time_max: Option<Duration>,
}

/// What the command prints of a variant, and the outcome behind it.
#[derive(Clone, PartialEq, Debug)]
pub struct Judged {
    /// The first word of the line.
    pub word: Word,
    /// The rest of it: what was found, how far, and under which memory model.
    pub text: String,
    /// What the engine said.
    pub outcome: EngineOutcome,
}

/// Explores a variant by loom.
pub fn by_loom(variant: &Variant, limits: Limits) -> Judged {
    let bounds = loom::Bounds {
        executions_max: limits.executions_max.unwrap_or(u64::MAX),
        time_max: limits.time_max,
        ..loom::Bounds::of(&variant.scenario, variant.without)
    };
    let outcome = loom::check(&variant.scenario, variant.without, bounds);
    judge(variant, |e| e.loom, outcome, false, LOOM_MODEL)
}

/// Samples a variant by shuttle.
pub fn by_shuttle(variant: &Variant, limits: Limits) -> Judged {
    let begun = Instant::now();
    let sample = |strategy| {
        let runs = (limits.executions_max.unwrap_or(RUNS), limits.seed);
        let (scenario, without) = (&variant.scenario, variant.without);
        // Both strategies share the time.
        let time_max = limits.time_max.map(|time| time.saturating_sub(begun.elapsed()));
        shuttle::check_within(scenario, without, strategy, runs, time_max)
    };
    let first = sample(limits.strategy.unwrap_or(Strategy::Pct));
    let found = matches!(first, EngineOutcome::Violated { story_matched: true, .. });
    let outcome = match limits.strategy {
        None if !found => first.and(sample(Strategy::Random)),
        _ => first,
    };
    let narrowed = limits.strategy.is_some() || limits.executions_max.is_some();
    judge(variant, |e| e.shuttle, outcome, narrowed, SHUTTLE_MODEL)
}

/// Compares an outcome with what the scenario expects of this engine. `narrowed`: samples are fewer
/// than those of which the files speak, so that what they miss is no news.
fn judge(
    variant: &Variant,
    engine: impl Fn(&scenario::Expect) -> scenario::Engine,
    outcome: EngineOutcome,
    narrowed: bool,
    model: &str,
) -> Judged {
    let expect = variant.expect.as_ref();
    // Where the file is silent about the engine, a correct protocol is expected to hold all the
    // same.
    let expected = match expect.map(&engine) {
        Some(scenario::Engine::Violated) => Some(Expected::Violated),
        Some(scenario::Engine::Holds) => Some(Expected::Holds),
        _ if expect.is_some_and(|e| e.verdict == Expected::Violated) => None,
        _ if expect.is_some() || variant.without.is_empty() => Some(Expected::Holds),
        _ => None,
    };
    // shuttle runs fences and is sequentially consistent; loom is not, and runs none of them: they
    // belong to the protocol of requests and IPIs, which is not part of its core.
    let unjudged = unjudged(variant.without, model);
    let word = match (&outcome, expected) {
        (EngineOutcome::Inconclusive { .. }, _) => Word::Bound,
        (EngineOutcome::Holds { complete: false, .. }, Some(Expected::Violated)) if narrowed => {
            Word::Bound
        }
        (EngineOutcome::Holds { complete: false, unseen, .. }, Some(_))
            if narrowed && !unseen.is_empty() =>
        {
            Word::Bound
        }
        (EngineOutcome::Holds { .. }, Some(Expected::Violated)) => Word::Unexpected,
        // Samples prove nothing: only a file that expects them to find nothing is content with
        // them.
        (EngineOutcome::Holds { complete: false, .. }, None) => Word::Bound,
        (EngineOutcome::Holds { unseen, .. }, Some(_))
            if variant.without.is_empty() && !unseen.is_empty() =>
        {
            Word::Unexpected
        }
        (EngineOutcome::Holds { .. }, _) if unjudged.is_some() => Word::Unjudged,
        (EngineOutcome::Holds { .. }, _) => Word::Holds,
        (EngineOutcome::Violated { .. }, None) => Word::Breaks,
        (EngineOutcome::Violated { story_matched: true, .. }, Some(Expected::Violated)) => {
            Word::Caught
        }
        (EngineOutcome::Violated { .. }, Some(_)) => Word::Unexpected,
    };
    let text = match (&outcome, expected) {
        (EngineOutcome::Holds { .. }, Some(Expected::Violated)) => {
            format!("{outcome}, but {} was expected, {model}", wanted(variant))
        }
        _ => format!("{outcome}, {model}"),
    };
    let text = match (&outcome, unjudged) {
        (EngineOutcome::Violated { .. }, _) | (_, None) => text,
        (_, Some(unjudged)) => format!("{unjudged}; {text}"),
    };
    Judged { word, text, outcome }
}
