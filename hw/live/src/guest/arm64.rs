//! The guests of arm64, at EL1 with a stage-1 identity map: with stage 1 off a guest's stores are
//! uncached unless the hardware forces write-back (FWB), and user space would read old data.

use kvm_bindings::kvm_vcpu_init;
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};

use super::{GO, Mode, Step, Stores};
use crate::memory::Memory;

/// Where guest-physical memory begins: nothing is below but the end's address.
pub const BASE: u64 = 0x4000_0000;
/// The modes of this architecture.
pub const MODES: &[Mode] = &[Mode::Paged];

/// The one table, of level 1: entries of 1 GiB.
const TABLE: usize = 0x1000;
/// The address by which a guest ends: no memory is there.
const END: u64 = 0x1000_0000;
/// EL1h, all interrupts masked.
const PSTATE: u64 = 0x3c5;
/// Attribute 0: normal, write-back; attribute 1: device.
const MAIR: u64 = 0x04ff;
/// 39-bit addresses, write-back walks, inner shareable, no TTBR1, 40-bit physical addresses.
const TCR: u64 = 25 | (1 << 8) | (1 << 10) | (3 << 12) | (1 << 23) | (2 << 32);
/// Stage 1, data and instruction caches on, and the bits that are always one.
const SCTLR: u64 = 0x30d0_1805;
/// A valid block, accessed.
const BLOCK: u64 = (1 << 10) | 1;
/// Inner shareable.
const SHAREABLE: u64 = 3 << 8;
/// Attribute 1, never executed.
const DEVICE: u64 = (1 << 2) | (1 << 54);

/// A core register, by its index in `struct kvm_regs`, in words of 8 bytes.
const fn core(index: u64) -> u64 {
    0x6030_0000_0010_0000 | (index * 2)
}

/// A system register.
const fn system(op0: u64, op1: u64, crn: u64, crm: u64, op2: u64) -> u64 {
    0x6030_0000_0013_0000 | (op0 << 14) | (op1 << 11) | (crn << 7) | (crm << 3) | op2
}

const PC: u64 = core(32);
const CPSR: u64 = core(33);
const MAIR_EL1: u64 = system(3, 0, 10, 2, 0);
const TCR_EL1: u64 = system(3, 0, 2, 0, 2);
const TTBR0_EL1: u64 = system(3, 0, 2, 0, 0);
const SCTLR_EL1: u64 = system(3, 0, 1, 0, 0);

/// Writes the identity map of the first two GiB.
pub(super) fn prepare(low: &Memory, _small: bool) {
    low.write(TABLE, &(BLOCK | DEVICE).to_le_bytes());
    low.write(TABLE + 8, &(BASE | BLOCK | SHAREABLE).to_le_bytes());
}

/// The storing guest. x0: place in the first data page, w1: window-1, w2: stores in all,
/// w3: generator, w4: pages-1, w5: stores done, x8: the end's address, w9: slide.
pub(super) fn stores(_: &Stores) -> Vec<u8> {
    bytes(&[
        0x4a03_3463, // loop: eor w3, w3, w3, lsl #13
        0x4a43_4463, //       eor w3, w3, w3, lsr #17
        0x4a03_1463, //       eor w3, w3, w3, lsl #5
        0x5307_7c67, //       lsr w7, w3, #7
        0x0a01_00e7, //       and w7, w7, w1
        0x1ac9_24a6, //       lsr w6, w5, w9
        0x0b06_00e7, //       add w7, w7, w6
        0x0a04_00e7, //       and w7, w7, w4
        0x8b07_3006, //       add x6, x0, x7, lsl #12
        0x1100_04a5, //       add w5, w5, #1
        0xb900_00c5, //       str w5, [x6]
        0x6b02_00bf, //       cmp w5, w2
        0x54ff_fe81, //       b.ne loop
        0xb900_0105, // end:  str w5, [x8]
        0x17ff_ffff, //       b end
    ])
}

/// A program. x0: the first data page, x8: the end's address, w10: how often to spin, x11: what
/// lets it go, x12: where to say that it waits, w13: 1.
pub(super) fn program(steps: &[Step]) -> Vec<u8> {
    let mut code = vec![
        0x3900_018d, //       strb w13, [x12]
        0x3940_0164, // wait: ldrb w4, [x11]
        0x34ff_ffe4, //       cbz w4, wait
        0x7100_054a, // spin: subs w10, w10, #1
        0x54ff_ffe1, //       b.ne spin
    ];
    for step in steps {
        code.extend(load_immediate(3, step.place()));
        match *step {
            Step::Write { value, .. } => {
                code.extend(load_immediate(2, u32::from(value)));
                code.push(0x3823_6802); // strb w2, [x0, x3]
            }
            Step::Read { .. } => code.push(0x3863_6804), // ldrb w4, [x0, x3]
        }
    }
    code.extend([0xb900_0105, 0x17ff_ffff]); // str w5, [x8]; b -4
    bytes(&code)
}

/// movz and movk.
fn load_immediate(register: u32, value: u32) -> [u32; 2] {
    [
        0x5280_0000 | ((value & 0xffff) << 5) | register,
        0x72a0_0000 | ((value >> 16) << 5) | register,
    ]
}

fn bytes(code: &[u32]) -> Vec<u8> {
    code.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Sets all registers.
pub(super) fn start(
    _: &Kvm,
    vm: &VmFd,
    fd: &VcpuFd,
    _: Mode,
    (entry, data): (u64, u64),
    stores: Option<(&Stores, u32)>,
) -> Result<(), kvm_ioctls::Error> {
    let mut init = kvm_vcpu_init::default();
    vm.get_preferred_target(&mut init)?;
    fd.vcpu_init(&init)?;
    let mut registers = vec![
        (PC, entry),
        (CPSR, PSTATE),
        (core(0), data),
        (core(5), 0),
        (core(8), END),
        (MAIR_EL1, MAIR),
        (TCR_EL1, TCR),
        (TTBR0_EL1, BASE + TABLE as u64),
        (SCTLR_EL1, SCTLR),
    ];
    if let Some((stores, state)) = stores {
        registers.extend([
            (core(1), u64::from(stores.window - 1)),
            (core(2), u64::from(stores.count)),
            (core(3), u64::from(state)),
            (core(4), u64::from(stores.pages - 1)),
            (core(9), u64::from(stores.slide)),
        ]);
    }
    for (register, value) in registers {
        fd.set_one_reg(register, &value.to_le_bytes())?;
    }
    Ok(())
}

/// To the beginning of a program.
pub(super) fn restart(
    fd: &VcpuFd,
    entry: u64,
    waits: u64,
    delay: u32,
) -> Result<(), kvm_ioctls::Error> {
    let go = BASE + GO as u64;
    let registers =
        [(PC, entry), (core(10), delay.into()), (core(11), go), (core(12), waits), (core(13), 1)];
    for (register, value) in registers {
        fd.set_one_reg(register, &value.to_le_bytes())?;
    }
    Ok(())
}

/// The store at the end.
pub(super) fn ended(exit: &VcpuExit<'_>) -> bool {
    matches!(exit, VcpuExit::MmioWrite(END, _))
}

/// What w4 has.
pub(super) fn last_read(fd: &VcpuFd) -> Result<u8, kvm_ioctls::Error> {
    let mut value = [0; 8];
    fd.get_one_reg(core(4), &mut value)?;
    Ok(value[0])
}
