//! The MMU of a scenario's VM. Everything else here asks it by the traits of the model alone.

use kvmmu_model::arm64::pgtable::{KVM_PTE, Stage2Config, Version};
use kvmmu_model::x86::PmlBuffer;
use kvmmu_model::x86::mmu::IndirectFastFault;
use kvmmu_model::x86::mmu::paging::KVM_MAX_HUGEPAGE_LEVEL;
use kvmmu_model::{Algorithm, CpuId, FaultStatus, Mmu, ShadowMmu, SpteFormat, Stage2Mmu};

use crate::machine::Machine;
use crate::scenario::{self, Format, Profile, Scenario};

/// The MMU that scenarios run on a machine.
pub type MmuOf<M> = <M as Machine>::Mmu;

/// What `mmu_lock` guards of the MMU.
pub type StateOf<M> = <MmuOf<M> as kvmmu_model::Tables<M>>::State;

/// The same, with what generic KVM keeps there.
pub type MmuState<M> = kvmmu_model::virt::MmuState<StateOf<M>>;

/// An MMU that scenarios can be run on.
pub trait ScenarioMmu<M: Machine>: Mmu<M> {
    /// The one that a scenario asks for.
    fn of(m: &M, scenario: &Scenario) -> Self;

    /// What KVM may look at of what hardware says of a fault. The rest makes no difference.
    fn status_that_matters(&self, status: FaultStatus) -> FaultStatus {
        status
    }

    /// The buffer in which hardware logs what a vCPU makes dirty. `None`: it does not.
    fn pml(&self, _cpu: CpuId) -> Option<&PmlBuffer<M>> {
        None
    }
}

impl<M: Machine> ScenarioMmu<M> for ShadowMmu<M> {
    fn of(m: &M, scenario: &Scenario) -> Self {
        shadow_mmu(m, scenario)
    }

    /// KVM keeps what it needs of the error code; what is left is the flush that a cached denial
    /// owes.
    fn status_that_matters(&self, status: FaultStatus) -> FaultStatus {
        FaultStatus::present(status.present && self.format.caches_permission_faults)
    }

    fn pml(&self, cpu: CpuId) -> Option<&PmlBuffer<M>> {
        self.pml.as_ref().map(|buffers| &buffers[usize::from(cpu.0)])
    }
}

impl<M: Machine> ScenarioMmu<M> for Stage2Mmu<M> {
    fn of(m: &M, scenario: &Scenario) -> Self {
        let version = match scenario.profile {
            // The first two have another MMU.
            Profile::Fixed | Profile::X86V6_1 | Profile::Arm64V5_10 => Version::V5_10,
            Profile::Arm64V6_1 => Version::V6_1,
            Profile::Arm64V6_12 => Version::V6_12,
        };
        Stage2Mmu::new(
            m,
            Stage2Config {
                version,
                frees: scenario.runs_rcu_callbacks(),
                ends: scenario.releases_vm(),
                early_completion: scenario.early_completion,
                vmids: scenario.vmid,
            },
        )
    }
}

fn shadow_mmu<M: Machine>(m: &M, scenario: &Scenario) -> ShadowMmu<M> {
    let mut mmu = ShadowMmu::new(m, format_of(scenario.spte));
    mmu.algorithm = match scenario.profile {
        Profile::X86V6_1 => Algorithm::V6_1,
        // Those of arm64 have another MMU.
        _ => Algorithm::V5_10,
    };
    mmu.indirect_fast_fault = match scenario.indirect {
        scenario::IndirectFastFault::Gfns => IndirectFastFault::Gfns,
        scenario::IndirectFastFault::Walk => IndirectFastFault::Walk,
        scenario::IndirectFastFault::Pinned => IndirectFastFault::Pinned,
    };
    if !scenario.huge.is_empty() {
        mmu.max_huge_page_level = KVM_MAX_HUGEPAGE_LEVEL;
    }
    if scenario.unsync {
        mmu.allow_unsync(m);
    }
    if scenario.pml {
        mmu.enable_pml(m);
    }
    mmu
}

impl Format {
    /// True if hardware keeps A and D in these SPTEs.
    pub fn has_ad(self) -> bool {
        format_of(self).accessed_mask != 0
    }
}

/// The layout that a scenario names.
pub fn format_of(format: Format) -> SpteFormat {
    match format {
        Format::Ept => SpteFormat::EPT,
        Format::EptNoAd => SpteFormat::EPT_NO_AD,
        Format::Npt => SpteFormat::NPT,
        Format::NptV6_1 => SpteFormat::NPT_V6_1,
        Format::Stage2 => SpteFormat::STAGE2,
        Format::Stage2Hd => SpteFormat::STAGE2_HD,
        Format::Arm64 => KVM_PTE,
    }
}
