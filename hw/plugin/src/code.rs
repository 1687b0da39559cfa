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
    },
}

impl<'m> Code<'m> {
    /// Of arm64, from what was seen so far.
    pub(crate) fn arm64() -> Code<'m> {
        Code::Text(*TEXT.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Of x86.
    pub(crate) fn x86(ram: &'m Ram, cr3: u64) -> Code<'m> {
        Code::Walked { ram, cr3 }
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
        let Code::Walked { ram, cr3 } = self else { return None };
        let mut bytes = [0; N];
        for (pc, byte) in (pc..).zip(&mut bytes) {
            let at = physical(ram, cr3, pc)?;
            *byte = (ram.load(at)? >> (8 * (at & 7))) as u8;
        }
        Some(bytes)
    }

    /// Writes some; see [`Code::write_word`].
    pub(crate) fn write_bytes(self, pc: u64, bytes: &[u8]) -> Option<()> {
        let Code::Walked { ram, cr3 } = self else { return None };
        let mut all = (pc..).zip(bytes);
        all.try_for_each(|(pc, byte)| ram.write(physical(ram, cr3, pc)?, *byte))
    }
}

impl Text {
    /// Where an instruction is, if it is among those that were seen.
    fn host(&self, pc: u64) -> Option<usize> {
        let known = (self.low..=self.high).contains(&pc);
        known.then(|| self.host.wrapping_add(pc.wrapping_sub(self.pc) as usize))
    }
}

/// Where an address of the kernel is in memory, by its four levels of page tables.
fn physical(ram: &Ram, cr3: u64, address: u64) -> Option<u64> {
    const PRESENT: u64 = 1;
    const LARGE: u64 = 1 << 7;
    const PAGE: u64 = 0x000f_ffff_ffff_f000;
    let mut table = cr3 & PAGE;
    for level in (0..4).rev() {
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
