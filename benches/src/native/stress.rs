//! The whole protocol on real threads, against the migration oracle.
//!
//! vCPUs load, store and prefault at random, the host swaps pages out and in, ages them and shrinks
//! the shadow pages, and user space harvests and copies: all at once, each on a thread, in rounds
//! of a few hundred operations. After each round every vCPU is out of
//! KVM_RUN, the rest is harvested and copied, and the destination must equal the source. A page
//! that was lost in one round cannot be written again before it is checked.
//!
//! It is the model, the interpreter of scenarios and the properties that the simulator runs: what a
//! vCPU stores and where that must arrive is stated once. KSM is left out: the host of scenarios
//! keeps pages that frames share for files which do not swap them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use kvmmu_model::virt::VCPUS;
use kvmmu_model::{Gfn, GuardSet, Mark, Pfn};
use kvmmu_scenarios::machine::Cell;
use kvmmu_scenarios::ops::{Address, HostOp, SlotIndex, UserOp, VcpuOp};
use kvmmu_scenarios::oracle;
use kvmmu_scenarios::program::{OffVcpu, OnVcpu, Program, Steps};
use kvmmu_scenarios::scenario::{
    Backing, Format, IndirectFastFault, Paging, Profile, Scenario, Slot, Thread, ThreadKind,
};
use kvmmu_scenarios::{Property, World};

use super::kind::Watched;
use super::machine::{Native, Violation};

/// The frames that are used: they span both leaf tables.
const FRAMES: std::ops::Range<u64> = 2..6;
/// As many are logged by each slot.
const SLOT_PAGES: u8 = 2;
/// What every run watches.
const WATCHED: [Property; 5] = [
    Property::Migration,
    Property::Swap,
    Property::PfnSafety,
    Property::HostReadonly,
    Property::RmapExact,
];
/// The longest program: a store's value is its place in the program, in one byte.
const OPS_MAX: usize = 250;

/// How user space migrates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CopyOrder {
    /// It copies what it has harvested, while vCPUs run.
    HarvestThenCopy,
    /// It copies first, and harvests what has been written since: those pages are lost. For the
    /// negative control.
    CopyThenHarvest,
}

/// A stress.
#[derive(Clone, Debug)]
pub struct Stress {
    /// How many vCPUs.
    pub vcpus: usize,
    /// Operations of each thread in a round.
    pub ops: usize,
    /// The layout of SPTEs.
    pub format: Format,
    /// The host's memory manager has a thread of its own.
    pub host: bool,
    /// How user space migrates.
    pub order: CopyOrder,
    /// Protective steps that are removed.
    pub without: GuardSet,
    /// The longest time.
    pub time: Duration,
    /// The most rounds.
    pub rounds: u64,
    /// What the programs are made from.
    pub seed: u64,
}

/// What a stress has seen.
#[derive(Clone, Debug)]
pub struct Report {
    /// Rounds.
    pub rounds: u64,
    /// How often each mark was passed.
    pub marks: Vec<(Mark, u64)>,
    /// How often the memory of a freed shadow page was touched.
    pub touched: u64,
    /// What went wrong, the first first.
    pub violations: Vec<Violation>,
}

impl Report {
    /// How often this has happened.
    pub fn count(&self, mark: Mark) -> u64 {
        self.marks.iter().find(|(m, _)| *m == mark).map_or(0, |(_, count)| *count)
    }
    /// True if this property was violated.
    pub fn violates(&self, property: Property) -> bool {
        self.violations.iter().any(|v| v.property == property)
    }
}

/// What threads share apart from the world.
struct Round {
    begin: Barrier,
    end: Barrier,
    over: AtomicBool,
}

impl Stress {
    /// Runs rounds until one goes wrong or a bound is reached.
    ///
    /// # Panics
    /// If there are more vCPUs than the model has room for, or longer programs than values.
    pub fn run(&self) -> Report {
        assert!((1..=VCPUS).contains(&self.vcpus) && (1..=OPS_MAX).contains(&self.ops));
        let machine = Native::new(Watched::new(self.without));
        let scenario = self.scenario();
        let world = World::new(&machine, &scenario);
        let threads = scenario.threads.len();
        let round = Round {
            begin: Barrier::new(threads + 1),
            end: Barrier::new(threads + 1),
            over: AtomicBool::new(false),
        };
        let rounds = std::thread::scope(|scope| {
            for thread in 0..threads {
                let (world, round, scenario) = (&world, &round, scenario.clone());
                scope.spawn(move || self.run_thread(world, round, scenario, thread));
            }
            self.run_rounds(&world, &round, &scenario)
        });
        let kind = machine.kind();
        Report {
            rounds,
            marks: Mark::ALL.iter().map(|mark| (*mark, kind.count(*mark))).collect(),
            touched: kind.touched(),
            violations: machine.violations(),
        }
    }

    /// Lets the threads run, round by round, and judges each round. Returns how many there were.
    fn run_rounds(&self, world: &World<Native<Watched>>, round: &Round, s: &Scenario) -> u64 {
        let deadline = Instant::now() + self.time;
        let mut rounds = 0;
        loop {
            if self.order == CopyOrder::CopyThenHarvest {
                copy_all(world);
            }
            round.begin.wait();
            round.end.wait();
            if self.order == CopyOrder::CopyThenHarvest {
                (0..s.slots.len()).for_each(|slot| {
                    world.vm.kvm_vm_ioctl_get_dirty_log(slot);
                });
            }
            world.run_stop(s);
            check_rmaps(world);
            rounds += 1;
            let ended = rounds == self.rounds || Instant::now() >= deadline;
            if ended || !world.m.violations().is_empty() {
                // ORDERING: relaxed: the barrier orders it.
                round.over.store(true, Ordering::Relaxed);
                round.begin.wait();
                return rounds;
            }
        }
    }

    /// A thread: a new program for each round.
    fn run_thread(
        &self,
        world: &World<Native<Watched>>,
        round: &Round,
        mut scenario: Scenario,
        thread: usize,
    ) {
        let mut rng = Rng::with_seed(self.seed ^ (thread as u64 + 1) << 32);
        loop {
            let kind = scenario.threads[thread].kind;
            scenario.threads[thread].run = self.program(kind, &mut rng);
            round.begin.wait();
            // ORDERING: relaxed: the barrier orders it.
            if round.over.load(Ordering::Relaxed) {
                return;
            }
            let run = || world.run_thread(&scenario, thread);
            if catch_unwind(AssertUnwindSafe(run)).is_err() {
                world.m.report(Property::Deadlock, format!("thread {thread} panicked"));
            }
            round.end.wait();
        }
    }

    fn program(&self, kind: ThreadKind, rng: &mut Rng) -> Program {
        match kind {
            ThreadKind::Vcpu => {
                let op = |_| OnVcpu::Vcpu(vcpu_op(rng));
                Program::Vcpu((0..self.ops).map(op).collect())
            }
            ThreadKind::Host => {
                let op = |_| OffVcpu::Host(host_op(rng));
                Program::Other((0..self.ops / 8).map(op).collect())
            }
            ThreadKind::User => {
                let slots = 0..(FRAMES.count() as u8 / SLOT_PAGES);
                Program::Other(slots.flat_map(migrate).cycle().take(self.ops / 4).collect())
            }
        }
    }

    fn scenario(&self) -> Scenario {
        let nothing = || Program::Other(Steps::default());
        let thread =
            |name: String, kind| Thread { name, kind, paging: Paging::Direct, run: nothing() };
        let mut threads: Vec<Thread> =
            (0..self.vcpus).map(|i| thread(format!("vcpu{i}"), ThreadKind::Vcpu)).collect();
        if self.host {
            threads.push(thread("host".into(), ThreadKind::Host));
        }
        if self.order == CopyOrder::HarvestThenCopy {
            threads.push(thread("user".into(), ThreadKind::User));
        }
        let slot = |base| Slot { base: Gfn(base), pages: SLOT_PAGES, log: true, there: true };
        let slots: Vec<Slot> = FRAMES.step_by(usize::from(SLOT_PAGES)).map(slot).collect();
        let backing = |gfn| Backing {
            gfn: Gfn(gfn),
            pfn: Some(Pfn(gfn - FRAMES.start)),
            writable: true,
            dirty: false,
        };
        Scenario {
            name: "stress".into(),
            title: "Everything at once on real threads".into(),
            source: "KVM v5.10".into(),
            about: String::new(),
            profile: Profile::Fixed,
            paging: Paging::Direct,
            spte: self.format,
            indirect: IndirectFastFault::Gfns,
            unsync: false,
            pml: false,
            apic_page: None,
            early_completion: false,
            vmid: None,
            host_pages: kvmmu_scenarios::host_mm::PFNS as u8,
            backing: FRAMES.map(backing).collect(),
            huge: vec![],
            hugetlb: vec![],
            guest_tables: vec![],
            guest_root: None,
            map: vec![],
            locks: vec![],
            threads,
            at_stop: (0..slots.len() as u8).flat_map(migrate).collect(),
            slots,
            always: WATCHED.to_vec(),
            sometimes: vec![],
            lock_checks: false,
            expects: vec![],
            size: 1,
        }
    }
}

fn frame(rng: &mut Rng) -> Gfn {
    Gfn(rng.u64(FRAMES))
}

/// User space copies what was written in a slot.
fn migrate(slot: u8) -> [OffVcpu; 2] {
    [UserOp::GetDirtyLog(SlotIndex(slot)), UserOp::CopyHarvested].map(OffVcpu::User)
}

fn vcpu_op(rng: &mut Rng) -> VcpuOp {
    let gfn = frame(rng);
    match rng.u8(0..64) {
        0 => VcpuOp::Prefault(gfn),
        1..=16 => VcpuOp::Read(Address::Gfn(gfn)),
        17..=20 => VcpuOp::Fetch(Address::Gfn(gfn)),
        _ => VcpuOp::Write(Address::Gfn(gfn)),
    }
}

fn host_op(rng: &mut Rng) -> HostOp {
    let gfn = frame(rng);
    match rng.u8(0..16) {
        0..=3 => HostOp::SwapOut(gfn),
        4..=5 => HostOp::SwapIn(gfn),
        6..=9 => HostOp::Age(gfn),
        10..=12 => HostOp::ClearYoung(gfn),
        _ => HostOp::Shrink,
    }
}

/// User space copies every page, whether it was written or not.
fn copy_all(world: &World<Native<Watched>>) {
    world.user.with(|user| {
        for gfn in FRAMES {
            user.copy[gfn as usize] = world.content(Gfn(gfn));
        }
    });
}

/// Nobody runs: each leaf has its place in the rmap.
fn check_rmaps(world: &World<Native<Watched>>) {
    oracle::mmu_unlocked(world, &world.vm.kvm.mmu_lock.lock());
}
