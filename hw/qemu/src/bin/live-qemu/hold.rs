//! Places at which a CPU is held until another one has come somewhere (`hw/plugin/src/hold.rs`):
//! the story of a scenario, on a real kernel.

use kvmmu_qemu::Failure;

use crate::kernels::Arch;

/// A place.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Hold {
    /// Its name.
    pub(crate) name: &'static str,
    /// Who waits there, and what for.
    what: &'static str,
    /// The built-in scenario that it is of.
    scenario: &'static str,
    /// What is run in the place of the usual checks.
    pub(crate) job: Option<&'static str>,
    /// `FUNCTION:AT:UNTIL`: the first one that a kernel has counts.
    arm64: &'static [&'static str],
    x86: &'static [&'static str],
}

/// All of them.
const ALL: &[Hold] = &[
    Hold {
        name: "fault-before-lock",
        what: "a fault that has looked its page up, until an invalidation has ended",
        scenario: "notifier-retry",
        job: None,
        // CASA of mmu_lock.
        arm64: &["kvm_handle_guest_abort:88e07c00/ffe0fc00:\
                  return/kvm_mmu_notifier_invalidate_range_end"],
        x86: &[
            "direct_page_fault:call/_raw_spin_lock:return/kvm_mmu_notifier_invalidate_range_end",
            "direct_page_fault:call/_raw_write_lock:return/kvm_mmu_notifier_invalidate_range_end",
        ],
    },
    Hold {
        name: "invalidate-before-flush",
        what: "an invalidation that has unmapped a page, until a guest is entered",
        scenario: "notifier-retry",
        job: None,
        arm64: &["stage2_put_pte:call/__kvm_tlb_flush_vmid_ipa:enter"],
        x86: &[
            "kvm_mmu_notifier_invalidate_range_start:call/kvm_flush_remote_tlbs:enter",
            "__kvm_handle_hva_range:call/kvm_flush_remote_tlbs:enter",
        ],
    },
    Hold {
        name: "harvest-before-flush",
        what: "a harvest that has taken write permission, until a fault is over",
        scenario: "stale-tlb-dirty-log",
        job: None,
        arm64: &["kvm_vm_ioctl:call/kvm_arch_flush_remote_tlbs_memslot:\
                  return/kvm_handle_guest_abort"],
        x86: &["kvm_get_dirty_log_protect:call/kvm_arch_flush_remote_tlbs_memslot:\
             return/kvm_mmu_page_fault"],
    },
    Hold {
        name: "fault-after-vma",
        what: "a fault that has looked at its VMA, until an invalidation has ended",
        scenario: "s2-vma-size",
        job: Some("vma-size --rounds 40"),
        arm64: &["kvm_handle_guest_abort:call/kvm_mmu_topup_memory_cache:\
                  always/return/kvm_mmu_notifier_invalidate_range_end"],
        x86: &[],
    },
    Hold {
        name: "fast-fault-before-cmpxchg",
        what: "a fast fault that has read the SPTE, until pages are protected or unmapped",
        scenario: "aba-direct",
        job: None,
        arm64: &[],
        x86: &[
            "fast_page_fault:cmpxchg:return/kvm_arch_mmu_enable_log_dirty_pt_masked|\
             return/kvm_mmu_notifier_invalidate_range_start",
            "direct_page_fault:cmpxchg:return/kvm_arch_mmu_enable_log_dirty_pt_masked|\
             return/kvm_mmu_notifier_invalidate_range_start",
        ],
    },
];

impl Hold {
    /// What the plugin is told.
    pub(crate) fn options(&self, arch: Arch) -> impl Iterator<Item = String> + '_ {
        let places = match arch {
            Arch::Arm64 => self.arm64,
            Arch::X86 => self.x86,
        };
        places.iter().map(|place| format!("hold={}:{place}", self.name))
    }
}

/// The one of this name.
///
/// # Errors
///
/// When there is none on this architecture.
pub(crate) fn find(arch: Arch, name: &str) -> Result<&'static Hold, Failure> {
    let has = |hold: &&Hold| hold.options(arch).next().is_some();
    let found = ALL.iter().filter(has).find(|hold| hold.name == name);
    found.ok_or_else(|| {
        let lines: Vec<String> = ALL
            .iter()
            .filter(has)
            .map(|hold| format!("\n  {:25} {} ({})", hold.name, hold.what, hold.scenario))
            .collect();
        Failure::usage(
            format!(
                "no place of {} is called '{name}'; a CPU may be held at{}",
                arch.name(),
                lines.concat()
            ),
            "name one of these",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// The functions whose returns are recorded.
    const FUNCTIONS: &str = include_str!("../../../../../checks/steps/src/functions.rs");

    #[test]
    fn places_are_such_as_the_plugin_reads() {
        for hold in ALL {
            for place in hold.arm64.iter().chain(hold.x86) {
                let parts: Vec<&str> = place.split(':').collect();
                let &[function, at, until] = &parts[..] else { panic!("{place}") };
                assert!(!function.is_empty() && !place.contains(' '), "{place}");
                assert!(at == "cmpxchg" || at.contains('/'), "{place}");
                let until = until.strip_prefix("always/").unwrap_or(until);
                for until in until.split('|') {
                    let known = until.strip_prefix("return/").is_some_and(|name| {
                        let list = FUNCTIONS.split("];").next().unwrap();
                        list.contains(&format!("\"{name}\""))
                    });
                    assert!(until == "enter" || known, "{place}: {until}");
                }
            }
        }
    }

    #[test]
    fn scenarios_are_built_in() {
        let races = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios/races");
        for hold in ALL {
            let file = format!("{}.toml", hold.scenario);
            let folders = std::fs::read_dir(&races).unwrap();
            let found = folders.flatten().any(|folder| folder.path().join(&file).is_file());
            assert!(found, "{file}");
        }
    }

    #[test]
    fn a_place_that_an_architecture_has_not_is_refused() {
        assert!(find(Arch::X86, "fast-fault-before-cmpxchg").is_ok());
        let failure = find(Arch::Arm64, "fast-fault-before-cmpxchg").unwrap_err();
        assert!(failure.message.contains("fault-before-lock"), "{failure}");
    }
}
