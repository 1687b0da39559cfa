//! The guards of shadow pages that a guest's tables lead to, and of what KVM stores in those.

macro_rules! guest_table_guards {
    ($next:ident! { $($before:tt)* }) => {
        $next! {
            $($before)*
            ChildGfnCompare {
                name: "child-gfn-compare",
                function: "kvm_mmu_get_child_sp",
                source: "commit 0cb2af2ea66a, CVE-2026-46113",
                since: "7.1",
                prevents: "The VMM changes the frame of a large page in a guest's table. A fault maps the new frame in the shadow page of the old one, where rmap_remove looks for the old one.",
                without: "A table that is linked is used whatever frame it is of.",
            }
            ChildRoleCompare {
                name: "child-role-compare",
                function: "kvm_mmu_get_child_sp",
                source: "commit 81ccda30b4e8, CVE-2026-53359",
                since: "7.2",
                prevents: "The VMM makes a table of what was a large page in a guest's table. A fault uses the direct shadow page of that as the shadow of the table.",
                without: "A table that is linked is used whatever its role is.",
            }
            ValidateDirectSpte {
                name: "validate-direct-spte",
                function: "validate_direct_spte",
                source: "arch/x86/kvm/mmu/paging_tmpl.h, validate_direct_spte()",
                since: "2.6.36",
                prevents: "A page is mapped writable in a shadow page that is for read-only access, and that another entry of the guest leads to.",
                without: "FNAME(fetch) does not compare the access of a direct shadow page with that of the guest's entries.",
                masked: Masked {
                    by: "child-role-compare",
                    because: "the access is part of the role; kernels to 7.1 do not compare that. Remove both and the pair fails",
                },
            }
            MmioSpteDrops {
                name: "mmio-spte-drops",
                function: "mark_mmio_spte",
                source: "commit aad885e77496, CVE-2026-23401",
                since: "2.6.x to 5.12 (in mmu_set_spte), 7.0",
                prevents: "The VMM changes a guest's entry to a frame without a memslot. An MMIO SPTE overwrites what was mapped, which stays in the rmap and in TLBs.",
                without: "mark_mmio_spte stores the MMIO SPTE over what is there.",
            }
            WalkSetsAd {
                name: "walk-sets-ad",
                function: "FNAME(walk_addr)",
                source: "arch/x86/kvm/mmu/paging_tmpl.h, FNAME(update_accessed_dirty_bits)",
                since: "2.6.x",
                prevents: "A guest reaches a page, and its tables do not say so.",
                without: "FNAME(walk_addr) leaves A and D of the guest's entries as they are.",
            }
            ProtectCleanGpte {
                name: "protect-clean-gpte",
                function: "FNAME(walk_addr)",
                source: "arch/x86/kvm/mmu/paging_tmpl.h, FNAME(protect_clean_gpte)",
                since: "3.7",
                prevents: "A guest reads a page, then writes it without a fault, and D of its entry stays clear.",
                without: "A read maps a page writable whose guest entry has no D.",
            }
            GpteAdMarksDirty {
                name: "gpte-ad-marks-dirty",
                function: "FNAME(update_accessed_dirty_bits)",
                source: "arch/x86/kvm/mmu/paging_tmpl.h, FNAME(update_accessed_dirty_bits)",
                since: "2.6.x",
                prevents: "What KVM stores to a guest's page table is in no dirty log.",
                without: "FNAME(update_accessed_dirty_bits) does not mark the table's frame.",
            }
            GpteCmpxchgByAddress {
                name: "gpte-cmpxchg-by-address",
                function: "FNAME(cmpxchg_gpte)",
                source: "commit 2a8859f373b0, CVE-2022-1158",
                since: "5.18; 5.10.110",
                prevents: "KVM stores A and D to a page that is not the guest's.",
                without: "The place of the table in the VMM's mapping is taken for the number of its page, as to 5.17 where the mapping has no struct pages.",
            }
        }
    };
}
