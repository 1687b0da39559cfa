//! Stress: guests on several CPUs store for long while one CPU harvests, ages, zaps and frees
//! tables; at the end the destination of the migration must equal the guests' memory.
//!
//! Each vCPU counts in a word of its own on each page, so a store that nobody copied is a word that
//! differs. Negative controls are the same runs without a step: what they lose says that the oracle
//! looks. They are a supplement: the deterministic tests are what must never miss.

use alloc::format;
use alloc::string::String;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use core::sync::atomic::{AtomicU64, AtomicUsize};

use kvmmu_model::virt::{GFNS, VCPUS};
use kvmmu_model::{CpuId, Gfn, GfnRange, Guard, GuardSet};
use kvmmu_scenarios::World;
use spin::Mutex;

use super::own::{self, migrating, migrating_arm64};
use crate::args::{Args, Mmu, Tlbi};
use crate::el2::cpu::wait::Deadline;
use crate::el2::cpu::{smp, sysreg, tlbi, wait};
use crate::el2::machine::mmu::{RealMmu, Shadow, Stage2};
use crate::el2::machine::platform::{self, El2};
use crate::el2::machine::vcpu::{self, Faults, Path};
use crate::el2::memory::guest::{Context, Program};
use crate::el2::memory::{frames, stage2};
use crate::el2::record::random::Random;
use crate::el2::run::report::Report;
use crate::el2::run::{all, once};

/// Eight-byte words of a page that guests write.
const WORDS: usize = 510;
/// How far apart the words of two vCPUs are.
const STRIDE: u64 = 64;

/// The destination of the migration.
static COPY: [[AtomicU64; WORDS]; GFNS] = [const { [const { AtomicU64::new(0) }; WORDS] }; GFNS];

/// Which pages the guests store to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pages {
    /// All eight.
    Spread,
    /// Two.
    Two,
    /// One.
    One,
}

impl Pages {
    /// What reports call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Pages::Spread => "8 pages",
            Pages::Two => "2 pages",
            Pages::One => "1 page",
        }
    }
    /// The mask of a page's number.
    pub(crate) fn mask(self) -> u64 {
        match self {
            Pages::Spread => 7,
            Pages::Two => 1,
            Pages::One => 0,
        }
    }
}

/// What the harvesting CPU does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Host {
    /// It harvests and copies.
    Harvests,
    /// It ages, zaps and frees tables as well.
    Everything,
}

/// A run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) vcpus: usize,
    pub(crate) pages: Pages,
    pub(crate) host: Host,
    pub(crate) stores: u64,
    pub(crate) seed: u64,
    /// How long the host waits between two rounds, in microseconds.
    pub(crate) period_us: u64,
    /// The way that faults take.
    pub(crate) path: Path,
}

/// A guest goes on until the host has had so many rounds: on a busy emulator the guests may be
/// through before it has begun.
const ROUNDS_MIN: usize = 300;
/// But no longer than this, in microseconds.
const LONGEST_US: u64 = 5_000_000;

/// What came of it.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Done {
    /// Words of the destination that differ.
    pub(crate) lost: u64,
    pub(crate) faults: Faults,
    /// Stores, all guests together.
    pub(crate) stores: u64,
    pub(crate) rounds: u64,
    pub(crate) copied: u64,
    pub(crate) us: u64,
}

/// A word of a guest page.
fn source(page: usize, word: usize) -> u64 {
    // ORDERING: relaxed: guest memory; the flush before the copy orders what matters.
    frames::page_word(page, word).load(Relaxed)
}

/// Copies the pages that a harvest named.
fn copy(harvested: u64) -> u64 {
    for page in (0..GFNS).filter(|page| harvested >> page & 1 == 1) {
        for (word, copy) in COPY[page].iter().enumerate() {
            // ORDERING: relaxed: only this CPU touches the copy.
            copy.store(source(page, word), Relaxed);
        }
    }
    u64::from(harvested.count_ones())
}

/// One round of the host.
fn round<A: RealMmu>(world: &World<El2<A>>, host: Host, random: &mut Random) -> u64 {
    if host == Host::Everything {
        let gfn = Gfn(random.next() >> 7 & 7);
        match random.next() >> 7 & 7 {
            0 => {
                world.vm.clear_flush_young(gfn);
            }
            1 => {
                world.vm.clear_young(gfn);
            }
            2 => {
                // The host takes the page away and leaves it where it is, as a migration between
                // two lists of pages does.
                world.vm.invalidate_range_start(GfnRange::one(gfn));
                world.vm.invalidate_range_end(GfnRange::one(gfn));
            }
            3 => kvmmu_model::Mmu::mmu_shrink_scan(&world.vm),
            _ => {}
        }
    }
    copy(world.vm.kvm_vm_ioctl_get_dirty_log(0))
}

/// One vCPU: its guest stores, and goes on until the host has had its rounds.
fn guest<A: RealMmu>(
    world: &World<El2<A>>,
    load: Load,
    i: usize,
    rounds: &AtomicUsize,
) -> (Faults, u64) {
    let seed = Random::new(load.seed + i as u64).next();
    let base = stage2::ipa(0) + STRIDE * i as u64;
    let x = [base, load.pages.mask(), load.stores, seed, 0, 0, 0, 0];
    let (mut guest, mut faults, mut stores) =
        (Context::new(Program::Scatter, x), Faults::default(), 0);
    let deadline = Deadline::after_us(LONGEST_US);
    loop {
        faults.add(vcpu::run(world, CpuId(i as u8), &mut guest, load.path));
        stores += load.stores;
        // ORDERING: relaxed: a count.
        if rounds.load(Relaxed) >= ROUNDS_MIN || deadline.has_passed() {
            return (faults, stores);
        }
        // The counter and the random state go on.
        let [_, _, _, state, counter, ..] = guest.x;
        guest = Context::new(Program::Scatter, [x[0], x[1], x[2], state, counter, 0, 0, 0]);
    }
}

/// Runs it in a world: the host on the first CPU, the vCPUs on those after.
pub(crate) fn load<A: RealMmu>(world: &World<El2<A>>, load: Load) -> Done {
    // ORDERING: relaxed: nobody else runs.
    COPY.iter().flatten().for_each(|word| word.store(0, Relaxed));
    let (running, rounds) = (AtomicUsize::new(load.vcpus), AtomicUsize::new(0));
    let done = Mutex::new(Done::default());
    let from = sysreg::now();
    smp::parallel(load.vcpus + 1, &|i| {
        // The host is on the same CPU however many guests there are.
        if let Some(vcpu) = i.checked_sub(1) {
            let (faults, stores) = guest(world, load, vcpu, &rounds);
            let mut done = done.lock();
            done.faults.add(faults);
            done.stores += stores;
            // ORDERING: acq-rel: what the guest wrote is seen by the last harvest.
            running.fetch_sub(1, AcqRel);
            return;
        }
        let mut random = Random::new(load.seed + 99);
        let mut copied = 0;
        // ORDERING: acquire: as above.
        while running.load(Acquire) > 0 {
            copied += round(world, load.host, &mut random);
            // ORDERING: relaxed: a count.
            rounds.fetch_add(1, Relaxed);
            wait::sleep_us(load.period_us);
        }
        done.lock().copied = copied;
    });
    let ticks = sysreg::now() - from;
    let mut done = *done.lock();
    // ORDERING: relaxed: nobody else runs.
    done.rounds = rounds.load(Relaxed) as u64;
    // Every vCPU is out of KVM_RUN.
    done.copied += copy(world.vm.kvm_vm_ioctl_get_dirty_log(0));
    done.us = ticks * 1_000_000 / sysreg::cntfrq();
    let differs = |page: usize, word: usize| {
        // ORDERING: relaxed: nobody else runs.
        source(page, word) != COPY[page][word].load(Relaxed)
    };
    for page in 0..GFNS {
        done.lost += (0..WORDS).filter(|word| differs(page, *word)).count() as u64;
    }
    done
}

/// A way to run, and whether it must lose something.
struct Case {
    pages: Pages,
    host: Host,
    tlbi: Tlbi,
    without: &'static [Guard],
    /// `None`: it may.
    loses: Option<bool>,
}

const fn correct(pages: Pages, host: Host) -> Case {
    Case { pages, host, tlbi: Tlbi::Vm, without: &[], loses: Some(false) }
}

/// It may lose something.
const fn broken(pages: Pages, host: Host, without: &'static [Guard]) -> Case {
    Case { without, loses: None, ..correct(pages, host) }
}

/// Of the MMU of x86.
const X86: [Case; 7] = [
    correct(Pages::Spread, Host::Everything),
    correct(Pages::Two, Host::Everything),
    correct(Pages::One, Host::Harvests),
    Case { tlbi: Tlbi::Page, ..correct(Pages::Spread, Host::Everything) },
    broken(Pages::Spread, Host::Harvests, &[Guard::FlushAfterHarvest]),
    Case { tlbi: Tlbi::Ipa, ..broken(Pages::Spread, Host::Harvests, &[]) },
    broken(Pages::Two, Host::Everything, &[Guard::SetSpteMarksDirty]),
];

/// Of that of arm64, in each version.
const ARM64: [Case; 3] = [
    correct(Pages::Spread, Host::Everything),
    correct(Pages::One, Host::Harvests),
    broken(Pages::Spread, Host::Harvests, &[Guard::FlushAfterHarvest]),
];

/// Runs the cases; with guards removed by hand, or another kind of flush, that one alone.
pub(crate) fn run(args: &Args<'_>, without: GuardSet, report: &mut Report) {
    let vcpus = (smp::workers().saturating_sub(1)).min(VCPUS);
    if vcpus == 0 {
        report.unexpected(format!("stress: 2 CPUs are needed, and there are {}", smp::workers()));
        return;
    }
    if args.mmu == Mmu::Arm64 && args.tlbi != Tlbi::Vm {
        report.select_nothing(String::from("tlbi= is for the MMU of x86: mmu=x86"));
        return;
    }
    let by_hand = !without.is_empty() || args.tlbi != Tlbi::Vm;
    let alone = [Case { tlbi: args.tlbi, ..broken(Pages::Spread, Host::Everything, &[]) }];
    let with = |case: &Case| if by_hand { without } else { case.without.iter().copied().collect() };
    if args.mmu != Mmu::Arm64 {
        for case in if by_hand { &alone[..] } else { &X86 } {
            let world = once::build::<Shadow>(&migrating());
            one(args, &world, (case, with(case), "x86"), vcpus, report);
        }
    }
    if args.mmu == Mmu::X86 || args.tlbi != Tlbi::Vm {
        return;
    }
    if !smp::has_hardware_af() {
        let why = String::from("stress: arm64 is skipped: this core does not set AF by itself");
        match args.mmu {
            Mmu::Arm64 => report.select_nothing(why),
            _ => report.note(why),
        }
        return;
    }
    for (version, name) in own::VERSIONS {
        for case in if by_hand { &alone[..] } else { &ARM64 } {
            let world = once::build::<Stage2>(&migrating_arm64(version));
            one(args, &world, (case, with(case), name), vcpus, report);
        }
    }
}

fn one<A: RealMmu>(
    args: &Args<'_>,
    world: &World<El2<A>>,
    (case, without, mmu): (&Case, GuardSet, &str),
    vcpus: usize,
    report: &mut Report,
) {
    let guards = platform::set_without(without);
    let kind = tlbi::set_kind(case.tlbi);
    let done = load(
        world,
        Load {
            vcpus,
            pages: case.pages,
            host: case.host,
            stores: args.stores,
            seed: args.seed,
            period_us: 50,
            path: Path::Fast,
        },
    );
    tlbi::set_kind(kind);
    platform::set_without(guards);
    let with = all::with(without);
    // That of arm64 says itself what a flush is made of.
    let flush = match mmu {
        "x86" => format!("flush by {}, ", case.tlbi.name()),
        _ => String::new(),
    };
    let what = format!(
        "stress: {mmu}, {with}, {flush}{vcpus} vCPUs, {} stores to {}: {} rounds, {} pages copied, \
         {} faults ({} fixed, {} spurious, {} retried), {} ms: {} words lost",
        done.stores,
        case.pages.name(),
        done.rounds,
        done.copied,
        done.faults.all(),
        done.faults.fixed,
        done.faults.spurious,
        done.faults.retried,
        done.us / 1000,
        done.lost
    );
    match case.loses {
        Some(loses) => report.check(loses == (done.lost > 0), what),
        None if done.lost > 0 => report.expected(what),
        None => report.note(format!("{what} (nothing was lost this time)")),
    }
}
