//! The guards of the stage-2 MMU of arm64.

macro_rules! stage2_guards {
    ($next:ident! { $($before:tt)* }) => {
        $next! {
            $($before)*
            S2UnmapTlbi {
                name: "s2-unmap-tlbi",
                function: "stage2_unmap_walker",
                source: "arch/arm64/kvm/hyp/pgtable.c",
                since: "3.11",
                prevents: "The host takes a page back while a CPU reaches it by its TLB (arm64: the flush of range_start itself never runs there).",
                without: "Unmapping clears descriptors and invalidates nothing.",
            }
            S2TlbiCombined {
                name: "s2-tlbi-combined",
                function: "__kvm_tlb_flush_vmid_ipa",
                source: "arch/arm64/kvm/hyp/vhe/tlb.c",
                since: "3.11",
                prevents: "An entry that combines both stages outlives an invalidation by the address of stage 2 (arm64).",
                without: "IPAS2E1IS and a DSB, and no VMALLE1IS.",
            }
            S2TlbiStage2First {
                name: "s2-tlbi-stage2-first",
                function: "__kvm_tlb_flush_vmid_ipa",
                source: "arch/arm64/kvm/hyp/vhe/tlb.c",
                since: "3.11",
                prevents: "A walk between the two invalidations makes a combined entry from one of stage 2 that is still there (arm64).",
                without: "VMALLE1IS comes first, then IPAS2E1IS, each with its DSB.",
            }
            S2TlbiWait {
                name: "s2-tlbi-wait",
                function: "__kvm_tlb_flush_vmid_ipa, __kvm_tlb_flush_vmid",
                source: "arch/arm64/kvm/hyp/vhe/tlb.c",
                since: "3.11",
                prevents: "A page is used again before another CPU has dropped its entry for it (arm64).",
                without: "No DSB after the last invalidation of a flush.",
            }
            S2BbmBreak {
                name: "s2-bbm-break",
                function: "stage2_map_walker_try_leaf, stage2_map_walk_leaf",
                source: "commit d4b9e0790aa7; the rule is of the Arm ARM, break-before-make",
                since: "4.7",
                prevents: "Two translations of one frame are there that differ in page or size: what a CPU does with them is not said (arm64).",
                without: "The new descriptor is stored over the valid one, and the flush follows.",
            }
            S2BbmTlbi {
                name: "s2-bbm-tlbi",
                function: "stage2_map_walker_try_leaf, stage2_map_walk_leaf",
                source: "commit d4b9e0790aa7; the rule is of the Arm ARM, break-before-make",
                since: "4.7",
                prevents: "A block stays cached beside the table that takes its place; its other pages are invalid there, and nobody flushes them again (arm64).",
                without: "A valid descriptor is made invalid, and the new one stored, with no flush between them or after.",
            }
            S2MergeFlushVmid {
                name: "s2-merge-flush-vmid",
                function: "stage2_map_walk_table_pre",
                source: "commit 3a0b870e3448",
                since: "5.10",
                prevents: "Pages below a table that becomes a block stay cached (arm64).",
                without: "The flush before a block takes the place of a table is by the address of its first page.",
            }
            S2TableTlbiBeforeFree {
                name: "s2-table-tlbi-before-free",
                function: "stage2_unmap_walker",
                source: "commit f62d4c3eb687, which mended 6.6 to 6.8",
                since: "3.11",
                prevents: "A hardware walk through a cached descriptor reads a table that was freed (arm64).",
                without: "A table's descriptor is cleared, the table freed, and the flush comes after the walk.",
            }
            S2RetryInsideLock {
                name: "s2-retry-inside-lock",
                function: "user_mem_abort",
                source: "arch/arm64/kvm/mmu.c",
                since: "3.11",
                prevents: "An invalidation between the check for it and the map is not noticed (arm64).",
                without: "mmu_notifier_retry is asked before mmu_lock is taken for the map, and not under it.",
            }
            S2SeqBeforeMmapUnlock {
                name: "s2-seq-before-mmap-unlock",
                function: "user_mem_abort",
                source: "commit 13ec9308a857; 6.1.27, and not in 5.10.y",
                since: "6.3",
                prevents: "The size of a VMA that is gone is used for a page that was looked up later (arm64).",
                without: "The notifier sequence is read after mmap_lock is given back, before the page is looked up.",
            }
            S2LogForcePte {
                name: "s2-log-force-pte",
                function: "user_mem_abort",
                source: "arch/arm64/kvm/mmu.c",
                since: "4.0",
                prevents: "One bit of the log stands for all the pages of a block (arm64).",
                without: "A fault maps a block where the slot is logged, too.",
            }
            S2MarkWithMap {
                name: "s2-mark-with-map",
                function: "user_mem_abort",
                source: "arch/arm64/kvm/mmu.c, mark_page_dirty()",
                since: "4.0",
                prevents: "A harvest between the mark and the map eats the mark (arm64).",
                without: "A write fault marks the frame before it takes mmu_lock.",
            }
            S2RelaxFlushUnchanged {
                name: "s2-relax-flush-unchanged",
                function: "kvm_pgtable_stage2_relax_perms",
                source: "arch/arm64/kvm/hyp/pgtable.c",
                since: "5.10",
                prevents: "A CPU that cached the read-only descriptor is denied for ever (arm64).",
                without: "The flush is left out where another fault had relaxed the descriptor already.",
                masked: Masked {
                    by: "the other fault's flush, which reaches every CPU",
                    because: "to 6.4 who relaxes a descriptor invalidates it on all CPUs, under mmu_lock: who finds it relaxed has nothing of it cached that denies. Since 6.5 that flush is local",
                },
            }
        }
    };
}
