//! Goal: on the built-in scenarios, dpor and stateful agree, with every guard and without those
//! that each scenario takes away. Method: every variant that dpor finishes within a bound; the
//! others are skipped, and enough must be left.

use kvmmu_model::GuardSet;
use kvmmu_scenarios::{builtin, loader};
use kvmmu_sim::dpor::Dpor;
use kvmmu_sim::outcome::{Outcome, Stats, Verdict};
use kvmmu_sim::race::Race;
use kvmmu_sim::rule::Rule;
use kvmmu_sim::stateful::Stateful;
use kvmmu_sim::{Explorer, Goal, Limits};

const EXECUTIONS_MAX: u64 = 20_000;

fn explore(race: &Race, goal: &Goal, explorer: &mut dyn Explorer, limits: &Limits) -> Outcome {
    explorer.explore(race, goal, limits, &|_: &Stats| true)
}

/// What was violated, by rule and story; nothing counts twice.
fn violations(outcome: &Outcome) -> Vec<(Rule, bool)> {
    let mut all: Vec<_> = outcome.others.iter().map(|f| (f.rule, f.story)).collect();
    all.sort_unstable();
    all
}

#[test]
fn dpor_and_stateful_agree_on_every_small_variant() {
    let nothing = Some(Rule::Own("no-such-rule"));
    let bounded = Limits { executions_max: EXECUTIONS_MAX, ..Limits::default() };
    let mut compared = 0;
    for (file, text) in builtin::FILES {
        let scenario = loader::load(file, text, 1).expect("built-in files load");
        let mut variants: Vec<GuardSet> = scenario.expects.iter().map(|e| e.without).collect();
        if !variants.contains(&GuardSet::EMPTY) {
            variants.push(GuardSet::EMPTY);
        }
        for without in variants {
            let race = Race::new(scenario.clone(), without);
            let goal = Goal { rule: nothing, ..race.goal() };
            let outcome = explore(&race, &goal, &mut Dpor::default(), &bounded);
            if outcome.verdict != Verdict::Holds {
                continue;
            }
            compared += 1;
            let expected = explore(&race, &goal, &mut Stateful::default(), &Limits::default());
            assert_eq!(expected.verdict, Verdict::Holds);
            assert_eq!(violations(&outcome), violations(&expected), "{file} {without:?}");
            assert_eq!(outcome.seen, expected.seen, "{file} {without:?}");
        }
    }
    assert!(compared > 10, "{compared}");
}
