//! The scenarios that jobs set out from: those of this package.

use alloc::string::String;
use alloc::vec;

use kvmmu_scenarios::ops::HostOp;
use kvmmu_scenarios::program::{OffVcpu, Program, Step, Steps};
use kvmmu_scenarios::scenario::{Paging, Profile, Scenario, Thread, ThreadKind};

use crate::el2::run::catalogue;

/// The versions of arm64, and how reports name them.
pub(super) const VERSIONS: [(Profile, &str); 3] = [
    (Profile::Arm64V5_10, "arm64-v5.10"),
    (Profile::Arm64V6_1, "arm64-v6.1"),
    (Profile::Arm64V6_12, "arm64-v6.12"),
];

/// All frames logged, mapped 110: the MMU of x86.
pub(super) fn migrating() -> Scenario {
    of("migrating", Profile::Fixed)
}

/// All frames logged, mapped read-only by pages: the MMU of arm64.
pub(super) fn migrating_arm64(version: Profile) -> Scenario {
    of("migrating-arm64", version)
}

/// Frames 0 to 3 are one huge page of the host. What frees tables by RCU is there, where there is
/// RCU, and is to be called by who makes them.
pub(super) fn huge_arm64(version: Profile) -> Scenario {
    let mut scenario = of("huge-arm64", version);
    if version == Profile::Arm64V6_12 {
        scenario.threads.push(Thread {
            name: String::from("host"),
            kind: ThreadKind::Host,
            paging: Paging::Direct,
            run: Program::Other(Steps(vec![Step::One(OffVcpu::Host(HostOp::RcuCallbacks))])),
        });
    }
    scenario
}

fn of(name: &str, profile: Profile) -> Scenario {
    let is_it = |s: &Scenario| s.name.starts_with(name) && s.profile == profile;
    let found = catalogue::own().into_iter().find(is_it);
    found.unwrap_or_else(|| unreachable!("the build script has {name}"))
}
