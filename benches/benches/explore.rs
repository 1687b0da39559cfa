//! Statistics of the explorers on small programs: `cargo bench -p kvmmu-benches`.

use criterion::{Criterion, criterion_group, criterion_main};
use kvmmu_sim::dpor::Dpor;
use kvmmu_sim::mini::{FastFault, LastZero, Simulated};
use kvmmu_sim::program::Program;
use kvmmu_sim::schedule::Move;
use kvmmu_sim::stateful::Stateful;
use kvmmu_sim::{Engine, Explorer, Goal, Limits};

fn explore(bench: &mut Criterion, name: &str, program: &dyn Program, explorer: &mut dyn Explorer) {
    let mut engine = Engine::new(program, Goal::ANY);
    bench.bench_function(name, |bencher| {
        bencher.iter(|| explorer.explore(&mut engine, &Limits::default(), &mut |_| true).stats);
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
                engine.step(Move { thread, choice: 0 });
            }
        });
    });
}

criterion_group!(all, explorers, engine);
criterion_main!(all);
