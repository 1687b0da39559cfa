//! What a permission fault leaves to be invalidated on arm64.

use crate::guard::Guard;
use crate::host::Host;
use crate::platform::Platform;
use crate::vm::{Mmu, RetPf, Vm};

impl<P: Platform, H: Host, M: Mmu<P>> Vm<P, H, M> {
    /// True if the CPU that faulted has to drop what its own TLB has of the page: arm64 may keep
    /// the entry that denied the access. The local TLBI by IPA of `kvm_pgtable_stage2_relax_perms`
    /// (`kvm_tlb_flush_vmid_ipa_nsh` since 6.4). Formats whose faults are decided by a fresh walk
    /// need none.
    pub fn relax_perms_owes_local_flush(&self, present: bool, ret: RetPf) -> bool {
        self.mmu.format().caches_permission_faults
            && present
            && matches!(ret, RetPf::Fixed | RetPf::Spurious)
            && self.p.guarded(Guard::RelaxPermsLocalFlush, || true)
    }
}
