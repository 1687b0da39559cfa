//! Operations on whole VMs, vCPUs and physical CPUs.

use kvmmu_model::kvm::SrcuSection;
use kvmmu_model::{CpuId, Gfn};

use crate::machine::Machine;
use crate::scenario::Op;
use crate::world::World;

impl<M: Machine> World<M> {
    /// One of them, by user space or by the host.
    pub(super) fn run_system(&self, op: Op) {
        match op {
            Op::CreateVm => self.mmu.kvm_create_vm(),
            Op::DestroyVm => self.mmu.kvm_destroy_vm(),
            Op::CreateVcpu => self.mmu.kvm_vm_ioctl_create_vcpu(),
            Op::UpdateVmsa => self.mmu.sev_launch_update_vmsa(),
            Op::SetTsc(vcpu) => self.mmu.kvm_set_tsc(vcpu),
            Op::SetNxHugePages => self.mmu.set_nx_huge_pages(),
            Op::HvEventfd => self.mmu.kvm_vm_ioctl_hv_eventfd(),
            Op::PiWakeup(vcpu) => self.mmu.post_interrupt(vcpu),
            Op::CpuOnline => self.mmu.cpu_up(),
            Op::CpuOffline => self.mmu.cpu_down(),
            _ => unreachable!("the loader gives vCPU operations to vCPUs"),
        }
    }

    /// One of them, by a vCPU that has left the guest for it. `srcu`: the read section of KVM_RUN.
    pub(super) fn run_vcpu_system<'a>(
        &'a self,
        cpu: CpuId,
        op: Op,
        srcu: &mut Option<SrcuSection<'a, M>>,
    ) {
        match op {
            Op::HvSetMsr => {
                while !self.mmu.kvm_hv_set_msr_common() {
                    self.cow_break(Gfn(0));
                }
            }
            Op::SetApicBase => self.mmu.kvm_lapic_set_base(),
            Op::XenEvtchnSend => self.mmu.kvm_xen_set_evtchn(cpu),
            Op::Halt => self.mmu.vcpu_block(cpu, srcu),
            Op::PsciCpuOn => {
                // KVM_RUN of arm64 handles its exits outside of read sections.
                drop(srcu.take());
                self.mmu.kvm_psci_vcpu_on(cpu);
                *srcu = self.mmu.vcpu_srcu_read_lock();
            }
            _ => unreachable!("the loader gives host and user operations to their threads"),
        }
    }
}
