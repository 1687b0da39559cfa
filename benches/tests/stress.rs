//! Goal: on real threads the protocol loses nothing, and the oracle that says so can fire. Method:
//! bounded stress; the same with a loss that is forced, and with guards taken away.
//!
//! It is no detector: the simulator is. Under Miri (`cfg(miri)`) it is small, and what Miri adds is
//! its view of data races and of weak memory.

use std::sync::mpsc;
use std::time::Duration;

use kvmmu_benches::native::stress::{CopyOrder, Report, Stress};
use kvmmu_model::{Guard, GuardSet, Mark};
use kvmmu_scenarios::Property;
use kvmmu_scenarios::scenario::Format;

/// No run takes longer, on any machine.
const HANGS_AFTER: Duration = Duration::from_secs(300);
/// Runs, of a second each, in which everything has to be seen.
const TRIES: u64 = 30;

fn stress(format: Format) -> Stress {
    let small = cfg!(miri);
    Stress {
        vcpus: if small { 2 } else { 3 },
        ops: if small { 16 } else { 200 },
        format,
        host: true,
        order: CopyOrder::HarvestThenCopy,
        without: GuardSet::EMPTY,
        time: if small { Duration::from_secs(3600) } else { Duration::from_secs(1) },
        rounds: if small { 2 } else { u64::MAX },
        seed: 1,
    }
}

/// Runs it on a thread of its own, with an outer time limit.
#[track_caller]
fn run(stress: Stress) -> Report {
    let (done, report) = mpsc::channel();
    std::thread::spawn(move || done.send(stress.run()));
    report.recv_timeout(HANGS_AFTER).expect("the stress ends")
}

/// Nothing went wrong, and what was to be seen was seen: how the threads meet is up to the machine,
/// so that one which has little time to give is asked again.
#[track_caller]
fn holds(format: Format, sometimes: &[Mark]) {
    let mut unseen = if cfg!(miri) { vec![] } else { sometimes.to_vec() };
    for seed in 1..=TRIES {
        let report = run(Stress { seed, ..stress(format) });
        println!("{format:?}: {} rounds", report.rounds);
        for (mark, count) in report.marks.iter().filter(|(_, count)| *count > 0) {
            println!("  {:<24} {count}", mark.name());
        }
        assert_eq!(report.violations, []);
        assert_eq!(report.touched, 0, "the memory of a freed shadow page was touched");
        unseen.retain(|mark| report.count(*mark) == 0);
        if unseen.is_empty() {
            return;
        }
    }
    let names: Vec<&str> = unseen.iter().map(|mark| mark.name()).collect();
    panic!("never seen in {TRIES} runs: {}", names.join(", "));
}

/// What every layout must pass.
const SOMETIMES: &[Mark] = &[
    Mark::FastFaultFixed,
    Mark::FastFaultWritable,
    Mark::WriteProtected,
    Mark::SlowFault,
    Mark::Harvest,
    Mark::PageCopied,
    Mark::TlbFlushed,
    Mark::SpteZapped,
    Mark::ShadowPageFreed,
    Mark::SwappedOutDirty,
    Mark::NotifierRetry,
];

#[test]
fn nothing_is_lost_with_ept() {
    holds(Format::Ept, SOMETIMES);
}

#[test]
fn nothing_is_lost_with_ept_no_ad() {
    let tracked = [Mark::AccessTracked, Mark::AccessTrackRestored];
    holds(Format::EptNoAd, &[SOMETIMES, &tracked].concat());
}

#[test]
fn nothing_is_lost_with_npt() {
    holds(Format::Npt, SOMETIMES);
}

#[test]
fn nothing_is_lost_with_npt_of_6_1() {
    holds(Format::NptV6_1, SOMETIMES);
}

#[test]
fn nothing_is_lost_with_stage_2() {
    let tracked = [Mark::AccessTracked, Mark::AccessTrackRestored];
    holds(Format::Stage2, &[SOMETIMES, &tracked].concat());
}

#[test]
fn nothing_is_lost_with_stage_2_and_hardware_dirty() {
    holds(Format::Stage2Hd, SOMETIMES);
}

/// The negative control. Every store of a round falls between the copy and the harvest.
#[test]
fn a_copy_before_the_harvest_is_caught() {
    let order = CopyOrder::CopyThenHarvest;
    let report = run(Stress { order, host: false, ..stress(Format::Npt) });
    assert!(report.violates(Property::Migration), "{report:?}");
    assert_eq!(report.rounds, 1, "the first round loses pages");
}

/// A guard that is gone: a vCPU in the guest goes on storing by its TLB.
#[test]
#[cfg_attr(miri, ignore = "it takes luck, and Miri is slow")]
fn a_missing_flush_is_caught() {
    let without = GuardSet::EMPTY.with(Guard::FlushAfterHarvest);
    let time = Duration::from_secs(60);
    let report = run(Stress { without, time, host: false, ..stress(Format::Npt) });
    assert!(report.violates(Property::Migration), "{} rounds and no loss", report.rounds);
}
