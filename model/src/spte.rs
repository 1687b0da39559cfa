//! SPTE layouts, and the questions that can be asked of one SPTE.
//!
//! Linux v5.10 `arch/x86/kvm/mmu/spte.h`, `spte.c`. Nothing here touches shared memory.

use core::fmt;

use crate::types::{Access, Pfn, SpId};

/// The value of a shadow page-table entry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Spte(pub u64);

/// `PT_WRITABLE_MASK`: bit 1 in every layout.
pub const PT_WRITABLE_MASK: u64 = 1 << 1;
/// `PT_PAGE_SIZE_MASK`: the entry of an upper level maps a large page.
pub const PT_PAGE_SIZE_MASK: u64 = 1 << 7;
/// `SPTE_HOST_WRITEABLE` (H): the host maps the page writable.
pub const SPTE_HOST_WRITEABLE: u64 = 1 << 10;
/// `SPTE_MMU_WRITEABLE` (M): the guest may write and the page is no shadowed page table.
pub const SPTE_MMU_WRITEABLE: u64 = 1 << 11;
/// The two-bit special field.
pub const SPTE_SPECIAL_MASK: u64 = 3 << 52;
/// Special field: accessed and dirty bits are off for this SPTE.
pub const SPTE_AD_DISABLED_MASK: u64 = 1 << 52;
/// Special field: A/D bits on, but dirty logging by write protection only.
pub const SPTE_AD_WRPROT_ONLY_MASK: u64 = 2 << 52;
/// Special field: an MMIO SPTE.
pub const SPTE_MMIO_MASK: u64 = 3 << 52;
/// Where R and X of an access-tracked SPTE are saved: bits 54 and 56.
pub const SHADOW_ACC_TRACK_SAVED_BITS_SHIFT: u32 = 54;

const PFN_MASK: u64 = ((1 << 52) - 1) & !0xfff;
/// R and X, in the layouts that track accesses.
const SAVED_BITS: u64 = 0b101;
/// Host pages that hold shadow pages start here; guest pages stay below.
const SHADOW_PAGES_BASE: u64 = 0x100;

impl Spte {
    /// The empty SPTE.
    pub const ZERO: Spte = Spte(0);

    /// The page that a leaf maps (`spte_to_pfn`).
    #[inline]
    pub const fn pfn(self) -> Pfn {
        Pfn((self.0 & PFN_MASK) >> 12)
    }
    /// The shadow page that a non-leaf points to.
    #[inline]
    pub const fn child(self) -> SpId {
        SpId((self.pfn().0 - SHADOW_PAGES_BASE) as u8)
    }
    /// `is_mmio_spte`.
    #[inline]
    pub const fn is_mmio(self) -> bool {
        self.0 & SPTE_SPECIAL_MASK == SPTE_MMIO_MASK
    }
    /// `is_shadow_present_pte`. An access-tracked SPTE is present in this sense, though not to
    /// hardware.
    #[inline]
    pub const fn is_shadow_present(self) -> bool {
        self.0 != 0 && !self.is_mmio()
    }
    /// `is_writable_pte`: W.
    #[inline]
    pub const fn is_writable(self) -> bool {
        self.0 & PT_WRITABLE_MASK != 0
    }
    /// H.
    #[inline]
    pub const fn is_host_writable(self) -> bool {
        self.0 & SPTE_HOST_WRITEABLE != 0
    }
    /// M.
    #[inline]
    pub const fn is_mmu_writable(self) -> bool {
        self.0 & SPTE_MMU_WRITEABLE != 0
    }
    /// `spte_can_locklessly_be_made_writable`: H and M.
    #[inline]
    pub const fn can_locklessly_be_made_writable(self) -> bool {
        self.is_host_writable() && self.is_mmu_writable()
    }
    /// `spte_ad_enabled`.
    #[inline]
    pub const fn ad_enabled(self) -> bool {
        self.0 & SPTE_SPECIAL_MASK != SPTE_AD_DISABLED_MASK
    }
    /// `spte_ad_need_write_protect`: its dirty logging cannot rest on the D bit.
    #[inline]
    pub const fn ad_need_write_protect(self) -> bool {
        self.0 & SPTE_SPECIAL_MASK != 0
    }
    /// `is_last_spte`: an entry of this level maps a page.
    #[inline]
    pub const fn is_last(self, level: u8) -> bool {
        level == 1 || self.0 & PT_PAGE_SIZE_MASK != 0
    }
    /// True if (H, M, W) of a present leaf is one of 111, 110, 100 and 000. W = 1 without both H
    /// and M is always a bug; M without H is what `change_pte` left behind before 5.18.
    #[inline]
    pub const fn is_legal_leaf(self) -> bool {
        let (h, m, w) = (self.is_host_writable(), self.is_mmu_writable(), self.is_writable());
        (h || !m) && (m || !w)
    }
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
    /// The same SPTE for another page.
    #[must_use]
    #[inline]
    pub const fn with_pfn(self, pfn: Pfn) -> Spte {
        Spte(self.0 & !PFN_MASK | pfn.0 << 12)
    }
}

impl fmt::Debug for Spte {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A layout: where the bits are that differ between EPT, NPT and the legacy format.
///
/// KVM keeps these in global variables (`shadow_accessed_mask`, ...), set once when the module
/// loads.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SpteFormat {
    /// The name that scenario files use.
    pub name: &'static str,
    /// P, or R of EPT.
    pub present_mask: u64,
    /// `shadow_user_mask`: U; none in EPT.
    pub user_mask: u64,
    /// `shadow_x_mask`: X of EPT; 0 where NX says it.
    pub x_mask: u64,
    /// `shadow_nx_mask`.
    pub nx_mask: u64,
    /// `shadow_accessed_mask`; 0 without A/D bits.
    pub accessed_mask: u64,
    /// `shadow_dirty_mask`; 0 without A/D bits.
    pub dirty_mask: u64,
    /// `shadow_acc_track_mask`: RWX on every EPT host, 0 elsewhere.
    pub acc_track_mask: u64,
}

impl SpteFormat {
    /// EPT with accessed and dirty bits.
    pub const EPT: SpteFormat = SpteFormat {
        name: "ept",
        present_mask: 1,
        user_mask: 0,
        x_mask: 1 << 2,
        nx_mask: 0,
        accessed_mask: 1 << 8,
        dirty_mask: 1 << 9,
        acc_track_mask: 0b111,
    };
    /// EPT without them: accesses are tracked by taking the permissions away.
    pub const EPT_NO_AD: SpteFormat =
        SpteFormat { name: "ept-no-ad", accessed_mask: 0, dirty_mask: 0, ..SpteFormat::EPT };
    /// The legacy layout, shared by nested paging on AMD.
    pub const NPT: SpteFormat = SpteFormat {
        name: "npt",
        present_mask: 1,
        user_mask: 1 << 2,
        x_mask: 0,
        nx_mask: 1 << 63,
        accessed_mask: 1 << 5,
        dirty_mask: 1 << 6,
        acc_track_mask: 0,
    };
    /// Every layout.
    pub const ALL: [SpteFormat; 3] = [SpteFormat::EPT, SpteFormat::EPT_NO_AD, SpteFormat::NPT];

    /// `is_access_track_spte`: A/D bits off and no permission left.
    #[inline]
    pub const fn is_access_track(&self, spte: Spte) -> bool {
        !spte.ad_enabled() && spte.0 & self.acc_track_mask == 0
    }
    /// `is_accessed_spte`.
    #[inline]
    pub const fn is_accessed(&self, spte: Spte) -> bool {
        if spte.ad_enabled() {
            spte.0 & self.accessed_mask != 0
        } else {
            !self.is_access_track(spte)
        }
    }
    /// `is_dirty_spte`.
    #[inline]
    pub const fn is_dirty(&self, spte: Spte) -> bool {
        if spte.ad_enabled() { spte.0 & self.dirty_mask != 0 } else { spte.is_writable() }
    }
    /// `is_access_allowed`: what hardware would say of this entry alone.
    #[inline]
    pub const fn allows(&self, spte: Spte, access: Access) -> bool {
        let permitted = match access {
            Access::Read => true,
            Access::Write => spte.is_writable(),
            Access::Fetch => spte.0 & (self.x_mask | self.nx_mask) == self.x_mask,
        };
        spte.0 & self.present_mask != 0 && !spte.is_mmio() && permitted
    }
    /// `mark_spte_for_access_track`. With A/D bits it clears A. Without, it saves R and X and
    /// clears RWX; W is saved too only where guard `access-track-drops-w` is gone (`save_w`).
    pub const fn mark_for_access_track(&self, spte: Spte, save_w: bool) -> Spte {
        if spte.ad_enabled() {
            return spte.without(self.accessed_mask);
        }
        if self.is_access_track(spte) {
            return spte;
        }
        let saved = spte.0 & (SAVED_BITS | if save_w { PT_WRITABLE_MASK } else { 0 });
        spte.without(self.acc_track_mask | saved_mask(true))
            .with(saved << SHADOW_ACC_TRACK_SAVED_BITS_SHIFT)
    }
    /// `restore_acc_track_spte`: gives the saved permissions back. W stays clear unless it was
    /// saved.
    pub const fn restore_acc_track(&self, spte: Spte) -> Spte {
        let saved = spte.0 >> SHADOW_ACC_TRACK_SAVED_BITS_SHIFT & (SAVED_BITS | PT_WRITABLE_MASK);
        spte.without(saved_mask(true)).with(saved)
    }
    /// `make_nonleaf_spte`: everything is allowed, H and M are never set.
    pub const fn nonleaf(&self, child: SpId) -> Spte {
        let ad = if self.accessed_mask == 0 { SPTE_AD_DISABLED_MASK } else { self.accessed_mask };
        Spte(self.present_mask | PT_WRITABLE_MASK | self.user_mask | self.x_mask | ad)
            .with_pfn(Pfn(SHADOW_PAGES_BASE + child.0 as u64))
    }
}

/// The bits that hold saved permissions.
const fn saved_mask(with_w: bool) -> u64 {
    (SAVED_BITS | if with_w { PT_WRITABLE_MASK } else { 0 }) << SHADOW_ACC_TRACK_SAVED_BITS_SHIFT
}

/// A guest page-table entry as the guest stores it: one byte, A and D taken to be set.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Gpte(pub u8);

impl Gpte {
    /// Present.
    pub const P: u8 = 1 << 7;
    /// Writable.
    pub const W: u8 = 1 << 6;

    /// An entry that points to a frame below 64.
    pub const fn new(gfn: crate::Gfn, writable: bool) -> Gpte {
        Gpte(Gpte::P | if writable { Gpte::W } else { 0 } | gfn.0 as u8 & 0x3f)
    }
    /// Present.
    pub const fn is_present(self) -> bool {
        self.0 & Gpte::P != 0
    }
    /// Writable.
    pub const fn is_writable(self) -> bool {
        self.0 & Gpte::W != 0
    }
    /// The frame.
    pub const fn gfn(self) -> crate::Gfn {
        crate::Gfn(self.0 as u64 & 0x3f)
    }
}
