//! The kernel's code as it is in memory, read and written by the addresses that it is executed at.

use std::sync::{Mutex, PoisonError};

use crate::qemu;
use crate::ram::Ram;

/// Where code of the kernel is in QEMU's own memory: one instruction, and how far others that were
/// seen are from it. An arm64 kernel is in one piece.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Text {
    pc: u64,
    host: usize,
    low: u64,
    high: u64,
}

static TEXT: Mutex<Option<Text>> = Mutex::new(None);

/// An instruction of the kernel is here, and there in QEMU's memory.
pub(crate) fn seen(pc: u64, host: usize) {
    let mut text = TEXT.lock().unwrap_or_else(PoisonError::into_inner);
    match text.as_mut() {
        Some(text) if host.wrapping_sub(text.host) as u64 == pc.wrapping_sub(text.pc) => {
            text.low = text.low.min(pc);
            text.high = text.high.max(pc);
        }
        // The kernel moves when it turns translation on: what was seen last is what runs.
        _ if host != 0 => *text = Some(Text { pc, host, low: pc, high: pc }),
        _ => {}
    }
}

/// The code of a kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Code<'m> {
    /// Of arm64.
    Text(Option<Text>),
    /// Of x86: found by the page tables of the kernel, as modules are where they were put.
    Walked {
        /// The machine's memory.
        ram: &'m Ram,
        /// The root of the page tables.
        cr3: u64,
        /// How many levels they have.
        levels: u32,
    },
}

impl<'m> Code<'m> {
    /// Of arm64, from what was seen so far.
    pub(crate) fn arm64() -> Code<'m> {
        Code::Text(*TEXT.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Of x86.
    pub(crate) fn x86(ram: &'m Ram, cr3: u64, levels: u32) -> Code<'m> {
        Code::Walked { ram, cr3, levels }
    }

    /// An instruction of arm64.
    pub(crate) fn word(self, pc: u64) -> Option<u32> {
        let Code::Text(text) = self else { return None };
        Some(qemu::code(text?.host(pc)?))
    }

    /// Writes one. What was translated of it before is executed on, until all is translated again.
    pub(crate) fn write_word(self, pc: u64, word: u32) -> Option<()> {
        let Code::Text(text) = self else { return None };
        qemu::patch(text?.host(pc)?, word);
        Some(())
    }

    /// Bytes of x86.
    pub(crate) fn bytes<const N: usize>(self, pc: u64) -> Option<[u8; N]> {
        let Code::Walked { ram, cr3, levels } = self else { return None };
        let mut bytes = [0; N];
        for (pc, byte) in (pc..).zip(&mut bytes) {
            let at = physical(ram, cr3, levels, pc)?;
            *byte = (ram.load(at)? >> (8 * (at & 7))) as u8;
        }
        Some(bytes)
    }

    /// Writes some; see [`Code::write_word`].
    pub(crate) fn write_bytes(self, pc: u64, bytes: &[u8]) -> Option<()> {
        let Code::Walked { ram, cr3, levels } = self else { return None };
        let mut all = (pc..).zip(bytes);
        all.try_for_each(|(pc, byte)| ram.write(physical(ram, cr3, levels, pc)?, *byte))
    }
}

impl Text {
    /// Where an instruction is, if it is among those that were seen.
    fn host(&self, pc: u64) -> Option<usize> {
        let known = (self.low..=self.high).contains(&pc);
        known.then(|| self.host.wrapping_add(pc.wrapping_sub(self.pc) as usize))
    }
}

/// Where an address of the kernel is in memory, by its page tables.
fn physical(ram: &Ram, cr3: u64, levels: u32, address: u64) -> Option<u64> {
    const PRESENT: u64 = 1;
    const LARGE: u64 = 1 << 7;
    const PAGE: u64 = 0x000f_ffff_ffff_f000;
    let mut table = cr3 & PAGE;
    for level in (0..levels).rev() {
        let shift = 12 + 9 * level;
        let entry = ram.load(table + 8 * (address >> shift & 511))?;
        if entry & PRESENT == 0 {
            return None;
        }
        let below = (1 << shift) - 1;
        if level == 0 || level < 3 && entry & LARGE != 0 {
            return Some(entry & PAGE & !below | address & below);
        }
        table = entry & PAGE;
    }
    None
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use kvmmu_steps::event::Arch;

    /// A machine whose page `i` leads to page `i + 1`, by entry 0, and the last of so many maps
    /// page 8.
    pub(crate) fn machine(name: &str, levels: u64) -> Ram {
        let path = std::env::temp_dir().join(format!("kvmmu-{name}-{}", std::process::id()));
        let mut memory = vec![0; 16 << 12];
        for level in 0..levels {
            let next = if level + 1 == levels { 8 } else { level + 2 };
            let at = ((level + 1) << 12) as usize;
            memory[at..at + 8].copy_from_slice(&(next << 12 | 3_u64).to_le_bytes());
        }
        std::fs::write(&path, memory).unwrap();
        let ram = Ram::map(&path, Arch::X86).unwrap();
        std::fs::remove_file(&path).unwrap();
        ram
    }

    #[test]
    fn code_of_x86_is_where_page_tables_of_four_or_five_levels_say() {
        for levels in [4, 5] {
            let ram = machine("walk", levels);
            let code = Code::x86(&ram, 1 << 12, levels as u32);
            code.write_bytes(0x123, &[0xe8, 1, 2, 3, 4]).unwrap();
            assert_eq!(ram.load(0x8120).unwrap() >> 24, 0x04_0302_01e8, "{levels} levels");
            assert_eq!(code.bytes(0x123), Some([0xe8, 1, 2, 3, 4]));
            assert_eq!(code.bytes::<1>(1 << 12), None, "nothing is mapped there");
            let other = Code::x86(&ram, 1 << 12, 9 - levels as u32);
            assert_ne!(other.bytes(0x123), Some([0xe8, 1, 2, 3, 4]), "as many levels as there are");
        }
    }
}
