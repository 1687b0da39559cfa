//! Event channels of a Xen guest.
//!
//! Not in v5.10: Linux v6.2 `arch/x86/kvm/xen.c`, where `xen_lock` comes from.

use crate::guard::Guard;
use crate::host::Host;
use crate::kernel;
use crate::mark::Mark;
use crate::platform::{Lock, Platform};
use crate::types::CpuId;
use crate::vm::{Mmu, Vm};

impl<P: Platform, H: Host, M: Mmu<P>> Vm<P, H, M> {
    /// `kvm_xen_set_evtchn`, from the guest's EVTCHNOP_send: the port of this vCPU is pending.
    /// Linux v6.2 `arch/x86/kvm/xen.c`, `kvm_xen_set_evtchn()`. Not modelled: the page of the
    /// guest that says so, which may have to be looked up again.
    ///
    /// Locks: `vcpu->mutex` and a read section of `kvm->srcu`; takes `xen_lock`.
    #[kernel]
    pub fn kvm_xen_set_evtchn(&self, vcpu: CpuId) {
        let _kvm_lock = self.p.without(Guard::XenOwnLock, || self.kvm.lock.lock());
        *self.kvm.system().xen_lock.lock() |= 1 << vcpu.0;
        self.p.mark(Mark::XenEventSent);
    }
}
