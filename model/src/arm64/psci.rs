//! Powering vCPUs on, on arm64.
//!
//! Linux v6.4 `arch/arm64/kvm/psci.c`; v5.10 has it as it is here without its guard.

use crate::guard::Guard;
use crate::host::Host;
use crate::kernel;
use crate::mark::Mark;
use crate::platform::Ordering::SeqCst;
use crate::platform::{Lock, Platform, Word};
use crate::types::CpuId;
use crate::vm::{Mmu, Vm};

impl<P: Platform, H: Host, M: Mmu<P>> Vm<P, H, M> {
    /// `kvm_psci_vcpu_on`: the guest powers the next vCPU on; nothing if that is on. Linux v6.4
    /// `arch/arm64/kvm/psci.c`, `kvm_psci_vcpu_on()`. Only vCPU 0 is on at first.
    ///
    /// Locks: `vcpu->mutex` of the caller. That of the target is not needed: its `mp_state` has a
    /// lock of its own, which one atomic operation stands for.
    #[kernel]
    pub fn kvm_psci_vcpu_on(&self, source: CpuId) {
        let _kvm_lock = self.p.without(Guard::PsciWithoutKvmLock, || self.kvm.lock.lock());
        let target = (source.0 + 1) % self.kvm.nr_vcpus;
        // ORDERING: seq-cst: stands for mp_state_lock.
        let was = self.kvm.system().powered_on.fetch_or(1 << target, SeqCst);
        if was >> target & 1 == 0 {
            self.p.mark(Mark::VcpuPoweredOn);
        }
    }
}
