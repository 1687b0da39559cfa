//! Descriptors: what an entry of a stage-2 table of Linux holds (`kvm_pte_t`), 4 KiB granule.
//!
//! | bits | |
//! |---|---|
//! | 0 | valid |
//! | 1 | a table, or a page at the last level; else a block |
//! | 5:2 | MemAttr: normal memory, write-back |
//! | 6, 7 | S2AP: loads, stores |
//! | 9:8 | SH: inner shareable, in every leaf |
//! | 10 | AF: used since it was last cleared |
//! | 47:12 | output address, or next table |
//!
//! A table's entry has the lowest two bits and the address, and no permissions. DBM (51) is never
//! set: hardware keeps no dirty state here. XN (54) and device memory are not modelled. Linux v5.10
//! `arch/arm64/kvm/hyp/pgtable.c`; `VTCR_EL2.HA` is set, so that hardware sets AF.
//!
//! Since 6.2 bit 10 of an invalid entry says that a walker is between break and make. v5.10 makes
//! an entry invalid by clearing bit 0 alone: the address stays behind, and who merges a table into
//! a block follows the address of the entry that it has just made invalid.

use super::{LAST_LEVEL, Version};
use crate::spte::{SHADOW_PAGES_BASE, SpteFormat};
use crate::types::{Pfn, SpId};

/// `KVM_PTE_VALID`.
const VALID: u64 = 1 << 0;
/// `KVM_PTE_TYPE`: a table or a page.
const TYPE: u64 = 1 << 1;
/// `KVM_PTE_LEAF_ATTR_LO_S2_MEMATTR`: `PAGE_S2_MEMATTR(NORMAL)`.
const MEMATTR: u64 = 0b1111 << 2;
/// `KVM_PTE_LEAF_ATTR_LO_S2_S2AP_R`.
pub const S2AP_R: u64 = 1 << 6;
/// `KVM_PTE_LEAF_ATTR_LO_S2_S2AP_W`.
pub const S2AP_W: u64 = 1 << 7;
/// `KVM_PTE_LEAF_ATTR_LO_S2_SH_IS`.
const SH_IS: u64 = 0b11 << 8;
/// `KVM_PTE_LEAF_ATTR_LO_S2_AF`.
pub const AF: u64 = 1 << 10;
/// `KVM_PTE_ADDR_MASK`.
pub const ADDR: u64 = ((1 << 48) - 1) & !0xfff;

/// `kvm_pte_t`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct KvmPte(pub u64);

/// What a guest may do with a page (`enum kvm_pgtable_prot`). It may always load from it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct KvmPgtableProt {
    /// `KVM_PGTABLE_PROT_W`.
    pub write: bool,
}

impl KvmPte {
    /// `KVM_INVALID_PTE_LOCKED`: invalid, and the walker that has broken it is about to make it.
    pub const LOCKED: KvmPte = KvmPte(1 << 10);
    /// Nothing.
    pub const NONE: KvmPte = KvmPte(0);
    /// `kvm_init_valid_leaf_pte`: a page at the last level, a block above; AF is set.
    pub const fn leaf(page: Pfn, prot: KvmPgtableProt, level: u8) -> KvmPte {
        let kind = if level == LAST_LEVEL { TYPE } else { 0 };
        let write = if prot.write { S2AP_W } else { 0 };
        KvmPte(VALID | kind | MEMATTR | S2AP_R | write | SH_IS | AF | page.0 << 12)
    }
    /// What `kvm_set_table_pte` stores.
    pub const fn table(child: SpId) -> KvmPte {
        KvmPte(VALID | TYPE | (SHADOW_PAGES_BASE + child.0 as u64) << 12)
    }
    /// The same without these bits.
    #[must_use]
    pub const fn without(self, bits: u64) -> KvmPte {
        KvmPte(self.0 & !bits)
    }
    /// The same with these bits.
    #[must_use]
    pub const fn with(self, bits: u64) -> KvmPte {
        KvmPte(self.0 | bits)
    }
    /// What `kvm_set_invalid_pte` leaves of it in 5.10.
    #[must_use]
    pub const fn invalid(self) -> KvmPte {
        self.without(VALID)
    }
    /// What is left of it when it is made invalid: `kvm_set_invalid_pte` of 5.10 clears bit 0 and
    /// nothing else; `kvm_clear_pte`, since 5.13, leaves nothing.
    #[must_use]
    pub fn cleared(self, version: Version) -> KvmPte {
        if version > Version::V5_10 { KvmPte::NONE } else { self.invalid() }
    }
    /// `stage2_pte_needs_update`: a map of `new` has something to do here. Not so where the page is
    /// mapped already, with whatever permissions.
    pub fn needs_update(self, new: KvmPte) -> bool {
        !self.is_valid() || self.with(S2AP_R | S2AP_W) != new.with(S2AP_R | S2AP_W)
    }
    /// `kvm_pte_valid`.
    pub const fn is_valid(self) -> bool {
        self.0 & VALID != 0
    }
    /// `kvm_pte_table`.
    pub const fn is_table(self, level: u8) -> bool {
        level < LAST_LEVEL && self.0 & (VALID | TYPE) == VALID | TYPE
    }
    /// A page or a block is translated by it.
    pub const fn is_leaf(self, level: u8) -> bool {
        self.is_valid() && !self.is_table(level)
    }
    /// S2AP\[1\]: the guest may store.
    pub const fn is_writable(self) -> bool {
        self.0 & S2AP_W != 0
    }
    /// AF.
    pub const fn is_young(self) -> bool {
        self.0 & AF != 0
    }
    /// `kvm_pte_to_phys`: the page, of a block its first.
    pub const fn pfn(self) -> Pfn {
        Pfn((self.0 & ADDR) >> 12)
    }
    /// `kvm_pte_follow`: the table that it leads to, or led to before it became invalid.
    pub const fn follow(self) -> SpId {
        SpId((self.pfn().0 - SHADOW_PAGES_BASE) as u8)
    }
}

/// The same layout for observers and for hardware.
pub const KVM_PTE: SpteFormat = SpteFormat {
    name: "arm64",
    present_mask: VALID | TYPE | MEMATTR | S2AP_R | SH_IS,
    translates_mask: VALID,
    writable_mask: S2AP_W,
    write_protect_mask: S2AP_W,
    accessed_mask: AF,
    dirty_mask: 0,
    acc_track_mask: 0,
    acc_track_saved_mask: 0,
    acc_track_restore_mask: 0,
    host_writable_mask: 0,
    mmu_writable_mask: 0,
    mmu_present_mask: VALID,
    ad_mask: 0,
    ad_disabled: 1,
    ..SpteFormat::STAGE2
};
