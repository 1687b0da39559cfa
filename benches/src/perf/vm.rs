//! A VM that is measured, and fleets of them.

use kvmmu_model::Tables;
use kvmmu_model::platform::Ordering::Relaxed;
use kvmmu_model::virt::{GFNS, MEMSLOTS, MemslotConfig, VmConfig};
use kvmmu_model::{Access, CpuId, Gfn, Host, Mmu, Pfn, ShadowMmu, Spte, SpteFormat, SpteLoc, Word};

use super::host::ResidentHost;
use crate::native::{Kind, Native};

/// Frames of a slot.
const SLOT_PAGES: u64 = (GFNS / MEMSLOTS) as u64;

/// A VM with the MMU of shadow pages, on real threads.
pub type Shadowed<K, H> = kvmmu_model::Vm<Native<K>, H, ShadowMmu<Native<K>>>;

/// A VM with direct paging, every frame mapped.
#[derive(Debug)]
pub struct Vm<K: Kind, H: Host = ResidentHost> {
    /// The VM.
    pub vm: Shadowed<K, H>,
    leaves: [SpteLoc; GFNS],
}

impl<K: Kind, H: Host + Default> Vm<K, H> {
    /// A VM on a machine, with so many vCPUs. Every frame is mapped and write-protected, and could
    /// be made writable without the lock.
    pub fn new(machine: &Native<K>, format: SpteFormat, vcpus: u8, log: bool) -> Self {
        let slot = |i| MemslotConfig {
            base_gfn: Gfn(i * SLOT_PAGES),
            npages: SLOT_PAGES,
            log,
            there: true,
        };
        let slots: [MemslotConfig; MEMSLOTS] = std::array::from_fn(|i| slot(i as u64));
        let config = VmConfig { contended: false, unsync: false, nr_vcpus: vcpus, slots: &slots };
        let mmu = ShadowMmu::new(machine, format);
        let vm = kvmmu_model::Vm::new(machine, H::default(), &config, mmu);
        for cpu in (0..vcpus).map(CpuId) {
            Mmu::kvm_mmu_load(&vm, cpu, None);
        }
        let leaves = std::array::from_fn(|gfn| {
            let spte = protected(&format, Pfn(gfn as u64));
            Tables::setup_leaf(&vm, CpuId(0), gfn as u64, None, spte)
        });
        Vm { vm, leaves }
    }

    /// The memory of a frame's SPTE.
    #[inline]
    pub fn sptep(&self, gfn: u64) -> &K::Word {
        self.vm.mmu.sptep(self.leaves[gfn as usize])
    }

    /// Write-protects a frame, as a harvest would: the next store faults.
    #[inline]
    pub fn protect(&self, gfn: u64) {
        // ORDERING: relaxed: nothing is ordered by it.
        self.sptep(gfn).fetch_and(!self.vm.mmu.format().write_protect_mask, Relaxed);
    }

    /// The fault of a store to a write-protected frame, on the fast path.
    #[inline]
    pub fn fast_fault(&self, cpu: CpuId, gfn: u64) -> kvmmu_model::RetPf {
        self.vm.kvm_tdp_page_fault(cpu, Gfn(gfn), Access::Write, true)
    }

    /// The same fault under `mmu_lock`. The fast path leaves faults alone that hardware reports as
    /// not present, where the layout has no access tracking.
    #[inline]
    pub fn locked_fault(&self, cpu: CpuId, gfn: u64) -> kvmmu_model::RetPf {
        self.vm.kvm_tdp_page_fault(cpu, Gfn(gfn), Access::Write, false)
    }
}

/// A leaf that a guest may write to, write-protected by a harvest.
fn protected(format: &SpteFormat, pfn: Pfn) -> Spte {
    let may_be_written = format.host_writable_mask | format.mmu_writable_mask;
    let used = format.accessed_mask | format.dirty_mask;
    format.write_protected(format.leaf(pfn).with(may_be_written | used))
}

/// Writable, and in use.
pub(super) fn writable(format: &SpteFormat, pfn: Pfn) -> Spte {
    protected(format, pfn).with(format.writable_mask | format.dirty_mask)
}

/// So many VMs on one machine: as many pages as that, times eight.
pub fn fleet<K: Kind, H: Host + Default>(
    machine: &Native<K>,
    format: SpteFormat,
    vcpus: u8,
    log: bool,
    vms: usize,
) -> Vec<Vm<K, H>> {
    (0..vms).map(|_| Vm::new(machine, format, vcpus, log)).collect()
}
