//! The VM of a scenario, and one execution.

use std::fs;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use kvm_bindings::KVM_MEM_LOG_DIRTY_PAGES;
use kvmmu_model::Gfn;
use kvmmu_qemu::{Exit, Failure};
use kvmmu_scenarios::outcome::{Asker, Harvest, Outcome};
use kvmmu_scenarios::scenario::{Scenario, Slot};
use rustix::mm::Advice;

use super::places::{FRAMES, Places};
use super::plan::{Action, Plan};
use crate::counters::{Counters, Paths};
use crate::guest::{self, BASE, DATA, LOW_SIZE, MODES};
use crate::harvest::set_bits;
use crate::job::run_vcpu;
use crate::memory::{Backing, Memory, PAGE};
use crate::setting::Setting;
use crate::sys::{self, Slots};
use crate::vm::{self, DirtyLog, LOW_SLOT, Vcpu, failed, failed_io};

/// The number of the memslot of the first slot.
const FIRST_SLOT: u32 = 1;
/// Where the programs are that map frames, after those of the vCPUs.
const BLOCKS: usize = guest::VCPUS_MAX - 3;
const MAP: usize = guest::VCPUS_MAX - 2;
const MAP_WRITABLE: usize = guest::VCPUS_MAX - 1;
/// A guest spins less often than 2^this before its program, mostly far less.
const GUEST_DELAY_BITS: u32 = 14;
/// User space waits less than 2^this nanoseconds before an operation, mostly far less: entering a
/// guest takes long under emulation, and longer where emulated CPUs share real ones.
const USER_DELAY_BITS: u32 = 22;
/// What is longer is slept, as is what nobody knows the length of, so that a shared CPU goes to the
/// guests.
const SPIN_MAX: Duration = Duration::from_micros(50);
/// How long guests may take to come to the meeting point.
const MEET_MAX: Duration = Duration::from_secs(20);
/// What makes shared memory huge, and what says, exactly, how much of ours is mapped so.
const SHMEM_ENABLED: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
const MAPPED: &str = "/proc/self/smaps_rollup";
/// What makes the kernel call its shrinkers.
const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";

/// The machine of one scenario.
pub(super) struct Machine<'s> {
    scenario: &'s Scenario,
    plan: &'s Plan,
    shared: Arc<Shared>,
    /// vCPU 0, between executions.
    threads: Vec<JoinHandle<()>>,
    orders: Vec<Sender<Order>>,
    done: Receiver<Result<Done, Failure>>,
    vcpus: Vec<Option<Vcpu>>,
    counters: Counters,
    random: Random,
    limit: Duration,
    /// What makes shared memory huge meanwhile.
    _huge: Option<Setting>,
}

/// What all threads see.
struct Shared {
    slots: Arc<Slots>,
    low: Memory,
    data: Memory,
    /// The slots, as they are before the first step.
    layout: Vec<Slot>,
    /// Which of them there are now.
    there: Vec<AtomicBool>,
    log: DirtyLog,
    /// Where frames are in `data`.
    places: Places,
    user: Mutex<User>,
    /// Lets user space go; what lets guests go is in their memory.
    go: AtomicBool,
}

/// What user space has.
#[derive(Default)]
struct User {
    /// With manual protect: not cleared yet.
    fetched: u64,
    harvested: u64,
    copy: [u64; FRAMES],
    harvests: Vec<Harvest>,
}

/// What a thread is to do.
enum Order {
    /// A vCPU runs the program at a place, after a delay.
    Guest { vcpu: Vcpu, place: usize, delay: u32 },
    /// Operations, each after a delay.
    Actions { thread: Asker, actions: Vec<(Action, u32)> },
}

/// What a thread gives back.
enum Done {
    Guest(usize, Vcpu),
    Actions,
}

impl<'s> Machine<'s> {
    pub(super) fn new(
        scenario: &'s Scenario,
        plan: &'s Plan,
        seed: u64,
        limit: Duration,
    ) -> Result<Machine<'s>, Failure> {
        let kvm = vm::open()?;
        let vm = kvm.create_vm().map_err(|error| failed("KVM_CREATE_VM", error.errno()))?;
        let map =
            |pages| Memory::new(pages, Backing::Shared).map_err(|error| failed_io("mmap", &error));
        let places = plan.places;
        let huge = places.huge.then(|| Setting::change(SHMEM_ENABLED, "always"));
        let huge = huge.transpose().map_err(|error| no_huge_pages(&error.to_string()))?;
        let (low, data) = (map(LOW_SIZE / PAGE)?, map(places.pages())?);
        guest::prepare(&low, false);
        plan.log.enable(&vm)?;
        let slots = Arc::new(Slots::new(vm));
        slots
            .set((LOW_SLOT, 0), BASE, low.region(), (0, LOW_SIZE))
            .map_err(|error| failed_io("KVM_SET_USER_MEMORY_REGION", &error))?;
        let load = |place, program: &[_]| {
            guest::load_program(&low, place, program).map_err(|e| failed_io("a program", &e))
        };
        load(BLOCKS, &plan.blocks)?;
        load(MAP, &plan.map)?;
        load(MAP_WRITABLE, &plan.map_writable)?;
        let mut vcpus = Vec::new();
        for (i, program) in plan.guests.iter().enumerate() {
            load(i, program)?;
            let vcpu = Vcpu::new(&slots, i)?;
            guest::start(&kvm, slots.vm(), (i, &vcpu.fd), MODES[0], None)
                .map_err(|error| failed_io("setting up a vCPU", &error))?;
            vcpus.push(Some(vcpu));
        }
        let count = plan.guests.len() + plan.others.len();
        let user = Mutex::new(User::default());
        let go = AtomicBool::new(false);
        let layout = scenario.slots.clone();
        let there = layout.iter().map(|_| AtomicBool::new(false)).collect();
        let shared = Shared { slots, low, data, layout, there, log: plan.log, places, user, go };
        let shared = Arc::new(shared);
        let (sender, done) = mpsc::channel();
        let mut threads = Vec::new();
        let mut orders = Vec::new();
        for index in 0..count {
            let (order, received) = mpsc::channel();
            let (shared, sender) = (Arc::clone(&shared), sender.clone());
            orders.push(order);
            threads.push(thread::spawn(move || serve(index, &shared, &received, &sender)));
        }
        let counters = Counters::start();
        let random = Random(seed);
        Ok(Machine {
            scenario,
            plan,
            shared,
            threads,
            orders,
            done,
            vcpus,
            counters,
            random,
            limit,
            _huge: huge,
        })
    }

    /// One execution.
    pub(super) fn once(&mut self) -> Result<Outcome, Failure> {
        self.prepare()?;
        self.shared.set_go(false);
        for i in 0..self.plan.guests.len() {
            let delay = self.random.delay(GUEST_DELAY_BITS);
            self.order_guest(i, i, delay)?;
        }
        for (i, (thread, actions)) in self.plan.others.iter().enumerate() {
            let delayed =
                actions.iter().map(|action| (*action, self.random.delay(USER_DELAY_BITS)));
            let actions = delayed.collect();
            let order = Order::Actions { thread: Asker::Thread(*thread), actions };
            self.orders[self.plan.guests.len() + i].send(order).map_err(|_| gone())?;
        }
        let met = self.let_go();
        // What kept a guest from the meeting point is told here.
        self.wait(self.threads.len())?;
        if !met {
            return Err(Failure::internal("a guest ran without a word at the meeting point"));
        }
        for action in &self.plan.at_stop {
            self.shared.act(Asker::Stop, *action)?;
        }
        let user = self.shared.user();
        let frame = |gfn: Gfn| usize::try_from(gfn.0).unwrap_or(usize::MAX);
        let content = |gfn: Gfn| self.shared.content(gfn);
        let copy = |gfn: Gfn| user.copy.get(frame(gfn)).copied().unwrap_or(0);
        Ok(Outcome::new(self.scenario, content, copy, user.harvests.iter().copied()))
    }

    /// Ends all threads; says which paths were taken.
    pub(super) fn finish(self) -> Result<Paths, Failure> {
        drop(self.orders);
        for thread in self.threads {
            thread.join().map_err(|_| Failure::internal("a thread panicked"))?;
        }
        let vcpus: Vec<Vcpu> = self.vcpus.into_iter().flatten().collect();
        Ok(self.counters.read(&vcpus))
    }

    /// Memory, SPTEs and dirty logs as the scenario has them before its first step.
    fn prepare(&mut self) -> Result<(), Failure> {
        let shared = Arc::clone(&self.shared);
        let all = || (0..FRAMES as u64).map(|frame| shared.places.page(Gfn(frame)));
        let empty = || all().for_each(|page| shared.data.write(page * PAGE, &[0; 8]));
        empty();
        shared.advise(0..shared.places.pages(), Advice::LinuxDontNeed)?;
        if shared.places.huge {
            // By huge pages, which the guest finds.
            empty();
            has_huge_pages()?;
        }
        let slots = || 0..shared.layout.len();
        let blocks = !self.plan.blocks.is_empty();
        for slot in slots() {
            let Slot { log, there, .. } = shared.layout[slot];
            shared.set_memslot(slot, there.then_some(log && !blocks))?;
        }
        if blocks {
            self.run_alone(BLOCKS)?;
            let logged = |slot: &usize| shared.layout[*slot].there && shared.layout[*slot].log;
            slots().filter(logged).try_for_each(|slot| shared.set_memslot(slot, Some(true)))?;
        }
        let unlogged = || slots().filter(|s| shared.layout[*s].there && !shared.layout[*s].log);
        if !self.plan.map.is_empty() {
            // With the log on, fetching it write-protects what was just written: 110.
            unlogged().try_for_each(|slot| shared.set_memslot(slot, Some(true)))?;
            self.run_alone(MAP)?;
        }
        for slot in slots().filter(|slot| shared.layout[*slot].there) {
            // What is mapped without a log, beside a huge page, is writable and stays so.
            if shared.layout[slot].log || !self.plan.map.is_empty() && !shared.places.huge {
                let frames = shared.get_dirty_log(slot)?;
                shared.clear_dirty_log(slot, frames)?;
            }
        }
        if !self.plan.map.is_empty() {
            unlogged().try_for_each(|slot| shared.set_memslot(slot, Some(false)))?;
        }
        if !self.plan.map_writable.is_empty() {
            self.run_alone(MAP_WRITABLE)?;
        }
        *shared.user() = User::default();
        Ok(())
    }

    /// When every guest waits in guest mode, lets all go at once: entering a guest takes longer
    /// than all that user space does, under emulation. False: not all of them came.
    fn let_go(&self) -> bool {
        let deadline = Instant::now() + MEET_MAX.min(self.limit);
        let waits = |vcpu| guest::waits(&self.shared.low, vcpu);
        let met = loop {
            if (0..self.plan.guests.len()).all(waits) {
                break true;
            }
            if Instant::now() > deadline {
                break false;
            }
            thread::sleep(SPIN_MAX);
        };
        self.shared.set_go(true);
        met
    }

    /// vCPU 0 runs a program while nothing else does.
    fn run_alone(&mut self, place: usize) -> Result<(), Failure> {
        let vcpu = self.vcpus[0].take().ok_or_else(gone)?;
        self.shared.set_go(true);
        guest::restart((0, &vcpu.fd), place, 1).map_err(|e| failed_io("restarting a vCPU", &e))?;
        self.vcpus[0] = Some(run_vcpu(vcpu, false)?);
        Ok(())
    }

    fn order_guest(&mut self, index: usize, place: usize, delay: u32) -> Result<(), Failure> {
        let vcpu = self.vcpus[index].take().ok_or_else(gone)?;
        self.orders[index].send(Order::Guest { vcpu, place, delay }).map_err(|_| gone())
    }

    /// Waits until so many threads have done what they were told.
    fn wait(&mut self, count: usize) -> Result<(), Failure> {
        let deadline = Instant::now() + self.limit;
        for _ in 0..count {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.done.recv_timeout(left) {
                Ok(Ok(Done::Guest(index, vcpu))) => self.vcpus[index] = Some(vcpu),
                Ok(Ok(Done::Actions)) => {}
                Ok(Err(failure)) => return Err(failure),
                Err(RecvTimeoutError::Timeout) => {
                    let message = format!("{} did not end in {:?}", self.scenario.name, self.limit);
                    return Err(Failure::new(Exit::Bound, message, "give it more time: --limit"));
                }
                Err(RecvTimeoutError::Disconnected) => return Err(gone()),
            }
        }
        Ok(())
    }
}

impl Shared {
    fn user(&self) -> std::sync::MutexGuard<'_, User> {
        self.user.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_go(&self, go: bool) {
        guest::go(&self.low, go);
        // ORDERING: Relaxed. A start signal: what the threads do races by design.
        self.go.store(go, Ordering::Relaxed);
    }

    /// Creates a slot, with dirty logging or without, or switches that; `None`: deletes it.
    fn set_memslot(&self, slot: usize, log: Option<bool>) -> Result<(), Failure> {
        // ORDERING: Relaxed. The flag orders nothing: KVM takes its own lock for what follows.
        if self.there[slot].swap(log.is_some(), Ordering::Relaxed) || log.is_some() {
            let Slot { base, pages, .. } = self.layout[slot];
            let offset = self.places.page(base).saturating_mul(PAGE);
            let flags = if log == Some(true) { KVM_MEM_LOG_DIRTY_PAGES } else { 0 };
            let size = if log.is_some() { self.places.slot(pages) * PAGE } else { 0 };
            let address = DATA + offset as u64;
            self.slots
                .set((number(slot), flags), address, self.data.region(), (offset, size))
                .map_err(|error| failed_io("KVM_SET_USER_MEMORY_REGION", &error))?;
        }
        Ok(())
    }

    /// The frames that a slot reports.
    fn get_dirty_log(&self, slot: usize) -> Result<u64, Failure> {
        let Slot { base, pages, .. } = self.layout[slot];
        let bits = self
            .slots
            .vm()
            .get_dirty_log(number(slot), self.places.slot(pages) * PAGE)
            .map_err(|error| failed("KVM_GET_DIRTY_LOG", error.errno()))?;
        let frames = set_bits(&bits).filter_map(|page| self.places.frame(page));
        Ok(frames.fold(0, |frames, gfn| frames | 1 << (base.0 + gfn.0)))
    }

    /// With manual protect: clears these frames of a slot's log, and protects them.
    fn clear_dirty_log(&self, slot: usize, frames: u64) -> Result<(), Failure> {
        if self.log == DirtyLog::Get {
            return Ok(());
        }
        let Slot { base, pages, .. } = self.layout[slot];
        let bits = [frames >> base.0];
        sys::clear_dirty_log(self.slots.vm(), number(slot), (0, pages.into()), &bits)
            .map_err(|error| failed_io("KVM_CLEAR_DIRTY_LOG", &error))
    }

    /// The frames of a slot.
    fn frames(&self, slot: usize) -> u64 {
        let Slot { base, pages, .. } = self.layout[slot];
        ((1 << pages) - 1) << base.0
    }

    /// Copies these frames.
    fn copy(&self, frames: u64) {
        for frame in set_bits(&[frames]) {
            let content = self.content(Gfn(frame as u64));
            self.user().copy[frame] = content;
        }
    }

    fn advise(&self, pages: std::ops::Range<usize>, advice: Advice) -> Result<(), Failure> {
        self.data.advise(pages, advice).map_err(|error| failed_io("madvise", &error))
    }

    /// The eight bytes that stand for a page.
    fn content(&self, gfn: Gfn) -> u64 {
        let mut page = [0; PAGE];
        self.data.copy_page(self.places.page(gfn), &mut page);
        page.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }

    /// Does an operation of user space.
    fn act(&self, to: Asker, action: Action) -> Result<(), Failure> {
        let one = |gfn: Gfn| {
            let page = self.places.page(gfn);
            page..page.saturating_add(1)
        };
        match action {
            Action::GetDirtyLog(slot) => {
                let frames = self.get_dirty_log(slot.into())?;
                let mut user = self.user();
                user.harvested |= frames;
                user.harvests.push(Harvest { to, slot, frames });
            }
            Action::FetchDirtyLog(slot) => {
                let frames = self.get_dirty_log(slot.into())?;
                let mut user = self.user();
                user.fetched |= frames;
                user.harvested |= frames;
                user.harvests.push(Harvest { to, slot, frames });
            }
            Action::ClearDirtyLog(slot) => {
                let slot = usize::from(slot);
                let frames = self.user().fetched & self.frames(slot);
                self.user().fetched &= !frames;
                self.clear_dirty_log(slot, frames)?;
            }
            Action::SetDirtyLog(slot, on) => self.set_memslot(slot.into(), Some(on))?,
            Action::SetMemslot(slot, create) => {
                let slot = usize::from(slot);
                self.set_memslot(slot, create.then_some(self.layout[slot].log))?;
            }
            Action::CopyHarvested => {
                let frames = std::mem::take(&mut self.user().harvested);
                self.copy(frames);
            }
            Action::CopySlot(slot) => {
                let harvested = std::mem::take(&mut self.user().harvested);
                self.copy(harvested | self.frames(slot.into()));
            }
            Action::DropHarvested => self.user().harvested = 0,
            Action::SwapOut(gfn) => self.advise(one(gfn), Advice::LinuxDontNeed)?,
            Action::PageOut(gfn) => self.advise(one(gfn), Advice::LinuxPageOut)?,
            Action::SwapIn(gfn) => drop(self.content(gfn)),
            Action::Shrink => fs::write(DROP_CACHES, "2").map_err(|error: io::Error| {
                Failure::usage(format!("{DROP_CACHES}: {error}"), "run as root")
            })?,
        }
        Ok(())
    }
}

/// The kernel has mapped shared memory by huge pages.
fn has_huge_pages() -> Result<(), Failure> {
    let info = fs::read_to_string(MAPPED).map_err(|error| no_huge_pages(&error.to_string()))?;
    let mapped = info.lines().find_map(|line| line.strip_prefix("ShmemPmdMapped:"));
    match mapped.map(str::trim) {
        None | Some("0 kB") => Err(no_huge_pages("ShmemPmdMapped is 0")),
        Some(_) => Ok(()),
    }
}

fn no_huge_pages(why: &str) -> Failure {
    Failure::new(
        Exit::Nothing,
        format!("this kernel has no huge pages of shared memory: {why}"),
        "run as root, on a kernel with CONFIG_TRANSPARENT_HUGEPAGE",
    )
}

/// A thread: waits for an order, does it, and says so.
fn serve(
    index: usize,
    shared: &Shared,
    orders: &Receiver<Order>,
    done: &Sender<Result<Done, Failure>>,
) {
    for order in orders {
        let result = match order {
            Order::Guest { vcpu, place, delay } => guest::restart((index, &vcpu.fd), place, delay)
                .map_err(|error| failed_io("restarting a vCPU", &error))
                .and_then(|()| run_vcpu(vcpu, true))
                .map(|vcpu| Done::Guest(index, vcpu)),
            Order::Actions { thread, actions } => {
                // ORDERING: Relaxed, as in `set_go`.
                while !shared.go.load(Ordering::Relaxed) {
                    thread::sleep(SPIN_MAX);
                }
                let act = |(action, delay): &(Action, u32)| {
                    wait(Duration::from_nanos(u64::from(*delay)));
                    shared.act(thread, *action)
                };
                actions.iter().try_for_each(act).map(|()| Done::Actions)
            }
        };
        if done.send(result).is_err() {
            return;
        }
    }
}

/// Waits, as exactly as it can.
fn wait(delay: Duration) {
    if delay > SPIN_MAX {
        return thread::sleep(delay);
    }
    let begin = Instant::now();
    while begin.elapsed() < delay {
        std::hint::spin_loop();
    }
}

/// The memslot of a slot.
fn number(slot: usize) -> u32 {
    FIRST_SLOT + u32::try_from(slot).unwrap_or(0)
}

fn gone() -> Failure {
    Failure::internal("a thread of the scenario has gone")
}

/// Random delays (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Each order of magnitude is as likely as any other.
    fn delay(&mut self, bits_max: u32) -> u32 {
        let bits = u32::try_from(self.next() % u64::from(bits_max + 1)).unwrap_or(0);
        u32::try_from(self.next() & ((1 << bits) - 1)).unwrap_or(0)
    }
}
