//! The MMU of shadow pages: shadow paging, and the legacy direct MMU, which is made of the same
//! pages. Its state, and, file by file, what KVM does with it.

mod child;
mod clear_dirty;
mod direct;
mod fast_fault;
mod fast_fault_indirect;
mod guest_ad;
mod large;
mod lockless;
mod map;
mod mmio;
pub mod paging;
mod paging_tmpl;
mod pte_write;
mod rmap;
mod seam;
mod shadow_page;
mod spte_update;
mod sync;
mod tables;
mod unsync;
pub mod walk;
mod write_protect;

pub use fast_fault_indirect::IndirectFastFault;

use paging::{LARGE_PAGES, PG_LEVEL_4K, PT_ENTRIES, SHADOW_PAGES, SpteSet, large_page_of};

use crate::guard::Guard;
use crate::host::Host;
use crate::platform::{Local, Platform};
use crate::spte::SpteFormat;
use crate::tag::{Object, Tag};
use crate::transition::{Algorithm, Transitions};
use crate::types::{CpuId, Gfn, SpId, SpteLoc};
use crate::virt::{GFNS, MmuState, VCPUS};
use crate::vm::Vm;
use crate::x86::PmlBuffer;

/// What of `struct kvm_arch` and its vCPUs is this MMU's.
#[derive(Debug)]
pub struct ShadowMmu<P: Platform> {
    /// The layout of its SPTEs.
    pub format: SpteFormat,
    /// Which version's algorithms it runs.
    pub algorithm: Algorithm,
    /// What a fast fault on an indirect page would do.
    pub indirect_fast_fault: IndirectFastFault,
    /// `max_huge_page_level`: the highest level at which SPTEs map pages.
    pub max_huge_page_level: u8,
    /// The memory of the shadow pages: what lockless walkers and hardware see of them.
    pub tables: [Table<P>; SHADOW_PAGES],
    /// `kvm->arch.indirect_shadow_pages`. Protected by: `mmu_lock`; `kvm_mmu_pte_write` peeks.
    pub indirect_shadow_pages: P::Word,
    /// `slot->arch.gfn_track`, by gfn: how many shadow pages above the 4K level shadow it.
    /// Protected by: `mmu_lock`; faults read it without.
    pub gfn_track: [P::Word; GFNS],
    /// `sp->unsync_children`, by shadow page: how many bits its `unsync_child_bitmap` has.
    /// Protected by: `mmu_lock`; `kvm_mmu_sync_roots` reads it without. `None`: every shadowed
    /// table stays write-protected, as in kernels with the module parameter `oos_shadow` (to 3.0)
    /// off.
    pub unsync_children: Option<[P::Word; SHADOW_PAGES]>,
    /// The buffer of page-modification logging and its index in the VMCS, by vCPU. Only the CPU
    /// that runs it and the vCPU's own thread touch it. `None`: no PML.
    pub pml: Option<[PmlBuffer<P>; VCPUS]>,
    /// `vcpu->arch.mmio_gfn` or `mmio_gva`, and `mmio_gen`, by vCPU: the page, counted from 1, in
    /// the low byte. Only the vCPU's own thread touches it.
    mmio_info: [P::Local; VCPUS],
    /// `vcpu->arch.mmu`, by vCPU: where its walks begin. `root_hpa`, the shadow page, in the low
    /// byte; above it the frame of the guest's own root, counted from 1, or 0 with paging off or
    /// with two-dimensional paging. Only the vCPU's own thread and its CPU's walker touch it.
    roots: [P::Local; VCPUS],
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

/// What only the owner of `mmu_lock` touches. To have one is to hold the lock: functions
/// that need the lock take it as their first argument.
pub type Locked = MmuState<ShadowPages>;

/// What `mmu_lock` guards of this MMU.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ShadowPages {
    /// The shadow pages.
    pub pages: [ShadowPage; SHADOW_PAGES],
    /// `slot->arch.rmap`, by gfn: the 4K leaf SPTEs that map it.
    /// Invariant: when the lock is released, a leaf is shadow-present if and only if it is here
    /// once, or a large one in `large_rmap`.
    rmap: [SpteSet; GFNS],
    /// The same above the 4K level, by large page.
    large_rmap: [SpteSet; LARGE_PAGES],
    /// `slot->arch.lpage_info`, its `disallow_lpage`, by large page: how many shadow pages there
    /// are of guest tables in it.
    disallow_lpage: [u8; LARGE_PAGES],
}

/// `struct kvm_mmu_page`, the part that only the owner of `mmu_lock` touches.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
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
    /// `sp->unsync`: its guest table may be written, and be ahead of it. Of the 4K level only.
    pub unsync: bool,
    /// `sp->unsync_child_bitmap`: the entries below which a page may be out of sync.
    pub unsync_child_bitmap: u8,
}

/// `union kvm_mmu_page_role`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
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
    /// That of a table which maps a part of a large page of the guest. `writable`: all of the
    /// guest's entries allow writes.
    pub const fn below_large(level: u8, writable: bool) -> Role {
        Role { level, direct: true, writable, invalid: false }
    }
    /// That of the shadow of a guest table. `writable`: the entries above it allow writes.
    pub const fn indirect(level: u8, writable: bool) -> Role {
        Role { level, direct: false, writable, invalid: false }
    }
}

impl ShadowPage {
    /// In the hash table and not zapped.
    pub fn is_valid(&self) -> bool {
        self.in_use && !self.role.invalid
    }
    /// It shadows this frame as a guest table (`for_each_gfn_indirect_valid_sp`).
    pub fn shadows(&self, gfn: Gfn) -> bool {
        self.is_valid() && !self.role.direct && self.gfn == gfn
    }
    /// gfn and role in one word, for lockless walkers.
    pub fn header(&self) -> Header {
        Header::new(self.gfn, self.role.level, self.role.direct)
    }
}

impl ShadowPages {
    /// The page of this place in the pool.
    pub fn page(&self, sp: SpId) -> &ShadowPage {
        &self.pages[usize::from(sp.0)]
    }
    /// The same, to be changed.
    pub(crate) fn page_mut(&mut self, sp: SpId) -> &mut ShadowPage {
        &mut self.pages[usize::from(sp.0)]
    }
    /// The leaf SPTEs of this level that map a frame.
    pub fn rmap(&self, gfn: Gfn, level: u8) -> SpteSet {
        match level {
            PG_LEVEL_4K => self.rmap[gfn.0 as usize],
            _ => self.large_rmap[large_page_of(gfn)],
        }
    }
    /// The same, to be changed.
    fn rmap_mut(&mut self, gfn: Gfn, level: u8) -> &mut SpteSet {
        match level {
            PG_LEVEL_4K => &mut self.rmap[gfn.0 as usize],
            _ => &mut self.large_rmap[large_page_of(gfn)],
        }
    }
}

/// gfn and role as a lockless walker reads them. Level 0: the table was never used.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Header(pub u64);

impl Header {
    /// That of a table of this level: of a direct one, the first frame that it maps.
    pub const fn new(gfn: Gfn, level: u8, direct: bool) -> Header {
        Header(gfn.0 << 8 | (level as u64) << 1 | direct as u64)
    }
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

impl<P: Platform> ShadowMmu<P> {
    /// An MMU with no shadow pages and no roots, of 5.10.
    pub fn new(p: &P, format: SpteFormat) -> Self {
        ShadowMmu {
            format,
            algorithm: Algorithm::V5_10,
            indirect_fast_fault: IndirectFastFault::Gfns,
            max_huge_page_level: PG_LEVEL_4K,
            tables: core::array::from_fn(|i| Table {
                spt: core::array::from_fn(|j| p.word(Tag::at(Object::Spte, i, j), 0)),
                gfns: core::array::from_fn(|j| {
                    let gfn = p.word(Tag::at(Object::Gfns, i, j), 0);
                    p.forget(&gfn);
                    gfn
                }),
                header: p.word(Tag::nth(Object::SpHeader, i), 0),
            }),
            indirect_shadow_pages: p.word(Tag::one(Object::IndirectShadowPages), 0),
            gfn_track: core::array::from_fn(|i| p.word(Tag::nth(Object::GfnTrack, i), 0)),
            unsync_children: None,
            pml: None,
            mmio_info: core::array::from_fn(|_| p.local(0)),
            roots: core::array::from_fn(|_| p.local(0)),
        }
    }

    /// Shadowed tables may go out of sync from now on.
    pub fn allow_unsync(&mut self, p: &P) {
        let word = |i| p.word(Tag::nth(Object::UnsyncChildren, i), 0);
        self.unsync_children = Some(core::array::from_fn(word));
    }

    /// Hardware logs what it makes dirty from now on (`enable_pml`).
    pub fn enable_pml(&mut self, p: &P) {
        self.pml = Some(core::array::from_fn(|_| PmlBuffer::new(p)));
    }

    /// `sp->gfns[index]`.
    #[inline]
    pub fn gfns(&self, loc: SpteLoc) -> &P::Word {
        &self.tables[usize::from(loc.sp.0)].gfns[usize::from(loc.index)]
    }

    /// What a vCPU remembers of its last access to a page without a memslot.
    fn mmio_info(&self, cpu: CpuId) -> &P::Local {
        &self.mmio_info[usize::from(cpu.0)]
    }

    /// Gives a vCPU a root.
    fn set_root(&self, cpu: CpuId, hpa: SpId, guest: Option<Gfn>) {
        let pgd = guest.map_or(0, |gfn| gfn.0 + 1);
        self.roots[usize::from(cpu.0)].set(pgd << 8 | u64::from(hpa.0));
    }
}

impl<P: Platform, H: Host> Vm<P, H, ShadowMmu<P>> {
    /// What its SPTEs may become.
    #[inline]
    pub(crate) fn transitions(&self) -> Transitions<'_, impl Fn(Guard) -> bool + '_> {
        let guard = |guard| self.p.guard(guard);
        Transitions { format: &self.mmu.format, algorithm: self.mmu.algorithm, guard }
    }
}
