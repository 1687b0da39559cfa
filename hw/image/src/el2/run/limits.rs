//! What QEMU cannot show: which steps may be removed there without a loss, and why.
//!
//! Each is about TLBs and walks that QEMU has not. A CPU may have them, and need not: what a run on
//! a board does not show says nothing either.

use kvmmu_model::{Guard, GuardSet};
use kvmmu_scenarios::Property;
use kvmmu_scenarios::scenario::{Arch, Expect, Scenario};

/// Why QEMU does not show the loss.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Limit {
    /// It is about what a CPU may have cached, which no CPU tells.
    Bbm,
    /// A denial would have to be cached.
    Denials,
    /// A walk would have to go through a table's descriptor that was cached.
    WalkCache,
    /// A combined entry would have to be made from one of stage 2 alone.
    Stages,
    /// `VMALLE1IS`, of the same sequence, would have to leave entries of the VMID.
    OtherPages,
    /// Nobody looks at locks here.
    Locks,
    /// An invalidation would have to be under way when its instruction has ended.
    Complete,
}

impl Limit {
    /// All of them.
    pub(crate) const ALL: [Limit; 7] = [
        Limit::Bbm,
        Limit::Denials,
        Limit::WalkCache,
        Limit::Stages,
        Limit::OtherPages,
        Limit::Locks,
        Limit::Complete,
    ];

    /// As the table has it.
    pub(crate) fn letter(self) -> char {
        char::from(b'a' + self as u8)
    }

    /// The reason.
    pub(crate) fn why(self) -> &'static str {
        match self {
            Limit::Bbm => "a rule about what CPUs may have cached: no CPU tells what it has",
            Limit::Denials => "its TLBs keep nothing that denies an access",
            Limit::WalkCache => "its walks read every table from memory",
            Limit::Stages => "it makes no combined entry from one of stage 2 that it has kept",
            Limit::OtherPages => "its VMALLE1IS drops the entries of all pages",
            Limit::Locks => "which locks are held nobody checks here",
            Limit::Complete => "its invalidations are complete when the instruction is",
        }
    }

    /// What may be violated all the same: a consequence of what cannot be seen itself.
    pub(crate) fn shows(self) -> &'static [Property] {
        match self {
            Limit::Bbm => &[Property::TableRefcount, Property::PfnSafety],
            _ => &[],
        }
    }

    /// The limit by which a variant's loss cannot be seen. `None`: it can.
    pub(crate) fn of(scenario: &Scenario, expect: &Expect) -> Option<Limit> {
        let lacks = |guard| expect.without.contains(guard);
        if scenario.profile.arch() != Arch::Arm64 {
            return None;
        }
        Some(match expect.property? {
            Property::Bbm => Limit::Bbm,
            Property::Livelock => Limit::Denials,
            Property::UseAfterFree if frees_without_flush(expect.without) => Limit::WalkCache,
            _ if lacks(Guard::S2TlbiStage2First) => Limit::Stages,
            Property::LockProtection => Limit::Locks,
            _ if lacks(Guard::S2MergeFlushVmid) || lacks(Guard::S2LockedMarker) => {
                Limit::OtherPages
            }
            _ if lacks(Guard::S2TlbiWait) || lacks(Guard::S2TlbiRepeat) => Limit::Complete,
            _ => return None,
        })
    }
}

/// True if a descriptor may become valid while CPUs have another one cached, which the architecture
/// forbids: only QEMU is asked to go through with it.
pub(crate) fn breaks_bbm(without: GuardSet) -> bool {
    const KEEP_IT: [Guard; 7] = [
        Guard::S2BbmBreak,
        Guard::S2BbmTlbi,
        Guard::S2MergeFlushVmid,
        Guard::S2LockedMarker,
        Guard::S2BreakCmpxchg,
        Guard::S2AttrCmpxchg,
        Guard::S2PaFromIpa,
    ];
    KEEP_IT.iter().any(|guard| without.contains(*guard))
}

/// A table is freed, and what leads to it is in TLBs still: no software goes there.
fn frees_without_flush(without: GuardSet) -> bool {
    without.contains(Guard::S2TableTlbiBeforeFree) || without.contains(Guard::S2UnmapTlbi)
}
