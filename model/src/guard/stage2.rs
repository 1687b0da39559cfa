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
            S2TlbiPublish {
                name: "s2-tlbi-publish",
                function: "__kvm_tlb_flush_vmid_ipa, __kvm_tlb_flush_vmid, __kvm_flush_vm_context",
                source: "arch/arm64/kvm/hyp/vhe/tlb.c",
                since: "3.11",
                prevents: "A walk caches a descriptor again that was changed, before the change is visible and after the invalidation (arm64).",
                without: "No DSB ISHST before the first invalidation of a flush.",
                shown_under: WeakerThanSc,
            }
            S2TlbiRepeat {
                name: "s2-tlbi-repeat",
                function: "__tlbi",
                source: "commit 171df58028bf (Cortex-A55 erratum 2441007); A76 erratum 4193800 (5.10.259, 6.1.176, 6.12.94)",
                since: "6.1",
                prevents: "A store that was translated before an invalidation is done after it is complete (arm64, CPUs with one of the errata).",
                without: "Each invalidation once.",
            }
            S2BbmBreak {
                name: "s2-bbm-break",
                function: "stage2_map_walker_try_leaf, stage2_map_walk_leaf; since 6.2 stage2_try_break_pte",
                source: "commit d4b9e0790aa7; the rule is of the Arm ARM, break-before-make",
                since: "4.7",
                prevents: "Two translations of one frame are there that differ in page or size: what a CPU does with them is not said (arm64).",
                without: "The new descriptor is stored over the valid one, and the flush follows; since 6.2 that of a block over that of a table, too.",
            }
            S2BbmTlbi {
                name: "s2-bbm-tlbi",
                function: "stage2_map_walker_try_leaf, stage2_map_walk_leaf; since 6.2 stage2_try_break_pte",
                source: "commit d4b9e0790aa7; the rule is of the Arm ARM, break-before-make",
                since: "4.7",
                prevents: "A block stays cached beside the table that takes its place; its other pages are invalid there, and nobody flushes them again (arm64).",
                without: "A valid descriptor is made invalid, and the new one stored, with no flush between them or after.",
            }
            S2MergeFlushVmid {
                name: "s2-merge-flush-vmid",
                function: "stage2_map_walk_table_pre; since 6.2 stage2_try_break_pte",
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
                prevents: "A CPU that cached the read-only descriptor is denied for ever (arm64). Shown since 6.5: before, the other one's flush reaches every CPU.",
                without: "The flush is left out where another fault had relaxed the descriptor already.",
            }
            S2PgtReread {
                name: "s2-pgt-reread",
                function: "stage2_apply_range",
                source: "commit 0c428a6a9256 (4.12)",
                since: "4.12",
                prevents: "A walk that has given mmu_lock back in between goes on in tables that were freed (arm64).",
                without: "The root is looked up once, before the first chunk.",
            }
            S2LockedMarker {
                name: "s2-locked-marker",
                function: "stage2_try_break_pte",
                source: "arch/arm64/kvm/hyp/pgtable.c, KVM_INVALID_PTE_LOCKED",
                since: "6.2",
                prevents: "A second fault begins with an entry whose flush is under way (arm64, 6.2 on).",
                without: "Who breaks an entry stores 0, and nobody looks for the marker.",
            }
            S2BreakCmpxchg {
                name: "s2-break-cmpxchg",
                function: "stage2_try_break_pte",
                source: "arch/arm64/kvm/hyp/pgtable.c, stage2_try_set_pte()",
                since: "6.2",
                prevents: "Two faults break one entry, and both make it (arm64, 6.2 on).",
                without: "The marker is stored plainly, whatever is there.",
            }
            S2AttrCmpxchg {
                name: "s2-attr-cmpxchg",
                function: "stage2_attr_walker",
                source: "commit ca5de2448c3b",
                since: "6.2",
                prevents: "Permissions are stored over what another fault has put there (arm64, 6.2 on).",
                without: "A fault that relaxes permissions stores the descriptor plainly.",
            }
            S2PaFromIpa {
                name: "s2-pa-from-ipa",
                function: "stage2_map_walker_try_leaf",
                source: "commit 1f0f4a2ef7a5",
                since: "6.4",
                prevents: "A frame is mapped to a page behind the block that it is in (arm64, 6.2 on).",
                without: "The page of a leaf is the one behind the last leaf that the walk has stored.",
            }
            S2UnlinkedRcu {
                name: "s2-unlinked-rcu",
                function: "stage2_free_unlinked_table",
                source: "commit 5c359cca1faf",
                since: "6.2",
                prevents: "A fault walks a table that another one has freed (arm64, 6.2 on).",
                without: "A table that a block takes the place of is freed at once.",
            }
            S2RelaxFlushEagain {
                name: "s2-relax-flush-eagain",
                function: "kvm_pgtable_stage2_relax_perms",
                source: "commit be097997a273",
                since: "6.7",
                prevents: "A fault that lost a race leaves what denied it cached (arm64, 6.2 on).",
                without: "No flush where the walk gives the entry up (-EAGAIN).",
                masked: Masked {
                    by: "s2-relax-flush-unchanged",
                    because: "the next fault finds the permission given, and flushes",
                },
            }
            VmidRecheckAtEntry {
                name: "vmid-recheck-at-entry",
                function: "kvm_arch_vcpu_ioctl_run",
                source: "arch/arm64/kvm/arm.c, need_new_vmid_gen()",
                since: "3.11",
                prevents: "A vCPU enters with a VMID of a generation that has ended (arm64, to 5.17).",
                without: "Nobody looks again after interrupts are off.",
            }
            VmidRolloverExit {
                name: "vmid-rollover-exit",
                function: "update_vmid",
                source: "arch/arm64/kvm/arm.c, force_vm_exit()",
                since: "3.11",
                prevents: "A guest that runs goes on with a VMID that is given to another VM (arm64, to 5.17).",
                without: "Who ends a generation interrupts nobody.",
            }
            VmidRolloverFlush {
                name: "vmid-rollover-flush",
                function: "update_vmid; since 5.18 flush_context",
                source: "arch/arm64/kvm/arm.c, arch/arm64/kvm/vmid.c, __kvm_flush_vm_context()",
                since: "3.11",
                prevents: "A guest is translated by what is cached of the VM that had its VMID before (arm64).",
                without: "No ALLE1IS when a generation ends.",
            }
            VmidRecheckUnderLock {
                name: "vmid-recheck-under-lock",
                function: "update_vmid",
                source: "arch/arm64/kvm/arm.c",
                since: "3.11",
                prevents: "Two vCPUs of a VM run with two VMIDs, and flushes name the last one alone (arm64, to 5.17).",
                without: "A vCPU that has waited for kvm_vmid_lock takes a VMID without looking again.",
            }
            VmidBeforeGen {
                name: "vmid-before-gen",
                function: "update_vmid",
                source: "commit fb544d1ca65a",
                since: "5.0",
                prevents: "A vCPU sees the new generation, and runs with the VMID of the old one (arm64, to 5.17).",
                without: "The generation of a VM is stored before its VMID.",
            }
            VmidActiveCmpxchg {
                name: "vmid-active-cmpxchg",
                function: "kvm_arm_vmid_update",
                source: "commit 417838392f2e",
                since: "5.18",
                prevents: "A generation ends between the look at it and the word that reserves the VMID (arm64, 5.18 on).",
                without: "The word of the CPU is stored plainly, and nobody looks whether it was taken away.",
            }
            VmidKeepReserved {
                name: "vmid-keep-reserved",
                function: "flush_context",
                source: "commit 417838392f2e",
                since: "5.18",
                prevents: "A guest that goes on while two generations end loses its VMID to another VM (arm64, 5.18 on).",
                without: "A CPU that has said nothing since the last end of a generation has nothing reserved.",
            }
            VmidBeforeVttbr {
                name: "vmid-before-vttbr",
                function: "kvm_arch_vcpu_load",
                source: "commit fa808ed4e199, which mended 6.7 to 6.13 (6.12.18)",
                since: "6.14",
                prevents: "A vCPU runs with the VMID that was there when it was loaded, and another one got the VM's (arm64, 6.7 on).",
                without: "VTTBR_EL2 is loaded first; before the guest the VM gets a VMID, and the register is loaded again if that call has changed it.",
            }
        }
    };
}
