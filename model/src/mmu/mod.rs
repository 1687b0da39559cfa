//! The MMU: its shared state and, file by file, what KVM does with it.

mod direct;
mod dirty_log;
mod fast_fault;
mod flush;
mod lockless;
mod map;
mod notifier;
mod nx_huge_pages;
mod paging_tmpl;
mod pte_write;
mod rmap;
mod shadow_page;
mod spte_update;
mod vcpu;
mod write_protect;

pub use direct::RetPf;
pub use fast_fault::IndirectFastFault;
pub use paging_tmpl::GuestWalk;
pub use pte_write::Emulated;
pub use vcpu::{
    EXITING_GUEST_MODE, IN_GUEST_MODE, KVM_REQ_TLB_FLUSH, KVM_REQ_TLB_FLUSH_CURRENT,
    OUTSIDE_GUEST_MODE, READING_SHADOW_PAGE_TABLES,
};

use crate::guard::Guard;
use crate::host::Host;
use crate::kvm::Kvm;
use crate::lock::LockClass;
use crate::platform::Platform;
use crate::spte::SpteFormat;
use crate::tag::{Object, Tag};
use crate::transition::{Algorithm, Transitions};
use crate::types::{CpuId, Gfn, SpId, SpteLoc};

/// Entries of a table: 512 in hardware.
pub const PT_ENTRIES: usize = 4;
/// Shadow pages in the pool.
pub const SHADOW_PAGES: usize = 6;
/// Guest frames.
pub const GFNS: usize = 8;
/// vCPUs.
pub const VCPUS: usize = 4;
/// Memslots.
pub const MEMSLOTS: usize = 2;
/// The level of a root: two levels of tables.
pub const ROOT_LEVEL: u8 = 2;
/// `PG_LEVEL_4K`.
pub const PG_LEVEL_4K: u8 = 1;

/// `struct kvm` and `struct kvm_arch`, as far as the MMU goes.
#[derive(Debug)]
pub struct Mmu<P: Platform, H: Host> {
    /// What it stands on.
    pub p: P,
    /// The host kernel around it.
    pub host: H,
    /// The layout of its SPTEs.
    pub format: SpteFormat,
    /// Which version's algorithms it runs; see [`Mmu::algorithm`].
    algorithm: Algorithm,
    /// What a fast fault on an indirect page would do.
    pub indirect_fast_fault: IndirectFastFault,
    /// The memory of the shadow pages: what lockless walkers and hardware see of them.
    pub tables: [Table<P>; SHADOW_PAGES],
    /// `kvm->mmu_lock` and what only its owner touches.
    pub mmu_lock: P::Lock<MmuState>,
    /// The rest of the VM.
    pub kvm: Kvm<P>,
    /// `kvm->mmu_notifier_seq`. Protected by: `mmu_lock`; faults read it before they take the lock.
    pub notifier_seq: P::Word,
    /// `kvm->arch.indirect_shadow_pages`. Protected by: `mmu_lock`; `kvm_mmu_pte_write` peeks.
    pub indirect_shadow_pages: P::Word,
    /// `slot->arch.gfn_track`, by gfn: how many shadow pages above the 4K level shadow it.
    /// Protected by: `mmu_lock`; faults read it without.
    pub gfn_track: [P::Word; GFNS],
    /// What is in each memslot; [`Mmu::kvm_memslots`] says which there are.
    pub memslots: [Option<Memslot<P>>; MEMSLOTS],
    /// The vCPUs.
    pub vcpus: [Vcpu<P>; VCPUS],
    /// How many vCPUs there are.
    pub nr_vcpus: u8,
}

/// The memory of a shadow page.
#[derive(Debug)]
pub struct Table<P: Platform> {
    /// `sp->spt`. Protected by: `mmu_lock`, but for lockless fast faults and for hardware, which
    /// sets A and D.
    pub spt: [P::Word; PT_ENTRIES],
    /// `sp->gfns`, in indirect pages: the gfn that each leaf maps. Protected by: `mmu_lock`.
    pub gfns: [P::Word; PT_ENTRIES],
    /// gfn and role, as lockless walkers read them. Constant while the page is in use.
    pub header: P::Word,
}

/// `struct kvm_memory_slot`.
#[derive(Debug)]
pub struct Memslot<P: Platform> {
    /// Its first frame.
    pub base_gfn: Gfn,
    /// How many frames.
    pub npages: u64,
    /// `dirty_bitmap`, present while dirty logging is on: bit i is frame `base_gfn + i`. No lock:
    /// set by atomic operations, fetched and cleared by the harvest.
    pub dirty_bitmap: Option<P::Word>,
}

/// `struct kvm_vcpu`.
#[derive(Debug)]
pub struct Vcpu<P: Platform> {
    /// `vcpu->mode`.
    pub mode: P::Word,
    /// `vcpu->requests`.
    pub requests: P::Word,
    /// Its root shadow page (`vcpu->arch.mmu->root_hpa`).
    pub root: SpId,
    /// The guest frame of its page-table root; `None` with paging off or with two-dimensional
    /// paging.
    pub guest_root: Option<Gfn>,
}

/// What only the owner of `mmu_lock` touches.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct MmuState {
    /// The shadow pages.
    pub pages: [ShadowPage; SHADOW_PAGES],
    /// `slot->arch.rmap`, by gfn: the 4K leaf SPTEs that map it.
    /// Invariant: when the lock is released, a leaf is shadow-present if and only if it is here
    /// once.
    pub rmap: [SpteSet; GFNS],
    /// `kvm->mmu_notifier_count`: invalidations in progress.
    pub notifier_count: u8,
}

/// `struct kvm_mmu_page`, the part that only the owner of `mmu_lock` touches.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ShadowPage {
    /// Whether the memory is in use.
    pub in_use: bool,
    /// The frame: of the guest table (indirect) or the first that it maps (direct).
    pub gfn: Gfn,
    /// What it is for.
    pub role: Role,
    /// `sp->parent_ptes`: the non-leaf SPTEs that point here.
    pub parent_ptes: SpteSet,
    /// `sp->root_count`: vCPUs that use it as their root.
    pub root_count: u8,
}

/// `union kvm_mmu_page_role`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Role {
    /// The level of its table: 1 maps 4 KiB pages.
    pub level: u8,
    /// True if it shadows no guest table.
    pub direct: bool,
    /// `access`: the guest's entries above its table allow writes. A table that is reached by
    /// writable and by read-only entries has two shadow pages.
    pub writable: bool,
    /// True once it was zapped.
    pub invalid: bool,
}

impl Role {
    /// That of a table which shadows none.
    pub const fn direct(level: u8) -> Role {
        Role { level, direct: true, writable: true, invalid: false }
    }
    /// That of the shadow of a guest table. `writable`: the entries above it allow writes.
    pub const fn indirect(level: u8, writable: bool) -> Role {
        Role { level, direct: false, writable, invalid: false }
    }
}

/// A set of SPTE places: an rmap chain, or the parents of a shadow page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct SpteSet(pub u32);

const _: () = assert!(SHADOW_PAGES * PT_ENTRIES <= u32::BITS as usize);

impl SpteSet {
    const fn bit(loc: SpteLoc) -> u32 {
        1 << (loc.sp.0 as usize * PT_ENTRIES + loc.index as usize)
    }
    /// Adds a place.
    pub fn insert(&mut self, loc: SpteLoc) {
        self.0 |= SpteSet::bit(loc);
    }
    /// Takes a place out.
    pub fn remove(&mut self, loc: SpteLoc) {
        self.0 &= !SpteSet::bit(loc);
    }
    /// True if the place is in.
    pub fn contains(self, loc: SpteLoc) -> bool {
        self.0 & SpteSet::bit(loc) != 0
    }
    /// True if there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
    /// The places, lowest first.
    pub fn iter(self) -> impl Iterator<Item = SpteLoc> {
        all_spte_locs().filter(move |loc| self.contains(*loc))
    }
}

/// Every SPTE place of the pool.
pub fn all_spte_locs() -> impl Iterator<Item = SpteLoc> {
    (0..SHADOW_PAGES as u8)
        .flat_map(|sp| (0..PT_ENTRIES as u8).map(move |index| SpteLoc { sp: SpId(sp), index }))
}

/// The entries of one shadow page.
pub fn entries_of(sp: SpId) -> impl Iterator<Item = SpteLoc> {
    (0..PT_ENTRIES as u8).map(move |index| SpteLoc { sp, index })
}

/// The index that an address (a gfn or a guest-virtual page number) has in a table of this level.
pub fn index_at(level: u8, page: u64) -> u8 {
    const BITS: u32 = PT_ENTRIES.trailing_zeros();
    const { assert!(PT_ENTRIES.is_power_of_two()) };
    (page >> (BITS * (u32::from(level) - 1)) & (PT_ENTRIES as u64 - 1)) as u8
}

impl ShadowPage {
    const UNUSED: ShadowPage = ShadowPage {
        in_use: false,
        gfn: Gfn(0),
        role: Role { level: 0, direct: true, writable: true, invalid: true },
        parent_ptes: SpteSet(0),
        root_count: 0,
    };
    /// In the hash table and not zapped.
    pub fn is_valid(&self) -> bool {
        self.in_use && !self.role.invalid
    }
    /// gfn and role in one word, for lockless walkers.
    pub fn header(&self) -> u64 {
        self.gfn.0 << 8 | u64::from(self.role.level) << 1 | u64::from(self.role.direct)
    }
}

/// gfn and role as a lockless walker reads them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Header(pub u64);

impl Header {
    /// `sp->gfn`.
    pub fn gfn(self) -> Gfn {
        Gfn(self.0 >> 8)
    }
    /// `sp->role.level`.
    pub fn level(self) -> u8 {
        (self.0 >> 1 & 0x7f) as u8
    }
    /// `sp->role.direct`.
    pub fn is_direct(self) -> bool {
        self.0 & 1 != 0
    }
}

/// A memslot to be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemslotConfig {
    /// Its first frame.
    pub base_gfn: Gfn,
    /// How many frames.
    pub npages: u64,
    /// True if dirty logging is on.
    pub log: bool,
}

impl<P: Platform, H: Host> Mmu<P, H> {
    /// An MMU with no shadow pages. vCPU roots are set by [`Mmu::kvm_mmu_load`].
    ///
    /// # Panics
    /// If there are more slots or vCPUs than the model has room for.
    pub fn new(
        p: &P,
        host: H,
        kvm: Kvm<P>,
        format: SpteFormat,
        slots: &[MemslotConfig],
        nr_vcpus: u8,
    ) -> Self {
        assert!(slots.len() <= MEMSLOTS && usize::from(nr_vcpus) <= VCPUS);
        let one = |object| p.word(Tag::one(object), 0);
        let memslots = core::array::from_fn(|i| {
            slots.get(i).map(|s| Memslot {
                base_gfn: s.base_gfn,
                npages: s.npages,
                dirty_bitmap: s.log.then(|| p.word(Tag::nth(Object::DirtyBitmap, i), 0)),
            })
        });
        let state = MmuState {
            pages: [ShadowPage::UNUSED; SHADOW_PAGES],
            rmap: [SpteSet::default(); GFNS],
            notifier_count: 0,
        };
        Mmu {
            format,
            algorithm: P::ALGORITHM.unwrap_or(Algorithm::V5_10),
            indirect_fast_fault: IndirectFastFault::Gfns,
            tables: core::array::from_fn(|i| Table {
                spt: core::array::from_fn(|j| p.word(Tag::at(Object::Spte, i, j), 0)),
                gfns: core::array::from_fn(|j| p.word(Tag::at(Object::Gfns, i, j), 0)),
                header: p.word(Tag::nth(Object::SpHeader, i), 0),
            }),
            mmu_lock: p.lock(LockClass::MmuLock.one(), state),
            kvm,
            notifier_seq: one(Object::NotifierSeq),
            indirect_shadow_pages: one(Object::IndirectShadowPages),
            gfn_track: core::array::from_fn(|i| p.word(Tag::nth(Object::GfnTrack, i), 0)),
            memslots,
            vcpus: core::array::from_fn(|i| Vcpu {
                mode: p.word(Tag::nth(Object::VcpuMode, i), OUTSIDE_GUEST_MODE),
                requests: p.word(Tag::nth(Object::VcpuRequests, i), 0),
                root: SpId(0),
                guest_root: None,
            }),
            nr_vcpus,
            p: p.clone(),
            host,
        }
    }

    /// Which version's algorithms it runs: 5.10's, unless told otherwise.
    #[inline(always)]
    pub fn algorithm(&self) -> Algorithm {
        P::ALGORITHM.unwrap_or(self.algorithm)
    }

    /// Lets it run the algorithms of a version, before its first fault.
    ///
    /// # Panics
    /// If the platform is compiled for another version.
    pub fn set_algorithm(&mut self, algorithm: Algorithm) {
        assert!(
            P::ALGORITHM.is_none_or(|fixed| fixed == algorithm),
            "not compiled for {algorithm:?}"
        );
        self.algorithm = algorithm;
    }

    /// What its SPTEs may become.
    pub(crate) fn transitions(&self) -> Transitions<'_, impl Fn(Guard) -> bool + '_> {
        let guard = |guard| self.p.guard(guard);
        Transitions { format: &self.format, algorithm: self.algorithm(), guard }
    }

    /// The memory of an SPTE.
    pub fn sptep(&self, loc: SpteLoc) -> &P::Word {
        &self.tables[usize::from(loc.sp.0)].spt[usize::from(loc.index)]
    }

    /// A vCPU, which is also its CPU.
    pub fn vcpu(&self, cpu: CpuId) -> &Vcpu<P> {
        &self.vcpus[usize::from(cpu.0)]
    }
}
