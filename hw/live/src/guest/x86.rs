//! The guests of x86: the same bytes in 32-bit protected mode and in 64-bit mode.
//!
//! The paged guest runs at privilege level 3 with I/O privilege and ends by OUT: a KVM that
//! emulates the kernel's level (shadow paging without hardware help) runs that natively as well.

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_segment};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};

use super::{DATA, GO, Mode, Step, Stores};
use crate::memory::Memory;

/// Where guest-physical memory begins.
pub const BASE: u64 = 0;
/// The modes of this architecture.
pub const MODES: &[Mode] = &[Mode::Paged, Mode::Unpaged];

/// The page tables: level 4, 3 and 2.
const TABLES: [usize; 3] = [0x1000, 0x2000, 0x3000];
/// The tables of level 1, one after another: of the data pages.
const LAST_TABLES: usize = 0x8_0000;
/// How many, if there are any: 64 MiB have 4 KiB pages; what comes before and after has 2 MiB
/// pages.
const LAST_TABLES_COUNT: usize = 32;
/// Present, writable, user, accessed.
const TABLE: u64 = 0x27;
/// The same, dirty, and a large page.
const LARGE_PAGE: u64 = 0xe7;
/// Present, writable, user; A and D are what the first access sets: the walker of the CPU, or KVM.
const PAGE: u64 = 0x07;
/// The port by which a guest ends.
const END_PORT: u16 = 0x10;
/// What KVM on Intel needs below 4 GiB.
const TSS: usize = 0xfffb_d000;

const CR0_PE: u64 = 1;
const CR0_WP: u64 = 1 << 16;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME_LMA: u64 = (1 << 8) | (1 << 10);
const FLAGS: u64 = 2;
const FLAGS_IOPL_3: u64 = 3 << 12;

/// Writes the identity map of the first GiB, the data pages by 4 KiB pages if `small`.
pub(super) fn prepare(low: &Memory, small: bool) {
    low.write(TABLES[0], &(TABLES[1] as u64 | TABLE).to_le_bytes());
    low.write(TABLES[1], &(TABLES[2] as u64 | TABLE).to_le_bytes());
    for i in 0..512 {
        low.write(TABLES[2] + i * 8, &(((i as u64) << 21) | LARGE_PAGE).to_le_bytes());
    }
    let first = DATA as usize >> 21;
    for i in 0..if small { LAST_TABLES_COUNT } else { 0 } {
        let table = LAST_TABLES + (i << 12);
        low.write(TABLES[2] + (first + i) * 8, &(table as u64 | TABLE).to_le_bytes());
        for entry in 0..512 {
            let frame = (((first + i) << 9) + entry) as u64;
            low.write(table + entry * 8, &(frame << 12 | PAGE).to_le_bytes());
        }
    }
}

/// The storing guest. esi: generator, edi: place in the first data page, ebx: stores done,
/// ebp: stores in all.
pub(super) fn stores(stores: &Stores) -> Vec<u8> {
    let mut code = vec![
        0x89, 0xf0, 0xc1, 0xe0, 13, 0x31, 0xc6, // mov eax,esi; shl eax,13; xor esi,eax
        0x89, 0xf0, 0xc1, 0xe8, 17, 0x31, 0xc6, // mov eax,esi; shr eax,17; xor esi,eax
        0x89, 0xf0, 0xc1, 0xe0, 5, 0x31, 0xc6, // mov eax,esi; shl eax,5; xor esi,eax
        0x89, 0xf0, 0xc1, 0xe8, 7, // mov eax,esi; shr eax,7
    ];
    code.push(0x25); // and eax,window-1
    code.extend((stores.window - 1).to_le_bytes());
    code.extend([0x89, 0xda, 0xc1, 0xea, stores.slide]); // mov edx,ebx; shr edx,slide
    code.extend([0x01, 0xd0]); // add eax,edx
    code.push(0x25); // and eax,pages-1
    code.extend((stores.pages - 1).to_le_bytes());
    code.extend([0xc1, 0xe0, 12, 0xff, 0xc3]); // shl eax,12; inc ebx
    code.extend([0x89, 0x1c, 0x07, 0x39, 0xeb]); // mov [rdi+rax],ebx; cmp ebx,ebp
    jump_back(&mut code, 0);
    end(&mut code);
    code
}

/// A program. edi: the first data page, esi: where to say that it waits, ecx: how often to spin.
pub(super) fn program(steps: &[Step]) -> Vec<u8> {
    let go = u32::try_from(BASE + GO as u64).expect("low memory is low");
    let from_data = go.wrapping_sub(u32::try_from(DATA).expect("memory is low"));
    let mut code = vec![0xc6, 0x06, 1]; // mov byte [rsi],1
    code.extend([0x80, 0xbf]); // wait: cmp byte [rdi+go-data],0
    code.extend(from_data.to_le_bytes());
    code.extend([0, 0x74, 0xf7]); // je wait
    let again = code.len();
    code.extend([0xff, 0xc9]); // dec ecx
    jump_back(&mut code, again);
    for step in steps {
        match *step {
            Step::Write { .. } => code.extend([0xc6, 0x87]), // mov byte [rdi+place],value
            Step::Read { .. } => code.extend([0x8a, 0x87]),  // mov al,[rdi+place]
        }
        code.extend(step.place().to_le_bytes());
        if let Step::Write { value, .. } = *step {
            code.push(value);
        }
    }
    end(&mut code);
    code
}

/// jnz to `target`, which is at most 126 bytes back.
fn jump_back(code: &mut Vec<u8>, target: usize) {
    let back = u8::try_from(code.len() + 2 - target).expect("the loop is short");
    assert!(back <= 0x80, "the loop is short");
    code.extend([0x75, back.wrapping_neg()]);
}

/// Ends, and ends again if it is run again.
fn end(code: &mut Vec<u8>) {
    code.extend([0xe6, END_PORT as u8, 0xeb, 0xfc]); // out END_PORT,al; jmp -4
}

/// Sets all registers.
pub(super) fn start(
    kvm: &Kvm,
    vm: &VmFd,
    fd: &VcpuFd,
    mode: Mode,
    (entry, data): (u64, u64),
    stores: Option<(&Stores, u32)>,
) -> Result<(), kvm_ioctls::Error> {
    // Fails where the architecture's vendor needs none; a guest that needs it does not start then.
    let _ = vm.set_tss_address(TSS);
    fd.set_cpuid2(&kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?)?;
    let mut sregs = fd.get_sregs()?;
    let paged = mode == Mode::Paged;
    let level = if paged { 3 } else { 0 };
    sregs.cs = segment(8, 11, level, paged);
    let data_segment = segment(16, 3, level, false);
    sregs.ds = data_segment;
    sregs.es = data_segment;
    sregs.fs = data_segment;
    sregs.gs = data_segment;
    sregs.ss = data_segment;
    sregs.cr0 |= CR0_PE;
    if paged {
        sregs.cr0 |= CR0_PG | CR0_WP;
        sregs.cr3 = BASE + TABLES[0] as u64;
        sregs.cr4 |= CR4_PAE;
        sregs.efer |= EFER_LME_LMA;
    }
    fd.set_sregs(&sregs)?;
    let mut regs = fd.get_regs()?;
    regs.rip = entry;
    regs.rflags = if paged { FLAGS | FLAGS_IOPL_3 } else { FLAGS };
    regs.rdi = data;
    regs.rbx = 0;
    if let Some((stores, state)) = stores {
        regs.rsi = u64::from(state);
        regs.rbp = u64::from(stores.count);
    }
    fd.set_regs(&regs)
}

/// To the beginning of a program.
pub(super) fn restart(
    fd: &VcpuFd,
    entry: u64,
    waits: u64,
    delay: u32,
) -> Result<(), kvm_ioctls::Error> {
    let mut regs = fd.get_regs()?;
    regs.rsi = waits;
    regs.rip = entry;
    regs.rcx = u64::from(delay);
    fd.set_regs(&regs)
}

/// A flat segment.
fn segment(selector: u16, type_: u8, dpl: u8, long: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector: selector | u16::from(dpl),
        type_,
        present: 1,
        dpl,
        db: u8::from(!long),
        s: 1,
        l: u8::from(long),
        g: 1,
        ..kvm_segment::default()
    }
}

/// The OUT at the end.
pub(super) fn ended(exit: &VcpuExit<'_>) -> bool {
    matches!(exit, VcpuExit::IoOut(END_PORT, _))
}

/// What al has.
pub(super) fn last_read(fd: &VcpuFd) -> Result<u8, kvm_ioctls::Error> {
    Ok(fd.get_regs()?.rax as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_storing_loop_jumps_to_its_beginning() {
        let code = stores(&Stores { count: 1, window: 8, slide: 8, pages: 64, seed: 1 });
        let jump = code.len() - 6;
        assert_eq!(code[jump], 0x75);
        assert_eq!(jump as i64 + 2 + i64::from(code[jump + 1] as i8), 0);
    }
}
