//! One run of a scenario or a test, recorded: which thread each CPU runs, the marks that were
//! passed, and the first property that was violated. `story` says in which order things are made to
//! happen; `machine/watch.rs` looks at SPTEs and at releases of `mmu_lock` meanwhile.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Arguments;
use core::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering::Relaxed};

use kvmmu_model::virt::VCPUS;
use kvmmu_model::{CpuId, Mark};
use kvmmu_scenarios::Property;
use spin::Mutex;

use super::story::{self, Moment, Plan};
use crate::args::CPUS_MAX;
use crate::el2::cpu::smp;

/// How many marks a run may pass; what comes after is not recorded.
const MARKS_MAX: usize = 2048;

/// True while a run is recorded.
static RECORDING: AtomicBool = AtomicBool::new(false);
/// The threads of the CPUs.
static THREADS: [AtomicUsize; CPUS_MAX] = [const { AtomicUsize::new(0) }; CPUS_MAX];
/// What was passed, in order: thread and mark.
static MARKS: [AtomicU16; MARKS_MAX] = [const { AtomicU16::new(0) }; MARKS_MAX];
static NR_MARKS: AtomicUsize = AtomicUsize::new(0);
static VIOLATION: Mutex<Option<Violation>> = Mutex::new(None);
/// What the running CPU's check has found, while it is not known whether that counts.
static WITHHELD: [Mutex<Option<Option<Violation>>>; CPUS_MAX] =
    [const { Mutex::new(None) }; CPUS_MAX];
static PRELOADS: Mutex<Vec<Preload>> = Mutex::new(Vec::new());

/// A property that was violated.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    /// Which.
    pub(crate) property: Property,
    /// How.
    pub(crate) detail: String,
}

/// A translation that a CPU is to have in its TLB from the start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Preload {
    /// The vCPU.
    pub(crate) cpu: CpuId,
    /// The page.
    pub(crate) page: u64,
    /// It may write.
    pub(crate) write: bool,
}

/// A translation is asked for.
pub(crate) fn preload(preload: Preload) {
    PRELOADS.lock().push(preload);
}

/// The translations that a vCPU was asked to have.
pub(crate) fn preloads(cpu: CpuId) -> Vec<Preload> {
    PRELOADS.lock().iter().copied().filter(|preload| preload.cpu == cpu).collect()
}

/// Forgets everything of the last run.
pub(crate) fn reset() {
    // ORDERING: relaxed, here and below: nobody else runs.
    RECORDING.store(false, Relaxed);
    NR_MARKS.store(0, Relaxed);
    *VIOLATION.lock() = None;
    PRELOADS.lock().clear();
    story::end();
}

/// Begins to record a run by a plan; `seed` is where delays come from.
pub(crate) fn begin(threads: usize, plan: Plan, seed: u64) {
    *VIOLATION.lock() = None;
    story::begin(threads, plan, seed);
    // ORDERING: relaxed, here and below: the other CPUs get their work after.
    NR_MARKS.store(0, Relaxed);
    RECORDING.store(true, Relaxed);
}

/// The threads have ended: what follows is the stop phase, of this thread. Says which moment of the
/// story was next if it was not told to its end.
pub(crate) fn threads_ended(stop_thread: usize) -> Option<usize> {
    let stopped_at = story::end();
    // ORDERING: relaxed: only this CPU reads it.
    THREADS[smp::this_cpu()].store(stop_thread, Relaxed);
    stopped_at
}

/// What happened in the run.
pub(crate) fn end() -> (Option<Violation>, Vec<Moment>) {
    // ORDERING: relaxed: the other CPUs are through.
    RECORDING.store(false, Relaxed);
    // ORDERING: relaxed: as above.
    let n = NR_MARKS.load(Relaxed).min(MARKS_MAX);
    let moment = |word: &AtomicU16| {
        // ORDERING: relaxed: as above.
        let word = word.load(Relaxed);
        Moment { thread: usize::from(word >> 8), mark: Mark::ALL[usize::from(word & 0xff)] }
    };
    (VIOLATION.lock().take(), MARKS[..n].iter().map(moment).collect())
}

/// The running CPU runs this thread from now on. It waits for its turn.
pub(crate) fn thread_begins(thread: usize) {
    // ORDERING: relaxed: only this CPU reads it.
    THREADS[smp::this_cpu()].store(thread, Relaxed);
    story::thread_begins(thread);
}

/// The thread has ended.
pub(crate) fn thread_ends(thread: usize) {
    story::thread_ends(thread);
}

/// The thread of the running CPU.
pub(crate) fn this_thread() -> usize {
    // ORDERING: relaxed: only this CPU writes it.
    THREADS[smp::this_cpu()].load(Relaxed)
}

/// True while a run is recorded.
#[inline]
pub(crate) fn is_recorded() -> bool {
    // ORDERING: relaxed: constant while the other CPUs run.
    RECORDING.load(Relaxed)
}

/// A mark was passed.
#[inline]
pub(crate) fn mark(mark: Mark) {
    if is_recorded() {
        record(mark);
    }
}

#[inline(never)]
fn record(mark: Mark) {
    let thread = this_thread();
    // ORDERING: relaxed: the order of the additions is the order of the marks.
    let at = NR_MARKS.fetch_add(1, Relaxed);
    if let Some(slot) = MARKS.get(at) {
        // ORDERING: relaxed: read when all is over.
        slot.store((thread << 8) as u16 | mark as u16, Relaxed);
    }
    story::passed(Moment { thread, mark });
}

/// A property is violated; the first one of a run counts.
pub(crate) fn violate(property: Property, detail: Arguments<'_>) {
    let violation = Violation { property, detail: detail.to_string() };
    match &mut *WITHHELD[smp::this_cpu()].lock() {
        Some(withheld) => {
            withheld.get_or_insert(violation);
        }
        None => {
            VIOLATION.lock().get_or_insert(violation);
        }
    }
}

/// Checks something, and what it says is violated counts if nothing has changed, before and after.
pub(crate) fn check_while(unchanged: impl Fn() -> bool, check: impl FnOnce()) {
    if !unchanged() {
        return;
    }
    let withheld = &WITHHELD[smp::this_cpu()];
    *withheld.lock() = Some(None);
    check();
    let found = withheld.lock().take().flatten();
    if let Some(violation) = found.filter(|_| unchanged()) {
        VIOLATION.lock().get_or_insert(violation);
    }
}

const _: () = assert!(VCPUS <= CPUS_MAX && Mark::ALL.len() < 256);
