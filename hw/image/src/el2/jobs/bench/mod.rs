//! Benchmarks: what a fault costs without `mmu_lock`, under it, and under a lock that faults share;
//! what else stage 2 costs; what a flush of TLBs costs. Lines of JSON, and tables.
//!
//! Figures of an emulator say nothing about hardware: each line says whether it is one.

mod faults;
mod flush;
mod stage2;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use kvmmu_model::virt::VCPUS;

use crate::args::{Args, Cluster, Mmu};
use crate::el2::cpu::console::say;
use crate::el2::cpu::{smp, sysreg};
use crate::el2::run::report::Report;

/// Runs all of them.
pub(crate) fn run(args: &Args<'_>, report: &mut Report) {
    let vcpus_max = smp::workers().saturating_sub(1).min(VCPUS);
    if vcpus_max == 0 {
        report.unexpected(format!("bench: 2 CPUs are needed, and there are {}", smp::workers()));
        return;
    }
    let arm64 = args.mmu != Mmu::X86 && smp::has_hardware_af();
    if args.mmu != Mmu::X86 && !arm64 {
        let why = String::from("bench: arm64 is skipped: this core does not set AF by itself");
        if args.mmu == Mmu::Arm64 {
            report.select_nothing(why);
            return;
        }
        report.note(why);
    }
    let bench = Bench { machine: machine(args, report), cores: cores(), vcpus_max };
    say!("bench: {}; cycles are {}", bench.machine, clock());
    bench.faults(args, arm64);
    if arm64 {
        bench.stage2();
    }
    if args.mmu != Mmu::Arm64 {
        bench.flushes();
    }
    say!("bench: {}", bench.machine);
    report.expected(String::from("bench: measured"));
}

/// What is measured on.
struct Bench {
    machine: &'static str,
    cores: String,
    vcpus_max: usize,
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

/// Nanoseconds of so many ticks.
fn ns(ticks: u64) -> u64 {
    ticks * 1000 / (sysreg::cntfrq() / 1_000_000).max(1)
}

impl Bench {
    /// The end of a line of JSON.
    fn about(&self) -> String {
        format!("\"cores\":\"{}\",\"machine\":\"{}\"}}", self.cores, self.machine)
    }
}
