//! The end of a run: a verdict on the console, and an exit code where somebody takes it.

use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use smccc::{Smc, psci};

use super::console;

/// What an exit code means; the codes are those of the `kvmmu` command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exit {
    /// Everything was as expected.
    Expected = 0,
    /// Something was not.
    Unexpected = 1,
    /// A boot argument is wrong.
    Usage = 2,
    /// Somebody waited for too long.
    Bound = 3,
    /// Nothing was selected.
    Nothing = 4,
    /// This program is broken.
    Internal = 70,
}

/// Whether semihosting is there.
static IS_QEMU: AtomicBool = AtomicBool::new(false);

/// Says that the board is QEMU's.
pub(crate) fn set_qemu(is_qemu: bool) {
    // ORDERING: relaxed: set before the other CPUs start.
    IS_QEMU.store(is_qemu, Relaxed);
}

/// Ends the run. The line that it prints is what `cargo hw` looks for.
pub(crate) fn exit(exit: Exit, why: core::fmt::Arguments<'_>) -> ! {
    static ENDED: AtomicUsize = AtomicUsize::new(0);
    // ORDERING: relaxed: only who comes first matters.
    if ENDED.fetch_add(1, Relaxed) == 0 {
        console::print_last(format_args!("kvmmu-hw: verdict {}: {why}", exit as u8));
        // ORDERING: relaxed: constant by now.
        if IS_QEMU.load(Relaxed) {
            semihosting::process::exit(exit as i32);
        }
        let _ = psci::system_off::<Smc>();
    }
    loop {
        core::hint::spin_loop();
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    exit(Exit::Internal, format_args!("{info}"))
}

/// An exception that is no exit of a guest.
#[unsafe(no_mangle)]
#[expect(unsafe_code, reason = "boot.s calls it by name")]
extern "C" fn rust_exception(vector: u64, esr: u64, elr: u64, far: u64) -> ! {
    exit(
        Exit::Internal,
        format_args!("exception {vector}: esr {esr:#x}, elr {elr:#x}, far {far:#x}"),
    )
}
