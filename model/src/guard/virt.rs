//! The guards of memslots, buses, interrupt routing, of VMs, vCPUs and CPUs, and the fences.

macro_rules! virt_guards {
    ($next:ident! { $($before:tt)* }) => {
        $next! {
            $($before)*
            // Memslots, buses, interrupt routing.
            RunHoldsSrcu {
                name: "run-holds-srcu",
                function: "vcpu_run",
                source: "locking.rst v5.10 section 3, kvm->srcu; arch/x86/kvm/x86.c",
                since: "2.6.34",
                prevents: "A vCPU uses memslots or buses that are freed meanwhile.",
                without: "KVM_RUN never enters the read section of kvm->srcu.",
            }
            MemslotFreeAfterGracePeriod {
                name: "memslot-free-after-grace-period",
                function: "install_new_memslots",
                source: "virt/kvm/kvm_main.c; commit bc6678a33d9b",
                since: "2.6.34",
                prevents: "An array of memslots is freed while a vCPU looks a frame up in it.",
                without: "install_new_memslots returns without a grace period.",
            }
            MemslotInvalidBeforeZap {
                name: "memslot-invalid-before-zap",
                function: "kvm_set_memslot",
                source: "virt/kvm/kvm_main.c, kvm_set_memslot(); commit bc6678a33d9b",
                since: "2.6.34",
                prevents: "A fault maps a frame of the memslot again after it was zapped.",
                without: "What maps the frames is zapped first, and the slot made invalid after.",
            }
            MemslotDeleteZaps {
                name: "memslot-delete-zaps",
                function: "kvm_arch_flush_shadow_memslot",
                source: "virt/kvm/kvm_main.c, kvm_set_memslot(); arch/x86/kvm/x86.c",
                since: "2.6.x",
                prevents: "An SPTE maps a frame of a memslot that is deleted.",
                without: "kvm_set_memslot deletes the slot and leaves what maps its frames.",
            }
            MemslotDeleteFlushes {
                name: "memslot-delete-flushes",
                function: "kvm_arch_flush_shadow_memslot",
                source: "virt/kvm/kvm_main.c, kvm_set_memslot(); arch/x86/kvm/x86.c",
                since: "2.6.x",
                prevents: "A CPU reaches a frame of a deleted memslot by its TLB.",
                without: "What maps the frames of the slot is zapped, and nobody flushes.",
            }
            MemslotsGenerationLast {
                name: "memslots-generation-last",
                function: "install_new_memslots",
                source: "commits ee3d1570b586, 361209e054a2",
                since: "3.17; with a bit of its own 5.1",
                prevents: "A vCPU finds no memslot in the old memslots, and remembers that with the generation of the new ones: their RAM is MMIO for ever.",
                without: "New memslots have their generation when they are published, and no mark that an update is under way.",
            }
            MmioSpteGeneration {
                name: "mmio-spte-generation",
                function: "check_mmio_spte",
                source: "arch/x86/kvm/mmu/mmu.c, check_mmio_spte()",
                since: "3.11",
                prevents: "An MMIO SPTE outlives the memslots that it was made by, and RAM is taken for MMIO.",
                without: "An MMIO SPTE counts whatever its generation is.",
            }
            MmioInfoGeneration {
                name: "mmio-info-generation",
                function: "vcpu_match_mmio_gen",
                source: "arch/x86/kvm/x86.h, vcpu_match_mmio_gen()",
                since: "3.17",
                prevents: "A vCPU remembers an MMIO frame longer than the memslots that it looked at.",
                without: "What a vCPU remembers counts whatever the generation was.",
            }
            MmioGenerationFirst {
                name: "mmio-generation-first",
                function: "handle_mmio_page_fault",
                source: "arch/x86/kvm/mmu/mmu.c, handle_mmio_page_fault(), check_mmio_spte()",
                since: "proposed",
                prevents: "The generation of memslots wraps between the look at an MMIO SPTE, which is zapped for that, and the look at the generation: the two agree.",
                without: "The generation is read after the SPTE.",
            }
            MmioWrapZaps {
                name: "mmio-wrap-zaps",
                function: "kvm_mmu_invalidate_mmio_sptes",
                source: "arch/x86/kvm/mmu/mmu.c, kvm_mmu_invalidate_mmio_sptes(); commit e1359e2beb8b",
                since: "3.11",
                prevents: "The generation of memslots wraps, and an MMIO SPTE of long ago counts again.",
                without: "Nothing is zapped where the generation wraps.",
            }
            RetryLeavesSrcu {
                name: "retry-leaves-srcu",
                function: "vcpu_enter_guest",
                source: "arch/x86/kvm/x86.c; commit 3ccbf6f47098, of prefaulting",
                since: "5.13",
                prevents: "A fault that is tried again until a memslot has gone keeps it from going.",
                without: "The fault is tried again inside its read section of kvm->srcu, as by prefaulting before 6.18.",
            }
            LogInstalledBeforeProtect {
                name: "log-installed-before-protect",
                function: "kvm_set_memory_region",
                source: "virt/kvm/kvm_main.c, kvm_set_memory_region(); arch/x86/kvm/x86.c, kvm_arch_commit_memory_region()",
                since: "2.6.x",
                prevents: "A fault makes a page writable while the dirty log begins, and finds no bitmap to mark it in.",
                without: "What maps the frames is write-protected first, and the memslot with the bitmap installed after.",
            }
            LogProtects {
                name: "log-protects",
                function: "kvm_mmu_slot_apply_flags",
                source: "arch/x86/kvm/x86.c, kvm_mmu_slot_apply_flags()",
                since: "2.6.x",
                prevents: "What was writable before the dirty log began is written to and not logged.",
                without: "Nothing is write-protected when the dirty log begins.",
            }
            LogFlushes {
                name: "log-flushes",
                function: "kvm_mmu_slot_apply_flags",
                source: "arch/x86/kvm/x86.c, kvm_mmu_slot_apply_flags()",
                since: "2.6.x",
                prevents: "A TLB has a page writable that was write-protected when the dirty log began.",
                without: "The ioctl returns without a flush.",
            }
            LogFlushesAlways {
                name: "log-flushes-always",
                function: "kvm_mmu_slot_apply_flags",
                source: "commit b64d740ea7dd; 5.10 lacks it",
                since: "6.0",
                prevents: "A TLB has a page writable whose SPTE aging has made access-tracked, and the dirty log begins without a flush.",
                without: "A flush is made only if an SPTE had W.",
            }
            LogInitiallySet {
                name: "log-initially-set",
                function: "kvm_set_memory_region",
                source: "KVM_DIRTY_LOG_INITIALLY_SET; commit 3c9bd4006bfc",
                since: "5.7",
                prevents: "A page that is writable when the log begins, and not write-protected, is missing in the log.",
                without: "The bitmap begins empty although nothing is write-protected.",
            }
            ClearThenProtect {
                name: "clear-then-protect",
                function: "kvm_clear_dirty_log_protect",
                source: "virt/kvm/kvm_main.c, kvm_clear_dirty_log_protect()",
                since: "5.0",
                prevents: "A page is made writable and marked between its protection and the clearing of its bit, which takes the mark.",
                without: "Frames are write-protected first, and the bits that user space names cleared after.",
            }
            ClearAtomic {
                name: "clear-atomic",
                function: "kvm_clear_dirty_log_protect",
                source: "virt/kvm/kvm_main.c, atomic_long_fetch_andnot() in kvm_clear_dirty_log_protect()",
                since: "5.0",
                prevents: "CLEAR_DIRTY_LOG overwrites the mark of another page in the same word.",
                without: "The word is read and stored back without the bits.",
            }
            FlushAfterClear {
                name: "flush-after-clear",
                function: "kvm_vm_ioctl_clear_dirty_log",
                source: "virt/kvm/kvm_main.c, kvm_clear_dirty_log_protect()",
                since: "5.0",
                prevents: "A TLB has a page writable that user space has cleared and copies.",
                without: "The ioctl returns without a flush.",
            }
            // The host, and the VMM.
            HostZapNotifies {
                name: "host-zap-notifies",
                function: "mmu_notifier_invalidate_range_start",
                source: "commit f268f6cf875f; CVE-2022-48991",
                since: "6.1",
                prevents: "The host takes a page back that KVM maps, and tells nobody.",
                without: "The host clears its entry and frees the page without range_start and range_end, as khugepaged did with file pages from 4.8 on.",
            }
            VmmKeepsHarvest {
                name: "vmm-keeps-harvest",
                function: "(the VMM)",
                source: "firecracker issue 4545",
                since: "-",
                prevents: "A copy fails after the harvest has cleared the log, and the next one does not know of its pages.",
                without: "The VMM forgets what was harvested when a copy fails.",
            }
            VmCompleteBeforeNotifier {
                name: "vm-complete-before-notifier",
                function: "kvm_create_vm",
                source: "commit 07aeb70707b1 (pKVM)",
                since: "2.6.27; for pKVM 6.18",
                prevents: "A notifier of the host calls a VM that is not complete.",
                without: "The host's notifiers know the VM before kvm_arch_init_vm has run, as to 6.17 those of pKVM did before the VM had a handle.",
            }
            VmmPausesVcpus {
                name: "vmm-pauses-vcpus",
                function: "the VMM",
                source: "QEMU 7.2, accel_ioctl_inhibit_begin(); cloud-hypervisor 1884",
                since: "by every VMM that changes a slot by deleting it",
                prevents: "A vCPU touches memory whose slot is being made again, and its access goes to a device.",
                without: "The VMM deletes a slot and makes it again while vCPUs run.",
            }
            VmsaLocksVcpus {
                name: "vmsa-locks-vcpus",
                function: "sev_launch_update_vmsa",
                source: "commit cb923ee6a80f, CVE-2026-31591",
                since: "5.15; for SNP 7.0",
                prevents: "The state of a vCPU is encrypted while the vCPU, or an ioctl of it, uses it.",
                without: "The state of each vCPU is encrypted without its vcpu->mutex.",
            }
            CleanByKernelAddress {
                name: "clean-by-kernel-address",
                function: "coherent_cache_guest_page",
                source: "commit 0d3e4d4fade6",
                since: "4.0 (arm, arm64)",
                prevents: "A fault of user space's address inside mmu_lock, which sleeps and takes mmap_lock.",
                without: "The cache is cleaned by the address that user space has for the page.",
            }
            GupSaysWhatItHolds {
                name: "gup-says-what-it-holds",
                function: "get_user_pages_remote (mm)",
                source: "commit 96312e61282a",
                since: "4.16",
                prevents: "KVM takes mmap_lock for released, and it is not: whoever wants it next hangs.",
                without: "get_user_pages with FOLL_NOWAIT says that it gave mmap_lock back, and has not.",
            }
            AsyncPfFlushed {
                name: "async-pf-flushed",
                function: "kvm_clear_async_pf_completion_queue",
                source: "commit 3d75b8aa5c29, CVE-2024-26976",
                since: "6.9",
                prevents: "KVM's code is unloaded under a worker that is about to return.",
                without: "The worker holds a reference on its VM, and who destroys that does not wait for it.",
            }
            ApicReloadAfterUnmap {
                name: "apic-reload-after-unmap",
                function: "kvm_arch_mmu_notifier_invalidate_range",
                source: "commit e649b3f0188f",
                since: "5.8",
                prevents: "A vCPU looks the APIC access page up again while the host still has it, and runs with a VMCS that names a page which is freed.",
                without: "range_start asks for the reload, before the host's own entry changes.",
            }
            PmlDrained {
                name: "pml-drained",
                function: "vmx_flush_pml_buffer",
                source: "commit 843e4330573c; arch/x86/kvm/vmx/vmx.c, vmx_flush_pml_buffer()",
                since: "4.0",
                prevents: "What hardware has logged of a vCPU's stores is in no harvest.",
                without: "An exit empties the PML buffer, and marks nothing.",
            }
            VmmMarksDirty {
                name: "vmm-marks-dirty",
                function: "(the VMM)",
                source: "cloud-hypervisor issues 2458, 5356",
                since: "-",
                prevents: "A device of the VMM stores to guest memory, which KVM does not log, and the page is not copied again.",
                without: "The VMM keeps no log of what it stores.",
            }
            InvalidSlotRetries {
                name: "invalid-slot-retries",
                function: "try_async_pf",
                source: "commit e0c378684b65; 5.10 lacks it",
                since: "5.13",
                prevents: "A fault that meets a memslot on its way out is emulated as MMIO, although the frame is RAM that another vCPU still reaches.",
                without: "An invalid memslot is none: the access becomes MMIO.",
            }
            BusFreeAfterGracePeriod {
                name: "bus-free-after-grace-period",
                function: "kvm_io_bus_unregister_dev",
                source: "commit 2ee3757424be; CVE-2021-47061",
                since: "5.13",
                prevents: "A device is destroyed while a vCPU's access is about to call it.",
                without: "If there is no memory for the smaller array, the devices that stay are destroyed first; then the bus is given up and the grace period follows.",
            }
            BusGracePeriod {
                name: "bus-grace-period",
                function: "kvm_io_bus_register_dev, kvm_io_bus_unregister_dev",
                source: "virt/kvm/kvm_main.c",
                since: "2.6.34",
                prevents: "An array of devices is freed while a vCPU looks a device up in it.",
                without: "The old array is freed as soon as the new one is published.",
            }
            IrqRoutingGracePeriod {
                name: "irq-routing-grace-period",
                function: "kvm_set_irq_routing",
                source: "virt/kvm/irqchip.c; commit 719d93cd5f5c",
                since: "3.16",
                prevents: "A table of interrupt routes is freed while an interrupt is routed by it.",
                without: "The old table is freed as soon as the new one is published.",
            }
            ApicvUpdateDropsSrcu {
                name: "apicv-update-drops-srcu",
                function: "svm_toggle_avic_for_irq_window",
                source: "commit f3515dc3bef8",
                since: "5.6",
                prevents: "A vCPU takes slots_lock inside a read section that the owner of slots_lock waits for.",
                without: "The read section of kvm->srcu is kept while AVIC is switched off or on.",
            }
            PitReleasesIrqLock {
                name: "pit-releases-irq-lock",
                function: "kvm_create_pit",
                source: "locking.rst v5.10 section 1; arch/x86/kvm/i8254.c",
                since: "2.6.x",
                prevents: "irq_lock, which is inside slots_lock, is held while slots_lock is taken.",
                without: "The irq_lock of kvm_register_irq_mask_notifier is released only when the PIT is on the bus.",
            }
            GupOutsideMmuLock {
                name: "gup-outside-mmu-lock",
                function: "direct_page_fault",
                source: "locking.rst v5.10 section 3, kvm->mmu_lock; arch/x86/kvm/mmu/mmu.c",
                since: "2.6.x",
                prevents: "A fault sleeps for a page with a spinlock held that notifiers take.",
                without: "direct_page_fault takes mmu_lock before it looks the page up.",
            }

            // VMs, vCPUs, CPUs.
            PsciWithoutKvmLock {
                name: "psci-without-kvm-lock",
                function: "kvm_psci_vcpu_on",
                source: "locking.rst v5.10 section 1; commit 0acc7239c20a",
                since: "6.4",
                prevents: "A vCPU that powers another on waits for kvm->lock, whose owner waits for the vCPU.",
                without: "kvm_psci_vcpu_on takes kvm->lock, in KVM_RUN and so under vcpu->mutex.",
            }
            UsageCountOwnLock {
                name: "usage-count-own-lock",
                function: "kvm_starting_cpu, kvm_dying_cpu (later kvm_online_cpu, kvm_offline_cpu)",
                source: "commit 44d174596260",
                since: "6.12; before 6.3, kvm_count_lock",
                prevents: "A CPU that comes up waits for kvm_lock, whose owner waits for a memslot update, which waits for a vCPU that waits for the CPU.",
                without: "kvm_starting_cpu and kvm_dying_cpu take kvm_lock around kvm_count_lock, in a thread that may sleep, as kvm_online_cpu and kvm_offline_cpu of 6.3 to 6.11 did.",
            }
            XenOwnLock {
                name: "xen-own-lock",
                function: "kvm_xen_set_evtchn",
                source: "commit 310bc39546a4",
                since: "6.2",
                prevents: "A hypercall waits for kvm->lock inside a read section of kvm->srcu, whose end the owner of kvm->lock waits for.",
                without: "kvm_xen_set_evtchn takes kvm->lock around xen_lock, in KVM_RUN and so under vcpu->mutex and in a read section of kvm->srcu.",
            }
            HypercallPageMarksDirty {
                name: "hypercall-page-marks-dirty",
                function: "kvm_hv_set_msr_pw",
                source: "arch/x86/kvm/hyperv.c, kvm_hv_set_msr_pw()",
                since: "3.15 at the latest",
                prevents: "The instructions that KVM writes into the hypercall page are in no dirty log.",
                without: "KVM writes the instructions and does not mark the page.",
            }
            HvLockInsideVcpuMutex {
                name: "hv-lock-inside-vcpu-mutex",
                function: "kvm_hv_eventfd_assign",
                source: "locking.rst v5.10 section 1",
                since: "4.17",
                prevents: "User space waits for a vCPU with hv_lock held, which that vCPU wants.",
                without: "kvm_hv_eventfd_assign takes vcpu->mutex of vCPU 0 inside hv_lock, and gives it back at once.",
            }
            CountLockNoMutex {
                name: "count-lock-no-mutex",
                function: "hardware_enable_all",
                source: "locking.rst v5.10 section 3, kvm_count_lock",
                since: "3.12, as kvm_count_lock is",
                prevents: "Somebody sleeps with a raw spinlock held that a CPU that comes up spins on.",
                without: "hardware_enable_all takes kvm_lock inside kvm_count_lock, and gives it back at once.",
            }
            TscWriteLockLeaf {
                name: "tsc-write-lock-leaf",
                function: "kvm_synchronize_tsc",
                source: "arch/x86/kvm/x86.c",
                since: "3.8",
                prevents: "The raw tsc_write_lock, taken with interrupts off, is held while the spinlock of the clock is waited for.",
                without: "kvm_synchronize_tsc takes pvclock_gtod_sync_lock before it releases tsc_write_lock.",
            }

            // Fences.
            SmpMbAfterInGuestMode {
                name: "smp-mb-after-in-guest-mode",
                function: "vcpu_enter_guest",
                source: "commit 6b7e2d099148; Documentation/virt/kvm/vcpu-requests.rst; arch/x86/kvm/x86.c, smp_mb__after_srcu_read_unlock()",
                since: "2.6.39",
                prevents: "A vCPU looks at its requests before others can see IN_GUEST_MODE: it misses the request, and the sender the IPI.",
                without: "The vCPU may read its requests while its store of the mode is on its way.",
                shown_under: WeakerThanSc,
            }
            SmpMbBeforeExitingGuestMode {
                name: "smp-mb-before-exiting-guest-mode",
                function: "kvm_vcpu_exiting_guest_mode",
                source: "commit 6b7e2d099148; Documentation/virt/kvm/vcpu-requests.rst; include/linux/kvm_host.h, smp_mb__before_atomic()",
                since: "2.6.39",
                prevents: "Who makes a request, or has unlinked an SPTE, looks at the mode of a vCPU before that can see either: no IPI is sent, and the vCPU goes on without.",
                without: "The mode may be read while the request and the stores before it are on their way. The cmpxchg itself orders them on x86, where this barrier costs nothing.",
                shown_under: WeakerThanSc,
            }
            SmpMbAfterReadingShadowPages {
                name: "smp-mb-after-reading-shadow-pages",
                function: "walk_shadow_page_lockless_begin",
                source: "commit c142786c6291; arch/x86/kvm/mmu/mmu.c, smp_store_mb()",
                since: "3.5",
                prevents: "A lockless walk reads SPTEs before others can see READING_SHADOW_PAGE_TABLES: a flush does not wait for it, and the page under it is freed.",
                without: "The walk may read SPTEs while its store of the mode is on its way.",
                shown_under: WeakerThanSc,
            }
        }
    };
}
