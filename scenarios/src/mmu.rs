//! The MMU of a scenario's VM. Everything else here asks it by the traits of the model alone.

use kvmmu_model::x86::mmu::IndirectFastFault;
use kvmmu_model::x86::mmu::paging::KVM_MAX_HUGEPAGE_LEVEL;
use kvmmu_model::{Algorithm, ShadowMmu, SpteFormat};

use crate::machine::Machine;
use crate::scenario::{self, Format, Profile, Scenario};

/// The MMU that scenarios run on a machine.
pub type MmuOf<M> = ShadowMmu<M>;

/// What `mmu_lock` guards, with what generic KVM keeps there.
pub type MmuState<M> = kvmmu_model::virt::MmuState<<MmuOf<M> as kvmmu_model::Tables<M>>::State>;

/// The MMU that a scenario asks for.
pub(crate) fn of<M: Machine>(m: &M, scenario: &Scenario) -> MmuOf<M> {
    let mut mmu = ShadowMmu::new(m, format_of(scenario.spte));
    mmu.algorithm = match scenario.profile {
        Profile::Fixed => Algorithm::V5_10,
        Profile::X86V6_1 => Algorithm::V6_1,
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
    }
}
