//! Goal: `auto`'s samples find a bug by its story that neither random nor PCT sampling finds.
//! Method: a built-in variant whose story has several moments in three threads, and samples alone.

use kvmmu_model::{Guard, GuardSet};
use kvmmu_scenarios::{builtin, loader};
use kvmmu_sim::outcome::{Outcome, Verdict};
use kvmmu_sim::pct::Pct;
use kvmmu_sim::race::Race;
use kvmmu_sim::random::Random;
use kvmmu_sim::replay::replay;
use kvmmu_sim::{Auto, Engine, Explorer, Goal, Limits};

fn broken() -> Race {
    let is_it = |(file, _): &&(&str, &str)| *file == "mark-dirty-order.toml";
    let (file, text) = builtin::FILES.iter().find(is_it).expect("it is built in");
    let scenario = loader::load(file, text, 1).expect("it is built in");
    let without = GuardSet::EMPTY.with(Guard::HarvestClearThenProtect);
    Race::new(scenario, without)
}

fn sample(race: &Race, goal: &Goal, explorer: &mut dyn Explorer, seed: u64) -> Outcome {
    // As many executions as `auto` samples, and no state.
    let limits = Limits { executions_max: 5000, states_max: 0, seed, ..Limits::default() };
    explorer.explore(race, goal, &limits, &|_| true)
}

#[test]
fn samples_climb_a_story() {
    let race = broken();
    let goal = race.goal();
    assert!(goal.story.as_ref().is_some_and(|story| story.0.len() > 2));
    for seed in 0..3 {
        let outcome = sample(&race, &goal, &mut Auto::default(), seed);
        assert_eq!(outcome.stats.states, 0);
        let Verdict::Violated(found) = outcome.verdict else { panic!("{:?}", outcome.verdict) };
        let mut engine = Engine::new(&race, goal.clone());
        let again = replay(&mut engine, &found.schedule).expect("it fits");
        assert_eq!(again.violation.map(|v| (v.rule, v.story)), Some((found.rule, true)));
        let mut others: [Box<dyn Explorer>; 2] = [Box::new(Random), Box::new(Pct::default())];
        let missed = others.iter_mut().map(|explorer| {
            let outcome = sample(&race, &goal, &mut **explorer, seed);
            usize::from(!matches!(outcome.verdict, Verdict::Violated(_)))
        });
        assert!(missed.sum::<usize>() > 0, "seed {seed} needs no climbing");
    }
}
