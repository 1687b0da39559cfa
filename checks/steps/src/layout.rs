//! What the bits of a descriptor mean.

use crate::event::{Arch, Frame};

/// The layout of descriptors: 4 KiB pages, 512 entries a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layout {
    /// Stage 2 of arm64. Level 3 is the last one.
    Stage2,
    /// Nested or shadow page tables of x86. Level 1 is the last one.
    X86,
}

/// What a descriptor is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// It translates nothing, and is zero.
    Empty,
    /// It translates nothing, and is not zero.
    Invalid,
    /// It leads to a page of descriptors.
    Table(Frame),
    /// It maps memory.
    Leaf(Leaf),
}

/// What a descriptor that maps memory says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leaf {
    /// The first page.
    pub page: Frame,
    /// The guest may read.
    pub readable: bool,
    /// The guest may write.
    pub writable: bool,
    /// The guest may execute.
    pub executable: bool,
    /// It was used: AF or A.
    pub accessed: bool,
    /// It was written: D of x86.
    pub dirty: bool,
    /// Anything else: memory type, shareability, software's own bits.
    pub other: u64,
}

const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
const VALID: u64 = 1;

/// Bits of stage 2.
mod stage2 {
    pub(super) const TABLE_OR_PAGE: u64 = 1 << 1;
    pub(super) const READ: u64 = 1 << 6;
    pub(super) const WRITE: u64 = 1 << 7;
    pub(super) const AF: u64 = 1 << 10;
    pub(super) const XN: u64 = 1 << 54;
}

/// Bits of x86.
mod x86 {
    pub(super) const WRITABLE: u64 = 1 << 1;
    pub(super) const ACCESSED: u64 = 1 << 5;
    pub(super) const DIRTY: u64 = 1 << 6;
    pub(super) const LARGE: u64 = 1 << 7;
    pub(super) const NX: u64 = 1 << 63;
    /// What hardware leaves to software, where KVM keeps H and M among others.
    pub(super) const SOFTWARE: u64 = 0x7 << 9 | 0x7ff << 52;
    /// A reserved bit by which KVM marks MMIO: nothing is translated.
    pub(super) const MMIO: u64 = 1 << 51;
}

impl Layout {
    /// That of a machine.
    pub const fn of(arch: Arch) -> Layout {
        match arch {
            Arch::Arm64 => Layout::Stage2,
            Arch::X86 => Layout::X86,
        }
    }

    /// How many levels there are below this one.
    const fn below(self, level: i8) -> u32 {
        match self {
            Layout::Stage2 => 3_i8.saturating_sub(level) as u32,
            Layout::X86 => level.saturating_sub(1) as u32,
        }
    }

    /// How many guest frames an entry of a level translates, as a power of two.
    pub const fn shift(self, level: i8) -> u32 {
        9 * self.below(level)
    }

    /// What is added to a level for the next one down.
    pub const fn down(self) -> i8 {
        match self {
            Layout::Stage2 => 1,
            Layout::X86 => -1,
        }
    }

    /// The page of descriptors that an entry leads to.
    pub fn child(self, word: u64, level: i8) -> Option<Frame> {
        match self.entry(word, level) {
            Entry::Table(page) => Some(page),
            _ => None,
        }
    }

    /// What an entry of a level is.
    pub fn entry(self, word: u64, level: i8) -> Entry {
        if word == 0 {
            return Entry::Empty;
        }
        if word & VALID == 0 {
            return Entry::Invalid;
        }
        let page = Frame::of(word & ADDRESS);
        match self {
            Layout::Stage2 => {
                use stage2::{AF, READ, TABLE_OR_PAGE, WRITE, XN};
                if level < 3 && word & TABLE_OR_PAGE != 0 {
                    return Entry::Table(page);
                }
                Entry::Leaf(Leaf {
                    page,
                    readable: word & READ != 0,
                    writable: word & WRITE != 0,
                    executable: word & XN == 0,
                    accessed: word & AF != 0,
                    dirty: false,
                    other: word & !(ADDRESS | VALID | READ | WRITE | AF | XN),
                })
            }
            Layout::X86 => {
                use x86::{ACCESSED, DIRTY, LARGE, MMIO, NX, SOFTWARE, WRITABLE};
                if word & MMIO != 0 {
                    return Entry::Invalid;
                }
                if level > 1 && word & LARGE == 0 {
                    return Entry::Table(page);
                }
                Entry::Leaf(Leaf {
                    page,
                    readable: true,
                    writable: word & WRITABLE != 0,
                    executable: word & NX == 0,
                    accessed: word & ACCESSED != 0,
                    dirty: word & DIRTY != 0,
                    other: word & !(ADDRESS | VALID | WRITABLE | ACCESSED | DIRTY | NX | SOFTWARE),
                })
            }
        }
    }

    /// An entry in words: `pa 0x40007000 RW-A`, on x86 with D.
    pub fn describe(self, word: u64, level: i8) -> String {
        match self.entry(word, level) {
            Entry::Empty => "0".to_owned(),
            Entry::Invalid => format!("invalid {word:#x}"),
            Entry::Table(page) => format!("table {page}"),
            Entry::Leaf(leaf) => {
                let dirty = match (self, leaf.dirty) {
                    (Layout::Stage2, _) => "",
                    (Layout::X86, true) => "D",
                    (Layout::X86, false) => "-",
                };
                format!("pa {} {}{dirty}", leaf.page, leaf.rights())
            }
        }
    }
}

impl Leaf {
    /// `RW-A`: what the guest may do, and whether it was used.
    pub fn rights(&self) -> String {
        let all = [
            (self.readable, 'R'),
            (self.writable, 'W'),
            (self.executable, 'X'),
            (self.accessed, 'A'),
        ];
        all.map(|(on, letter)| if on { letter } else { '-' }).iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_stage_2() {
        let layout = Layout::Stage2;
        assert_eq!(layout.describe(0x0040_0000_4000_77ff, 3), "pa 0x40007000 RW-A");
        assert_eq!(layout.describe(0x0040_0000_4000_777f, 3), "pa 0x40007000 R--A");
        assert_eq!(layout.child(0x4814_a003, 2), Some(Frame(0x4814a)));
        assert_eq!(layout.child(0x4814_a003, 3), None);
        assert_eq!(layout.describe(0x4814_a002, 3), "invalid 0x4814a002");
        assert_eq!([1, 2, 3].map(|level| layout.shift(level)), [18, 9, 0]);
    }

    #[test]
    fn entries_of_x86() {
        let layout = Layout::X86;
        assert_eq!(layout.child(0x1234_5067, 2), Some(Frame(0x12345)));
        assert_eq!(layout.child(0x1220_00e7, 2), None);
        assert_eq!(layout.describe(0x8000_0000_1234_5061, 1), "pa 0x12345000 R--AD");
        assert_eq!(layout.describe(0x0008_0000_0001_0001, 1), "invalid 0x8000000010001");
        assert_eq!([4, 3, 2, 1].map(|level| layout.shift(level)), [27, 18, 9, 0]);
    }
}
