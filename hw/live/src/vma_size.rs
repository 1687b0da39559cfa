//! A VMA of hugetlbfs that is replaced under a guest.
//!
//! A fault of arm64 takes the size of what it maps from the VMA. Before Linux 6.1.27 (commit
//! 13ec9308a857) it reads the notifier sequence after it has given `mmap_lock` back: if small pages
//! are mapped in between, it notices nothing, looks one of them up, and maps 2 MiB from that page
//! on. The guest reaches pages then that are not its own. The built-in scenario is `s2-vma-size`.
//!
//! A chance of some instructions: `cargo live-qemu --steps DIR --hold fault-after-vma` waits there.

use std::fs;
use std::thread;
use std::time::Duration;

use kvmmu_qemu::{Exit, Failure, interrupt};
use serde::Serialize;

use crate::cli::VmaSizeArgs;
use crate::guest::{self, BASE, DATA, LOW_SIZE, MODES, Step};
use crate::job::run_vcpu;
use crate::kernel::Kernel;
use crate::memory::{Backing, Memory, PAGE};
use crate::report::Report;
use crate::setting::Setting;
use crate::sys::{self, Slots};
use crate::vm::{self, DATA_SLOT, LOW_SLOT, Vcpu, failed, failed_io};

/// A huge page: what an entry of level 2 maps.
const HUGE: usize = 2 << 20;
/// The page of it that the guest reads, and the program that does.
const PAGE_READ: usize = 1;
const PROGRAM: usize = 0;
/// Where huge pages are asked for.
const NR_HUGEPAGES: &str = "/proc/sys/vm/nr_hugepages";
/// How many are needed: one that is in use, and one that comes in its place.
const NEEDED: &str = "4";
/// How long a guest may take to its first instruction, in milliseconds.
const MEET_MS: u64 = 20_000;

/// The VM and its memory.
struct Machine {
    /// None while a thread has it.
    vcpu: Option<Vcpu>,
    low: Memory,
    memory: Memory,
    /// Where the huge page is in it.
    offset: usize,
    /// The huge pages that were asked for.
    _pages: Option<Setting>,
}

/// What came of it.
#[derive(Serialize, Clone, Copy, Default, Debug)]
struct Outcome {
    /// How often the VMA was replaced.
    rounds: u64,
    /// After how many of them the guest read a page that is not its own.
    reached: u64,
}

/// Runs it.
///
/// # Errors
///
/// When the kernel has no huge pages, and as calls fail.
pub fn run(args: &VmaSizeArgs, report: Report) -> Result<Exit, Failure> {
    report.kernel(&Kernel::running());
    let mut machine = Machine::new()?;
    let mut outcome = Outcome::default();
    let mut random = 1_u64;
    for _ in 0..args.rounds {
        if interrupt::interrupted() {
            return Err(Failure::interrupted());
        }
        random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        machine.round(Duration::from_micros(random >> 55), &mut outcome)?;
    }
    let (verdict, exit) = match outcome.reached {
        0 => ("ok", Exit::Expected),
        _ => ("REACHED", Exit::Unexpected),
    };
    #[derive(Serialize)]
    struct Line {
        verdict: &'static str,
        outcome: Outcome,
    }
    let Outcome { rounds, reached } = outcome;
    let human = format!(
        "vma-size {verdict}: {rounds} rounds, after {reached} the guest read a page that is not \
         its own"
    );
    report.say("vma-size", &Line { verdict, outcome }, &human);
    Ok(exit)
}

impl Machine {
    fn new() -> Result<Machine, Failure> {
        let pages = have_huge_pages()?;
        let kvm = vm::open()?;
        let vm = kvm.create_vm().map_err(|error| failed("KVM_CREATE_VM", error.errno()))?;
        let map = |bytes: usize, backing| {
            Memory::new(bytes / PAGE, backing).map_err(|error| failed_io("mmap", &error))
        };
        let low = map(LOW_SIZE, Backing::Shared)?;
        let memory = map(2 * HUGE, Backing::Private)?;
        let offset = memory.address().next_multiple_of(HUGE) - memory.address();
        guest::prepare(&low, false);
        let slots = std::sync::Arc::new(Slots::new(vm));
        let slot = |number, base, memory: &Memory, range| {
            let set = slots.set((number, 0), base, memory.region(), range);
            set.map_err(|error| failed_io("KVM_SET_USER_MEMORY_REGION", &error))
        };
        slot(LOW_SLOT, BASE, &low, (0, LOW_SIZE))?;
        slot(DATA_SLOT, DATA, &memory, (offset, HUGE))?;
        let read = [Step::Read { page: PAGE_READ as u32 }];
        guest::load_program(&low, PROGRAM, &read).map_err(|e| failed_io("a program", &e))?;
        let vcpu = Vcpu::new(&slots, 0)?;
        guest::start(&kvm, slots.vm(), (0, &vcpu.fd), MODES[0], None)
            .map_err(|error| failed_io("setting up a vCPU", &error))?;
        Ok(Machine { vcpu: Some(vcpu), low, memory, offset, _pages: pages })
    }

    /// Puts another mapping over the huge page.
    fn replace(&self, huge: bool) -> Result<(), Failure> {
        sys::map_over(self.memory.region(), (self.offset, HUGE), huge)
            .map_err(|error| failed_io("mmap over guest memory", &error))
    }

    /// A guest reads, and its memory becomes another one about then. What it reads after that has
    /// to be what is there.
    fn round(&mut self, delay: Duration, outcome: &mut Outcome) -> Result<(), Failure> {
        self.replace(true)?;
        guest::go(&self.low, false);
        let vcpu = self.restarted()?;
        let reader = thread::spawn(move || run_vcpu(vcpu, false));
        let waits = |_: &u64| {
            thread::sleep(Duration::from_millis(1));
            guest::waits(&self.low, 0)
        };
        let met = (0..MEET_MS).find(waits);
        guest::go(&self.low, true);
        if met.is_none() {
            return Err(Failure::internal("a guest does not come to its first instruction"));
        }
        thread::sleep(delay);
        self.replace(false)?;
        let read = reader.join().map_err(|_| Failure::internal("a thread panicked"))?;
        self.vcpu = Some(read?);
        outcome.rounds += 1;
        // From the last one down: pages in a row are not frames in a row.
        let name = |page: usize| (outcome.rounds as usize * 16 + page + 1) as u8;
        for page in (0..HUGE / PAGE).rev() {
            self.memory.write(self.offset + page * PAGE, &[name(page)]);
        }
        let vcpu = run_vcpu(self.restarted()?, false)?;
        let read = guest::last_read(&vcpu.fd).map_err(|error| failed_io("a register", &error))?;
        self.vcpu = Some(vcpu);
        outcome.reached += u64::from(read != name(PAGE_READ));
        Ok(())
    }

    /// The vCPU, at the beginning of its program.
    fn restarted(&mut self) -> Result<Vcpu, Failure> {
        let vcpu = self.vcpu.take().ok_or_else(|| Failure::internal("the vCPU has gone"))?;
        let at = guest::restart((0, &vcpu.fd), PROGRAM, 1);
        at.map_err(|error| failed_io("restarting a vCPU", &error))?;
        Ok(vcpu)
    }
}

/// Asks for huge pages, if there are none.
fn have_huge_pages() -> Result<Option<Setting>, Failure> {
    let none = |why: String| {
        let help = "give it some: echo 4 > /proc/sys/vm/nr_hugepages";
        Failure::new(Exit::Nothing, format!("this kernel has no huge pages: {why}"), help)
    };
    let count =
        || fs::read_to_string(NR_HUGEPAGES).map_err(|e| none(format!("{NR_HUGEPAGES}: {e}")));
    let change = || Setting::change(NR_HUGEPAGES, NEEDED);
    let asked = (count()?.trim() == "0").then(change).transpose();
    let asked = asked.map_err(|e| none(format!("{NR_HUGEPAGES}: {e}")))?;
    match count()?.trim() {
        "0" => Err(none("there is no memory for them".to_owned())),
        _ => Ok(asked),
    }
}
