//! Which step of the protocol a store to a descriptor is.

use core::fmt;

use crate::layout::{Entry, Layout, Leaf};

/// Steps that a store can be.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// A leaf where there was nothing.
    Map,
    /// A page of descriptors where there was nothing.
    Link,
    /// The guest may do more than before.
    Relax,
    /// The guest may not write any more.
    WriteProtect,
    /// It counts as not used.
    MakeOld,
    /// It counts as used.
    MakeYoung,
    /// It counts as not written: D of x86.
    MakeClean,
    /// A leaf goes.
    Unmap,
    /// A page of descriptors goes.
    Unlink,
    /// What translates nothing has another value.
    Annotate,
    /// The same value again, or a compare-and-exchange that failed.
    Same,
    /// A descriptor that translates becomes one that translates something else.
    Replace,
    /// None of these.
    Other,
}

impl Step {
    /// The step from one value to another, at a level.
    pub fn of(layout: Layout, level: i8, old: u64, new: u64) -> Step {
        if old == new {
            return Step::Same;
        }
        match (layout.entry(old, level), layout.entry(new, level)) {
            (Entry::Empty | Entry::Invalid, Entry::Leaf(_)) => Step::Map,
            (Entry::Empty | Entry::Invalid, Entry::Table(_)) => Step::Link,
            (Entry::Empty | Entry::Invalid, _) => Step::Annotate,
            (Entry::Leaf(_), Entry::Empty | Entry::Invalid) => Step::Unmap,
            (Entry::Table(_), Entry::Empty | Entry::Invalid) => Step::Unlink,
            (Entry::Leaf(old), Entry::Leaf(new)) => attributes(old, new),
            (Entry::Table(_), _) | (_, Entry::Table(_)) => Step::Replace,
        }
    }

    /// TLBs may still have what it takes away.
    pub fn takes_away(self) -> bool {
        matches!(self, Step::WriteProtect | Step::Unmap | Step::Unlink)
    }
}

/// Both map memory.
fn attributes(old: Leaf, new: Leaf) -> Step {
    if (old.page, old.other) != (new.page, new.other) {
        return Step::Replace;
    }
    let rights = |leaf: Leaf| [leaf.readable, leaf.writable, leaf.executable];
    let (was, is) = (rights(old), rights(new));
    let lost = was.iter().zip(is).any(|(was, is)| *was && !is);
    let gained = was.iter().zip(is).any(|(was, is)| !*was && is);
    match (lost, gained) {
        (false, false) if old.dirty && !new.dirty => Step::MakeClean,
        (false, false) if new.accessed || !old.accessed => Step::MakeYoung,
        (false, false) => Step::MakeOld,
        (false, true) if new.accessed >= old.accessed => Step::Relax,
        (true, false) if is == [was[0], false, was[2]] && new.accessed == old.accessed => {
            Step::WriteProtect
        }
        _ => Step::Other,
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Step::Map => "map",
            Step::Link => "link",
            Step::Relax => "relax",
            Step::WriteProtect => "write-protect",
            Step::MakeOld => "make-old",
            Step::MakeYoung => "make-young",
            Step::MakeClean => "make-clean",
            Step::Unmap => "unmap",
            Step::Unlink => "unlink",
            Step::Annotate => "annotate",
            Step::Same => "same",
            Step::Replace => "replace",
            Step::Other => "other",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A page of stage 2: R, W, X, AF as asked for.
    fn leaf(page: u64, rights: &str) -> u64 {
        let bit = |letter, bit: u64| if rights.contains(letter) { bit } else { 0 };
        let xn = if rights.contains('X') { 0 } else { 1 << 54 };
        page << 12 | 0x33f | bit('R', 1 << 6) | bit('W', 1 << 7) | bit('A', 1 << 10) | xn
    }

    #[test]
    fn steps_of_x86() {
        let cases = [
            (0, 0x25d_ac67, Step::Map),
            (0x25d_ac67, 0x25d_ac65, Step::WriteProtect),
            (0x25d_ac65, 0x25d_ac67, Step::Relax),
            (0x25d_ac67, 0x25d_ac47, Step::MakeOld),
            (0x25d_ac67, 0x25d_ac27, Step::MakeClean),
            (0x25d_ac27, 0x25d_ac67, Step::MakeYoung),
            (0x25d_ac67, 0x25d_a467, Step::MakeYoung),
            (0x25d_ac67, 0, Step::Unmap),
            (0x25d_ac67, 0x26d_ac67, Step::Replace),
        ];
        for (old, new, step) in cases {
            assert_eq!(Step::of(Layout::X86, 1, old, new), step, "{old:#x} {new:#x}");
        }
    }

    #[test]
    fn steps_of_stage_2() {
        let rw = leaf(7, "RWA");
        let cases = [
            (0, rw, 3, Step::Map),
            (rw & !1, rw, 3, Step::Map),
            (0, 0x4000_0003, 2, Step::Link),
            (0x4000_0003, 0, 2, Step::Unlink),
            (0x4000_0003, 0x4000_0002, 2, Step::Unlink),
            (rw, 0, 3, Step::Unmap),
            (rw, leaf(7, "RA"), 3, Step::WriteProtect),
            (leaf(7, "RA"), rw, 3, Step::Relax),
            (leaf(7, "RA"), leaf(7, "RXA"), 3, Step::Relax),
            (rw, leaf(7, "RW"), 3, Step::MakeOld),
            (leaf(7, "RW"), rw, 3, Step::MakeYoung),
            (rw, rw, 3, Step::Same),
            (rw, leaf(8, "RWA"), 3, Step::Replace),
            (rw, leaf(7, "WA"), 3, Step::Other),
            (0x4000_07fd, 0x4000_0003, 2, Step::Replace),
            (0, 1 << 10, 3, Step::Annotate),
        ];
        for (old, new, level, step) in cases {
            assert_eq!(Step::of(Layout::Stage2, level, old, new), step, "{old:#x} {new:#x}");
        }
    }
}
