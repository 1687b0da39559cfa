//! The guards of shadow pages that are out of sync.

macro_rules! unsync_guards {
    ($next:ident! { $($before:tt)* }) => {
        $next! {
            $($before)*
            UnsyncBeforeWritable {
                name: "unsync-before-writable",
                function: "mmu_need_write_protect",
                source: "commit 578e1c4db221",
                since: "4.19; the flag itself 2.6.29",
                prevents: "A guest changes a shadowed table and loads CR3, and kvm_mmu_sync_roots sees no page that is out of sync.",
                without: "The pages of a table count as out of sync after the SPTE that maps it writable was stored.",
                masked: Masked {
                    by: "sync-roots-locks",
                    because: "who takes mmu_lock before it looks waits for the fault that stores the SPTE; kernels since 4.19 have no lock there, and rest on this. Remove both and the pair fails",
                },
            }
            LinkMarksUnsync {
                name: "link-marks-unsync",
                function: "link_shadow_page",
                source: "arch/x86/kvm/mmu/mmu.c, link_shadow_page()",
                since: "2.6.29",
                prevents: "A page that is out of sync gets a new parent, and no walk from there finds it.",
                without: "link_shadow_page does not tell the parent that the child is out of sync.",
            }
            GetPageSyncs {
                name: "get-page-syncs",
                function: "kvm_mmu_get_page",
                source: "arch/x86/kvm/mmu/mmu.c, kvm_mmu_get_page(), __kvm_sync_page()",
                since: "2.6.29",
                prevents: "A guest makes an entry present that leads to a table which it has changed, and reaches what the table said before: that needs no invalidation.",
                without: "kvm_mmu_get_page returns a page that is out of sync as it is.",
            }
            SyncRootsLocks {
                name: "sync-roots-locks",
                function: "kvm_mmu_sync_roots",
                source: "commit 578e1c4db221, which took it away",
                since: "2.6.29 to 4.18",
                prevents: "A vCPU changes a table and loads CR3, between the look that another vCPU takes at the table and the link that this makes to its shadow page.",
                without: "kvm_mmu_sync_roots returns without mmu_lock if unsync_children of the root is 0.",
            }
            SyncWriteProtects {
                name: "sync-write-protects",
                function: "mmu_sync_children",
                source: "arch/x86/kvm/mmu/mmu.c, mmu_sync_children()",
                since: "2.6.29",
                prevents: "A page counts as in sync while its guest can write the table.",
                without: "mmu_sync_children does not write-protect the tables first.",
            }
            SyncFlushesFirst {
                name: "sync-flushes-first",
                function: "mmu_sync_children",
                source: "arch/x86/kvm/mmu/mmu.c, mmu_sync_children()",
                since: "2.6.29",
                prevents: "A page counts as in sync while a CPU can write the table by its TLB.",
                without: "mmu_sync_children write-protects the tables and reads them without a flush.",
            }
            SyncPageFlushes {
                name: "sync-page-flushes",
                function: "FNAME(sync_page)",
                source: "commit f81602958c11",
                since: "5.16, and stable kernels of 5.15",
                prevents: "A mapping is dropped and left in the TLB of another CPU. Its frame becomes a guest table, and rmap_write_protect finds nothing to protect or to flush.",
                without: "sync_page counts in kvm->tlbs_dirty what it drops, and does not flush; every flush takes away what was counted before it began, and range_start flushes if something is.",
            }
            SyncDropsMmio {
                name: "sync-drops-mmio",
                function: "sync_mmio_spte",
                source: "arch/x86/kvm/mmu/mmu.c, sync_mmio_spte()",
                since: "3.1",
                prevents: "A guest changes an entry from a device to memory, loads CR3, and gets the device.",
                without: "sync_page leaves MMIO SPTEs alone, whatever the guest's entries say.",
            }
            RangeStartPaysFlushes {
                name: "range-start-pays-flushes",
                function: "kvm_mmu_notifier_invalidate_range_start",
                source: "commit a4ee1ca4a36e",
                since: "2.6.38 to 5.15",
                prevents: "A page is taken back whose mapping was dropped without a flush.",
                without: "range_start flushes only if it has zapped something, whatever kvm->tlbs_dirty says.",
                masked: Masked {
                    by: "sync-page-flushes",
                    because: "nobody owes a flush where sync_page flushes; remove both and the pair fails",
                },
            }
            TlbsDirtyReadFirst {
                name: "tlbs-dirty-read-first",
                function: "kvm_flush_remote_tlbs",
                source: "commit a086f6a1ebc9",
                since: "2.6.38 to 5.15",
                prevents: "A flush takes a debt for paid that was made after its requests.",
                without: "kvm->tlbs_dirty is read after the requests, and so set to 0 whatever it is.",
                masked: Masked {
                    by: "sync-page-flushes",
                    because: "nobody owes a flush where sync_page flushes; remove both and the pair fails",
                },
            }
            InvlpgZapsUnsync {
                name: "invlpg-zaps-unsync",
                function: "FNAME(invlpg)",
                source: "arch/x86/kvm/mmu/paging_tmpl.h, FNAME(invlpg)",
                since: "2.6.29",
                prevents: "A guest changes an entry of a table that is out of sync, invalidates the page, and gets the old translation.",
                without: "INVLPG leaves SPTEs alone: only the vCPU's own TLB is flushed.",
            }
            InvlpgFlushes {
                name: "invlpg-flushes",
                function: "FNAME(invlpg)",
                source: "arch/x86/kvm/mmu/paging_tmpl.h, FNAME(invlpg)",
                since: "2.6.29",
                prevents: "A mapping leaves the rmap, while another CPU keeps it in its TLB: no invalidation will flush it.",
                without: "INVLPG drops the SPTE and flushes the vCPU's own TLB only.",
            }
            SetCr3Syncs {
                name: "set-cr3-syncs",
                function: "kvm_set_cr3",
                source: "arch/x86/kvm/x86.c, kvm_set_cr3()",
                since: "2.6.29",
                prevents: "A guest changes tables that are out of sync, loads CR3, and gets the old translations.",
                without: "kvm_set_cr3 does not call kvm_mmu_sync_roots.",
            }
            SetCr3Flushes {
                name: "set-cr3-flushes",
                function: "kvm_set_cr3",
                source: "arch/x86/kvm/x86.c, kvm_set_cr3()",
                since: "2.6.x",
                prevents: "A guest loads CR3 and gets old translations from its TLB.",
                without: "kvm_set_cr3 asks for no flush.",
                masked: Masked {
                    by: "sync-page-flushes",
                    because: "whoever drops an SPTE flushes every TLB: the load finds nothing stale. Remove both and the pair fails",
                },
            }
        }
    };
}
