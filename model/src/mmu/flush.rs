//! Flushing the TLBs of other CPUs, and requests to vCPUs.
//!
//! Guarantee: when [`Mmu::kvm_flush_remote_tlbs`] returns, no vCPU runs guest code with a
//! translation that it cached before the call, and no lockless walk that began before it is still
//! running. It does
//! *not* mean that the TLBs are empty: each vCPU flushes its own before it enters the guest again.
//! Mechanism: a request bit for each vCPU, then an IPI to those that are in the guest or walk
//! (`KVM_REQUEST_WAIT`), all at once. Linux v5.10 `virt/kvm/kvm_main.c`,
//! `kvm_make_all_cpus_request()`. Not modelled: `tlbs_dirty`, which only unsync pages need; a vCPU
//! that moves to another CPU.

use super::Mmu;
use super::vcpu::{EXITING_GUEST_MODE, IN_GUEST_MODE, KVM_REQ_TLB_FLUSH, OUTSIDE_GUEST_MODE};
use crate::guard::Guard;
use crate::host::Host;
use crate::mark::Mark;
use crate::platform::Ordering::SeqCst;
use crate::platform::{Platform, Word};
use crate::types::{CpuId, CpuMask};

impl<P: Platform, H: Host> Mmu<P, H> {
    /// `kvm_flush_remote_tlbs`. `me` is the CPU of the vCPU thread that calls, if one does.
    ///
    /// Locks: any or none.
    pub fn kvm_flush_remote_tlbs(&self, me: Option<CpuId>) {
        self.p.call("kvm_flush_remote_tlbs", || {
            self.kvm_make_all_cpus_request(me, KVM_REQ_TLB_FLUSH);
            self.p.mark(Mark::FlushDone);
        });
    }

    /// `kvm_make_all_cpus_request`, for a request that waits.
    fn kvm_make_all_cpus_request(&self, me: Option<CpuId>, request: u64) {
        self.p.call("kvm_make_all_cpus_request", || {
            let wait = self.p.guarded(Guard::FlushRequestWait, || true);
            let mut targets = CpuMask::default();
            for cpu in (0..self.nr_vcpus).map(CpuId) {
                self.kvm_make_request(cpu, request);
                // ORDERING: full barrier, pairs with vcpu_enter_guest and
                // walk_shadow_page_lockless_begin: they see the request, or we see their mode.
                // Needs TSO to be seen missing.
                self.p.fence(SeqCst);
                if Some(cpu) != me && self.kvm_request_needs_ipi(cpu, wait) {
                    targets.insert(cpu);
                }
                self.p.checkpoint((cpu, targets));
            }
            self.p.mark(Mark::FlushRequested);
            if !targets.is_empty() {
                self.p.smp_call_function_many(me, targets, wait);
            }
        });
    }

    /// `kvm_request_needs_ipi`: kicks a vCPU out of the guest. With `KVM_REQUEST_WAIT` a vCPU that
    /// walks shadow pages is interrupted too, to wait for it.
    fn kvm_request_needs_ipi(&self, cpu: CpuId, wait: bool) -> bool {
        let mode = &self.vcpu(cpu).mode;
        // ORDERING: full, as every x86 cmpxchg: it comes after the request was set.
        let old = mode.compare_exchange(IN_GUEST_MODE, EXITING_GUEST_MODE, SeqCst, SeqCst);
        let old = old.unwrap_or_else(|other| other);
        if wait { old != OUTSIDE_GUEST_MODE } else { old == IN_GUEST_MODE }
    }

    /// `kvm_make_request`.
    #[track_caller]
    pub(super) fn kvm_make_request(&self, cpu: CpuId, request: u64) {
        // ORDERING: release pairs with the test in vcpu_enter_guest: what was done before the
        // request is seen by who serves it.
        self.vcpu(cpu).requests.fetch_or(request, SeqCst);
    }
}
