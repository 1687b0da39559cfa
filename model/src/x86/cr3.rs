//! Loading CR3, with the tables of a guest shadowed.
//!
//! Guarantee: a guest that has loaded CR3 translates by what its tables say now. Linux v5.10
//! `arch/x86/kvm/x86.c`, `kvm_set_cr3()`. Not modelled: another root than the one that is there,
//! PCIDs.

use crate::guard::Guard;
use crate::host::Host;
use crate::kernel;
use crate::platform::Platform;
use crate::types::CpuId;
use crate::virt::KVM_REQ_TLB_FLUSH_CURRENT;
use crate::vm::{Mmu, Vm};

impl<P: Platform, H: Host, M: Mmu<P>> Vm<P, H, M> {
    /// `kvm_set_cr3`, of the value that CR3 has: a guest invalidates by it all that it had cached.
    ///
    /// Locks: may take `mmu_lock`; the vCPU thread holds `kvm->srcu`.
    #[kernel]
    pub fn kvm_set_cr3(&self, cpu: CpuId) {
        self.p.guarded(Guard::SetCr3Syncs, || M::kvm_mmu_sync_roots(self, cpu));
        let flush = || self.kvm_make_request(cpu, KVM_REQ_TLB_FLUSH_CURRENT);
        self.p.guarded(Guard::SetCr3Flushes, flush);
    }
}
