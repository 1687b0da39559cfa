//! Benchmarks: what a fault costs on the fast path and under `mmu_lock`, and what a flush of TLBs
//! costs. Lines of JSON, and a table.
//!
//! Figures of an emulator say nothing about hardware: each line says whether it is one.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::AtomicUsize;
use core::sync::atomic::Ordering::{AcqRel, Acquire};

use kvmmu_model::virt::VCPUS;
use kvmmu_model::{CpuId, Gfn, SpteFormat};

use super::stress::{self, Host, Load, Pages};
use super::tests::{migrating, set_stop};
use crate::args::{Args, Cluster, Tlbi};
use crate::el2::cpu::console::say;
use crate::el2::cpu::{smp, sysreg, tlbi, wait};
use crate::el2::machine::vcpu::{self, Path};
use crate::el2::memory::guest::{Context, Program};
use crate::el2::memory::stage2;
use crate::el2::run::once;
use crate::el2::run::report::Report;

/// How often a flush is measured.
const FLUSHES: u64 = 200;
/// The host's period while faults are measured, in microseconds.
const PERIOD_US: u64 = 20;

/// Runs all of them.
pub(crate) fn run(args: &Args<'_>, report: &mut Report) {
    let vcpus_max = smp::workers().saturating_sub(1).min(VCPUS);
    if vcpus_max == 0 {
        report.unexpected(format!("bench: 2 CPUs are needed, and there are {}", smp::workers()));
        return;
    }
    let bench = Bench { machine: machine(args, report), cores: cores() };
    say!("bench: {}; cycles are {}", bench.machine, clock());
    let mut table = Vec::new();
    for pages in [Pages::Spread, Pages::Two, Pages::One] {
        for vcpus in 1..=vcpus_max {
            let row = [Path::Fast, Path::Locked].map(|path| bench.faults(args, path, pages, vcpus));
            table.push((format!("{}, {vcpus} vCPUs", pages.name()), row));
        }
    }
    say!("bench: cycles (ns) from a fault to the next entry, one CPU harvesting all the time");
    say!("| {:20} | {:>20} | {:>20} |", "stores to", "fast_page_fault", "under mmu_lock");
    for (what, [fast, locked]) in &table {
        say!("| {what:20} | {:>20} | {:>20} |", fast.text(), locked.text());
    }
    say!("bench: cycles (ns) of a flush");
    say!("| {:20} | {:>20} | {:>20} |", "instruction", "others idle", "guests running");
    for kind in [None, Some(Tlbi::Ipa), Some(Tlbi::Page), Some(Tlbi::Vm)] {
        let row = [0, vcpus_max].map(|guests| bench.flush(kind, guests));
        say!("| {:20} | {:>20} | {:>20} |", flush_name(kind), row[0].text(), row[1].text());
    }
    say!("bench: {}", bench.machine);
    report.expected(String::from("bench: measured"));
}

/// What is measured on.
struct Bench {
    machine: &'static str,
    cores: String,
}

/// A cost.
#[derive(Clone, Copy, Debug)]
struct Cost {
    cycles: u64,
    ns: u64,
}

impl Cost {
    fn text(self) -> String {
        format!("{} ({})", self.cycles, self.ns)
    }
}

fn machine(args: &Args<'_>, report: &Report) -> &'static str {
    match (report.is_qemu(), args.cluster) {
        (true, _) => "an emulator (TCG): no figure is a performance claim",
        (false, Cluster::All) => "hardware, all clusters, at the clock that firmware left",
        (false, _) => "hardware, one cluster, at the clock that firmware left",
    }
}

/// The types of the cores that work.
fn cores() -> String {
    let names: Vec<&str> =
        (0..smp::workers()).map(|worker| smp::core_name(smp::worker_type(worker))).collect();
    names.join(",")
}

fn clock() -> &'static str {
    if sysreg::has_pmu() { "PMCCNTR_EL0" } else { "ticks of CNTPCT_EL0: there is no PMU" }
}

fn flush_name(kind: Option<Tlbi>) -> &'static str {
    match kind {
        None => "VMALLS12E1 (local)",
        Some(Tlbi::Ipa) => "IPAS2E1IS",
        Some(Tlbi::Page) => "IPAS2E1IS+VMALLE1IS",
        Some(Tlbi::Vm) => "VMALLS12E1IS",
        Some(Tlbi::None) => "none",
    }
}

/// Nanoseconds of so many ticks.
fn ns(ticks: u64) -> u64 {
    ticks * 1000 / (sysreg::cntfrq() / 1_000_000).max(1)
}

impl Bench {
    /// Guests that store while one CPU harvests.
    fn faults(&self, args: &Args<'_>, path: Path, pages: Pages, vcpus: usize) -> Cost {
        let mut world = once::build(&migrating());
        if path == Path::Locked
            && let Some(world) = Arc::get_mut(&mut world)
        {
            // Nothing to restore without mmu_lock: a format whose accesses nobody tracks.
            world.vm.mmu.format = SpteFormat {
                acc_track_mask: 0,
                accessed_mask: SpteFormat::STAGE2.acc_track_restore_mask,
                ..SpteFormat::STAGE2
            };
        }
        let done = stress::load(
            &world,
            Load {
                vcpus,
                pages,
                host: Host::Harvests,
                stores: args.stores,
                seed: args.seed,
                period_us: PERIOD_US,
                path,
            },
        );
        let faults = done.faults.all().max(1);
        let cost = Cost { cycles: done.faults.cycles / faults, ns: ns(done.faults.ticks) / faults };
        let least = done.faults.least.unwrap_or(0);
        say!(
            "{{\"kvmmu-figure\":1,\"name\":\"fault\",\"path\":\"{}\",\"pages\":{},\
             \"vcpus\":{vcpus},\"faults\":{faults},\"cycles_least\":{least},\"cycles\":{},\
             \"ns\":{},\"stores\":{},\"us\":{},\"rounds\":{},\"lost\":{},\
             \"cores\":\"{}\",\"machine\":\"{}\"}}",
            path.name(),
            pages.mask() + 1,
            cost.cycles,
            cost.ns,
            done.stores,
            done.us,
            done.rounds,
            done.lost,
            self.cores,
            self.machine
        );
        cost
    }

    /// Flushes by one CPU, while guests run on others.
    fn flush(&self, kind: Option<Tlbi>, guests: usize) -> Cost {
        let world = once::build(&migrating());
        let running = AtomicUsize::new(0);
        let cost = spin::Mutex::new(Cost { cycles: 0, ns: 0 });
        smp::parallel(guests + 1, &|i| {
            if i < guests {
                // ORDERING: acq-rel: a barrier of all CPUs.
                running.fetch_add(1, AcqRel);
                let x = [stage2::ipa(i as u64), 0, stage2::CONTROL_IPA, 0, 0, 0, 0, 0];
                let guest = &mut Context::new(Program::Count, x);
                vcpu::run(&world, CpuId(i as u8), guest, Path::Fast);
                return;
            }
            // ORDERING: acquire: as above.
            wait::until("guests to run", || running.load(Acquire) == guests);
            let page = || core::iter::once(Gfn(0));
            let (ticks, cycles) = (sysreg::now(), sysreg::cycles());
            for _ in 0..FLUSHES {
                match kind {
                    None => tlbi::flush_local(),
                    Some(kind) => tlbi::flush_by(kind, page()),
                }
            }
            let (cycles, ticks) = (sysreg::cycles().wrapping_sub(cycles), sysreg::now() - ticks);
            *cost.lock() = Cost { cycles: cycles / FLUSHES, ns: ns(ticks) / FLUSHES };
            set_stop(true);
        });
        let cost = *cost.lock();
        say!(
            "{{\"kvmmu-figure\":1,\"name\":\"flush\",\"by\":\"{}\",\"guests\":{guests},\
             \"cycles\":{},\"ns\":{},\"twice\":{},\"cores\":\"{}\",\"machine\":\"{}\"}}",
            flush_name(kind),
            cost.cycles,
            cost.ns,
            tlbi::is_twice(),
            self.cores,
            self.machine
        );
        cost
    }
}
