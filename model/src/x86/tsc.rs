//! The guest's time-stamp counter, and what the paravirtual clock makes of it.
//!
//! Guarantee: vCPUs that were written the same TSC are of one generation. Linux v5.10
//! `arch/x86/kvm/x86.c`, `kvm_synchronize_tsc()`. Values and clocks are not modelled: a write by
//! user space begins a generation, a vCPU that is created joins the current one.

use crate::guard::Guard;
use crate::host::Host;
use crate::kernel;
use crate::mark::Mark;
use crate::platform::{Lock, Platform, Srcu};
use crate::types::CpuId;
use crate::vm::{Mmu, Vm};

impl<P: Platform, H: Host, M: Mmu<P>> Vm<P, H, M> {
    /// KVM_SET_MSRS with MSR_IA32_TSC. Linux v5.10 `arch/x86/kvm/x86.c`, `msr_io()`.
    ///
    /// Locks: takes `vcpu->mutex`, in it a read section of `kvm->srcu`, in it those of
    /// `kvm_synchronize_tsc`.
    #[kernel("msr_io")]
    pub fn kvm_set_tsc(&self, vcpu: CpuId) {
        let _mutex = self.kvm.vcpu_mutex[usize::from(vcpu.0)].lock();
        let _srcu = self.kvm.srcu.read_lock();
        self.kvm_synchronize_tsc(false);
        self.p.mark(Mark::TscWritten);
    }

    /// `kvm_synchronize_tsc`. `matched`: the vCPU joins the current generation. Linux v5.10
    /// `arch/x86/kvm/x86.c`.
    ///
    /// Locks: `vcpu->mutex`; takes `tsc_write_lock`, and `pvclock_gtod_sync_lock` after it. (With
    /// interrupts off, in the kernel. Here user space's threads have no CPU whose interrupts they
    /// could turn off; nothing else is interrupt context for this lock.)
    #[kernel]
    pub(crate) fn kvm_synchronize_tsc(&self, matched: bool) {
        let system = self.kvm.system();
        let mut generation = system.tsc_write_lock.lock();
        *generation += u64::from(!matched);
        let _generation = self.p.without(Guard::TscWriteLockLeaf, || generation);
        let mut nr_vcpus_matched_tsc = system.pvclock_gtod_sync_lock.lock();
        *nr_vcpus_matched_tsc = if matched { *nr_vcpus_matched_tsc + 1 } else { 0 };
    }
}
