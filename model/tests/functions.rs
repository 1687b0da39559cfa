//! Goal: each function of KVM's MMU in 5.10, on x86 and on arm64, is found in the model by its
//! name, or docs/model.md or docs/arm64.md says why not. Method: the names, looked for where
//! sources define and document functions, else in the table of those left out, which names no
//! other.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// By subject. `FNAME(x)` of `paging_tmpl.h` is written so here, too.
const FUNCTIONS: &[(&str, &[&str])] = &[
    (
        "accessors of an SPTE",
        &[
            "mmu_spte_set",
            "mmu_spte_get_lockless",
            "spte_has_volatile_bits",
            "mmu_spte_update_no_track",
            "mmu_spte_update",
            "mmu_spte_clear_track_bits",
            "mmu_spte_clear_no_track",
            "mark_spte_for_access_track",
            "restore_acc_track_spte",
            "mmu_spte_age",
            "spte_write_protect",
            "spte_clear_dirty",
            "spte_wrprot_for_clear_dirty",
            "__rmap_clear_dirty",
            "spte_set_dirty",
            "make_spte",
            "set_spte",
            "mmu_set_spte",
            "mark_mmio_spte",
            "check_mmio_spte",
        ],
    ),
    (
        "shadow pages and reverse maps",
        &[
            "kvm_mmu_get_page",
            "kvm_mmu_alloc_page",
            "account_shadowed",
            "unaccount_shadowed",
            "link_shadow_page",
            "rmap_add",
            "rmap_remove",
            "rmap_recycle",
            "drop_spte",
            "drop_parent_pte",
            "rmap_write_protect",
            "kvm_mmu_page_get_gfn",
            "kvm_mmu_load",
        ],
    ),
    (
        "walks without the lock, flushes, freeing",
        &[
            "walk_shadow_page_lockless_begin",
            "walk_shadow_page_lockless_end",
            "clear_sp_write_flooding_count",
            "kvm_mmu_commit_zap_page",
            "kvm_flush_remote_tlbs",
            "kvm_flush_remote_tlbs_with_address",
            "kvm_make_all_cpus_request",
            "kvm_request_needs_ipi",
            "vcpu_enter_guest",
        ],
    ),
    (
        "faults",
        &[
            "fast_page_fault",
            "page_fault_can_be_fast",
            "fast_pf_fix_direct_spte",
            "direct_page_fault",
            "page_fault_handle_page_track",
            "try_async_pf",
            "make_mmu_pages_available",
            "__direct_map",
            "kvm_mmu_hugepage_adjust",
            "drop_large_spte",
            "direct_pte_prefetch",
            "handle_mmio_page_fault",
            "FNAME(page_fault)",
            "FNAME(walk_addr)",
            "FNAME(fetch)",
            "FNAME(gpte_changed)",
            "validate_direct_spte",
        ],
    ),
    (
        "notifiers",
        &[
            "kvm_mmu_notifier_invalidate_range_start",
            "kvm_mmu_notifier_invalidate_range_end",
            "mmu_notifier_retry",
            "kvm_mmu_notifier_change_pte",
            "kvm_mmu_notifier_clear_flush_young",
            "kvm_mmu_notifier_clear_young",
            "kvm_mmu_notifier_test_young",
            "kvm_mmu_notifier_release",
            "kvm_arch_flush_shadow_all",
            "kvm_set_pte_rmapp",
            "kvm_zap_rmapp",
            "kvm_age_rmapp",
            "kvm_arch_mmu_notifier_invalidate_range",
            "kvm_mmu_zap_all",
        ],
    ),
    (
        "zapping",
        &[
            "kvm_mmu_prepare_zap_page",
            "mmu_page_zap_pte",
            "mmu_zap_unsync_children",
            "kvm_mmu_remote_flush_or_zap",
            "kvm_mmu_flush_or_zap",
            "kvm_mmu_zap_all_fast",
            "kvm_zap_gfn_range",
            "mmu_shrink_scan",
        ],
    ),
    (
        "tables out of sync, stores to tables",
        &[
            "mmu_need_write_protect",
            "kvm_unsync_page",
            "kvm_mmu_mark_parents_unsync",
            "mark_unsync",
            "clear_unsync_child_bit",
            "kvm_mmu_sync_roots",
            "mmu_sync_children",
            "mmu_unsync_walk",
            "kvm_sync_page",
            "__kvm_sync_page",
            "kvm_sync_pages",
            "FNAME(sync_page)",
            "kvm_mmu_pte_write",
            "mmu_pte_write_fetch_gpte",
            "FNAME(invlpg)",
            "kvm_mmu_invlpg",
        ],
    ),
    (
        "the dirty log",
        &[
            "mark_page_dirty",
            "kvm_vm_ioctl_get_dirty_log",
            "kvm_get_dirty_log_protect",
            "kvm_arch_sync_dirty_log",
            "kvm_mmu_write_protect_pt_masked",
            "kvm_arch_mmu_enable_log_dirty_pt_masked",
            "kvm_vm_ioctl_clear_dirty_log",
            "kvm_clear_dirty_log_protect",
            "kvm_arch_flush_remote_tlbs_memslot",
            "kvm_mmu_slot_apply_flags",
            "kvm_mmu_slot_remove_write_access",
            "kvm_mmu_slot_leaf_clear_dirty",
            "kvm_mmu_slot_set_dirty",
            "kvm_mmu_zap_collapsible_sptes",
        ],
    ),
];

/// Of arm64.
const ARM64: &[(&str, &[&str])] = &[
    (
        "descriptors and the walker",
        &[
            "kvm_pte_valid",
            "kvm_pte_table",
            "kvm_pte_follow",
            "kvm_init_valid_leaf_pte",
            "kvm_set_invalid_pte",
            "kvm_granule_size",
            "kvm_pgtable_idx",
            "kvm_block_mapping_supported",
            "kvm_pgtable_walk",
            "__kvm_pgtable_walk",
            "__kvm_pgtable_visit",
        ],
    ),
    (
        "tables",
        &[
            "kvm_pgtable_stage2_map",
            "stage2_map_walker_try_leaf",
            "stage2_map_walk_leaf",
            "stage2_map_walk_table_pre",
            "stage2_map_walk_table_post",
            "kvm_pgtable_stage2_unmap",
            "stage2_unmap_walker",
            "stage2_attr_walker",
            "stage2_update_leaf_attrs",
            "kvm_pgtable_stage2_wrprotect",
            "kvm_pgtable_stage2_relax_perms",
            "kvm_pgtable_stage2_mkyoung",
            "kvm_pgtable_stage2_mkold",
            "kvm_pgtable_stage2_is_young",
            "kvm_pgtable_stage2_flush",
            "stage2_flush_walker",
            "kvm_pgtable_stage2_init",
            "kvm_pgtable_stage2_destroy",
            "stage2_free_walker",
        ],
    ),
    (
        "mmu.c",
        &[
            "kvm_handle_guest_abort",
            "user_mem_abort",
            "transparent_hugepage_adjust",
            "fault_supports_stage2_huge_mapping",
            "handle_access_fault",
            "stage2_apply_range",
            "unmap_stage2_range",
            "stage2_wp_range",
            "kvm_mmu_wp_memory_region",
            "kvm_mmu_write_protect_pt_masked",
            "kvm_set_spte_handler",
            "kvm_age_hva_handler",
            "kvm_test_age_hva_handler",
            "kvm_arch_prepare_memory_region",
            "kvm_arch_flush_shadow_all",
            "kvm_arch_flush_shadow_memslot",
            "kvm_init_stage2_mmu",
            "kvm_free_stage2_pgd",
            "stage2_unmap_vm",
            "stage2_flush_vm",
        ],
    ),
    (
        "flushes, VMIDs, vCPUs",
        &[
            "__kvm_tlb_flush_vmid_ipa",
            "__kvm_tlb_flush_vmid",
            "__kvm_flush_cpu_context",
            "__kvm_flush_vm_context",
            "need_new_vmid_gen",
            "update_vmid",
            "force_vm_exit",
            "kvm_arch_vcpu_ioctl_run",
            "kvm_arch_vcpu_load",
        ],
    ),
];

/// The heading of the table of those left out.
const LEFT_OUT: &str = "## Functions left out";

/// The names that a line of a source is about: that of a function, what `#[kernel]` calls it, and
/// those that its documentation begins with.
fn names_of(line: &str) -> Vec<&str> {
    let line = line.trim_start();
    if let Some(said) = line.strip_prefix("/// `") {
        let said = said.split_once(':').map_or(said, |(names, _)| names);
        return said.split('`').step_by(2).collect();
    }
    if let Some(called) = line.strip_prefix("#[kernel(\"") {
        return called.split('"').take(1).collect();
    }
    let definition = line.split_once("fn ").map(|(_, rest)| rest);
    definition.into_iter().filter_map(|rest| rest.split(['(', '<']).next()).collect()
}

fn sources(directory: &Path, text: &mut String) {
    for entry in fs::read_dir(directory).expect("a directory of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, text);
        } else {
            text.push_str(&fs::read_to_string(&path).expect("a source"));
        }
    }
}

#[test]
fn every_function_is_found_by_its_name_or_left_out_with_a_reason() {
    check(FUNCTIONS, "src", "../docs/model.md");
}

#[test]
fn so_is_every_function_of_arm64() {
    check(ARM64, "src/arm64", "../docs/arm64.md");
}

fn check(functions: &[(&str, &[&str])], directory: &str, page: &str) {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut text = String::new();
    sources(&here.join(directory), &mut text);
    let modelled: BTreeSet<&str> = text.lines().flat_map(names_of).collect();
    let page = fs::read_to_string(here.join(page)).expect("the page");
    let (_, table) = page.split_once(LEFT_OUT).expect("the table of functions left out");
    let table = table.split("\n## ").next().unwrap_or_default();
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    let names = rows.map(|row| {
        let mut cells = row.split('|').skip(1);
        let names = cells.next().unwrap_or_default();
        assert!(cells.next().is_some_and(|why| !why.trim().is_empty()), "no reason: {row}");
        names.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()
    });
    let left_out: BTreeSet<String> = names.flatten().collect();
    let known: BTreeSet<&str> = functions.iter().flat_map(|(_, names)| *names).copied().collect();
    for (subject, names) in functions {
        for name in *names {
            let (here, out) = (modelled.contains(name), left_out.contains(*name));
            assert!(here || out, "{subject}: {name} is neither in the model nor in {LEFT_OUT:?}");
            assert!(!(here && out), "{subject}: {name} is in the model, and in {LEFT_OUT:?}");
        }
    }
    for name in &left_out {
        assert!(known.contains(name.as_str()), "{LEFT_OUT:?}: {name} is not in the list here");
    }
}
