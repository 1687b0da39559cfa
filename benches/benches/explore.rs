//! Statistics of the explorers on small programs: `cargo bench -p kvmmu-benches`.

use criterion::{Criterion, criterion_group, criterion_main};
use kvmmu_benches::Unchecked;
use kvmmu_model::GuardSet;
use kvmmu_scenarios::{builtin, loader};
use kvmmu_sim::Actor;
use kvmmu_sim::dpor::Dpor;
use kvmmu_sim::mini::{FastFault, LastZero, Simulated};
use kvmmu_sim::program::Program;
use kvmmu_sim::race::Race;
use kvmmu_sim::schedule::Move;
use kvmmu_sim::stateful::Stateful;
use kvmmu_sim::{Engine, Explorer, Goal, Limits};

fn explore(bench: &mut Criterion, name: &str, program: &dyn Program, explorer: &mut dyn Explorer) {
    bench.bench_function(name, |bencher| {
        bencher.iter(|| explorer.explore(program, &Goal::ANY, &Limits::default(), &|_| true).stats);
    });
}

fn explorers(bench: &mut Criterion) {
    let fast_fault = Simulated(FastFault::new(2, 1));
    explore(bench, "dpor/fast-fault-2x1", &fast_fault, &mut Dpor::default());
    explore(bench, "dpor/lastzero-8", &Simulated(LastZero(8)), &mut Dpor::default());
    explore(bench, "stateful/fast-fault-2x1", &fast_fault, &mut Stateful::default());
    let larger = Simulated(FastFault::new(2, 2));
    explore(bench, "stateful/fast-fault-2x2", &larger, &mut Stateful::default());
}

fn engine(bench: &mut Criterion) {
    let mut engine = Engine::new(&Simulated(FastFault::new(2, 2)), Goal::ANY);
    bench.bench_function("engine/one-execution-by-replay", |bencher| {
        bencher.iter(|| {
            engine.reset();
            while engine.enabled() != 0 {
                let thread = engine.enabled().trailing_zeros() as u8;
                engine.step(Move { actor: Actor::Thread(thread), choice: 0 });
            }
        });
    });
}

/// The same exploration with lock checks and without.
fn lock_checks(bench: &mut Criterion) {
    let file = builtin::FILES.iter().find(|(file, _)| *file == "notifier-retry.toml");
    let &(file, text) = file.expect("a built-in scenario");
    let mut scenario = loader::load(file, text, 1).expect("it is built in");
    let fast_fault = Simulated(FastFault::new(2, 1));
    let fast_faults: [&dyn Program; 2] = [&fast_fault, &Unchecked(fast_fault)];
    for (checked, fast_fault) in [true, false].into_iter().zip(fast_faults) {
        scenario.lock_checks = checked;
        let race = Race::new(scenario.clone(), GuardSet::EMPTY);
        let name = if checked { "lock-checks" } else { "no-lock-checks" };
        explore(bench, &format!("{name}/notifier-retry"), &race, &mut Stateful::default());
        explore(bench, &format!("{name}/fast-fault-2x1"), fast_fault, &mut Dpor::default());
    }
}

criterion_group!(all, explorers, engine, lock_checks);
criterion_main!(all);
