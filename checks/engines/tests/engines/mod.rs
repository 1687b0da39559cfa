//! Goal: tests/loom.rs and tests/shuttle.rs run every expectation of their engine. Method: a queue
//! of the built-in variants, served on every core.

pub(crate) mod locks;
mod rcu;

use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use kvmmu_scenarios::Scenario;
use kvmmu_scenarios::builtin::FILES;
use kvmmu_scenarios::loader;
use kvmmu_scenarios::scenario::Expect;

/// Runs `judge` on each variant of the built-in scenarios that `expected` picks, and returns a line
/// for each of which it says false. `KVMMU_TEST_ONLY` picks by a part of the scenario's name.
pub(crate) fn run(
    expected: impl Fn(&Expect) -> bool,
    judge: impl Fn(&Scenario, &Expect) -> (bool, String) + Sync,
) -> Vec<String> {
    let only = std::env::var("KVMMU_TEST_ONLY").unwrap_or_default();
    let mut work = Vec::new();
    for (name, text) in FILES.iter().filter(|(name, _)| name.contains(&only)) {
        let scenario = loader::load(name, text, 1).expect("a built-in scenario");
        for expect in scenario.expects.iter().filter(|expect| expected(expect)) {
            work.push((scenario.clone(), expect.clone()));
        }
    }
    assert!(!work.is_empty(), "no scenario expects anything of this engine");
    let queue = Mutex::new(work);
    let failures = Mutex::new(Vec::new());
    let worker = || {
        loop {
            let next = queue.lock().expect("no panic").pop();
            let Some((scenario, expect)) = next else { break };
            let began = Instant::now();
            let (agrees, said) = judge(&scenario, &expect);
            let without: Vec<&str> = expect.without.iter().map(|g| g.info().name).collect();
            let name = format!("{} without [{}]", scenario.name, without.join(", "));
            let line = format!("{name}: {said} ({:.1?})", began.elapsed());
            println!("{line}");
            if !agrees {
                failures.lock().expect("no panic").push(line);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(worker);
        }
    });
    failures.into_inner().expect("no panic")
}
