//! The MMUs that a VM of this machine may have.

use core::fmt::Debug;

use kvmmu_model::{FaultStatus, ShadowMmu, Stage2Mmu, Tables};
use kvmmu_scenarios::mmu::ScenarioMmu;
use kvmmu_scenarios::scenario::{Format, Scenario};

use super::platform::El2;
use crate::el2::memory::guest::{Abort, Keeps};

/// One of them: whose tables guests translate by.
pub(crate) trait RealMmu: Copy + Debug + Send + Sync + 'static {
    /// The model's.
    type Mmu: ScenarioMmu<El2<Self>> + Tables<El2<Self>, State: Send + Sync> + Send + Sync;

    /// What hardware keeps in its descriptors.
    fn keeps(scenario: &Scenario) -> Keeps;

    /// What KVM learns of a fault.
    fn status(abort: Abort) -> FaultStatus;
}

/// That of x86, with its fast page fault, on descriptors of arm64.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shadow;

/// That of arm64.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stage2;

impl RealMmu for Shadow {
    type Mmu = ShadowMmu<El2<Shadow>>;

    fn keeps(scenario: &Scenario) -> Keeps {
        if scenario.spte == Format::Stage2Hd { Keeps::Dirty } else { Keeps::Nothing }
    }

    fn status(abort: Abort) -> FaultStatus {
        FaultStatus::present(abort.is_permission())
    }
}

impl RealMmu for Stage2 {
    type Mmu = Stage2Mmu<El2<Stage2>>;

    fn keeps(_scenario: &Scenario) -> Keeps {
        Keeps::Accessed
    }

    fn status(abort: Abort) -> FaultStatus {
        match abort.is_permission() {
            true => FaultStatus { present: true, level: abort.level() },
            false => FaultStatus::present(false),
        }
    }
}
