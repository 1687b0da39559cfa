//! The guards of large SPTEs.

macro_rules! large_guards {
    ($next:ident! { $($before:tt)* }) => {
        $next! {
            $($before)*
            LargeAsHostMaps {
                name: "large-as-host-maps",
                function: "kvm_mmu_hugepage_adjust",
                source: "arch/x86/kvm/mmu/mmu.c, host_pfn_mapping_level()",
                since: "2.6.26",
                prevents: "A large SPTE maps pages beside that of the fault which the host has given to others, or will take back one by one.",
                without: "A fault maps a large page whatever the host's own page table has.",
            }
            LargeNotLogged {
                name: "large-not-logged",
                function: "gfn_to_memslot_dirty_bitmap",
                source: "arch/x86/kvm/mmu/mmu.c, kvm_mmu_hugepage_adjust()",
                since: "2.6.26",
                prevents: "A fault maps a large page of a logged slot writable, and marks one frame of it.",
                without: "A fault maps a large page whether or not the slot has a dirty bitmap.",
            }
            LargeInSlot {
                name: "large-in-slot",
                function: "kvm_alloc_memslot_metadata",
                source: "arch/x86/kvm/x86.c, kvm_alloc_memslot_metadata(): the ends of lpage_info",
                since: "2.6.26",
                prevents: "A large SPTE maps frames of another slot, too: nobody finds it by their rmap.",
                without: "A large page that reaches beyond its slot may be mapped by one SPTE.",
            }
            ShadowedDisallowsLarge {
                name: "shadowed-disallows-large",
                function: "account_shadowed",
                source: "arch/x86/kvm/mmu/mmu.c, kvm_mmu_gfn_disallow_lpage()",
                since: "2.6.26",
                prevents: "A large SPTE maps a shadowed guest page table writable: only its first frame is asked about.",
                without: "A guest table that is shadowed keeps no large page away from its frame.",
            }
            WriteProtectAllLevels {
                name: "write-protect-all-levels",
                function: "kvm_mmu_slot_gfn_write_protect",
                source: "arch/x86/kvm/mmu/mmu.c, rmap_write_protect()",
                since: "2.6.26",
                prevents: "A guest page table is shadowed while a large SPTE maps it writable.",
                without: "Only the rmap of the 4K level is write-protected.",
            }
            ZapAllLevels {
                name: "zap-all-levels",
                function: "kvm_unmap_hva_range",
                source: "arch/x86/kvm/mmu/mmu.c, kvm_handle_hva_range()",
                since: "2.6.27",
                prevents: "The host takes a page back that a large SPTE maps.",
                without: "Only what maps a frame by 4K is zapped, for an invalidation and for a memslot that goes.",
            }
            LogProtectsLarge {
                name: "log-protects-large",
                function: "kvm_mmu_slot_largepage_remove_write_access",
                source: "arch/x86/kvm/mmu/mmu.c, kvm_mmu_slot_remove_write_access(); arch/x86/kvm/vmx/vmx.c, vmx_slot_enable_log_dirty()",
                since: "2.6.26",
                prevents: "A slot is logged, and the guest writes it by a large SPTE: no fault, and no bit for any frame.",
                without: "A dirty log that begins write-protects what maps 4K, or clears its D.",
            }
            FastFaultNotLarge {
                name: "fast-fault-not-large",
                function: "fast_page_fault",
                source: "commit c126d94f2c90; what was reverted by 6b73a9606 lacked it",
                since: "3.15",
                prevents: "A fast fault makes a large SPTE of a logged slot writable, and marks one frame of it.",
                without: "A fast fault sets W in a large SPTE, too, and marks its first frame.",
            }
            DropLargeSpte {
                name: "drop-large-spte",
                function: "drop_large_spte",
                source: "arch/x86/kvm/mmu/mmu.c, __direct_map(); arch/x86/kvm/mmu/paging_tmpl.h, FNAME(fetch)()",
                since: "2.6.26",
                prevents: "A large SPTE is overwritten by a link to a table, and its rmap and what it says of A and D with it.",
                without: "A table is linked over a large SPTE.",
            }
            DropLargeFlushes {
                name: "drop-large-flushes",
                function: "drop_large_spte",
                source: "arch/x86/kvm/mmu/mmu.c, drop_large_spte()",
                since: "2.6.26",
                prevents: "A CPU uses a large page by its TLB that is in no rmap any more: an invalidation finds nothing to flush.",
                without: "A large SPTE that goes for a table is not flushed.",
            }
            LargeUnlinksTable {
                name: "large-unlinks-table",
                function: "mmu_set_spte",
                source: "arch/x86/kvm/mmu/mmu.c, mmu_set_spte()",
                since: "2.6.26",
                prevents: "A large SPTE comes in the place of a table that keeps it for its parent: when the table is zapped, the large SPTE is cleared, and its rmap is not.",
                without: "The entry is cleared, and the table not unlinked.",
            }
            CollapsibleFlushes {
                name: "collapsible-flushes",
                function: "kvm_mmu_zap_collapsible_sptes",
                source: "arch/x86/kvm/mmu/mmu.c, kvm_mmu_zap_collapsible_sptes()",
                since: "4.2",
                prevents: "A CPU uses a page by its TLB that is in no rmap any more: an invalidation finds nothing to flush.",
                without: "What is dropped so that large pages may come back is not flushed.",
            }
            CollapsibleInSlot {
                name: "collapsible-in-slot",
                function: "kvm_mmu_zap_collapsible_spte",
                source: "commit ef057cbf825e, CVE-2026-63807",
                since: "7.2",
                prevents: "The first frame of a shadow page is in no slot, or in another one, and lpage_info of this one is read before its begin.",
                without: "The level at which the first frame of a shadow page could be mapped is looked up whatever slot it is in.",
            }
        }
    };
}
