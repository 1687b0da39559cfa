//! What releases of the kernel lack of these steps.

use super::{Guard, GuardSet};

/// A release of the kernel, by what it lacks of this model.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Release {
    /// Its name, which stands for the guards that it lacks wherever guards are named.
    pub name: &'static str,
    lacks: &'static [Guard],
}

impl Release {
    /// Those that are known. Without what was never in a release: the pins that locking.rst
    /// proposes, and what is of another architecture.
    pub const ALL: &'static [Release] = &[
        Release {
            name: "x86-v5.10",
            lacks: &[
                Guard::AgeUsesXchgResult,
                Guard::ChangePteClearsMmuWritable,
                Guard::SyncPageFlushes,
                Guard::SyncRootsLocks,
                Guard::ChildGfnCompare,
                Guard::ChildRoleCompare,
                Guard::GpteCmpxchgByAddress,
                Guard::MmioGenerationFirst,
                Guard::LogFlushesAlways,
                Guard::InvalidSlotRetries,
                Guard::BusFreeAfterGracePeriod,
                Guard::AsyncPfFlushed,
                Guard::HostZapNotifies,
            ],
        },
        // With the fixes of its stable branch: that of the bus (CVE-2021-47061) came in 5.10.37,
        // which is from memory and not confirmed.
        Release {
            name: "x86-v5.10.110",
            lacks: &[
                Guard::AgeUsesXchgResult,
                Guard::ChangePteClearsMmuWritable,
                Guard::SyncPageFlushes,
                Guard::SyncRootsLocks,
                Guard::ChildGfnCompare,
                Guard::ChildRoleCompare,
                Guard::MmioGenerationFirst,
                Guard::LogFlushesAlways,
                Guard::InvalidSlotRetries,
                Guard::AsyncPfFlushed,
                Guard::HostZapNotifies,
            ],
        },
        // The kernel of RK3588 boards, for profile arm64-v5.10.
        Release {
            name: "arm64-v5.10.110",
            lacks: &[Guard::S2SeqBeforeMmapUnlock, Guard::S2TlbiRepeat],
        },
    ];

    /// The one of this name.
    pub fn by_name(name: &str) -> Option<&'static Release> {
        Release::ALL.iter().find(|release| release.name == name)
    }

    /// The one that lacks exactly these.
    pub fn that_lacks(guards: GuardSet) -> Option<&'static Release> {
        Release::ALL.iter().find(|release| release.lacks() == guards)
    }

    /// What it lacks.
    pub fn lacks(&self) -> GuardSet {
        self.lacks.iter().copied().collect()
    }
}
