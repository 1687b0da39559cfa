//! Fast fault against the locked path, by threads, pages, and with a harvester.
//!
//! Each vCPU thread write-protects one of its pages, as a harvest would, and handles the fault of
//! the store to it: over and over. Both paths pay for the write-protection. Where pages are hot,
//! another thread may have repaired the page first; the fault is then spurious, as in KVM.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kvmmu_model::RetPf;
use kvmmu_model::virt::{GFNS, MEMSLOTS, VCPUS};
use kvmmu_model::{CpuId, SpteFormat};

use super::cpu::Machine;
use super::vm::Vm;
use crate::native::{Apart, Native};

/// How a fault is handled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Path {
    /// Without the lock.
    Fast,
    /// Under `mmu_lock`.
    Locked,
    /// Not at all: what the rest of the loop costs.
    None,
}

/// Which pages fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pages {
    /// Each thread has its own, far from those of others.
    Spread,
    /// All threads fault on the same two.
    TwoHot,
    /// All threads fault on the same page.
    OneHot,
}

impl Path {
    /// As reports name it.
    pub const fn name(self) -> &'static str {
        match self {
            Path::Fast => "fast path",
            Path::Locked => "locked path",
            Path::None => "no fault",
        }
    }
}

impl Pages {
    /// All of them.
    pub const ALL: [Pages; 3] = [Pages::Spread, Pages::TwoHot, Pages::OneHot];

    /// As reports name it.
    pub const fn name(self) -> &'static str {
        match self {
            Pages::Spread => "spread",
            Pages::TwoHot => "2 hot pages",
            Pages::OneHot => "1 hot page",
        }
    }

    /// The page of a thread's fault.
    #[inline]
    fn frame(self, thread: usize, fault: u64) -> u64 {
        const OWN: u64 = (GFNS / VCPUS) as u64;
        match self {
            Pages::Spread => thread as u64 * OWN + fault % OWN,
            Pages::TwoHot => fault % 2 * (GFNS / 2) as u64,
            Pages::OneHot => 0,
        }
    }
}

/// A measurement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Contention {
    /// How faults are handled.
    pub path: Path,
    /// How many vCPUs fault.
    pub threads: usize,
    /// On which pages.
    pub pages: Pages,
    /// Another thread harvests the dirty log without a pause.
    pub harvester: bool,
}

/// For how much of the time all vCPUs must be at it.
const TOGETHER_MIN: f64 = 0.8;
/// How long a harvest may take that has to wait its turn, on a machine that is not disturbed.
const PAUSE_MAX: Duration = Duration::from_micros(20);

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// From the first vCPU's beginning to the last one's end.
    pub elapsed: Duration,
    /// Nanoseconds for a fault, as a vCPU sees it.
    pub nanoseconds: f64,
    /// Millions of faults a second, all vCPUs together.
    pub throughput: f64,
    /// The part of the faults that found the page repaired.
    pub spurious: f64,
    /// The longest time without a harvest; none without a harvester.
    pub pause: Duration,
    /// For how much of the time all vCPUs were at it.
    pub together: f64,
}

impl Measured {
    /// False if a thread had no CPU for a while, so that the others were undisturbed: no vCPU may
    /// be alone for long, and the harvester may not pause.
    pub fn is_contended(&self) -> bool {
        self.together >= TOGETHER_MIN && self.pause <= PAUSE_MAX
    }
}

impl Contention {
    /// As benches name it.
    pub fn name(&self) -> String {
        let harvester = if self.harvester { ", harvester" } else { "" };
        format!("{}, {}, {} threads{harvester}", self.path.name(), self.pages.name(), self.threads)
    }

    /// CPUs that it keeps busy.
    pub fn busy(&self) -> usize {
        self.threads + usize::from(self.harvester)
    }

    /// Lets each thread handle so many faults.
    pub fn run(&self, machine: &Machine, faults: u64) -> Measured {
        let native = Native::new(Apart);
        let vm = Vm::new(&native, SpteFormat::NPT, VCPUS as u8, true);
        let (begin, stop) = (Start::new(self.busy()), AtomicBool::new(false));
        let (turns, pause) = std::thread::scope(|scope| {
            let harvester = self.harvester.then(|| {
                let (vm, begin, stop) = (&vm, &begin, &stop);
                scope.spawn(move || {
                    machine.pin(self.threads);
                    begin.wait();
                    harvest(vm, stop)
                })
            });
            let vcpus: Vec<_> = (0..self.threads)
                .map(|thread| {
                    let (vm, begin) = (&vm, &begin);
                    scope.spawn(move || {
                        machine.pin(thread);
                        self.fault(vm, thread, faults.min(100));
                        begin.wait();
                        let started = Instant::now();
                        let spurious = self.fault(vm, thread, faults);
                        Turn { started, ended: Instant::now(), spurious }
                    })
                })
                .collect();
            let turns: Vec<Turn> =
                vcpus.into_iter().map(|vcpu| vcpu.join().expect("a vCPU ends")).collect();
            // ORDERING: relaxed: it only has to be seen some time.
            stop.store(true, Ordering::Relaxed);
            let pause = harvester.map_or(Duration::ZERO, |h| h.join().expect("it ends"));
            (turns, pause)
        });
        measured(&turns, faults, pause)
    }

    /// Handles faults; returns how many were spurious.
    fn fault(&self, vm: &Vm<Apart>, thread: usize, faults: u64) -> u64 {
        match self.path {
            Path::Fast => self.fault_by(vm, thread, faults, Vm::fast_fault),
            Path::Locked => self.fault_by(vm, thread, faults, Vm::locked_fault),
            Path::None => self.fault_by(vm, thread, faults, |_, _, _| RetPf::Fixed),
        }
    }

    #[inline(always)]
    fn fault_by(
        &self,
        vm: &Vm<Apart>,
        thread: usize,
        faults: u64,
        handle: impl Fn(&Vm<Apart>, CpuId, u64) -> RetPf,
    ) -> u64 {
        let cpu = CpuId(thread as u8);
        let mut spurious = 0;
        for fault in 0..faults {
            let gfn = self.pages.frame(thread, fault);
            vm.protect(gfn);
            if handle(vm, cpu, gfn) == RetPf::Spurious {
                spurious += 1;
            }
        }
        spurious
    }
}

/// Where threads wait for one another without sleeping, so that they go on at once together.
struct Start {
    missing: AtomicUsize,
}

impl Start {
    /// Turns between two looks whether somebody has no CPU.
    const PATIENCE: u32 = 1 << 16;

    fn new(threads: usize) -> Self {
        Start { missing: AtomicUsize::new(threads) }
    }

    fn wait(&self) {
        // ORDERING: acq-rel and acquire: as a barrier.
        self.missing.fetch_sub(1, Ordering::AcqRel);
        let mut turns = 0_u32;
        // ORDERING: as above.
        while self.missing.load(Ordering::Acquire) > 0 {
            turns += 1;
            if turns.is_multiple_of(Start::PATIENCE) {
                std::thread::yield_now();
            }
            std::hint::spin_loop();
        }
    }
}

/// Harvests both slots until told to stop. Returns the longest time that a harvest took.
fn harvest(vm: &Vm<Apart>, stop: &AtomicBool) -> Duration {
    let (mut pause, mut last) = (Duration::ZERO, Instant::now());
    // ORDERING: relaxed: it only has to be seen some time.
    while !stop.load(Ordering::Relaxed) {
        for slot in 0..MEMSLOTS {
            vm.vm.kvm_vm_ioctl_get_dirty_log(slot);
            let now = Instant::now();
            pause = pause.max(now - last);
            last = now;
        }
    }
    pause
}

/// What a vCPU did.
struct Turn {
    started: Instant,
    ended: Instant,
    spurious: u64,
}

fn measured(turns: &[Turn], faults: u64, pause: Duration) -> Measured {
    let each = turns.iter().map(|t| (t.ended - t.started).as_secs_f64() / faults as f64);
    let count = turns.len() as f64;
    let first = turns.iter().map(|t| t.started).min();
    let all_from = turns.iter().map(|t| t.started).max();
    let all_to = turns.iter().map(|t| t.ended).min();
    let last = turns.iter().map(|t| t.ended).max();
    let between = |from: Option<Instant>, to: Option<Instant>| match (from, to) {
        (Some(from), Some(to)) => to.saturating_duration_since(from),
        _ => Duration::ZERO,
    };
    let elapsed = between(first, last);
    Measured {
        elapsed,
        nanoseconds: each.clone().sum::<f64>() / count * 1e9,
        throughput: each.map(f64::recip).sum::<f64>() / 1e6,
        spurious: turns.iter().map(|t| t.spurious).sum::<u64>() as f64 / (faults as f64 * count),
        pause,
        together: between(all_from, all_to).as_secs_f64() / elapsed.as_secs_f64(),
    }
}
