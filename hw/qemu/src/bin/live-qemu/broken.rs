//! Kernels that are broken on purpose: to the real kernel what removed guards are to the model. One
//! or a few instructions of a function are changed when the kernel has booted, before it has a VM.

use kvmmu_qemu::Failure;

use crate::kernels::Arch;

/// A kernel that is broken.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Broken {
    /// Its name.
    pub(crate) name: &'static str,
    /// What is missing.
    pub(crate) what: &'static str,
    /// `FUNCTION:WORD/MASK:NEW` or `FUNCTION:call/FUNCTION:NEW` each: see `hw/plugin/src/patch.rs`.
    pub(crate) patches: &'static [&'static str],
}

/// All of them for arm64 6.1. `NOP` is 0xd503201f.
const ARM64: &[Broken] = &[
    Broken {
        name: "harvest-tlbi",
        what: "TLBI VMALLS12E1IS, in every flush of all entries of a VM",
        patches: &["__kvm_tlb_flush_vmid:d50c83df/ffffffff:d503201f"],
    },
    Broken {
        name: "harvest-flush",
        what: "the flush of GET_DIRTY_LOG, and of the other ioctls of a VM",
        patches: &["kvm_vm_ioctl:call/kvm_arch_flush_remote_tlbs_memslot:d503201f"],
    },
    Broken {
        name: "harvest-publish",
        what: "DSB ISHST before TLBI VMALLS12E1IS: walkers may still see the old descriptor",
        patches: &["__kvm_tlb_flush_vmid:d5033a9f/ffffffff:d503201f"],
    },
    Broken {
        name: "harvest-wait",
        what: "DSB ISH after TLBI VMALLS12E1IS: other CPUs may still use what they have",
        patches: &["__kvm_tlb_flush_vmid:d5033b9f/ffffffff:d503201f"],
    },
    Broken {
        name: "harvest-protects",
        what: "the walk that takes write permission",
        patches: &["kvm_pgtable_stage2_wrprotect:call/kvm_pgtable_walk:d503201f"],
    },
    Broken {
        name: "harvest-calls-protect",
        what: "the call that protects what the harvest takes out of the log",
        patches: &["kvm_vm_ioctl:call/kvm_arch_mmu_enable_log_dirty_pt_masked:d503201f"],
    },
    Broken {
        name: "harvest-lock",
        what: "CASA of mmu_lock in the ioctls of a VM: they think that they have it",
        patches: &["kvm_vm_ioctl:88e07c00/ffe0fc00:d503201f"],
    },
    Broken {
        name: "fault-lock",
        what: "CASA of mmu_lock in a fault: it thinks that it has it",
        patches: &["kvm_handle_guest_abort:88e07c00/ffe0fc00:d503201f"],
    },
    Broken {
        name: "fault-marks-dirty",
        what: "mark_page_dirty_in_slot, where a fault lets the guest write",
        patches: &["kvm_handle_guest_abort:call/mark_page_dirty_in_slot:d503201f"],
    },
    Broken {
        name: "page-ipas2e1is",
        what: "TLBI IPAS2E1IS, in every flush of one page",
        patches: &["__kvm_tlb_flush_vmid_ipa:d50c8020/ffffffe0:d503201f"],
    },
    Broken {
        name: "page-vmalle1is",
        what: "TLBI VMALLE1IS after IPAS2E1IS: what combines both stages stays",
        patches: &["__kvm_tlb_flush_vmid_ipa:d508831f/ffffffff:d503201f"],
    },
    Broken {
        name: "page-publish",
        what: "DSB ISHST before TLBI IPAS2E1IS",
        patches: &["__kvm_tlb_flush_vmid_ipa:d5033a9f/ffffffff:d503201f"],
    },
    Broken {
        name: "page-wait",
        what: "DSB ISH after each of the two TLBIs of a page",
        patches: &["__kvm_tlb_flush_vmid_ipa:d5033b9f/ffffffff:d503201f"],
    },
    Broken {
        name: "unmap-flush",
        what: "the flush of a page that is unmapped, and of a table that is taken out",
        patches: &["stage2_put_pte:call/__kvm_tlb_flush_vmid_ipa:d503201f"],
    },
    Broken {
        name: "unmap-clears",
        what: "the descriptor that a walk should clear",
        patches: &["stage2_unmap_walker:call/stage2_put_pte:d503201f"],
    },
    Broken {
        name: "notifier-seq-recheck",
        what: "the sequence, read again under mmu_lock, compared with what it was",
        // CMP X1, X0 becomes CMP X0, X0.
        patches: &["kvm_handle_guest_abort:eb00003f/ffffffff:eb00001f"],
    },
    Broken {
        name: "notifier-count-check",
        what: "the look at invalidations that are under way",
        // CBNZ X0, of pages and of blocks.
        patches: &[
            "kvm_handle_guest_abort:b5000c20/ffffffff:d503201f",
            "kvm_handle_guest_abort:b5001e00/ffffffff:d503201f",
        ],
    },
];

/// All of them for x86 5.10. What is a guard of the model has its name.
const X86: &[Broken] = &[
    Broken {
        name: "flush-after-harvest",
        what: "the flush of GET_DIRTY_LOG",
        patches: &["kvm_get_dirty_log_protect:call/kvm_arch_flush_remote_tlbs_memslot:nop"],
    },
    Broken {
        name: "harvest-clear-then-protect",
        what: "the call that protects what the harvest takes out of the log",
        patches: &["kvm_get_dirty_log_protect:call/kvm_arch_mmu_enable_log_dirty_pt_masked:nop"],
    },
    Broken {
        name: "notifier-seq-recheck",
        what: "the jump, if the sequence is not what it was",
        patches: &["direct_page_fault:branch/1c7:nop"],
    },
    Broken {
        name: "notifier-count-check",
        what: "the jump, if an invalidation is under way",
        patches: &["direct_page_fault:branch/1b1:nop"],
    },
    Broken {
        name: "mark-page-dirty",
        what: "what kvm_vcpu_mark_page_dirty does",
        patches: &["kvm_vcpu_mark_page_dirty:entry:ret"],
    },
    Broken {
        name: "log-flushes",
        what: "the flush of what a slot's log protects when it begins",
        patches: &["kvm_mmu_slot_remove_write_access:call/kvm_flush_remote_tlbs:nop"],
    },
    Broken {
        name: "range-start-flush",
        what: "the flush of invalidate_range_start",
        patches: &["kvm_mmu_notifier_invalidate_range_start:call/kvm_flush_remote_tlbs:nop"],
    },
    Broken {
        name: "flush-before-free",
        what: "the flush before pages of descriptors are freed",
        patches: &["kvm_mmu_commit_zap_page:call/kvm_flush_remote_tlbs:nop"],
    },
    Broken {
        name: "flush-requests",
        what: "the requests of every flush",
        patches: &["kvm_flush_remote_tlbs:call/kvm_make_all_cpus_request_except:nop"],
    },
    Broken {
        name: "entry-serves-requests",
        what: "what a vCPU does when it was asked for a flush",
        patches: &["svm_flush_tlb:entry:ret"],
    },
    Broken {
        name: "set-spte-marks-dirty",
        what: "the mark, where a fault maps a page writable",
        patches: &["set_spte:call/kvm_vcpu_mark_page_dirty:nop"],
    },
    Broken {
        name: "fast-fault-cmpxchg",
        what: "the comparison: a fast fault stores, whatever is there (with --hold)",
        patches: &["direct_page_fault:cmpxchg:store"],
    },
    Broken {
        name: "fast-fault-marks-dirty",
        what: "the mark, where a fast fault gives W back",
        patches: &["direct_page_fault:call/kvm_vcpu_mark_page_dirty:nop"],
    },
];

/// What a name that does not fit is answered with.
pub(crate) fn made_for(arch: Arch) -> &'static str {
    match arch {
        Arch::Arm64 => "these are made for arm64 6.1.176: another kernel may not have the place",
        Arch::X86 => "these are made for x86-64 5.10.223: another kernel may not have the place",
    }
}

/// The one of this name.
///
/// # Errors
///
/// When there is none.
pub(crate) fn find(arch: Arch, name: &str) -> Result<&'static Broken, Failure> {
    let all = match arch {
        Arch::Arm64 => ARM64,
        Arch::X86 => X86,
    };
    all.iter().find(|broken| broken.name == name).ok_or_else(|| {
        let lines: Vec<String> =
            all.iter().map(|broken| format!("\n  {:18} {}", broken.name, broken.what)).collect();
        Failure::usage(
            format!(
                "no broken kernel of {} is called '{name}'; one may be without{}",
                arch.name(),
                lines.concat()
            ),
            "name one of these",
        )
    })
}
