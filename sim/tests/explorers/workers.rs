//! Claims: what the samplers say of a program is the same, to the byte, for any number of workers:
//! verdict, schedule, what was seen, locks, counts. Method: built-in scenarios with and without
//! their guards, for what each is expected to show, for any violation and for none.

use kvmmu_scenarios::builtin::FILES;
use kvmmu_scenarios::{Property, loader};
use kvmmu_sim::outcome::Verdict;
use kvmmu_sim::pct::Pct;
use kvmmu_sim::race::Race;
use kvmmu_sim::random::Random;
use kvmmu_sim::{Explorer, Goal, Limits};

const EXECUTIONS: u64 = 60;

/// What is said with so many workers, and whether something was found.
fn said(
    race: &Race,
    goal: &Goal,
    explorer: &mut dyn Explorer,
    seed: u64,
    workers: usize,
) -> (String, bool) {
    let limits = Limits { executions_max: EXECUTIONS, seed, workers, ..Limits::default() };
    let outcome = explorer.explore(race, goal, &limits, &|_| true);
    (format!("{outcome:?}"), matches!(outcome.verdict, Verdict::Violated(_)))
}

#[test]
fn any_number_of_workers_says_the_same() {
    let mut found = 0;
    for (file, text) in FILES {
        let scenario = loader::load(file, text, 1).unwrap_or_else(|e| panic!("{e}"));
        for expect in &scenario.expects {
            let race = Race::new(scenario.clone(), expect.without);
            let goals = [race.goal(), Goal::ANY, Goal::of(Property::LockCycle.into())];
            let explorers: [&mut dyn Explorer; 2] = [&mut Random, &mut Pct::default()];
            for (seed, explorer) in explorers.into_iter().enumerate() {
                for goal in &goals {
                    let (one, violated) = said(&race, goal, explorer, seed as u64, 1);
                    found += u32::from(violated);
                    for workers in [2, 3] {
                        let (more, _) = said(&race, goal, explorer, seed as u64, workers);
                        assert_eq!(more, one, "{}, {workers} workers", scenario.name);
                    }
                }
            }
        }
    }
    assert!(found > 0, "no scenario shows which execution is reported");
}
