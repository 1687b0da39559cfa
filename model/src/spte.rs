//! SPTE formats, and the questions that can be asked of one SPTE.
//!
//! Linux v5.10 `arch/x86/kvm/mmu/spte.h`, `spte.c`. Nothing here touches shared memory. Which bit
//! means what depends on the format, so every question is put to the [`SpteFormat`]; the formats
//! themselves are in `layouts.rs`.

mod layouts;

use core::fmt;

use crate::types::{Access, Gfn, Pfn, SpId};

/// The value of a shadow page-table entry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Spte(pub u64);

/// Host pages that hold shadow pages start here; guest pages stay below.
pub const SHADOW_PAGES_BASE: u64 = 0x100;

/// Where an MMIO SPTE has its generation.
const MMIO_GENERATION_SHIFT: u32 = 3;
/// `MMIO_SPTE_GEN_MASK`: two bits for the 18 of the kernel, so that few updates wrap.
pub const MMIO_GENERATION_MASK: u64 = 0b11;

impl Spte {
    /// The empty SPTE.
    pub const ZERO: Spte = Spte(0);

    /// The same SPTE with these bits set.
    #[must_use]
    #[inline]
    pub const fn with(self, bits: u64) -> Spte {
        Spte(self.0 | bits)
    }
    /// The same SPTE with these bits clear.
    #[must_use]
    #[inline]
    pub const fn without(self, bits: u64) -> Spte {
        Spte(self.0 & !bits)
    }
    /// True if all of these bits are set.
    #[inline]
    pub const fn has(self, bits: u64) -> bool {
        self.0 & bits == bits
    }
}

impl fmt::Debug for Spte {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A format: which bit of an SPTE means what.
///
/// KVM keeps these in global variables (`shadow_accessed_mask`, ...), set once when the module
/// loads, and in constants that changed between versions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SpteFormat {
    /// The name that scenario files use.
    pub name: &'static str,
    /// What every leaf has that hardware may translate by, whatever it permits: P; R of EPT; valid,
    /// type, S2AP\[0\] and memory attributes of stage 2.
    pub present_mask: u64,
    /// Hardware translates by an entry only if all of these are set: P; R of EPT; valid and AF of
    /// stage 2.
    pub translates_mask: u64,
    /// W: `PT_WRITABLE_MASK`; S2AP\[1\] of stage 2, or DBM where hardware keeps the dirty state.
    pub writable_mask: u64,
    /// What write protection clears: W, and D where D = 1 alone would let hardware write (DBM).
    pub write_protect_mask: u64,
    /// `shadow_user_mask`: U; none in EPT and stage 2.
    pub user_mask: u64,
    /// `shadow_x_mask`: X of EPT; 0 where NX says it.
    pub x_mask: u64,
    /// `shadow_nx_mask`.
    pub nx_mask: u64,
    /// `shadow_accessed_mask`; 0 without A/D bits.
    pub accessed_mask: u64,
    /// `shadow_dirty_mask`; 0 without A/D bits.
    pub dirty_mask: u64,
    /// `shadow_acc_track_mask`: what access tracking takes away. RWX on every EPT host, AF and W in
    /// stage 2 without hardware A/D, 0 elsewhere.
    pub acc_track_mask: u64,
    /// What of it is saved in the SPTE, `acc_track_saved_shift` bits up: R and X of EPT.
    pub acc_track_saved_mask: u64,
    /// `SHADOW_ACC_TRACK_SAVED_BITS_SHIFT`.
    pub acc_track_saved_shift: u32,
    /// What a restore sets in any case: AF of stage 2.
    pub acc_track_restore_mask: u64,
    /// `SPTE_HOST_WRITEABLE` (H): the host maps the page writable.
    pub host_writable_mask: u64,
    /// `SPTE_MMU_WRITEABLE` (M): the guest may write and the page is no shadowed page table.
    pub mmu_writable_mask: u64,
    /// `SPTE_MMU_PRESENT_MASK` (from 5.13 on): what says that KVM maps something here. 0: any value
    /// but 0 and MMIO says so.
    pub mmu_present_mask: u64,
    /// The field for A/D bits: off, or on but dirty logging by write protection only.
    pub ad_mask: u64,
    /// Its value where accessed and dirty bits are off for this SPTE.
    pub ad_disabled: u64,
    /// Which bits tell MMIO SPTEs.
    pub mmio_mask: u64,
    /// Their value in an MMIO SPTE; 0: the format has none.
    pub mmio_value: u64,
    /// Which bits tell an entry of an upper level that maps a page: PS, or the type of stage 2.
    pub last_mask: u64,
    /// Their value in such an entry.
    pub last_value: u64,
    /// Where the pfn is.
    pub pfn_mask: u64,
    /// arm64: a TLB may go on denying what the entry in memory allows by now, until a TLBI.
    /// Elsewhere a fault is decided by a fresh walk.
    pub caches_permission_faults: bool,
}

impl SpteFormat {
    /// The page that a leaf maps (`spte_to_pfn`).
    #[inline]
    pub const fn pfn(&self, spte: Spte) -> Pfn {
        Pfn((spte.0 & self.pfn_mask) >> 12)
    }
    /// The same SPTE for another page.
    #[must_use]
    #[inline]
    pub const fn with_pfn(&self, spte: Spte, pfn: Pfn) -> Spte {
        Spte(spte.0 & !self.pfn_mask | pfn.0 << 12)
    }
    /// The shadow page that a non-leaf points to.
    #[inline]
    pub const fn child(&self, spte: Spte) -> SpId {
        SpId((self.pfn(spte).0 - SHADOW_PAGES_BASE) as u8)
    }
    /// `is_mmio_spte`.
    #[inline]
    pub const fn is_mmio(&self, spte: Spte) -> bool {
        self.mmio_value != 0 && spte.0 & self.mmio_mask == self.mmio_value
    }
    /// `make_mmio_spte`: no memslot of this generation has the frame.
    pub const fn mmio(&self, gfn: Gfn, generation: u64) -> Spte {
        // A layout may mark MMIO by a bit of the address.
        Spte(self.mmio_value | generation << MMIO_GENERATION_SHIFT | gfn.0 << 12)
    }
    /// `get_mmio_spte_gfn`.
    pub const fn mmio_gfn(&self, spte: Spte) -> Gfn {
        Gfn(self.pfn(spte.without(self.mmio_mask)).0)
    }
    /// `get_mmio_spte_generation`.
    pub const fn mmio_generation(&self, spte: Spte) -> u64 {
        spte.0 >> MMIO_GENERATION_SHIFT & MMIO_GENERATION_MASK
    }
    /// `is_shadow_present_pte`. An access-tracked SPTE is present in this sense, though not to
    /// hardware.
    #[inline]
    pub const fn is_shadow_present(&self, spte: Spte) -> bool {
        if self.mmu_present_mask != 0 {
            return spte.has(self.mmu_present_mask);
        }
        spte.0 != 0 && !self.is_mmio(spte)
    }
    /// `is_last_spte`: an entry of this level maps a page.
    #[inline]
    pub const fn is_last(&self, spte: Spte, level: u8) -> bool {
        level == 1 || spte.0 != 0 && spte.0 & self.last_mask == self.last_value
    }
    /// `is_large_pte`, of an entry above the 4K level: it maps a page.
    #[inline]
    pub const fn is_large(&self, spte: Spte) -> bool {
        self.is_shadow_present(spte) && spte.0 & self.last_mask == self.last_value
    }
    /// The same leaf in an entry above the 4K level: with PS, or as a block of stage 2.
    #[must_use]
    #[inline]
    pub const fn large(&self, leaf: Spte) -> Spte {
        leaf.without(self.last_mask).with(self.last_value)
    }
    /// `is_writable_pte`: W.
    #[inline]
    pub const fn is_writable(&self, spte: Spte) -> bool {
        spte.has(self.writable_mask)
    }
    /// H.
    #[inline]
    pub const fn is_host_writable(&self, spte: Spte) -> bool {
        spte.has(self.host_writable_mask)
    }
    /// M.
    #[inline]
    pub const fn is_mmu_writable(&self, spte: Spte) -> bool {
        spte.has(self.mmu_writable_mask)
    }
    /// `spte_can_locklessly_be_made_writable`: H and M.
    #[inline]
    pub const fn can_locklessly_be_made_writable(&self, spte: Spte) -> bool {
        self.is_host_writable(spte) && self.is_mmu_writable(spte)
    }
    /// True if (H, M, W) of a present leaf is one of 111, 110, 100 and 000. W = 1 without both H
    /// and M is always a bug; M without H is what `change_pte` left behind before 5.18.
    #[inline]
    pub const fn is_legal_leaf(&self, spte: Spte) -> bool {
        let (h, m) = (self.is_host_writable(spte), self.is_mmu_writable(spte));
        (h || !m) && (m || !self.is_writable(spte))
    }
    /// `spte_ad_enabled`.
    #[inline]
    pub const fn ad_enabled(&self, spte: Spte) -> bool {
        spte.0 & self.ad_mask != self.ad_disabled
    }
    /// `spte_ad_need_write_protect`: its dirty logging cannot rest on the D bit.
    #[inline]
    pub const fn ad_need_write_protect(&self, spte: Spte) -> bool {
        spte.0 & self.ad_mask != 0
    }
    /// `is_access_track_spte`: A/D bits off and no permission left.
    #[inline]
    pub const fn is_access_track(&self, spte: Spte) -> bool {
        !self.ad_enabled(spte) && spte.0 & self.acc_track_mask == 0
    }
    /// `is_accessed_spte`.
    #[inline]
    pub const fn is_accessed(&self, spte: Spte) -> bool {
        if self.ad_enabled(spte) {
            spte.0 & self.accessed_mask != 0
        } else {
            !self.is_access_track(spte)
        }
    }
    /// `is_dirty_spte`.
    #[inline]
    pub const fn is_dirty(&self, spte: Spte) -> bool {
        if self.ad_enabled(spte) { spte.0 & self.dirty_mask != 0 } else { self.is_writable(spte) }
    }
    /// `is_access_allowed`: what hardware would say of this entry alone.
    #[inline]
    pub const fn allows(&self, spte: Spte, access: Access) -> bool {
        let permitted = match access {
            Access::Read => true,
            Access::Write => self.is_writable(spte),
            Access::Fetch => spte.0 & (self.x_mask | self.nx_mask) == self.x_mask,
        };
        spte.has(self.translates_mask) && !self.is_mmio(spte) && permitted
    }
    /// What hardware says of a fault by this entry: true if the translation was there but did not
    /// allow the access (`PFERR_PRESENT_MASK`; a permission fault of arm64).
    #[inline]
    pub const fn fault_is_present(&self, spte: Spte) -> bool {
        spte.has(self.translates_mask)
    }
    /// The same SPTE without W.
    #[must_use]
    #[inline]
    pub const fn write_protected(&self, spte: Spte) -> Spte {
        spte.without(self.write_protect_mask)
    }
    /// A leaf that permits reads and fetches, neither accessed nor dirty.
    #[inline]
    pub const fn leaf(&self, pfn: Pfn) -> Spte {
        let ad = if self.accessed_mask == 0 { self.ad_disabled } else { 0 };
        let bits = self.present_mask | self.mmu_present_mask | self.user_mask | self.x_mask | ad;
        self.with_pfn(Spte(bits), pfn)
    }
    /// `make_nonleaf_spte`: everything is allowed, H and M are never set.
    pub const fn nonleaf(&self, child: SpId) -> Spte {
        self.leaf(Pfn(SHADOW_PAGES_BASE + child.0 as u64))
            .with(self.writable_mask | self.accessed_mask)
    }
    /// `mark_spte_for_access_track`. With A/D bits it clears A. Without, it saves what the format
    /// saves and clears the permissions; W is saved too only if guard `access-track-drops-w` is
    /// removed (`save_w`).
    pub const fn mark_for_access_track(&self, spte: Spte, save_w: bool) -> Spte {
        if self.ad_enabled(spte) {
            return spte.without(self.accessed_mask);
        }
        if self.is_access_track(spte) {
            return spte;
        }
        let w = if save_w { self.writable_mask } else { 0 };
        let saved = spte.0 & (self.acc_track_saved_mask | w);
        spte.without(self.acc_track_mask | self.acc_track_saved(true))
            .with(saved << self.acc_track_saved_shift)
    }
    /// `restore_acc_track_spte`: gives the saved permissions back. W stays clear unless it was
    /// saved.
    pub const fn restore_acc_track(&self, spte: Spte) -> Spte {
        let saved = spte.0 & self.acc_track_saved(true);
        spte.without(self.acc_track_saved(true))
            .with(saved >> self.acc_track_saved_shift | self.acc_track_restore_mask)
    }
    /// The bits that hold saved permissions.
    const fn acc_track_saved(&self, with_w: bool) -> u64 {
        let w = if with_w { self.writable_mask } else { 0 };
        (self.acc_track_saved_mask | w) << self.acc_track_saved_shift
    }
}

/// A guest page-table entry as the guest stores it, in one byte.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Gpte(pub u8);

impl Gpte {
    /// Present.
    pub const P: u8 = 1 << 7;
    /// Writable.
    pub const W: u8 = 1 << 6;
    /// `PT_PAGE_SIZE_MASK`: an entry above the 4K level that maps a page.
    pub const PS: u8 = 1 << 5;
    /// `PT_GUEST_ACCESSED_MASK`.
    pub const A: u8 = 1 << 4;
    /// `PT_GUEST_DIRTY_MASK`.
    pub const D: u8 = 1 << 3;
    /// The frame.
    const GFN: u8 = Gpte::D - 1;

    /// An entry that points to a frame below 8, with A and D set.
    pub const fn new(gfn: Gfn, writable: bool) -> Gpte {
        let w = if writable { Gpte::W } else { 0 };
        Gpte(Gpte::P | Gpte::A | Gpte::D | w | gfn.0 as u8 & Gpte::GFN)
    }
    /// The same with these bits.
    #[must_use]
    pub const fn with(self, bits: u8) -> Gpte {
        Gpte(self.0 | bits)
    }
    /// The same without these bits.
    #[must_use]
    pub const fn without(self, bits: u8) -> Gpte {
        Gpte(self.0 & !bits)
    }
    /// True if all of these bits are set.
    pub const fn has(self, bits: u8) -> bool {
        self.0 & bits == bits
    }
    /// Present.
    pub const fn is_present(self) -> bool {
        self.has(Gpte::P)
    }
    /// Writable.
    pub const fn is_writable(self) -> bool {
        self.has(Gpte::W)
    }
    /// A.
    pub const fn is_accessed(self) -> bool {
        self.has(Gpte::A)
    }
    /// D.
    pub const fn is_dirty(self) -> bool {
        self.has(Gpte::D)
    }
    /// `is_last_gpte`: an entry of this level maps a page.
    pub const fn is_last(self, level: u8) -> bool {
        level == 1 || self.has(Gpte::PS)
    }
    /// The frame.
    pub const fn gfn(self) -> Gfn {
        Gfn((self.0 & Gpte::GFN) as u64)
    }
}

const _: () = assert!(crate::virt::GFNS <= Gpte::GFN as usize + 1, "an entry names every frame");
