//! The quantities of the protocol, as types that cannot be mixed up.

/// A guest frame number: a guest-physical address in units of 4 KiB.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Gfn(pub u64);

/// Guest frames in a row, as memslots and invalidations have them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct GfnRange {
    /// The first.
    pub start: Gfn,
    /// The one behind the last.
    pub end: Gfn,
}

impl GfnRange {
    /// So many from this one on.
    pub const fn new(start: Gfn, npages: u64) -> GfnRange {
        GfnRange { start, end: Gfn(start.0 + npages) }
    }
    /// This one alone.
    pub const fn one(gfn: Gfn) -> GfnRange {
        GfnRange::new(gfn, 1)
    }
    /// True if the frame is one of them.
    pub fn contains(self, gfn: Gfn) -> bool {
        (self.start..self.end).contains(&gfn)
    }
    /// True if all of the others are.
    pub fn covers(self, other: GfnRange) -> bool {
        self.start <= other.start && other.end <= self.end
    }
    /// The frames, lowest first.
    pub fn iter(self) -> impl Iterator<Item = Gfn> {
        (self.start.0..self.end.0).map(Gfn)
    }
}

/// A host page frame number: a host-physical address in units of 4 KiB.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Pfn(pub u64);

/// A guest-virtual page number. With guest paging off it equals the [`Gfn`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Gva(pub u64);

/// A physical CPU, or the vCPU that is on it at first: most stay there ([`crate::Mmu::cpu_of`]).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct CpuId(pub u8);

/// What tells the TLB entries of one VM from those of another, on arm64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Vmid(pub u8);

/// A set of CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct CpuMask(pub u64);

impl CpuMask {
    /// Adds a CPU.
    #[inline]
    pub fn insert(&mut self, cpu: CpuId) {
        self.0 |= 1 << cpu.0;
    }
    /// True if the CPU is in the set.
    #[inline]
    pub fn contains(self, cpu: CpuId) -> bool {
        self.0 >> cpu.0 & 1 == 1
    }
    /// True if no CPU is in the set.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
    /// The CPUs of the set, lowest first.
    pub fn iter(self) -> impl Iterator<Item = CpuId> {
        (0..64).filter(move |c| self.0 >> c & 1 == 1).map(CpuId)
    }
}

/// A shadow page (`struct kvm_mmu_page`), by its place in the pool.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct SpId(pub u8);

/// The place of an SPTE: a shadow page and an index into its table (`u64 *sptep`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct SpteLoc {
    /// The shadow page.
    pub sp: SpId,
    /// The index into its table.
    pub index: u8,
}

/// What hardware says of a fault.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FaultStatus {
    /// The translation was there and did not allow the access: `PFERR_PRESENT_MASK`, a permission
    /// fault of arm64.
    pub present: bool,
    /// The level of the entry that did not allow it, as arm64 counts levels (`ESR_ELx.FSC`). 0
    /// where hardware does not say, and of a fault that is no permission fault.
    pub level: u8,
}

impl FaultStatus {
    /// A fault of hardware that says no level.
    pub const fn present(present: bool) -> FaultStatus {
        FaultStatus { present, level: 0 }
    }
}

/// What the guest tried to do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Access {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An instruction fetch.
    Fetch,
}
