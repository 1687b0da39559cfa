//! The serial line: the PL011 of QEMU's `virt`, or a 16550 with 32-bit registers 4 bytes apart, as
//! the RK3588 has it.

use core::fmt::{self, Write};
use core::ptr::NonNull;

use arm_pl011_uart::{PL011Registers, Uart, UniqueMmioPointer};
use spin::Mutex;

use super::mmio::Registers;

/// Prints a line.
macro_rules! say {
    ($($arg:tt)*) => { $crate::el2::cpu::console::print(format_args!($($arg)*)) };
}
pub(crate) use say;

/// A UART, set up by the boot loader.
pub(crate) enum Console {
    /// ARM's.
    Pl011(Uart<'static>),
    /// The other.
    Ns16550(Registers),
}

/// Of the 16550: the data register, the status of the line, and its "transmitter can take a byte".
const THR: usize = 0;
const LSR: usize = 5 << 2;
const LSR_THRE: u32 = 1 << 5;
/// How often a transmitter that does not get ready is asked.
const ASK_MAX: u32 = 10_000_000;

static CONSOLE: Mutex<Option<Console>> = Mutex::new(None);

impl Console {
    /// The PL011 at an address.
    ///
    /// # Safety
    /// It must be there, mapped as device memory, and nothing else may use it.
    #[expect(unsafe_code, reason = "whoever names a device's address answers for it")]
    pub(crate) unsafe fn pl011(base: usize) -> Option<Console> {
        let registers = NonNull::new(base as *mut PL011Registers)?;
        // SAFETY: the caller's promise is the one that is asked for.
        Some(Console::Pl011(Uart::new(unsafe { UniqueMmioPointer::new(registers) })))
    }

    fn put(&mut self, byte: u8) {
        match self {
            Console::Pl011(uart) => {
                while uart.is_tx_fifo_full() {}
                uart.write_word(byte);
            }
            Console::Ns16550(registers) => {
                let mut asked = 0;
                while registers.read(LSR) & LSR_THRE == 0 && asked < ASK_MAX {
                    asked += 1;
                }
                registers.write(THR, u32::from(byte));
            }
        }
    }
}

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.put(b'\r');
            }
            self.put(byte);
        }
        Ok(())
    }
}

/// From now on this is the console.
pub(crate) fn set(console: Console) {
    *CONSOLE.lock() = Some(console);
}

/// Prints one line, whole.
pub(crate) fn print(line: fmt::Arguments<'_>) {
    if let Some(console) = CONSOLE.lock().as_mut() {
        // Writing to the UART never fails.
        let _ = writeln!(console, "{line}");
    }
}

/// Prints before the end, even if the console is locked.
pub(crate) fn print_last(line: fmt::Arguments<'_>) {
    for _ in 0..ASK_MAX {
        if let Some(mut console) = CONSOLE.try_lock() {
            if let Some(console) = console.as_mut() {
                let _ = writeln!(console, "{line}");
            }
            return;
        }
        core::hint::spin_loop();
    }
}
