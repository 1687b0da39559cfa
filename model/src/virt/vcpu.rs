//! Creating vCPUs.

use crate::host::Host;
use crate::kernel;
use crate::mark::Mark;
use crate::platform::Ordering::{Relaxed, Release};
use crate::platform::{Lock, Platform, Word};
use crate::virt::VCPUS;
use crate::vm::{Mmu, Vm};

impl<P: Platform, H: Host, M: Mmu<P>> Vm<P, H, M> {
    /// `kvm_vm_ioctl_create_vcpu`: one more vCPU, which does not run; nothing if there are as many
    /// as there may be. Linux v5.10 `virt/kvm/kvm_main.c`.
    ///
    /// Locks: takes `kvm->lock` twice, and not in between, where the vCPU is made; then those of
    /// `kvm_arch_vcpu_postcreate`.
    #[kernel]
    pub fn kvm_vm_ioctl_create_vcpu(&self) {
        let system = self.kvm.system();
        {
            let _lock = self.kvm.lock.lock();
            // ORDERING: relaxed: kvm->lock is held.
            if system.created_vcpus.load(Relaxed) == VCPUS as u64 {
                return;
            }
            // ORDERING: relaxed: as above.
            system.created_vcpus.add(1, Relaxed);
        }
        let vcpu = {
            let _lock = self.kvm.lock.lock();
            // ORDERING: release (smp_wmb in the kernel): who sees the count sees the vCPU. Not
            // judged under SC.
            let vcpu = system.online_vcpus.fetch_add(1, Release);
            self.p.mark(Mark::VcpuCreated);
            vcpu
        };
        self.kvm_arch_vcpu_postcreate(vcpu as usize);
    }
}
