//! Changing instructions of the kernel, so that it is broken on purpose.

use std::str::FromStr;
use std::sync::Mutex;
use std::sync::PoisonError;

use crate::qemu;
use crate::symbols::Symbols;

/// In a function, each instruction that looks like this becomes that one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Patch {
    function: String,
    old: Old,
    new: u32,
}

/// What is changed.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Old {
    /// Instructions that have these bits, of those that the mask has.
    Word(u32, u32),
    /// Calls of this function.
    Call(String),
}

impl FromStr for Patch {
    type Err = String;

    /// `FUNCTION:WORD/MASK:NEW`, the numbers in hexadecimal, or `FUNCTION:call/FUNCTION:NEW`.
    fn from_str(text: &str) -> Result<Patch, String> {
        let read = || {
            let mut parts = text.split(':');
            let (function, old, new) = (parts.next()?, parts.next()?, parts.next()?);
            let number = |text: &str| u32::from_str_radix(text, 16).ok();
            let old = match old.split_once('/')? {
                ("call", callee) => Old::Call(callee.to_owned()),
                (word, mask) => Old::Word(number(word)?, number(mask)?),
            };
            Some(Patch { function: function.to_owned(), old, new: number(new)? })
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
            Old::Word(..) => 0,
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
        for bad in ["", "f", "f:1:2", "f:1/2", "f:x/2:3"] {
            assert!(bad.parse::<Patch>().is_err(), "{bad}");
        }
    }

    #[test]
    fn calls_go_both_ways() {
        assert_eq!(called(0x1000, 0x9400_0001), Some(0x1004));
        assert_eq!(called(0x1000, 0x97ff_ffff), Some(0xffc));
        assert_eq!(called(0x1000, 0x1400_0001), None);
    }
}
