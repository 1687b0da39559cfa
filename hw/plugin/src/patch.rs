//! Changing instructions of the kernel, so that it is broken on purpose.

use std::str::FromStr;
use std::sync::Mutex;
use std::sync::PoisonError;

use crate::qemu;
use crate::ram::Ram;
use crate::symbols::Symbols;

/// In a function, each instruction that looks like this becomes that one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Patch {
    function: String,
    old: Old,
    new: u32,
}

/// `call rel32` of x86, and what does nothing in its place: a NOP of five bytes.
const CALL_X86: u8 = 0xe8;
const NOP_X86: [u8; 5] = [0x0f, 0x1f, 0x44, 0x00, 0x00];
/// `jcc rel8`, whatever the condition, and a NOP of two bytes.
const JUMP_X86: u8 = 0x70;
const NOP_2_X86: [u8; 2] = [0x66, 0x90];
/// `ret`.
const RET_X86: u8 = 0xc3;

/// What is changed.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Old {
    /// Instructions that have these bits, of those that the mask has.
    Word(u32, u32),
    /// Calls of this function.
    Call(String),
    /// The first instruction: the function does nothing. Of x86.
    Entry,
    /// The short conditional jump so far from the beginning. Of x86.
    Branch(u64),
}

impl FromStr for Patch {
    type Err = String;

    /// `FUNCTION:WORD/MASK:NEW`, the numbers in hexadecimal, or `FUNCTION:call/FUNCTION:NEW`. On
    /// x86 `FUNCTION:call/FUNCTION:nop`, `FUNCTION:branch/OFFSET:nop`, or `FUNCTION:entry:ret`.
    fn from_str(text: &str) -> Result<Patch, String> {
        let read = || {
            let mut parts = text.split(':');
            let (function, old, new) = (parts.next()?, parts.next()?, parts.next()?);
            let number = |text: &str| u32::from_str_radix(text, 16).ok();
            let word = |text: &str| match text {
                "nop" | "ret" => Some(0),
                _ => number(text),
            };
            let old = match old.split_once('/') {
                None if old == "entry" && new == "ret" => Old::Entry,
                None => return None,
                Some(("call", callee)) => Old::Call(callee.to_owned()),
                Some(("branch", offset)) => Old::Branch(number(offset)?.into()),
                Some((word, mask)) => Old::Word(number(word)?, number(mask)?),
            };
            Some(Patch { function: function.to_owned(), old, new: word(new)? })
        };
        read().ok_or_else(|| format!("'{text}' is no patch: FUNCTION:WORD/MASK:NEW"))
    }
}

/// Where code of the kernel is in QEMU's own memory: one instruction, and how far others that were
/// seen are from it.
#[derive(Clone, Copy, Debug)]
struct Text {
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

impl Patch {
    /// Does it; says what was done.
    pub(crate) fn apply(&self, symbols: &Symbols) -> Result<String, String> {
        let Patch { function, old, new } = self;
        let range =
            |name: &str| symbols.range(name).ok_or_else(|| format!("this kernel has no {name}"));
        let (begin, end) = range(function)?;
        let callee = match old {
            Old::Call(name) => range(name)?.0,
            Old::Word(..) | Old::Entry | Old::Branch(_) => 0,
        };
        let text = *TEXT.lock().unwrap_or_else(PoisonError::into_inner);
        let text = text.filter(|text| text.low <= begin && end <= text.high);
        let text = text.ok_or_else(|| format!("{function} is not where the kernel's code is"))?;
        let mut places = Vec::new();
        for pc in (begin..end).step_by(4) {
            let host = text.host.wrapping_add(pc.wrapping_sub(text.pc) as usize);
            let is = match old {
                Old::Word(word, mask) => qemu::code(host) & mask == word & mask,
                Old::Call(_) => called(pc, qemu::code(host)) == Some(callee),
                Old::Entry | Old::Branch(_) => false,
            };
            if is {
                qemu::patch(host, *new);
                places.push(format!("{function}+{:#x}", pc - begin));
            }
        }
        match places.is_empty() {
            true => Err(format!("{function} has no such instruction: {old:x?}")),
            false => Ok(format!("changed: {}", places.join(" "))),
        }
    }
}

impl Patch {
    /// The same on x86, where code is found by the page tables of the kernel, whose root is `cr3`:
    /// modules are where they were put.
    pub(crate) fn apply_x86(
        &self,
        symbols: &Symbols,
        ram: &Ram,
        cr3: u64,
    ) -> Result<String, String> {
        let Patch { function, old, .. } = self;
        let range =
            |name: &str| symbols.range(name).ok_or_else(|| format!("this kernel has no {name}"));
        let (begin, end) = range(function)?;
        let byte = |address: u64| {
            let at = physical(ram, cr3, address)?;
            Some((at, (ram.load(at)? >> (8 * (at & 7))) as u8))
        };
        let write = |pc: u64, new: &[u8]| {
            let mut bytes = (pc..).zip(new);
            let written = bytes.try_for_each(|(pc, new)| ram.write(byte(pc)?.0, *new));
            written.ok_or_else(|| format!("{function} cannot be written"))
        };
        let name = match old {
            Old::Call(name) => name,
            Old::Entry => {
                write(begin, &[RET_X86])?;
                return Ok(format!("changed: {function}+0x0"));
            }
            Old::Branch(offset) => {
                let pc = begin + offset;
                if byte(pc).is_none_or(|(_, byte)| byte & 0xf0 != JUMP_X86) {
                    return Err(format!("{function}+{offset:#x} is no short conditional jump"));
                }
                write(pc, &NOP_2_X86)?;
                return Ok(format!("changed: {function}+{offset:#x}"));
            }
            Old::Word(..) => return Err(format!("{function}: x86 has no words of instructions")),
        };
        let callee = range(name)?.0;
        let mut places = Vec::new();
        for pc in begin..end.saturating_sub(4) {
            let bytes: Option<Vec<u8>> = (pc..pc + 5).map(|pc| Some(byte(pc)?.1)).collect();
            let bytes = bytes.ok_or_else(|| format!("the code of {function} is not in memory"))?;
            if calls(pc, &bytes, callee) {
                write(pc, &NOP_X86)?;
                places.push(format!("{function}+{:#x}", pc - begin));
            }
        }
        match places.is_empty() {
            true => Err(format!("{function} does not call {name}")),
            false => Ok(format!("changed: {}", places.join(" "))),
        }
    }
}

/// True if these bytes at `pc` call this function of x86.
fn calls(pc: u64, bytes: &[u8], callee: u64) -> bool {
    let &[CALL_X86, a, b, c, d] = bytes else { return false };
    let distance = i64::from(i32::from_le_bytes([a, b, c, d]));
    pc.wrapping_add(5).wrapping_add_signed(distance) == callee
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

/// What an instruction calls, if it is `BL`.
fn called(pc: u64, word: u32) -> Option<u64> {
    let distance = i64::from((word << 6) as i32 >> 6) * 4;
    (word >> 26 == 0b10_0101).then(|| pc.wrapping_add_signed(distance))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_are_read() {
        let (function, new) = ("f".to_owned(), 0xd503_201f);
        let old = Old::Word(0xd50c_83df, 0xffff_ffff);
        let word = Patch { function: function.clone(), old, new };
        assert_eq!("f:d50c83df/ffffffff:d503201f".parse(), Ok(word));
        let call = Patch { function, old: Old::Call("g".to_owned()), new };
        assert_eq!("f:call/g:d503201f".parse(), Ok(call));
        assert!("f:call/g:nop".parse::<Patch>().is_ok());
        assert!("f:entry:ret".parse::<Patch>().is_ok());
        assert!("f:branch/1c7:nop".parse::<Patch>().is_ok());
        for bad in ["", "f", "f:1:2", "f:1/2", "f:x/2:3"] {
            assert!(bad.parse::<Patch>().is_err(), "{bad}");
        }
    }

    #[test]
    fn calls_of_x86() {
        assert!(calls(0x1000, &[0xe8, 0xfb, 0xff, 0xff, 0xff], 0x1000));
        assert!(calls(0x1000, &[0xe8, 0x01, 0, 0, 0], 0x1006));
        assert!(!calls(0x1000, &[0xe9, 0x01, 0, 0, 0], 0x1006), "a jump");
    }

    #[test]
    fn calls_go_both_ways() {
        assert_eq!(called(0x1000, 0x9400_0001), Some(0x1004));
        assert_eq!(called(0x1000, 0x97ff_ffff), Some(0xffc));
        assert_eq!(called(0x1000, 0x1400_0001), None);
    }
}
