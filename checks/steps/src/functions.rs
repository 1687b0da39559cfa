//! The functions whose calls and returns are recorded, where a kernel has them.

use crate::event::Arch;

/// What they are called in the kernel. The place in this list is the number in a recording: new
/// ones go to the end, with a new version of the format.
pub const NAMES: &[&str] = &[
    "kvm_vm_ioctl",
    "kvm_handle_guest_abort",
    "kvm_unmap_gfn_range",
    "kvm_unmap_hva_range",
    "kvm_age_gfn",
    "kvm_age_hva",
    "kvm_set_spte_gfn",
    "kvm_set_spte_hva",
    "kvm_arch_mmu_enable_log_dirty_pt_masked",
    "kvm_init_stage2_mmu",
    "kvm_free_stage2_pgd",
    "kvm_arch_flush_shadow_all",
    "kvm_arch_flush_shadow_memslot",
    "kvm_pgtable_stage2_map",
    "kvm_pgtable_stage2_unmap",
    "kvm_pgtable_stage2_wrprotect",
    "kvm_pgtable_stage2_relax_perms",
    "kvm_pgtable_stage2_mkold",
    "kvm_pgtable_stage2_mkyoung",
    "kvm_pgtable_stage2_destroy",
    "kvm_flush_remote_tlbs",
    "mark_page_dirty_in_slot",
    "mark_page_dirty",
    "kvm_mmu_init_vm",
    "kvm_mmu_page_fault",
    "direct_page_fault",
    "kvm_vcpu_mark_page_dirty",
    "kvm_mmu_notifier_invalidate_range_start",
    "kvm_mmu_notifier_change_pte",
    "kvm_mmu_notifier_release",
    "kvm_mmu_load",
    "kvm_mmu_zap_all_fast",
    "kvm_mmu_slot_remove_write_access",
    "kvm_dirty_ring_push",
    "kvm_mmu_invalidate_begin",
    "kvm_mmu_invalidate_end",
    "kvm_inc_notifier_count",
    "kvm_dec_notifier_count",
    "kvm_mmu_notifier_invalidate_range_end",
];

/// The number of a function, if it is one of these.
pub fn number(name: &str) -> Option<u8> {
    NAMES.iter().position(|n| *n == name).and_then(|n| u8::try_from(n).ok())
}

/// The name of a number; a number that no function has is not known.
pub fn name(number: u8) -> &'static str {
    NAMES.get(usize::from(number)).copied().unwrap_or("(unknown function)")
}

/// Functions that get a `struct kvm` as their first argument, once for each VM, before anybody
/// takes its lock.
pub const MAKE_VM: &[&str] = &["kvm_init_stage2_mmu", "kvm_mmu_init_vm"];

/// Functions whose loads of descriptors and of watched words are recorded: those that handle a
/// fault, where they are not part of one another.
pub const OF_FAULTS: &[&str] = &[
    "direct_page_fault",
    "fast_page_fault",
    "kvm_tdp_page_fault",
    "paging64_page_fault",
    "nonpaging_page_fault",
    "try_async_pf",
    "kvm_faultin_pfn",
    "is_page_fault_stale",
    "kvm_handle_guest_abort",
    "user_mem_abort",
];

/// Functions that begin an invalidation: what they store first to `struct kvm` while they have the
/// lock is the count of those that are under way.
pub const BEGIN_INVALIDATION: &[&str] = &[
    "kvm_mmu_invalidate_begin",
    "kvm_inc_notifier_count",
    "kvm_mmu_notifier_invalidate_range_start",
];

/// Functions that end one: what they store there beside the count is the sequence.
pub const END_INVALIDATION: &[&str] =
    &["kvm_mmu_invalidate_end", "kvm_dec_notifier_count", "kvm_mmu_notifier_invalidate_range_end"];

/// Functions that set a bit of the dirty bitmap.
pub const MARK: &[&str] =
    &["mark_page_dirty_in_slot", "mark_page_dirty", "kvm_vcpu_mark_page_dirty"];

/// True if a function of this name is of the file whose code stores descriptors: what else writes
/// to a page of them has got it from the allocator.
pub fn writes_descriptors(arch: Arch, name: &str) -> bool {
    match arch {
        // arch/arm64/kvm/hyp/pgtable.c. Functions of arch/arm64/kvm/mmu.c have the same prefix and
        // store no descriptor.
        Arch::Arm64 => {
            let of = |prefixes: &[&str]| prefixes.iter().any(|p| name.starts_with(p));
            of(&["stage2_", "kvm_pgtable_", "_kvm_pgtable_", "__kvm_pgtable_"])
                && !of(&["stage2_apply", "stage2_memcache", "stage2_flush_vm", "stage2_unmap_vm"])
        }
        // Modules: arch/x86/kvm is one.
        Arch::X86 => true,
    }
}
