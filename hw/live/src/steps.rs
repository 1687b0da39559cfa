//! What is said to a recorder inside QEMU (`cargo live-qemu --steps`): the names of this kernel's
//! functions, and what user space does, in the order in which it happens.
//!
//! It is said by an instruction that does nothing on a CPU ([`sys::say_to_emulator`]); without a
//! recorder nobody hears it. `hw/plugin/src/channel.rs` has the messages.

use std::fs::File;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};

use kvmmu_qemu::{Exit, Failure};

use crate::kernel::Kernel;
use crate::sys;
use crate::trace::Phase;

/// The names of all functions.
const KALLSYMS: &str = "/proc/kallsyms";
/// So much of them is said at a time.
const PIECE: usize = 1 << 16;

/// Somebody may hear it.
static HEARD: AtomicBool = AtomicBool::new(false);

/// Tells a recorder of this kernel: it records from now on.
///
/// # Errors
///
/// When the kernel does not tell its functions.
pub fn begin() -> Result<Exit, Failure> {
    let unread = |error: io::Error| {
        let message = format!("{KALLSYMS}: {error}");
        Failure::usage(message, "take a kernel with CONFIG_KALLSYMS")
    };
    let mut file = File::open(KALLSYMS).map_err(unread)?;
    let head = b"symbols\n";
    let mut piece = vec![0; head.len() + PIECE];
    piece[..head.len()].copy_from_slice(head);
    loop {
        let len = file.read(&mut piece[head.len()..]).map_err(unread)?;
        if len == 0 {
            break;
        }
        sys::say_to_emulator(&piece[..head.len() + len]);
    }
    let kernel = Kernel::running();
    sys::say_to_emulator(format!("ready {} {}", kernel.version, kernel.release).as_bytes());
    if let (Some(npt), Some(tdp)) = (kernel.npt, kernel.tdp_mmu) {
        let (npt, tdp) = (u8::from(npt), u8::from(tdp));
        sys::say_to_emulator(format!("mark mmu exit npt={npt} tdp={tdp}").as_bytes());
    }
    // ORDERING: relaxed: no thread but this one runs yet.
    HEARD.store(true, Ordering::Relaxed);
    Ok(Exit::Expected)
}

/// User space begins or ends something.
pub fn mark(op: &str, phase: Phase, fields: &[(&str, u64)]) {
    // ORDERING: relaxed: as above.
    if !HEARD.load(Ordering::Relaxed) {
        return;
    }
    let mut text = format!("mark {op} {}", phase.name());
    for (name, value) in fields {
        text += &format!(" {name}={value}");
    }
    sys::say_to_emulator(text.as_bytes());
}
