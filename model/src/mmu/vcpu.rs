//! Entering and leaving the guest, and `vcpu->mode`.
//!
//! Guarantee: no guest code runs with a request pending that was made before the mode was seen to
//! be something else than in-guest. Linux v5.10 `arch/x86/kvm/x86.c`, `vcpu_enter_guest()`;
//! `Documentation/virt/kvm/vcpu-requests.rst`.

use super::Mmu;
use crate::guard::Guard;
use crate::host::Host;
use crate::kvm::SrcuSection;
use crate::mark::Mark;
use crate::platform::Ordering::{Acquire, Release, SeqCst};
use crate::platform::{Platform, Word};
use crate::types::CpuId;

/// `vcpu->mode`: not in the guest.
pub const OUTSIDE_GUEST_MODE: u64 = 0;
/// `vcpu->mode`: in the guest, or about to enter with interrupts off.
pub const IN_GUEST_MODE: u64 = 1;
/// `vcpu->mode`: somebody has kicked it.
pub const EXITING_GUEST_MODE: u64 = 2;
/// `vcpu->mode`: walks shadow pages without `mmu_lock`.
pub const READING_SHADOW_PAGE_TABLES: u64 = 3;

/// `KVM_REQ_TLB_FLUSH`: flush all of this vCPU's translations before it enters.
pub const KVM_REQ_TLB_FLUSH: u64 = 1 << 0;
/// `KVM_REQ_TLB_FLUSH_CURRENT`: the same for the current root.
pub const KVM_REQ_TLB_FLUSH_CURRENT: u64 = 1 << 1;

impl<P: Platform, H: Host> Mmu<P, H> {
    /// `vcpu_enter_guest`, up to the entry. True: the guest may run. False: a request came in
    /// between; try again. `flush` is the hardware's own TLB flush.
    ///
    /// Locks: `vcpu->mutex`. The read section of `kvm->srcu` ends when the mode has changed: a
    /// grace period does not wait for the guest.
    pub fn vcpu_enter_guest<'a>(
        &'a self,
        cpu: CpuId,
        srcu: &mut Option<SrcuSection<'a, P>>,
        flush: impl FnOnce(),
    ) -> bool {
        self.p.call("vcpu_enter_guest", || {
            let vcpu = self.vcpu(cpu);
            // xfer_to_guest_mode_work, and what requests ask for.
            self.p.might_sleep();
            // ORDERING: acquire pairs with kvm_make_request.
            if vcpu.requests.load(Acquire) != 0 {
                // ORDERING: acquire pairs with kvm_make_request.
                vcpu.requests.fetch_and(!(KVM_REQ_TLB_FLUSH | KVM_REQ_TLB_FLUSH_CURRENT), SeqCst);
                flush();
                self.p.mark(Mark::TlbFlushed);
            }
            self.p.checkpoint(());
            self.p.local_irq_disable(cpu);
            // ORDERING: full barrier between the mode and the second look at the requests, pairs
            // with kvm_make_all_cpus_request. Needs TSO to be seen missing.
            vcpu.mode.store(IN_GUEST_MODE, SeqCst);
            *srcu = None;
            self.p.fence(SeqCst);
            if self.p.guarded(Guard::EntryRequestCheck, || self.kvm_vcpu_exit_request(cpu)) {
                self.vcpu_leave_guest(cpu, srcu);
                return false;
            }
            self.p.mark(Mark::GuestEntered);
            true
        })
    }

    /// `kvm_vcpu_exit_request`: was it kicked, or is there a request?
    fn kvm_vcpu_exit_request(&self, cpu: CpuId) -> bool {
        let vcpu = self.vcpu(cpu);
        // ORDERING: after the full barrier in vcpu_enter_guest.
        vcpu.mode.load(Acquire) == EXITING_GUEST_MODE || vcpu.requests.load(Acquire) != 0
    }

    /// The way out of the guest: the mode changes while interrupts are still off, so that an IPI
    /// that waits for this CPU waits until it is really outside. A read section of `kvm->srcu`
    /// begins, for the handling of the exit.
    pub fn vcpu_leave_guest<'a>(&'a self, cpu: CpuId, srcu: &mut Option<SrcuSection<'a, P>>) {
        // ORDERING: release (smp_wmb in the kernel): whoever sees OUTSIDE sees what the guest did.
        self.vcpu(cpu).mode.store(OUTSIDE_GUEST_MODE, Release);
        self.p.local_irq_enable(cpu);
        *srcu = self.vcpu_srcu_read_lock();
    }
}
