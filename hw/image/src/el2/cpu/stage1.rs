//! Stage 1 of EL2, under which this program itself runs: what is needed, mapped one to one.
//!
//! 39 bits of address; blocks of 1 GiB of normal memory for the image and the device tree, one of
//! 2 MiB of device memory for the UART. Level 1 is the table that `boot.s` turns on.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{sysreg, tlbi};

/// A table.
#[repr(C, align(4096))]
struct Table([AtomicU64; 512]);

const BLOCK: u64 = 1;
const TABLE: u64 = 3;
/// AF, inner shareable, attribute 0 of MAIR: normal.
const NORMAL: u64 = 1 << 10 | 3 << 8;
/// AF, XN, attribute 1 of MAIR: device.
const DEVICE: u64 = 1 << 10 | 1 << 54 | 1 << 2;
const GIB: usize = 30;
const MIB_2: usize = 21;

#[unsafe(no_mangle)]
#[expect(unsafe_code, reason = "boot.s refers to it by name")]
static EL2_LEVEL1: Table = Table([const { AtomicU64::new(0) }; 512]);
/// Level 2, for the GiB that the UART is in.
static UART_LEVEL2: Table = Table([const { AtomicU64::new(0) }; 512]);

/// Maps the GiB around an address as normal memory. Before stage 1 is on.
pub(crate) fn map_memory(address: usize) {
    let base = (address >> GIB) << GIB;
    // ORDERING: relaxed: a barrier in boot.s follows.
    EL2_LEVEL1.0[address >> GIB].store(base as u64 | NORMAL | BLOCK, Relaxed);
}

/// Maps the 2 MiB around an address as device memory. If the GiB around that is mapped already, the
/// rest of it stays what it was.
pub(crate) fn map_device(address: usize) {
    let gib = &EL2_LEVEL1.0[address >> GIB];
    // ORDERING: relaxed: barriers follow, and no other CPU runs yet.
    let was_memory = gib.load(Relaxed) != 0;
    for (i, entry) in UART_LEVEL2.0.iter().enumerate() {
        let base = ((address >> GIB) << GIB) | i << MIB_2;
        let value = if i == (address >> MIB_2) % 512 {
            base as u64 | DEVICE | BLOCK
        } else if was_memory {
            base as u64 | NORMAL | BLOCK
        } else {
            0
        };
        // ORDERING: relaxed: as above.
        entry.store(value, Relaxed);
    }
    sysreg::dsb();
    // A block becomes a table with the same translations but one: no other CPU runs, and nobody has
    // used that one.
    // ORDERING: relaxed: as above.
    gib.store(core::ptr::from_ref(&UART_LEVEL2) as u64 | TABLE, Relaxed);
    sysreg::dsb();
    if sysreg::current_el() >> 2 == 2 {
        tlbi::flush_el2();
    }
}
