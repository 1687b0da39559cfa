//! Entering and leaving the guest, and `vcpu->mode`.
//!
//! Guarantee: who made a request, saw a mode other than IN_GUEST_MODE and sent no IPI may rely on
//! it: the vCPU serves the request before it runs guest code again. Linux v5.10
//! `arch/x86/kvm/x86.c`, `vcpu_enter_guest()`; `Documentation/virt/kvm/vcpu-requests.rst`.

use crate::guard::Guard;
use crate::host::Host;
use crate::kernel;

use crate::mark::Mark;
use crate::platform::Ordering::{Acquire, Release, SeqCst};
use crate::platform::{Platform, Word};
use crate::types::CpuId;
use crate::virt::{
    EXITING_GUEST_MODE, IN_GUEST_MODE, KVM_REQ_APIC_PAGE_RELOAD, KVM_REQ_TLB_FLUSH,
    KVM_REQ_TLB_FLUSH_CURRENT, OUTSIDE_GUEST_MODE, SrcuSection,
};
use crate::vm::{Mmu, Vm};

impl<P: Platform, H: Host, M: Mmu<P>> Vm<P, H, M> {
    /// `vcpu_enter_guest`, up to the entry. True: the guest may run. False: a request came in
    /// between; try again. `flush` is the hardware's own TLB flush.
    ///
    /// Locks: `vcpu->mutex`. The read section of `kvm->srcu` ends when the mode has changed: a
    /// grace period does not wait for the guest.
    #[kernel]
    pub fn vcpu_enter_guest<'a>(
        &'a self,
        cpu: CpuId,
        srcu: &mut Option<SrcuSection<'a, P>>,
        mut flush: impl FnMut(),
    ) -> bool {
        let vcpu = self.vcpu(cpu);
        // xfer_to_guest_mode_work, and what requests ask for.
        self.p.might_sleep();
        // ORDERING: acquire pairs with kvm_make_request. Not judged under SC.
        let requests = vcpu.requests.load(Acquire);
        if requests != 0 {
            // No guard for the order of the two: a CPU outside the guest caches nothing, so that a
            // request that is made after the flush and cleared finds the TLB empty.
            // ORDERING: full, as every locked operation of x86; needed is acquire, as above. Not
            // judged under SC.
            vcpu.requests.and(!(KVM_REQ_TLB_FLUSH | KVM_REQ_TLB_FLUSH_CURRENT), SeqCst);
            self.p.guarded(Guard::EntryServesRequests, || {
                flush();
                self.p.mark(Mark::TlbFlushed);
            });
        }
        if requests & KVM_REQ_APIC_PAGE_RELOAD != 0 {
            // ORDERING: full, as above.
            vcpu.requests.and(!KVM_REQ_APIC_PAGE_RELOAD, SeqCst);
            self.kvm_vcpu_reload_apic_access_page(cpu, &mut flush);
        }
        self.p.checkpoint(());
        self.p.guarded(Guard::EntryIrqOff, || self.p.local_irq_disable(cpu));
        // ORDERING: release: who sees the mode sees that interrupts are off. Not judged under SC.
        vcpu.mode.store(IN_GUEST_MODE, Release);
        // No guard for the order: nothing in between uses what the section protects.
        *srcu = None;
        // ORDERING: full barrier (smp_mb__after_srcu_read_unlock) between the mode and the second
        // look at the requests, pairs with kvm_make_all_cpus_request. Not judged under SC.
        self.p.guarded(Guard::SmpMbAfterInGuestMode, || self.p.fence(SeqCst));
        if self.p.guarded(Guard::EntryRequestCheck, || self.kvm_vcpu_exit_request(cpu)) {
            self.p.checkpoint(());
            self.vcpu_leave_guest(cpu, srcu);
            return false;
        }
        self.p.without(Guard::EntryIrqOff, || self.p.local_irq_disable(cpu));
        self.p.mark(Mark::GuestEntered);
        true
    }

    /// `kvm_vcpu_exit_request`: was it kicked, or is there a request?
    fn kvm_vcpu_exit_request(&self, cpu: CpuId) -> bool {
        let vcpu = self.vcpu(cpu);
        // ORDERING: after the full barrier in vcpu_enter_guest. Not judged under SC.
        vcpu.mode.load(Acquire) == EXITING_GUEST_MODE || vcpu.requests.load(Acquire) != 0
    }

    /// Leaving the guest: the mode changes while interrupts are still off, so that an IPI
    /// that waits for this CPU waits until it is really outside. A read section of `kvm->srcu`
    /// begins, for the handling of the exit.
    pub fn vcpu_leave_guest<'a>(&'a self, cpu: CpuId, srcu: &mut Option<SrcuSection<'a, P>>) {
        // No guard for the order of the two: hardware has left the guest before, so that an
        // interrupt that is handled in between waits for nothing that goes on.
        // ORDERING: release (smp_wmb in the kernel): who sees OUTSIDE sees what the guest did.
        self.vcpu(cpu).mode.store(OUTSIDE_GUEST_MODE, Release);
        self.p.local_irq_enable(cpu);
        *srcu = self.vcpu_srcu_read_lock();
    }
}
