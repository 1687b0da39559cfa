//! Guests: entering them, what they exit with, and the registers that they run under.

use core::fmt;
use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

use super::stage2;
use crate::el2::cpu::{sysreg, tlbi};

/// A guest's registers, as `boot.s` saves and restores them.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Context {
    /// x0 to x7. The programs in `boot.s` say what each is for.
    pub(crate) x: [u64; 8],
    /// The program counter.
    pub(crate) pc: u64,
    esr: u64,
    far: u64,
}

#[expect(unsafe_code, reason = "these are in boot.s")]
unsafe extern "C" {
    /// Runs a guest until it exits.
    fn enter_guest(context: *mut Context);
    safe static guest_store: u8;
    safe static guest_load: u8;
    safe static guest_fetch: u8;
    safe static guest_count: u8;
    safe static guest_scatter: u8;
}

/// The programs of guests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Program {
    /// One store of a byte.
    Store,
    /// One load.
    Load,
    /// One fetch.
    Fetch,
    /// A counter to one address, until it is told to stop.
    Count,
    /// A counter to many pages.
    Scatter,
}

impl Program {
    /// Where it begins.
    fn start(self) -> u64 {
        let first = match self {
            Program::Store => &guest_store,
            Program::Load => &guest_load,
            Program::Fetch => &guest_fetch,
            Program::Count => &guest_count,
            Program::Scatter => &guest_scatter,
        };
        core::ptr::from_ref(first) as u64
    }
}

/// The fault of a guest access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Abort {
    /// The address.
    pub(crate) ipa: u64,
    /// DFSC: which fault.
    pub(crate) status: u8,
    /// It was a store.
    pub(crate) write: bool,
    /// It was a fetch.
    pub(crate) fetch: bool,
    /// Where the guest is.
    pub(crate) pc: u64,
}

impl fmt::Display for Abort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ipa, status, write) = (self.ipa, self.status, u8::from(self.write));
        write!(f, "fault at IPA {ipa:#x}, DFSC {status:#04x}, WnR {write}")
    }
}

impl Abort {
    /// A permission fault: the translation was there but did not allow the access.
    pub(crate) fn is_permission(self) -> bool {
        self.status & 0b11_1100 == 0b00_1100
    }
    /// The level of the entry that faulted, if the status has one.
    pub(crate) fn level(self) -> u8 {
        self.status & 0b11
    }
    /// An access-flag fault.
    pub(crate) fn is_access_flag(self) -> bool {
        self.status & 0b11_1100 == 0b00_1000
    }
}

/// Why a guest exited.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exit {
    /// It is through: `HVC`.
    Done,
    /// A fault of stage 2.
    Abort(Abort),
    /// Something that none of the programs does.
    Other {
        /// The syndrome.
        esr: u64,
        /// Where the guest is.
        pc: u64,
    },
}

/// Exception classes.
const HVC: u64 = 0x16;
const FETCH_ABORT: u64 = 0x20;
const DATA_ABORT: u64 = 0x24;

impl Context {
    /// The beginning of a program.
    pub(crate) fn new(program: Program, x: [u64; 8]) -> Context {
        Context { x, pc: program.start(), esr: 0, far: 0 }
    }

    /// Runs the guest until it exits.
    #[expect(unsafe_code, reason = "another exception level")]
    pub(crate) fn run(&mut self) -> Exit {
        // SAFETY: `enter_guest` writes nothing but this context; the guests are the programs of
        // boot.s, and what stage 2 lets them reach is what `stage2` has for them.
        unsafe { enter_guest(self) };
        match self.esr >> 26 {
            HVC => Exit::Done,
            class @ (FETCH_ABORT | DATA_ABORT) => Exit::Abort(Abort {
                // With stage 1 of the guest off, its addresses are IPAs.
                ipa: self.far,
                status: (self.esr & 0x3f) as u8,
                write: class == DATA_ABORT && self.esr >> 6 & 1 == 1,
                fetch: class == FETCH_ABORT,
                pc: self.pc,
            }),
            _ => Exit::Other { esr: self.esr, pc: self.pc },
        }
    }

    /// True if the guest has not got beyond the first instruction of this program.
    pub(crate) fn is_at_start(&self, program: Program) -> bool {
        self.pc == program.start()
    }
}

/// What hardware keeps in descriptors by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Keeps {
    /// Nothing: an access without AF faults.
    Nothing,
    /// AF (`VTCR_EL2.HA`): what Linux sets.
    Accessed,
    /// AF and the dirty state (`HA` and `HD`).
    Dirty,
}

impl Keeps {
    const ALL: [Keeps; 3] = [Keeps::Nothing, Keeps::Accessed, Keeps::Dirty];

    fn vtcr(self) -> u64 {
        match self {
            Keeps::Nothing => 0,
            Keeps::Accessed => VTCR_HA,
            Keeps::Dirty => VTCR_HA | VTCR_HD,
        }
    }
}

static KEEPS: AtomicU8 = AtomicU8::new(Keeps::Nothing as u8);

/// VTCR_EL2: 40 bits of IPA from level 1, 4 KiB, write-back inner-shareable walks.
const VTCR: u64 = 1 << 31 | 3 << 12 | 1 << 10 | 1 << 8 | 1 << 6 | 24;
const VTCR_HA: u64 = 1 << 21;
const VTCR_HD: u64 = 1 << 22;
/// VMID 1.
const VMID: u64 = 1 << 48;
/// HCR_EL2: EL1 is AArch64; stage 2 is on; a guest without stage 1 has normal memory (DC).
const HCR: u64 = 1 << 31 | 1 << 12 | 1;
/// SCTLR_EL1: RES1 only, so stage 1 is off.
const SCTLR_EL1: u64 = 0x30d0_0800 | 1 << 12 | 1 << 2;

/// Says what hardware keeps; for CPUs that are set up from now on.
pub(crate) fn set_keeps(keeps: Keeps) {
    // ORDERING: relaxed: set while no other CPU works.
    KEEPS.store(keeps as u8, Relaxed);
}

/// Sets the running CPU up for guests.
pub(crate) fn set_up_cpu() {
    let width = (sysreg::mmfr0() & 0xf).min(5) << 16;
    // ORDERING: relaxed: see set_keeps.
    let keeps = Keeps::ALL[usize::from(KEEPS.load(Relaxed))];
    sysreg::set_vtcr(VTCR | width | keeps.vtcr());
    sysreg::set_vttbr(stage2::root() | VMID);
    sysreg::set_hcr(HCR);
    sysreg::set_sctlr_el1(SCTLR_EL1);
    sysreg::set_vmpidr(sysreg::mpidr());
    sysreg::set_vpidr(sysreg::midr());
    sysreg::start_cycle_counter();
    sysreg::isb();
    tlbi::flush_local();
}
