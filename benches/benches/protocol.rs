//! Statistics of the protocol on real threads: `cargo bench -p kvmmu-benches --bench protocol`.
//!
//! It runs unchanged on every Linux machine, boards included, and says on what. One question at a
//! time: `cargo bench -p kvmmu-benches --bench protocol -- fault/spread`.

use std::process::ExitCode;

use criterion::{BenchmarkId, Criterion, Throughput};
use kvmmu_benches::perf::bout::{self, Who};
use kvmmu_benches::perf::chain::{self, Chains};
use kvmmu_benches::perf::contention::{Contention, Pages, Path};
use kvmmu_benches::perf::cpu::Machine;
use kvmmu_benches::perf::flush::Flush;
use kvmmu_benches::perf::harvest::{self, Guests};
use kvmmu_benches::perf::track::Aged;
use kvmmu_model::virt::VCPUS;

/// Fast fault against the locked path.
fn fault(bench: &mut Criterion, machine: &Machine) {
    for pages in Pages::ALL {
        let mut group = bench.benchmark_group(format!("fault/{}", pages.name()));
        group.sample_size(20);
        for threads in 1..=VCPUS.min(machine.cpus.len()) {
            for harvester in [false, true] {
                for path in [Path::Fast, Path::Locked] {
                    let subject = Contention { path, threads, pages, harvester };
                    if machine.is_oversubscribed(subject.busy()) {
                        println!("fault/{}: skipped: too few CPUs", subject.name());
                        continue;
                    }
                    let beside = if harvester { " beside a harvester" } else { "" };
                    let id = BenchmarkId::new(format!("{}{beside}", path.name()), threads);
                    group.bench_function(id, |bencher| {
                        bencher.iter_custom(|faults| subject.run(machine, faults).elapsed);
                    });
                }
            }
        }
        group.finish();
    }
}

/// The generic core and a hand-written compare-exchange. `performance` prints the ratio.
fn core(bench: &mut Criterion) {
    let bout = &bout::copies()[0];
    let mut group = bench.benchmark_group("core");
    group.throughput(Throughput::Elements(bout::FAULTS));
    for (name, who) in [
        ("generic", Who::Generic),
        ("hand-written", Who::Hand),
        ("hand-written, one layout", Who::OneLayout),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|turns| (0..turns).map(|_| bout.turn(who)).sum());
        });
    }
    group.finish();
}

/// The restore of access-tracked SPTEs.
fn track(bench: &mut Criterion) {
    let aged = Aged::new();
    let mut group = bench.benchmark_group("access-track-restore");
    group.throughput(Throughput::Elements(Aged::faults()));
    for path in [Path::Fast, Path::Locked] {
        group.bench_function(path.name(), |bencher| {
            bencher.iter_custom(|turns| (0..turns).map(|_| aged.turn(path == Path::Fast)).sum());
        });
    }
    group.finish();
}

/// The harvest of 2^16 pages, so many of each four dirty.
fn harvest(bench: &mut Criterion) {
    let guests = Guests::new(harvest::PAGES);
    let mut group = bench.benchmark_group("harvest-65536-pages");
    group.sample_size(10);
    for dirty in [1, 2, harvest::SLOT_PAGES] {
        group.throughput(Throughput::Elements((guests.harvests() * dirty) as u64));
        group.bench_function(BenchmarkId::new("dirty of four", dirty), |bencher| {
            bencher.iter_custom(|turns| (0..turns).map(|_| guests.turn(dirty)).sum());
        });
    }
    group.finish();
}

/// Write protection by the rmap, by the length of the chain.
fn rmap(bench: &mut Criterion) {
    let mut group = bench.benchmark_group("rmap-write-protect");
    group.throughput(Throughput::Elements(Chains::harvests()));
    for length in [1, 2, 4, 8, chain::LENGTH_MAX] {
        let chains = Chains::new(length);
        group.bench_function(BenchmarkId::new("chain", length), |bencher| {
            bencher.iter_custom(|turns| (0..turns).map(|_| chains.turn()).sum());
        });
    }
    group.finish();
}

/// Flush requests.
fn flush(bench: &mut Criterion, machine: &Machine) {
    let mut group = bench.benchmark_group("flush");
    for subject in Flush::all(machine.cpus.len()) {
        group.bench_function(subject.name(), |bencher| {
            bencher.iter_custom(|flushes| subject.run(machine, flushes));
        });
    }
    group.finish();
}

fn main() -> ExitCode {
    let machine = match Machine::detect() {
        Ok(machine) => machine,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    println!("machine: {machine}");
    let mut bench = Criterion::default().configure_from_args();
    machine.pin(0);
    core(&mut bench);
    track(&mut bench);
    harvest(&mut bench);
    rmap(&mut bench);
    fault(&mut bench, &machine);
    flush(&mut bench, &machine);
    bench.final_summary();
    ExitCode::SUCCESS
}
