//! What is emulated of Hyper-V for all vCPUs of a VM together.
//!
//! Linux v5.10 `arch/x86/kvm/hyperv.c`. Not modelled: the reference TSC page, the hypercall that
//! looks a connection up.

use crate::guard::Guard;
use crate::host::Host;
use crate::kernel;
use crate::mark::Mark;
use crate::platform::{Lock, Platform, Srcu};
use crate::types::Gfn;
use crate::virt::System;
use crate::vm::{Mmu, Vm};

/// The frame that the guest names.
const HYPERCALL_PAGE: Gfn = Gfn(0);

/// A byte of the page that no guest store changes, and what stands there from then on: the first of
/// the instructions.
const VMCALL: (u8, u8) = (7, 0x0f);

impl<P: Platform, H: Host, M: Mmu<P>> Vm<P, H, M> {
    /// `kvm_hv_set_msr_common`, for HV_X64_MSR_HYPERCALL: the guest names its hypercall page, here
    /// gfn 0, and KVM writes the instructions into it, which may fault. Linux v5.10
    /// `arch/x86/kvm/hyperv.c`, `kvm_hv_set_msr_pw()`. False: nothing is written yet, the host has
    /// to break a shared page first.
    ///
    /// Locks: `vcpu->mutex` and a read section of `kvm->srcu`; takes `hv_lock`, and `mmap_lock` for
    /// reading in it.
    #[must_use]
    #[kernel]
    pub fn kvm_hv_set_msr_common(&self) -> bool {
        let mut hv = self.kvm.system().hv_lock.lock();
        if !self.host.copy_to_user(HYPERCALL_PAGE, VMCALL.0, VMCALL.1) {
            return false;
        }
        *hv |= System::<P>::HV_HYPERCALL_ENABLED;
        self.p.guarded(Guard::HypercallPageMarksDirty, || self.mark_page_dirty(HYPERCALL_PAGE));
        self.p.mark(Mark::HypervMsrSet);
        true
    }

    /// `kvm_vm_ioctl_hv_eventfd`, twice: user space gives an eventfd to a connection, and takes it
    /// back. A guest may have looked it up meanwhile: the grace period is for that, and comes when
    /// `hv_lock` is released. Linux v5.10 `arch/x86/kvm/hyperv.c`.
    ///
    /// Locks: takes `hv_lock`, without `vcpu->mutex`.
    pub fn kvm_vm_ioctl_hv_eventfd(&self) {
        self.p.call("kvm_hv_eventfd_assign", || {
            let mut hv = self.kvm.system().hv_lock.lock();
            self.p.without(Guard::HvLockInsideVcpuMutex, || drop(self.kvm.vcpu_mutex[0].lock()));
            *hv |= System::<P>::HV_CONN;
        });
        self.p.call("kvm_hv_eventfd_deassign", || {
            *self.kvm.system().hv_lock.lock() &= !System::<P>::HV_CONN;
            // No guard: it is for hypercalls that look the eventfd up, which are not modelled.
            self.kvm.srcu.synchronize();
            self.p.mark(Mark::HypervEventfdGone);
        });
    }
}
