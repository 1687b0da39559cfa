//! What is seen of a running kernel: one event for each step that matters, in the order in which
//! they happened.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The architecture of a machine.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Arch {
    /// With EL2, its kernel at EL2 (VHE).
    #[serde(rename = "arm64")]
    Arm64,
    /// With SVM.
    #[serde(rename = "x86-64")]
    X86,
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Arch::Arm64 => "arm64",
            Arch::X86 => "x86-64",
        })
    }
}

/// A page of the machine's memory, by its number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Frame(pub u64);

impl Frame {
    /// The page that an address is in.
    pub const fn of(address: u64) -> Frame {
        Frame(address >> 12)
    }

    /// Its first address.
    pub const fn address(self) -> u64 {
        self.0 << 12
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.address())
    }
}

/// A descriptor: a word of a page of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Place {
    /// The page.
    pub table: Frame,
    /// Which word.
    pub index: u16,
}

/// An event.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Event {
    /// The CPU, by the order in which they were seen.
    pub cpu: u8,
    /// The thread, by the order in which they were seen.
    pub thread: u32,
    /// The instruction, by the order in which they were seen: see [`Site`].
    pub site: u32,
    /// What happened.
    pub what: What,
}

/// An instruction of the kernel.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Site {
    /// Its address in this boot.
    pub pc: u64,
    /// The function that it is in; empty: not known.
    pub function: String,
    /// How far from the function's beginning.
    pub offset: u32,
}

impl Site {
    /// True if its name is one that may be printed.
    pub(crate) fn is_plain(&self) -> bool {
        is_plain(&self.function)
    }
}

/// Nothing of a file reaches a terminal as more than text.
fn is_plain(text: &str) -> bool {
    text.len() <= NAME_MAX && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// No name is longer.
const NAME_MAX: usize = 512;

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.function.as_str() {
            "" => write!(f, "{:#x}", self.pc),
            name => write!(f, "{name}+{:#x}", self.offset),
        }
    }
}

/// What happens.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum What {
    /// A page is one of descriptors from now on.
    Table {
        /// The page.
        page: Frame,
        /// Its level: 3 is the last one on arm64, 1 on x86.
        level: i8,
        /// The first guest frame that it translates.
        first: u64,
        /// The first page of the tree that it belongs to.
        root: Frame,
        /// What it contains already, other than zero.
        entries: Vec<(u16, u64)>,
    },
    /// Nothing leads to a page of descriptors any more.
    Detach {
        /// The page.
        page: Frame,
    },
    /// What was a page of descriptors is written by code that does not write descriptors.
    Reuse {
        /// The page.
        page: Frame,
    },
    /// A store of the kernel to a descriptor.
    Store {
        /// Where.
        place: Place,
        /// What was there.
        old: u64,
        /// What is there now.
        new: u64,
    },
    /// A descriptor was changed by no store: by the table walker, at some time since `since`.
    Hardware {
        /// Where.
        place: Place,
        /// What was there.
        old: u64,
        /// What is there now.
        new: u64,
        /// The number of the last event at which it had not changed yet.
        since: u64,
    },
    /// An instruction that invalidates TLB entries.
    Tlbi {
        /// Which one.
        op: Tlbi,
        /// Its operand.
        operand: u64,
        /// The tree that the CPU's translations are of.
        root: Frame,
        /// The number (VMID, ASID) under which they are kept.
        id: u32,
    },
    /// An instruction that waits for stores, or for TLB invalidation.
    Barrier(Barrier),
    /// A CPU begins to run a guest.
    Enter {
        /// The tree.
        root: Frame,
        /// The number (VMID, ASID) of its translations.
        id: u32,
        /// What tells vCPUs apart: on x86 the VMCB.
        vcpu: u64,
        /// TLB entries that are dropped by it: of x86.
        flush: Option<EntryFlush>,
        /// The guest's instruction.
        pc: u64,
    },
    /// A CPU has left a guest.
    Exit {
        /// Why: ESR_EL2, or the exit code of the VMCB.
        reason: u64,
        /// The virtual address of a fault, or EXITINFO1.
        address: u64,
        /// The guest-physical address of a fault.
        ipa: u64,
    },
    /// A function of the kernel begins: its number, and the first of its arguments.
    Call {
        /// Which of [`crate::functions::NAMES`].
        function: u8,
        /// Registers, as many as the calling convention has arguments in, five at most.
        arguments: [u64; 5],
    },
    /// It returns.
    Return {
        /// Which of [`crate::functions::NAMES`].
        function: u8,
        /// What it returns, if it returns anything.
        value: u64,
    },
    /// A store to a word that is watched.
    Word {
        /// Which one.
        word: Word,
        /// Its virtual address.
        address: u64,
        /// What was there; of a dirty bitmap it is not known, and 0.
        old: u64,
        /// What is there now.
        new: u64,
    },
    /// A guest's access went through a translation that no descriptor gives.
    Stale {
        /// The page that it reached.
        page: Frame,
        /// It was a store.
        store: bool,
        /// Some descriptor maps the page: it was a store, and none of them is writable.
        mapped: bool,
    },
    /// What user space says of itself.
    User(User),
    /// A load of a word that is watched, by a function that handles a fault.
    Read {
        /// Which one.
        word: Word,
        /// Its virtual address.
        address: u64,
        /// What it saw.
        value: u64,
    },
    /// A load of a descriptor, by a function that handles a fault.
    Load {
        /// Where.
        place: Place,
        /// What it saw.
        value: u64,
    },
}

impl What {
    /// True if its numbers are in range, and its words are such as may be printed.
    pub(crate) fn is_plain(&self) -> bool {
        let frame = |frame: &Frame| frame.0 < 1 << 52;
        let place = |place: &Place| frame(&place.table) && place.index < 512;
        match self {
            What::Table { page, level, first, root, entries } => {
                let index = |(index, _): &(u16, u64)| *index < 512;
                frame(page)
                    && frame(root)
                    && (0..=5).contains(level)
                    && *first < 1 << 52
                    && entries.iter().all(index)
            }
            What::Store { place: at, .. }
            | What::Hardware { place: at, .. }
            | What::Load { place: at, .. } => place(at),
            What::Detach { page } | What::Reuse { page } | What::Stale { page, .. } => frame(page),
            What::Tlbi { root, .. } | What::Enter { root, .. } => frame(root),
            What::User(User::Kernel { version, release, .. }) => {
                is_plain(version) && is_plain(release)
            }
            What::User(User::Mark { op, fields, .. }) => {
                is_plain(op) && fields.iter().all(|(name, _)| is_plain(name))
            }
            What::Barrier(_)
            | What::Exit { .. }
            | What::Call { .. }
            | What::Return { .. }
            | What::Word { .. }
            | What::Read { .. } => true,
        }
    }
}

/// A word that is watched.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Word {
    /// `kvm->mmu_lock`.
    MmuLock,
    /// `kvm->mmu_notifier_count`, later `mmu_invalidate_in_progress`.
    InvalidateCount,
    /// `kvm->mmu_notifier_seq`, later `mmu_invalidate_seq`.
    InvalidateSeq,
    /// A word of a dirty bitmap, where a page is marked.
    DirtyBitmap,
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Word::MmuLock => "mmu_lock",
            Word::InvalidateCount => "mmu_notifier_count",
            Word::InvalidateSeq => "mmu_notifier_seq",
            Word::DirtyBitmap => "dirty_bitmap",
        })
    }
}

/// What user space says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum User {
    /// The kernel that runs.
    Kernel {
        /// The version of its source.
        version: String,
        /// `uname -r`.
        release: String,
        /// How many functions of it were found, of those that are recorded.
        functions: u32,
    },
    /// It begins or ends something: a run, a round of the harvest, an ioctl.
    Mark {
        /// What: a name.
        op: String,
        /// It ends it.
        exit: bool,
        /// Fields by name.
        fields: Vec<(String, u64)>,
    },
}

/// TLB invalidations: those of arm64 by the names of the architecture.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Tlbi {
    /// `TLBI IPAS2E1IS`: stage 2, of one guest frame, on all CPUs.
    Ipas2e1is,
    /// `TLBI IPAS2LE1IS`: the same, entries of the last level only.
    Ipas2le1is,
    /// `TLBI RIPAS2E1IS`: a range of guest frames.
    Ripas2e1is,
    /// `TLBI IPAS2E1`: stage 2, of one guest frame, on this CPU.
    Ipas2e1,
    /// `TLBI VMALLS12E1IS`: both stages, of one VMID, on all CPUs.
    Vmalls12e1is,
    /// `TLBI VMALLS12E1`: the same, on this CPU.
    Vmalls12e1,
    /// `TLBI VMALLE1IS`: stage 1 and what combines both stages, of one VMID, on all CPUs.
    Vmalle1is,
    /// `TLBI VMALLE1`: the same, on this CPU.
    Vmalle1,
    /// `TLBI ALLE1IS`: everything that is EL1's, of all VMIDs, on all CPUs.
    Alle1is,
    /// `TLBI ALLE1`: the same, on this CPU.
    Alle1,
    /// Another one: op1, CRm and op2 of its encoding.
    Other(u8, u8, u8),
    /// `INVLPGA` of x86.
    Invlpga,
}

impl fmt::Display for Tlbi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Tlbi::Ipas2e1is => "IPAS2E1IS",
            Tlbi::Ipas2le1is => "IPAS2LE1IS",
            Tlbi::Ripas2e1is => "RIPAS2E1IS",
            Tlbi::Ipas2e1 => "IPAS2E1",
            Tlbi::Vmalls12e1is => "VMALLS12E1IS",
            Tlbi::Vmalls12e1 => "VMALLS12E1",
            Tlbi::Vmalle1is => "VMALLE1IS",
            Tlbi::Vmalle1 => "VMALLE1",
            Tlbi::Alle1is => "ALLE1IS",
            Tlbi::Alle1 => "ALLE1",
            Tlbi::Other(op1, crm, op2) => return write!(f, "op1 {op1} CRm {crm} op2 {op2}"),
            Tlbi::Invlpga => "INVLPGA",
        })
    }
}

/// What an entry into a guest drops: `tlb_ctl` of the VMCB.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum EntryFlush {
    /// Everything of this CPU.
    All,
    /// What is kept under this guest's ASID.
    Own,
}

/// Barriers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Barrier {
    /// `DSB ISH`, or a stronger one: waits for stores, and for invalidations on all CPUs.
    DsbIsh,
    /// `DSB ISHST`: waits for stores.
    DsbIshst,
    /// `DSB NSH`: this CPU only.
    DsbNsh,
    /// `DSB NSHST`: this CPU, stores only.
    DsbNshst,
    /// One of loads, or of an outer domain that KVM does not use.
    DsbOther,
}

impl fmt::Display for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Barrier::DsbIsh => "DSB ISH",
            Barrier::DsbIshst => "DSB ISHST",
            Barrier::DsbNsh => "DSB NSH",
            Barrier::DsbNshst => "DSB NSHST",
            Barrier::DsbOther => "DSB",
        })
    }
}
