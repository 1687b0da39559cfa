//! What a file may name on one architecture, and not on the other.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::error::{LoadError, Source, listed, quoted};
use super::table::Table;
use crate::ops::Verb;
use crate::property::Property;
use crate::scenario::{Arch, Paging, Profile};
use kvmmu_model::{Guard, Mark};

/// Operations of x86: its guests' page tables, its interrupts, what its KVM has beside the MMU.
const X86_VERBS: &[&str] = &[
    "fetch",
    "set-gpte",
    "set-gpte-readonly",
    "set-gpte-clean",
    "emulate-gpte",
    "invlpg",
    "load-cr3",
    "access-apic",
    "prefault",
    "shrink",
    "vmm-set-gpte",
    "vmm-set-large-gpte",
    "avic-irq-window",
    "create-irqchip",
    "create-pit",
    "close-vm",
    "rmmod",
    "update-vmsa",
    "set-tsc",
    "set-nx-huge-pages",
    "hv-eventfd",
    "hv-set-msr",
    "set-apic-base",
    "xen-evtchn-send",
    "halt",
    "pi-wakeup",
    "async-pf",
];

/// Operations of arm64: its KVM asks for the VMA of a frame, frees tables by RCU, and has VMIDs.
const ARM64_VERBS: &[&str] = &["mmap-small", "rcu-callbacks", "move-to", "new-vm", "release-vm"];

/// How marks of x86 begin.
const X86_MARKS: &[&str] = &[
    "fast-fault-",
    "access-track",
    "judged-",
    "spte-",
    "large-",
    "collapsible-",
    "pml-",
    "dirty-cleared",
    "write-protected-pt",
    "no-flush-owed",
    "gpte-",
    "emulated",
    "child-",
    "shadow-page-",
    "lockless-walk-",
    "flush-requested",
    "tlb-flushed",
    "guest-pt-write",
    "guest-entered",
    "page-unsynced",
    "page-synced",
    "sync-skipped",
    "flush-owed",
    "mmio-spte-set",
    "mmio-cached",
    "memslot-invalid",
    "irqchip-",
    "pit-",
    "avic-",
    "async-pf-",
    "module-",
    "vmsa-",
    "tsc-",
    "nx-",
    "hyperv-",
    "xen-",
    "apic-",
    "vcpu-asleep",
    "vcpu-stayed-awake",
    "vcpu-woken",
    "vcpu-timer",
    "vcpu-kicked",
];

/// How marks of arm64 begin.
const ARM64_MARKS: &[&str] =
    &["stage2-", "perms-", "table-", "vmid-", "vttbr-", "vcpu-moved", "vm-replaced", "vm-released"];

/// Properties of x86. `swap`: KVM for arm64 tells the host that a page is dirty when it lets the
/// guest write it, so that nothing is lost later. `accessed`: it loses AF at times, and may.
const X86_PROPERTIES: &[Property] = &[
    Property::Swap,
    Property::Accessed,
    Property::ShadowedPtReadonly,
    Property::SpteLegal,
    Property::RmapExact,
    Property::MmioGeneration,
    Property::GuestTranslation,
    Property::GuestAd,
];

/// Properties of arm64.
const ARM64_PROPERTIES: &[Property] =
    &[Property::Bbm, Property::TableRefcount, Property::VmIsolation];

/// How guards of arm64's MMU begin.
const ARM64_GUARDS: [&str; 2] = ["s2-", "vmid-"];

/// Guards of the VMIDs of 5.10.
const GENERATION_GUARDS: [Guard; 4] = [
    Guard::VmidRecheckAtEntry,
    Guard::VmidRolloverExit,
    Guard::VmidRecheckUnderLock,
    Guard::VmidBeforeGen,
];

/// Guards of the VMIDs since 5.18.
const RESERVED_VMID_GUARDS: [Guard; 2] = [Guard::VmidActiveCmpxchg, Guard::VmidKeepReserved];

/// Guards of 6.12 alone: of faults that walk together, and of `VTTBR_EL2` that is loaded early.
const V6_12_GUARDS: &[Guard] = &[
    Guard::S2LockedMarker,
    Guard::S2BreakCmpxchg,
    Guard::S2AttrCmpxchg,
    Guard::S2PaFromIpa,
    Guard::S2UnlinkedRcu,
    Guard::S2RelaxFlushEagain,
    Guard::VmidBeforeVttbr,
];

/// Guards that both architectures have, or that run beside either MMU.
const SHARED_GUARDS: &[Guard] = &[
    Guard::MarkDirtyAtomic,
    Guard::FlushAfterHarvest,
    Guard::HarvestClearThenProtect,
    Guard::HarvestXchg,
    Guard::HarvestFlushesAlways,
    Guard::NotifierSeqRecheck,
    Guard::NotifierCountCheck,
    Guard::NotifierSeqBeforeGup,
    Guard::RangeStartZaps,
    Guard::RangeStartCountsAlways,
    Guard::ChangePteBumpsSeq,
    Guard::RunHoldsSrcu,
    Guard::MemslotFreeAfterGracePeriod,
    Guard::MemslotInvalidBeforeZap,
    Guard::MemslotDeleteZaps,
    Guard::LogInstalledBeforeProtect,
    Guard::LogProtects,
    Guard::LogFlushes,
    Guard::LogFlushesAlways,
    Guard::LogInitiallySet,
    Guard::ClearThenProtect,
    Guard::ClearAtomic,
    Guard::FlushAfterClear,
    Guard::HostZapNotifies,
    Guard::VmmKeepsHarvest,
    Guard::VmmPausesVcpus,
    Guard::VmmMarksDirty,
    Guard::VmCompleteBeforeNotifier,
    Guard::BusFreeAfterGracePeriod,
    Guard::BusGracePeriod,
    Guard::CleanByKernelAddress,
    Guard::PsciWithoutKvmLock,
    Guard::UsageCountOwnLock,
    Guard::CountLockNoMutex,
];

impl Arch {
    /// What messages call it.
    const fn name(self) -> &'static str {
        match self {
            Arch::X86 => "x86",
            Arch::Arm64 => "arm64",
        }
    }
    const fn other(self) -> Arch {
        match self {
            Arch::X86 => Arch::Arm64,
            Arch::Arm64 => Arch::X86,
        }
    }

    /// True if its threads run this.
    pub(super) fn has_verb(self, verb: &Verb) -> bool {
        let theirs = match self {
            Arch::X86 => ARM64_VERBS,
            Arch::Arm64 => X86_VERBS,
        };
        !theirs.contains(&verb.name)
    }
    /// True if its KVM sets this mark.
    pub(super) fn has_mark(self, mark: Mark) -> bool {
        let theirs = match self {
            Arch::X86 => ARM64_MARKS,
            Arch::Arm64 => X86_MARKS,
        };
        !theirs.iter().any(|begin| mark.name().starts_with(begin))
    }
    /// True if it can be checked there.
    pub(super) fn has_property(self, property: Property) -> bool {
        let theirs = match self {
            Arch::X86 => ARM64_PROPERTIES,
            Arch::Arm64 => X86_PROPERTIES,
        };
        !theirs.contains(&property)
    }
    /// True if its KVM has the guard.
    pub(super) fn has_guard(self, guard: Guard) -> bool {
        let of_arm64 = ARM64_GUARDS.iter().any(|begin| guard.info().name.starts_with(begin));
        match self {
            // What is of arm64 outside its MMU runs beside this one, too.
            Arch::X86 => !of_arm64,
            Arch::Arm64 => of_arm64 || SHARED_GUARDS.contains(&guard),
        }
    }

    /// An error: this is of the other architecture.
    pub(super) fn lacks<'n>(
        self,
        source: Source<'_>,
        at: usize,
        what: &str,
        name: &str,
        legal: impl IntoIterator<Item = &'n str>,
    ) -> LoadError {
        let legal: Vec<&str> = legal.into_iter().collect();
        source.error(
            at,
            format!(
                "{what} {} is of {}, and the profile is of {}",
                quoted(name),
                self.other().name(),
                self.name()
            ),
            format!("legal here: {}", listed(&legal)),
        )
    }
}

/// `None`: the kernels of this profile have the step. Else since when, or until when, kernels have
/// it, and the name of a profile that does.
pub(super) fn not_asked(guard: Guard, profile: Profile) -> Option<(String, &'static str)> {
    let old = profile == Profile::Arm64V5_10;
    let since = || format!("since {}", guard.info().since);
    if GENERATION_GUARDS.contains(&guard) && !old {
        return Some(("to 5.17".into(), "arm64-v5.10"));
    }
    if RESERVED_VMID_GUARDS.contains(&guard) && old
        || V6_12_GUARDS.contains(&guard) && profile != Profile::Arm64V6_12
    {
        return Some((since(), "arm64-v6.12"));
    }
    None
}

/// Refuses keys that say what only the other architecture has.
pub(super) fn check_keys(root: &Table<'_>, arch: Arch) -> Result<(), LoadError> {
    let theirs: &[(&str, &str)] = match arch {
        Arch::X86 => &[
            ("early-completion", "it is an erratum of CPUs of arm64: remove the line"),
            ("vmid", "x86 is modelled with one VM: remove the table"),
        ],
        Arch::Arm64 => &[
            ("spte", "KVM for arm64 has one layout of descriptors: remove the line"),
            ("indirect-fast-fault", "KVM for arm64 has no fast fault: remove the line"),
            ("unsync", "KVM for arm64 shadows no guest page tables: remove the line"),
            (
                "guest",
                "KVM for arm64 does not look at the guest's own page tables: remove the table",
            ),
            ("pml", "no hardware of arm64 logs for KVM: remove the line"),
            ("apic-page", "guests of arm64 have no APIC: remove the line"),
        ],
    };
    match theirs.iter().find(|(key, _)| root.has(key)) {
        Some((key, help)) => Err(root.source.error(
            root.place(key),
            format!("'{key}' with a profile of {}", arch.name()),
            String::from(*help),
        )),
        None => Ok(()),
    }
}

/// How vCPUs translate. On arm64 there is one way.
pub(super) fn paging(
    root: &Table<'_>,
    arch: Arch,
    modes: &[(&'static str, Paging)],
) -> Result<Paging, LoadError> {
    match root.text("paging")? {
        None if arch == Arch::Arm64 => Ok(Paging::Direct),
        None => root.need_text("paging", "paging = \"direct\"")?.choose("paging mode", modes),
        Some(text) => {
            let paging = text.choose("paging mode", modes)?;
            if arch == Arch::Arm64 && paging == Paging::Shadow {
                return Err(text.error(
                    "guest page tables are shadowed on x86, and the profile is of arm64",
                    "remove the line: stage 2 translates frames",
                ));
            }
            Ok(paging)
        }
    }
}
