//! Goal: the built-in scenarios come out as their files say, and so notice a step of the model that
//! is left out. Method: every variant of every scenario that takes seconds, explored; its verdict,
//! and the witnesses or the story that show that the race was reached. No counts: a step whose loss
//! changes nothing but a number of states is not noticed here. `cargo mutants` runs this test.

use std::num::NonZero;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::thread::{available_parallelism, scope};

use kvmmu_scenarios::builtin::FILES;
use kvmmu_scenarios::loader;
use kvmmu_scenarios::scenario::{Expect, Expected, Scenario};
use kvmmu_sim::outcome::Verdict;
use kvmmu_sim::race::Race;
use kvmmu_sim::{Auto, Explorer, Limits};

/// Those that take longer; the main job has them.
const SLOW: &[&str] = &[
    "aba-direct",
    "aba-indirect",
    "aba-indirect-pinned",
    "large-guest-split",
    "lock-order",
    "lock-order-ioctls",
    "lock-order-vcpus",
    "notifier-seq-cut",
    "s2-locked-marker",
    "s2-pa-from-ipa",
    "s2-relax-vs-split",
    "stale-walk-indirect",
    "unsync-owed-twice",
];

#[test]
fn every_quick_scenario_comes_out_as_its_file_says() {
    let quick = FILES
        .iter()
        .filter(|(file, _)| !SLOW.contains(&file.strip_suffix(".toml").expect("a scenario file")));
    let scenarios: Vec<Scenario> = quick
        .map(|(file, text)| loader::load(file, text, 1).unwrap_or_else(|e| panic!("{e}")))
        .collect();
    let all =
        scenarios.iter().flat_map(|scenario| scenario.expects.iter().map(move |e| (scenario, e)));
    let variants: Vec<(&Scenario, &Expect)> = all.collect();
    let (next, wrong) = (AtomicUsize::new(0), AtomicBool::new(false));
    let worker = || {
        while !wrong.load(Relaxed) {
            let Some((scenario, expect)) = variants.get(next.fetch_add(1, Relaxed)) else { return };
            let names: Vec<&str> = expect.without.iter().map(|g| g.info().name).collect();
            if let Err(why) = come_out(scenario, expect) {
                wrong.store(true, Relaxed);
                panic!("{} without {names:?}: {why}", scenario.name);
            }
        }
    };
    let jobs = available_parallelism().map_or(1, NonZero::get);
    scope(|threads| (0..jobs).for_each(|_| drop(threads.spawn(worker))));
}

/// Explores a variant. Why it is not as expected.
fn come_out(scenario: &Scenario, expect: &Expect) -> Result<(), String> {
    let race = Race::new(scenario.clone(), expect.without);
    // Far more than any of them has: a mutant may have no end.
    let limits = Limits { states_max: 2_000_000, executions_max: 1_000_000, ..Limits::default() };
    let outcome = Auto::default().explore(&race, &race.goal(), &limits, &|_| true);
    match (&outcome.verdict, expect.verdict) {
        (Verdict::Holds, _) if let Some(other) = outcome.others.first() => {
            Err(format!("another violation: {} ({})", other.rule, other.detail))
        }
        (Verdict::Holds, Expected::Holds) => {
            let all = scenario.sometimes.iter().enumerate();
            let unseen = all.filter(|(i, witness)| {
                let only = match witness.story.0.as_slice() {
                    [only] if only.thread.is_none() => outcome.seen.mark(only.mark),
                    _ => false,
                };
                !only && outcome.seen.witnesses >> i & 1 == 0
            });
            let unseen: Vec<&str> = unseen.map(|(_, witness)| witness.text.as_str()).collect();
            match expect.without.is_empty() && !unseen.is_empty() {
                true => Err(format!("never seen: {unseen:?}")),
                false => Ok(()),
            }
        }
        (Verdict::Violated(found), Expected::Violated) => {
            let property = expect.property.is_none_or(|p| found.rule == p.into());
            match property && (expect.story.is_none() || found.story) {
                true => Ok(()),
                false => Err(format!("caught by another bug: {}", found.rule)),
            }
        }
        (Verdict::Violated(found), Expected::Holds) => {
            Err(format!("violated: {} ({})", found.rule, found.detail))
        }
        (verdict, expected) => Err(format!("{verdict:?}, and {expected:?} was expected")),
    }
}
