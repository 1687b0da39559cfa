//! vCPUs: on which CPU they are, and what is before the guest. Linux `arch/arm64/kvm/arm.c`.
//!
//! Only where there are VMIDs: else no step of this is seen by anybody. Nobody looks at
//! `vcpu->mode`, and no flush is asked for by a request.

use super::pgtable::{Stage2Mmu, Version};
use super::vmid::{Allocator, Vmids};
use crate::guard::Guard;
use crate::host::Host;
use crate::kernel;
use crate::mark::Mark;
use crate::platform::{Local, Platform};
use crate::types::{CpuId, Vmid};
use crate::vm::Vm;

impl<P: Platform, H: Host> Vm<P, H, Stage2Mmu<P>> {
    /// `kvm_arch_vcpu_load`: the vCPU is on this CPU from now on. Two vCPUs of a VM share its VMID,
    /// and each expects a TLB of its own: unless it was the last of its VM on this CPU, what is of
    /// stage 1 goes. In 6.12 (since 6.7, commit 934bf871f011) `VTTBR_EL2` is loaded here: the VM
    /// gets its VMID before that.
    ///
    /// Not v6.7 to v6.12.17: there the VM gets one later, as in 6.1, and the register is loaded
    /// again only if that was a new one (mended in 6.14, commit fa808ed4e199).
    ///
    /// Locks: `vcpu->mutex`.
    #[kernel]
    pub(super) fn kvm_arch_vcpu_load(&self, vmids: &Vmids<P>, vcpu: CpuId, cpu: CpuId) {
        let loaded = vmids.loaded(vcpu);
        let (moved, ran) = (vmids.cpu_of(vcpu) != cpu, loaded.last_ran.get());
        loaded.cpu.set(u64::from(cpu.0));
        loaded.last_ran.set(ran | 1 << cpu.0);
        let vm = vmids.config().vm_of(vcpu);
        let eagerly = self.mmu.version >= Version::V6_12;
        if eagerly && let Allocator::V5_18(active) = &vmids.allocator {
            self.p.guarded(Guard::VmidBeforeVttbr, || self.kvm_arm_vmid_update(active, cpu, vm));
        }
        if ran >> cpu.0 & 1 == 0 {
            // No guard: guests here have no tables of their own, which two vCPUs would share.
            self.__kvm_flush_cpu_context(self.kvm_get_vttbr(vmids, vm), cpu);
        }
        if moved {
            self.p.mark(Mark::VcpuMoved);
        }
        if eagerly {
            self.__load_stage2(vmids, vcpu);
        }
    }

    /// `kvm_arch_vcpu_put`: the vCPU leaves its CPU. Since 5.18 nobody would miss its VMID there.
    ///
    /// Locks: `vcpu->mutex`.
    #[kernel]
    pub(super) fn kvm_arch_vcpu_put(&self, vmids: &Vmids<P>, vcpu: CpuId) {
        if let Allocator::V5_18(active) = &vmids.allocator {
            self.kvm_arm_vmid_clear_active(active, vmids.cpu_of(vcpu));
        }
    }

    /// `kvm_arch_vcpu_ioctl_run`, one turn up to the guest. True: it may run. False: try again.
    ///
    /// Locks: `vcpu->mutex`.
    #[kernel]
    pub(super) fn kvm_arch_vcpu_ioctl_run(&self, vmids: &Vmids<P>, vcpu: CpuId) -> bool {
        let (vm, cpu) = (vmids.config().vm_of(vcpu), vmids.cpu_of(vcpu));
        match &vmids.allocator {
            Allocator::V5_10(generations) => {
                self.update_vmid(generations, cpu, vm);
                self.p.local_irq_disable(cpu);
                if self.vmid_has_gone(generations, vm) {
                    self.p.local_irq_enable(cpu);
                    return false;
                }
                self.__load_stage2(vmids, vcpu);
            }
            // Preemption is off.
            Allocator::V5_18(active) if self.mmu.version < Version::V6_12 => {
                self.kvm_arm_vmid_update(active, cpu, vm);
                self.__load_stage2(vmids, vcpu);
            }
            Allocator::V5_18(active) => {
                let updated = self
                    .p
                    .without(Guard::VmidBeforeVttbr, || self.kvm_arm_vmid_update(active, cpu, vm));
                if updated == Some(true) {
                    self.__load_stage2(vmids, vcpu);
                }
            }
        }
        true
    }

    /// What comes right after the guest.
    pub(super) fn handle_guest_exit(&self, vmids: &Vmids<P>, vcpu: CpuId) {
        if let Allocator::V5_10(_) = vmids.allocator {
            self.p.local_irq_enable(vmids.cpu_of(vcpu));
        }
    }

    /// `__load_guest_stage2`, later `__load_stage2`: the guest runs with the VMID that its VM has
    /// now.
    fn __load_stage2(&self, vmids: &Vmids<P>, vcpu: CpuId) {
        let Vmid(vmid) = self.kvm_get_vttbr(vmids, vmids.config().vm_of(vcpu));
        vmids.loaded(vcpu).vttbr.set(u64::from(vmid));
        self.p.mark(Mark::VttbrLoaded);
    }
}
