//! One run: guests that store, a harvester, perhaps a host event; then the verdict.
//!
//! Two oracles judge it, when every vCPU is out of KVM_RUN and a last round is done. *Migration*:
//! the copy, made of harvested pages only, equals the guest's memory. Since the window of pages
//! moves on, a page goes cold for ever, and what a round loses no later round hides. *Contents*:
//! the guest's memory is what the guests' programs compute.

use std::sync::Arc;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use kvm_ioctls::VcpuExit;
use kvmmu_qemu::{Exit, Failure, interrupt};

use crate::cluster;
use crate::counters::{Counters, Paths};
use crate::events::{Event, Host};
use crate::guest::{self, LINE, Mode, Stores};
use crate::harvest::{self, Broken, Harvester};
use crate::memory::{Backing, Memory, PAGE};
use crate::trace::{Marker, Phase};
use crate::vm::{DirtyLog, Vcpu, Vm};

/// KVM_EXIT_DIRTY_RING_FULL.
const EXIT_DIRTY_RING_FULL: u32 = 31;
/// How long a vCPU waits when its ring is full, or a page is read-only.
const RETRY_AFTER: Duration = Duration::from_micros(200);
/// Logging is switched off and on again after so many rounds, where that is the event.
const RELOG_ROUNDS: u64 = 8;

/// What to run.
#[derive(Clone, PartialEq, Debug)]
pub struct Job {
    /// The guests' paging.
    pub mode: Mode,
    /// How many vCPUs.
    pub vcpus: usize,
    /// What each of them does.
    pub stores: Stores,
    /// How dirty pages are learnt of.
    pub log: DirtyLog,
    /// The time between two rounds.
    pub period: Duration,
    /// What the host does meanwhile.
    pub event: Option<Event>,
    /// The time between two events.
    pub event_period: Duration,
    /// A wrong order, which must be seen to lose pages.
    pub broken: Option<Broken>,
    /// The CPUs for vCPUs, where there are several kinds.
    pub cpus: Vec<usize>,
    /// How long it may take.
    pub limit: Duration,
}

/// What came out.
#[derive(serde::Serialize, Clone, PartialEq, Debug)]
pub struct Outcome {
    /// Stores of all vCPUs.
    pub stores: u64,
    /// Pages that the guests wrote to.
    pub pages_touched: u64,
    /// Pages that the copy has wrong.
    pub pages_lost: u64,
    /// Words of the guest's memory that are not what the guests wrote last.
    pub words_wrong: u64,
    /// Rounds of the harvester.
    pub rounds: u64,
    /// Rounds that found something.
    pub rounds_dirty: u64,
    /// Pages that were copied.
    pub pages_harvested: u64,
    /// How often the host's event was.
    pub events: u64,
    /// Milliseconds.
    pub ms: u64,
    /// Which paths were taken.
    pub paths: Paths,
}

impl Outcome {
    /// True if this is what a correct KVM, correctly harvested, gives.
    pub fn nothing_lost(&self) -> bool {
        self.pages_lost == 0 && self.words_wrong == 0
    }
}

/// The vCPUs' threads.
struct Running {
    threads: Vec<JoinHandle<Result<Vcpu, Failure>>>,
    left: Arc<AtomicUsize>,
}

/// Runs a job.
///
/// # Errors
///
/// What the kernel lacks, what a vCPU ended with, the time limit, Ctrl-C.
pub fn run(job: &Job, marker: &Marker) -> Result<Outcome, Failure> {
    run_at(job, marker).map(|(outcome, _)| outcome)
}

/// Where user space had guest memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Places {
    /// Code and page tables.
    pub low: usize,
    /// The data pages.
    pub data: usize,
}

/// Runs a job; also says where its memory was.
///
/// # Errors
///
/// Those of [`run`].
pub fn run_at(job: &Job, marker: &Marker) -> Result<(Outcome, Places), Failure> {
    if !job.cpus.is_empty() {
        cluster::pin(&job.cpus).map_err(|e| crate::vm::failed_io("sched_setaffinity", &e))?;
    }
    let backing = job.event.and_then(Event::backing).unwrap_or(Backing::Shared);
    let vm = Vm::new(job.log, job.stores.pages as usize, backing)?;
    let mut vcpus = Vec::new();
    let mut rings = Vec::new();
    for i in 0..job.vcpus {
        let vcpu = vm.create_vcpu(i)?;
        guest::load_stores(&vm.low, i, &job.stores);
        guest::start(&vm.kvm, vm.slots.vm(), (i, &vcpu.fd), job.mode, Some(&job.stores))
            .map_err(|error| crate::vm::failed_io("setting up a vCPU", &error))?;
        if job.log == DirtyLog::Ring {
            rings.push(vm.ring(&vcpu)?);
        }
        vcpus.push(vcpu);
    }
    let counters = Counters::start();
    let mut harvester = Harvester::new(&vm, rings, job.broken, marker.clone());
    let host = match job.event {
        Some(event) => Some(Host::start(event, &vm, job.event_period, marker.clone())?),
        None => None,
    };
    let begin = Instant::now();
    let running = start_vcpus(vcpus, &job.cpus);
    let relogs = harvest_until_done(job, &mut harvester, &running, begin)?;
    // All of them end before the first error is told: nothing runs beside what comes next.
    let ended: Vec<_> = running.threads.into_iter().map(JoinHandle::join).collect();
    let events = host.map_or(Ok(0), Host::finish)?;
    let vcpus = ended
        .into_iter()
        .map(|vcpu| vcpu.map_err(|_| Failure::internal("a vCPU's thread panicked"))?)
        .collect::<Result<Vec<_>, _>>()?;
    marker.user("stop", Phase::Enter, &[]);
    harvester.round()?;
    marker.user("stop", Phase::Exit, &[]);
    let ms = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
    let compared = harvest::compare(&vm.data, &harvester.copy);
    let places = Places { low: vm.low.address(), data: vm.data.address() };
    let outcome = Outcome {
        stores: u64::from(job.stores.count) * job.vcpus as u64,
        pages_touched: compared.touched,
        pages_lost: compared.lost,
        words_wrong: words_wrong(&vm.data, job),
        rounds: harvester.rounds,
        rounds_dirty: harvester.rounds_dirty,
        pages_harvested: harvester.pages,
        events: events + relogs,
        ms,
        paths: counters.read(&vcpus),
    };
    Ok((outcome, places))
}

/// Lets all vCPUs go at once.
fn start_vcpus(vcpus: Vec<Vcpu>, cpus: &[usize]) -> Running {
    let left = Arc::new(AtomicUsize::new(vcpus.len()));
    let together = Arc::new(Barrier::new(vcpus.len()));
    let threads = vcpus.into_iter().enumerate().map(|(i, vcpu)| {
        let (left, together) = (Arc::clone(&left), Arc::clone(&together));
        let cpu = (!cpus.is_empty()).then(|| cpus[i % cpus.len()]);
        thread::spawn(move || {
            // A CPU of its own where CPUs were chosen; without it, all of them will do as well.
            let _ = cpu.map(|cpu| cluster::pin(&[cpu]));
            together.wait();
            let vcpu = run_vcpu(vcpu, false);
            // ORDERING: Relaxed. Joining the thread orders what it wrote.
            left.fetch_sub(1, Ordering::Relaxed);
            vcpu
        })
    });
    Running { threads: threads.collect(), left }
}

/// Runs a vCPU until its guest ends. `mmio`: it may touch what no memslot has; a load gets zeroes
/// then, and a store is gone.
///
/// # Errors
///
/// When the guest leaves otherwise.
pub fn run_vcpu(mut vcpu: Vcpu, mmio: bool) -> Result<Vcpu, Failure> {
    loop {
        match vcpu.fd.run() {
            Ok(exit) if guest::ended(&exit) => {
                complete(&mut vcpu);
                return Ok(vcpu);
            }
            // arm64 ends by MMIO, too: that comes first.
            Ok(VcpuExit::MmioRead(_, data)) if mmio => data.fill(0),
            Ok(VcpuExit::MmioWrite(..)) if mmio => {}
            Ok(VcpuExit::Intr) => {}
            Ok(VcpuExit::Unsupported(EXIT_DIRTY_RING_FULL)) => thread::sleep(RETRY_AFTER),
            Ok(exit) => {
                let message = format!("a guest left unexpectedly: {exit:?}");
                return Err(Failure::new(
                    Exit::Unexpected,
                    message,
                    "see the kernel's log; if this KVM cannot run such guests, take another --mode",
                ));
            }
            Err(error) => match error.errno() {
                libc::EINTR | libc::EAGAIN => {}
                // mprotect made a page read-only for a moment.
                libc::EFAULT => thread::sleep(RETRY_AFTER),
                errno => return Err(crate::vm::failed("KVM_RUN", errno)),
            },
        }
    }
}

/// Lets KVM complete the instruction by which a guest has left: arm64 would otherwise step over the
/// first one of whatever the vCPU is set to next.
fn complete(vcpu: &mut Vcpu) {
    vcpu.fd.set_kvm_immediate_exit(1);
    // It comes back at once, with EINTR.
    let _ = vcpu.fd.run();
    vcpu.fd.set_kvm_immediate_exit(0);
}

/// Harvests until every vCPU has ended; returns how often logging was switched off and on.
fn harvest_until_done(
    job: &Job,
    harvester: &mut Harvester<'_>,
    running: &Running,
    begin: Instant,
) -> Result<u64, Failure> {
    let mut relogs = 0;
    // ORDERING: Relaxed, as above.
    while running.left.load(Ordering::Relaxed) > 0 {
        if interrupt::interrupted() {
            return Err(Failure::interrupted());
        }
        if begin.elapsed() > job.limit {
            let message = format!("the guests did not end within {:?}", job.limit);
            let help = "give them more time (--limit) or less to do (--stores)";
            return Err(Failure::new(Exit::Bound, message, help));
        }
        harvester.round()?;
        if job.event == Some(Event::Relog) && harvester.rounds.is_multiple_of(RELOG_ROUNDS) {
            harvester.restart_logging()?;
            relogs += 1;
        }
        thread::sleep(job.period);
    }
    Ok(relogs)
}

/// How many places of the data pages have not what the guests wrote last.
fn words_wrong(data: &Memory, job: &Job) -> u64 {
    let pages = job.stores.pages as usize;
    let mut expected = vec![0u32; pages * job.vcpus];
    for vcpu in 0..job.vcpus {
        for (page, value) in job.stores.sequence(vcpu) {
            expected[page * job.vcpus + vcpu] = value;
        }
    }
    let mut wrong = 0;
    let mut bytes = vec![0; PAGE];
    for (page, expected) in expected.chunks_exact(job.vcpus).enumerate() {
        data.copy_page(page, &mut bytes);
        for (vcpu, expected) in expected.iter().enumerate() {
            let word = bytes.get(vcpu * LINE..).and_then(|b| b.first_chunk());
            wrong += u64::from(word.map(|b| u32::from_le_bytes(*b)) != Some(*expected));
        }
    }
    wrong
}
