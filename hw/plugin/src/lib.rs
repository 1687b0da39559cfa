//! A plugin of QEMU that records what a kernel does to the page tables of its guests: every store
//! to a descriptor with the old and the new value, every TLB invalidation and barrier, entries into
//! guests and exits from them, calls of the functions that matter, and each step of `mmu_lock`, in
//! the order in which they happen.
//!
//! Nothing is known of the kernel beforehand. Its `/init` sends the names of its functions, by an
//! instruction that does nothing on a CPU (`channel.rs`). A page is one of descriptors if a root
//! that a CPU is given leads to it, at the moment at which it does (`tables.rs`); that no store was
//! missed is proved by holding all of them against memory again and again.
//!
//! `qemu.rs` has the interface to QEMU and all `unsafe`; `kind.rs`, `arm64.rs` and `x86.rs` say
//! which instructions matter, `recorder.rs` and `recorder/` what becomes of them. docs/steps.md
//! says what is seen and what is not.

mod arm64;
mod channel;
mod code;
mod hold;
mod kind;
mod options;
mod patch;
mod qemu;
mod ram;
mod recorder;
mod registers;
mod symbols;
mod tables;
mod watch;
mod x86;

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock, PoisonError};

use kind::Kind;
use kvmmu_steps::event::{Arch, Frame};
use qemu::{Access, Cpu, Handlers, Info, Instruction, Register, Site};
use recorder::Recorder;

/// What QEMU's callbacks come to.
const HANDLERS: Handlers =
    Handlers { install, begin, translate, execute, store, touch, access: guest_access, end };

/// The first address of the kernel's half.
pub(crate) const KERNEL: u64 = 1 << 63;

/// How far the machine is.
const BOOTING: u8 = 0;
/// The kernel's functions are known.
const RECORDING: u8 = 1;
/// So, and accesses of guests are looked at.
const WITH_GUESTS: u8 = 2;

static ARCH: OnceLock<Arch> = OnceLock::new();
static PHASE: AtomicU8 = AtomicU8::new(BOOTING);
static RECORDER: Mutex<Option<Recorder>> = Mutex::new(None);

fn with(f: impl FnOnce(&mut Recorder)) {
    if let Some(recorder) = RECORDER.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
        f(recorder);
    }
}

fn install(info: &Info) -> Result<(), String> {
    let arch = match info.target.as_str() {
        "aarch64" => Arch::Arm64,
        "x86_64" => Arch::X86,
        other => return Err(format!("a machine of {other}: only aarch64 and x86_64 are known")),
    };
    let recorder = Recorder::new(*ARCH.get_or_init(|| arch), info)?;
    *RECORDER.lock().unwrap_or_else(PoisonError::into_inner) = Some(recorder);
    Ok(())
}

fn begin(registers: &[Register]) {
    with(|recorder| recorder.begin(registers));
}

fn translate(instruction: &Instruction<'_>) {
    let pc = instruction.address();
    let (bytes, len) = instruction.bytes();
    let mut kind = match ARCH.get() {
        Some(Arch::X86) => x86::kind(&bytes[..len]),
        _ => arm64::kind(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])),
    };
    // ORDERING: relaxed: it changes when all code is translated again, which stops every CPU.
    let phase = PHASE.load(Relaxed);
    if pc < KERNEL {
        if kind == Kind::Message {
            instruction.report(kind);
        } else if phase == WITH_GUESTS {
            instruction.report_accesses();
        }
        return;
    }
    if phase == BOOTING {
        code::seen(pc, instruction.host_address());
        return;
    }
    let mut role = None;
    with(|recorder| {
        kind = recorder.kind(pc, len, kind);
        role = recorder.role(pc);
    });
    if kind != Kind::Other {
        instruction.report(kind);
    }
    match role {
        None => instruction.report_stores(),
        Some(_) => instruction.report_touches(),
    }
}

fn execute(cpu: Cpu, site: Site) {
    with(|recorder| {
        if recorder.execute(cpu, site) {
            let phase = if recorder.looks_at_guests() { WITH_GUESTS } else { RECORDING };
            // ORDERING: relaxed: as above.
            PHASE.store(phase, Relaxed);
            qemu::translate_again();
        }
    });
}

fn store(cpu: Cpu, access: Access, pc: u64) {
    if watch::has_word(access.address) {
        with(|recorder| recorder.word(cpu, access, pc));
    }
    if let Some(address) = access.physical()
        && watch::has_page(Frame::of(address))
    {
        with(|recorder| recorder.store(cpu, access, address, pc));
    }
}

fn touch(cpu: Cpu, access: Access, pc: u64) {
    with(|recorder| recorder.touched(cpu, access, pc));
}

fn guest_access(cpu: Cpu, access: Access, pc: u64) {
    with(|recorder| recorder.guest_access(cpu, access, pc));
}

fn end() {
    let recorder = RECORDER.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(recorder) = recorder {
        recorder.end();
    }
}
