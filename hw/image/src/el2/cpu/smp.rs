//! The other CPUs: turned on by PSCI, given work, turned off again when there is none.
//!
//! A CPU that spins for work costs the host of an emulator a core, so after a moment without work
//! it turns itself off; the next work turns it on.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use smccc::{Smc, psci};
use spin::{Mutex, Once};

use super::boot::{secondary_start, vectors};
use super::exit::{Exit, exit};
use super::sysreg;
use super::wait::{self, Deadline};
use crate::args::{CPUS_MAX, Cluster};

/// What a CPU does.
const OFF: u8 = 0;
const IDLE: u8 = 1;
const BUSY: u8 = 2;

/// How long a CPU waits for work before it turns itself off, in microseconds.
const IDLE_US: u64 = 20_000;

/// What is shared with a CPU.
struct Mailbox {
    state: AtomicU8,
    work: Mutex<Option<Work>>,
    /// Its core's type.
    midr: AtomicU64,
}

/// A body that a CPU is to run, and the number that it gets.
#[derive(Clone, Copy)]
struct Work {
    body: *const (dyn Fn(usize) + Sync),
    number: usize,
}

#[expect(unsafe_code, reason = "work is lent to another CPU")]
// SAFETY: the body is Sync, and `parallel` keeps it alive until every CPU is through with it.
unsafe impl Send for Work {}

static MAILBOXES: [Mailbox; CPUS_MAX] = [const {
    Mailbox { state: AtomicU8::new(OFF), work: Mutex::new(None), midr: AtomicU64::new(0) }
}; CPUS_MAX];

/// The addresses of the CPUs, by number: number 0 runs first.
static ADDRESSES: Once<[u64; CPUS_MAX]> = Once::new();
/// Readies a CPU for its work.
static SET_UP: Once<fn()> = Once::new();
/// The CPUs that work.
static WORKERS: Once<Workers> = Once::new();

/// Which CPUs work, by number.
#[derive(Debug)]
struct Workers {
    numbers: [usize; CPUS_MAX],
    nr: usize,
}

impl Workers {
    fn list(&self) -> &[usize] {
        &self.numbers[..self.nr]
    }
}

/// The part of MIDR that tells the type of a core.
const MIDR_TYPE: u64 = 0xff00_fff0;
/// Arm Cortex-A55.
pub(crate) const CORTEX_A55: u64 = 0x4100_d050;
/// Arm Cortex-A76.
pub(crate) const CORTEX_A76: u64 = 0x4100_d0b0;

/// True if cores of this type may complete a broadcast invalidation before the stores of another
/// CPU that used the entry: Cortex-A55 erratum 2441007, A76 4193800. Doing it twice covers for it.
pub(crate) fn repeats_tlbi(core: u64) -> bool {
    matches!(core, CORTEX_A55 | CORTEX_A76)
}

/// The name of a type of core.
pub(crate) fn core_name(core: u64) -> &'static str {
    match core {
        CORTEX_A55 => "Cortex-A55",
        CORTEX_A76 => "Cortex-A76",
        _ => "another core",
    }
}

/// Learns which CPUs there are, and picks those that work: at most `limit`, of this cluster. Each
/// is readied by `set_up` before it gets to its work.
pub(crate) fn init(found: &[u64], me: u64, limit: usize, cluster: Cluster, set_up: fn()) {
    SET_UP.call_once(|| set_up);
    sysreg::set_tpidr(0);
    // ORDERING: relaxed: this CPU's own.
    MAILBOXES[0].midr.store(sysreg::midr(), Ordering::Relaxed);
    let mut mpidr = [me; CPUS_MAX];
    let others = found.iter().filter(|address| **address != me);
    let mut nr = 1;
    for (slot, address) in mpidr[1..].iter_mut().zip(others) {
        *slot = *address;
        nr += 1;
    }
    ADDRESSES.call_once(|| mpidr);
    let mut workers = Workers { numbers: [0; CPUS_MAX], nr: 0 };
    for number in 0..nr {
        let fits = match cluster {
            Cluster::All => true,
            Cluster::A55 => core_type(number) == CORTEX_A55,
            Cluster::A76 => core_type(number) == CORTEX_A76,
        };
        if fits && workers.nr < limit {
            workers.numbers[workers.nr] = number;
            workers.nr += 1;
        }
    }
    WORKERS.call_once(|| workers);
}

/// The type of a CPU's core. Turns it on to ask.
fn core_type(number: usize) -> u64 {
    // ORDERING: relaxed: `run_on` waits for the CPU, which synchronises.
    if MAILBOXES[number].midr.load(Ordering::Relaxed) == 0 {
        run_on(number, 0, &|_| {});
        finish(number);
    }
    // ORDERING: relaxed: as above.
    MAILBOXES[number].midr.load(Ordering::Relaxed) & MIDR_TYPE
}

/// How many CPUs work.
pub(crate) fn workers() -> usize {
    WORKERS.get().map_or(0, |workers| workers.nr)
}

/// The type of the core of a worker.
pub(crate) fn worker_type(worker: usize) -> u64 {
    WORKERS.get().map_or(0, |workers| core_type(workers.numbers[worker]))
}

/// True if the cores keep AF and the dirty state by themselves, and can be trusted with it: those
/// of a Cortex-A55 cannot (erratum 1024718).
pub(crate) fn has_hardware_ad() -> bool {
    let a55 = (0..workers()).any(|worker| worker_type(worker) == CORTEX_A55);
    sysreg::mmfr1() & 0xf >= 2 && !a55
}

/// True if the cores set AF by themselves.
pub(crate) fn has_hardware_af() -> bool {
    sysreg::mmfr1() & 0xf >= 1
}

/// The number of the CPU that runs.
pub(crate) fn this_cpu() -> usize {
    sysreg::tpidr() as usize
}

/// Runs `body(i)` on worker `i`, for each `i` below `n` at once; returns when all have returned.
pub(crate) fn parallel(n: usize, body: &(dyn Fn(usize) + Sync)) {
    let workers = WORKERS.get().map_or(&[][..], Workers::list);
    assert!(n <= workers.len(), "{n} CPUs are needed, and there are {}", workers.len());
    let workers = &workers[..n];
    let others = || workers.iter().enumerate().filter(|(_, number)| **number != this_cpu());
    others().for_each(|(i, number)| run_on(*number, i, body));
    if let Some(mine) = workers.iter().position(|number| *number == this_cpu()) {
        set_up_this_cpu();
        body(mine);
    }
    others().for_each(|(_, number)| finish(*number));
}

fn set_up_this_cpu() {
    if let Some(set_up) = SET_UP.get() {
        set_up();
    }
}

/// Gives a CPU work, and turns it on if need be. [`finish`] must follow while `body` is alive.
#[expect(unsafe_code, reason = "the lifetime of the body ends with `finish`")]
fn run_on(number: usize, i: usize, body: &(dyn Fn(usize) + Sync)) {
    // SAFETY: only the lifetime changes; the callers wait for the CPU before `body` ends.
    let body: *const (dyn Fn(usize) + Sync) = unsafe {
        core::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), _>(core::ptr::from_ref(body))
    };
    let mailbox = &MAILBOXES[number];
    *mailbox.work.lock() = Some(Work { body, number: i });
    // ORDERING: release publishes the work; acquire sees the CPU as idle, or off.
    let before = mailbox.state.swap(BUSY, Ordering::AcqRel);
    if before == OFF {
        turn_on(number);
    }
}

/// Waits until a CPU is through with its work.
fn finish(number: usize) {
    // ORDERING: acquire: what the work did is seen.
    let is_idle = || MAILBOXES[number].state.load(Ordering::Acquire) != BUSY;
    wait::until("a CPU to finish its work", is_idle);
}

fn turn_on(number: usize) {
    let Some(addresses) = ADDRESSES.get() else { return };
    let address = addresses[number];
    let entry = core::ptr::from_ref(&secondary_start) as u64;
    let mut last = None;
    // A CPU that is just going off is "already on" for a moment.
    let is_on = wait::until_deadline(Deadline::after_us(5_000_000), || {
        let result = psci::cpu_on::<Smc>(address, entry, number as u64);
        last = result.err();
        last.is_none()
    });
    if !is_on {
        exit(Exit::Bound, format_args!("cpu{number} ({address:#x}) does not come up: {last:?}"));
    }
}

/// Every CPU but the first comes here when it is turned on.
#[unsafe(no_mangle)]
#[expect(unsafe_code, reason = "boot.s calls it by name, and the body was lent")]
extern "C" fn rust_secondary(number: usize) -> ! {
    sysreg::set_vbar(core::ptr::from_ref(&vectors) as u64);
    sysreg::set_tpidr(number as u64);
    let mailbox = &MAILBOXES[number];
    // ORDERING: relaxed: published by the state.
    mailbox.midr.store(sysreg::midr(), Ordering::Relaxed);
    loop {
        // ORDERING: acquire pairs with the release of run_on.
        let has_work = || mailbox.state.load(Ordering::Acquire) == BUSY;
        if wait::until_deadline(Deadline::after_us(IDLE_US), has_work) {
            let work = mailbox.work.lock().take();
            if let Some(work) = work {
                set_up_this_cpu();
                // SAFETY: `parallel` waits for this CPU before the body ends.
                unsafe { (*work.body)(work.number) };
            }
            // ORDERING: release: what the work did is seen by who waits.
            mailbox.state.store(IDLE, Ordering::Release);
            continue;
        }
        // ORDERING: acq-rel: as run_on.
        let off = mailbox.state.compare_exchange(IDLE, OFF, Ordering::AcqRel, Ordering::Acquire);
        if off.is_ok() {
            let _ = psci::cpu_off::<Smc>();
        }
    }
}
