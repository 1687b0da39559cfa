//! Changing instructions of the kernel, so that it is broken on purpose.

use std::str::FromStr;

use crate::code::Code;
use crate::symbols::Symbols;

/// In a function, each instruction that looks like this becomes that one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Patch {
    function: String,
    old: Old,
    new: New,
}

/// What is changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Old {
    /// Instructions of arm64 that have these bits, of those that the mask has.
    Word(u32, u32),
    /// Calls of this function.
    Call(String),
    /// The first instruction of a function of x86.
    Entry,
    /// The short conditional jump of x86 so far from the beginning.
    Branch(u64),
    /// `LOCK CMPXCHG` of x86.
    Cmpxchg,
}

/// What it becomes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum New {
    /// This instruction of arm64.
    Word(u32),
    /// Nothing that does anything: of x86.
    Nop,
    /// A return: of x86, too.
    Ret,
    /// For a compare-and-exchange: a store, and a comparison that says that it succeeded.
    Store,
}

/// `call rel32` of x86.
pub(crate) const CALL_X86: u8 = 0xe8;
/// `jcc rel8`, whatever the condition.
const JUMP_X86: u8 = 0x70;

impl FromStr for Patch {
    type Err = String;

    /// `FUNCTION:WORD/MASK:NEW`, the numbers in hexadecimal, or `FUNCTION:call/FUNCTION:NEW`. On
    /// x86 `FUNCTION:call/FUNCTION:nop`, `FUNCTION:branch/OFFSET:nop`, `FUNCTION:entry:ret`,
    /// or `FUNCTION:cmpxchg:store`.
    fn from_str(text: &str) -> Result<Patch, String> {
        let read = || {
            let (place, new) = text.rsplit_once(':')?;
            let (function, old) = place.split_once(':')?;
            let new = match new {
                "nop" => New::Nop,
                "ret" => New::Ret,
                "store" => New::Store,
                word => New::Word(u32::from_str_radix(word, 16).ok()?),
            };
            Some(Patch { function: function.to_owned(), old: Old::read(old)?, new })
        };
        read().ok_or_else(|| format!("'{text}' is no patch: FUNCTION:WORD/MASK:NEW"))
    }
}

impl Old {
    /// `WORD/MASK`, `call/FUNCTION`, `entry`, `branch/OFFSET`, `cmpxchg`.
    pub(crate) fn read(text: &str) -> Option<Old> {
        let number = |text: &str| u32::from_str_radix(text, 16).ok();
        Some(match text.split_once('/') {
            None if text == "entry" => Old::Entry,
            None if text == "cmpxchg" => Old::Cmpxchg,
            None => return None,
            Some(("call", callee)) => Old::Call(callee.to_owned()),
            Some(("branch", offset)) => Old::Branch(number(offset)?.into()),
            Some((word, mask)) => Old::Word(number(word)?, number(mask)?),
        })
    }

    /// Where there is such an instruction in a function.
    pub(crate) fn find(
        &self,
        function: &str,
        symbols: &Symbols,
        code: Code<'_>,
    ) -> Result<Vec<u64>, String> {
        let range =
            |name: &str| symbols.range(name).ok_or_else(|| format!("this kernel has no {name}"));
        let (begin, end) = range(function)?;
        let callee = match self {
            Old::Call(name) => range(name)?.0,
            Old::Word(..) | Old::Entry | Old::Branch(_) | Old::Cmpxchg => 0,
        };
        let is = |pc: u64| match (self, code) {
            (Old::Word(word, mask), Code::Text(_)) => Some(code.word(pc)? & mask == word & mask),
            (Old::Call(_), Code::Text(_)) => Some(called(pc, code.word(pc)?) == Some(callee)),
            (Old::Call(_), Code::Walked { .. }) => {
                Some(called_x86(pc, code.bytes(pc)?) == Some(callee))
            }
            (Old::Entry, Code::Walked { .. }) => Some(pc == begin),
            (Old::Branch(offset), Code::Walked { .. }) => {
                Some(pc == begin + offset && code.bytes::<1>(pc)?[0] & 0xf0 == JUMP_X86)
            }
            (Old::Cmpxchg, Code::Walked { .. }) => Some(cmpxchg(code.bytes(pc)?).is_some()),
            _ => Some(false),
        };
        let (step, len) = match code {
            Code::Text(_) => (4, 4),
            Code::Walked { .. } => (1, 5),
        };
        let mut places = Vec::new();
        for pc in (begin..(end + 1).saturating_sub(len)).step_by(step) {
            let is = is(pc).ok_or_else(|| format!("{function} is not where the kernel's code is"));
            if is? {
                places.push(pc);
            }
        }
        match (places.is_empty(), self) {
            (false, _) => Ok(places),
            (true, Old::Call(callee)) => Err(format!("{function} does not call {callee}")),
            (true, _) => Err(format!("{function} has no such instruction: {self:x?}")),
        }
    }
}

impl Patch {
    /// Does it; says what was done. Instructions of `moved` are not where they were.
    pub(crate) fn apply(
        &self,
        symbols: &Symbols,
        code: Code<'_>,
        moved: &[u64],
    ) -> Result<String, String> {
        let Patch { function, old, new } = self;
        let mut done = "changed:".to_owned();
        let is_cmpxchg = |pc: &u64| code.bytes(*pc).is_some_and(|bytes| cmpxchg(bytes).is_some());
        let places = match old.find(function, symbols, code) {
            Err(_) if *old == Old::Cmpxchg && moved.iter().any(is_cmpxchg) => {
                moved.iter().copied().filter(is_cmpxchg).collect()
            }
            found => found?,
        };
        for pc in places {
            let written = match (new, old) {
                (New::Word(word), _) => code.write_word(pc, *word),
                (New::Nop, Old::Call(_)) => code.write_bytes(pc, &[0x0f, 0x1f, 0x44, 0, 0]),
                (New::Nop, Old::Branch(_)) => code.write_bytes(pc, &[0x66, 0x90]),
                (New::Ret, Old::Entry) => code.write_bytes(pc, &[0xc3]),
                (New::Store, Old::Cmpxchg) => {
                    code.bytes(pc).and_then(|bytes| code.write_bytes(pc, &store(bytes)?))
                }
                _ => None,
            };
            written.ok_or_else(|| format!("{function} cannot be changed so: {self:x?}"))?;
            done += &format!(" {}", symbols.site(pc));
        }
        Ok(done)
    }
}

/// What these bytes of x86 call, if they do.
pub(crate) fn called_x86(pc: u64, bytes: [u8; 5]) -> Option<u64> {
    let [CALL_X86, a, b, c, d] = bytes else { return None };
    let distance = i64::from(i32::from_le_bytes([a, b, c, d]));
    Some(pc.wrapping_add(5).wrapping_add_signed(distance))
}

/// How long these bytes are, if they are `LOCK CMPXCHG r64, (r)` or `..., disp8(r)`.
pub(crate) fn cmpxchg(bytes: [u8; 5]) -> Option<u64> {
    let [0xf0, 0x48..=0x4f, 0x0f, 0xb1, modrm] = bytes else { return None };
    match (modrm >> 6, modrm & 7) {
        // With an index, or relative to the instruction.
        (_, 4) | (0, 5) => None,
        (0, _) => Some(5),
        (1, _) => Some(6),
        _ => None,
    }
}

/// A store of as many bytes as a compare-and-exchange, and `cmp eax, eax`: it was equal.
fn store(bytes: [u8; 6]) -> Option<Vec<u8>> {
    let [a, rex, b, c, modrm, displacement] = bytes;
    let len = cmpxchg([a, rex, b, c, modrm])?;
    Some([&[rex, 0x89, modrm, displacement][..len as usize - 2], &[0x39, 0xc0]].concat())
}

/// What an instruction calls, if it is `BL`.
pub(crate) fn called(pc: u64, word: u32) -> Option<u64> {
    let distance = i64::from((word << 6) as i32 >> 6) * 4;
    (word >> 26 == 0b10_0101).then(|| pc.wrapping_add_signed(distance))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_are_read() {
        let (function, new) = ("f".to_owned(), New::Word(0xd503_201f));
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
        assert_eq!(called_x86(0x1000, [0xe8, 0xfb, 0xff, 0xff, 0xff]), Some(0x1000));
        assert_eq!(called_x86(0x1000, [0xe8, 0x01, 0, 0, 0]), Some(0x1006));
        assert_eq!(called_x86(0x1000, [0xe9, 0x01, 0, 0, 0]), None, "a jump");
    }

    #[test]
    fn compare_and_exchange_of_x86() {
        assert_eq!(cmpxchg([0xf0, 0x48, 0x0f, 0xb1, 0x0b]), Some(5), "(%rbx)");
        assert_eq!(cmpxchg([0xf0, 0x4c, 0x0f, 0xb1, 0x4d]), Some(6), "8(%rbp)");
        assert_eq!(cmpxchg([0xf0, 0x48, 0x0f, 0xb1, 0x0d]), None, "relative");
        assert_eq!(cmpxchg([0xf0, 0x48, 0x0f, 0xb1, 0x0c]), None, "with an index");
        assert_eq!(cmpxchg([0xf0, 0x48, 0x0f, 0xc1, 0x0b]), None, "xadd");
    }

    #[test]
    fn a_store_is_as_long() {
        let own = [0xf0, 0x48, 0x0f, 0xb1, 0x0b, 0x90];
        assert_eq!(store(own).unwrap(), [0x48, 0x89, 0x0b, 0x39, 0xc0], "mov %rcx, (%rbx)");
        let far = [0xf0, 0x4c, 0x0f, 0xb1, 0x4d, 0x08];
        assert_eq!(store(far).unwrap(), [0x4c, 0x89, 0x4d, 0x08, 0x39, 0xc0]);
    }

    #[test]
    fn what_was_moved_is_changed_where_it_is() {
        use crate::hold::Holding;
        let mut symbols = Symbols::new(kvmmu_steps::event::Arch::X86);
        symbols.push("100 t f\n200 t g\n300 t ptrace_request\n400 t other\n");
        symbols.complete();
        let ram = crate::code::tests::machine("moved", 4);
        let code = Code::x86(&ram, 1 << 12, 4);
        let own = [0xf0, 0x48, 0x0f, 0xb1, 0x0b];
        let store = Some([0x48, 0x89, 0x0b, 0x39, 0xc0]);
        let patch: Patch = "f:cmpxchg:store".parse().unwrap();
        code.write_bytes(0x150, &own).unwrap();
        assert_eq!(patch.apply(&symbols, code, &[]).unwrap(), "changed: f+0x50");
        assert_eq!(code.bytes(0x150), store);
        code.write_bytes(0x150, &own).unwrap();
        let hold = ["a:f:cmpxchg:enter".parse().unwrap()];
        let holding = Holding::prepare(&hold, &symbols, code).unwrap();
        let moved: Vec<u64> = holding.iter().flat_map(Holding::moved).collect();
        assert_eq!((moved.as_slice(), code.bytes(0x30d)), (&[0x30d][..], Some(own)));
        assert_eq!(holding[0].home(0x30d), Some(0x150));
        assert_eq!(patch.apply(&symbols, code, &moved).unwrap(), "changed: ptrace_request+0xd");
        assert_eq!(code.bytes(0x30d), store);
        assert!(patch.apply(&symbols, code, &[]).is_err(), "it is not in f");
        // Nothing is written where there is no room.
        let mut short = Symbols::new(kvmmu_steps::event::Arch::X86);
        short.push("100 t f\n300 t ptrace_request\n310 t other\n");
        short.complete();
        code.write_bytes(0x150, &own).unwrap();
        assert!(Holding::prepare(&hold, &short, code).unwrap_err().contains("too short"));
        assert_eq!(code.bytes(0x150), Some(own));
        let none = Symbols::new(kvmmu_steps::event::Arch::X86);
        assert!(Holding::prepare(&[], &none, code).unwrap().is_empty(), "none is asked for");
    }

    #[test]
    fn calls_go_both_ways() {
        assert_eq!(called(0x1000, 0x9400_0001), Some(0x1004));
        assert_eq!(called(0x1000, 0x97ff_ffff), Some(0xffc));
        assert_eq!(called(0x1000, 0x1400_0001), None);
    }
}
