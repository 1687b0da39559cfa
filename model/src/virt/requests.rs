//! Flushing the TLBs of other CPUs, and requests to vCPUs.
//!
//! Guarantee: when [`Vm::kvm_flush_remote_tlbs`] returns, no vCPU runs guest code with a
//! translation that it cached before the call, and no lockless walk that began before it is still
//! running. It does *not* mean that the TLBs are empty: each vCPU flushes its own before it enters
//! the guest again. Mechanism: a request bit for each vCPU, then an IPI to those that are in the
//! guest or walk (`KVM_REQUEST_WAIT`), all at once.
//!
//! The caller's own vCPU needs no IPI: it is here, so it is neither in the guest nor in a walk, and
//! it serves its request before it enters. Waiting under `mmu_lock` cannot deadlock: a target has
//! its interrupts off only in the guest, which the IPI ends, on the way into it, and in a lockless
//! walk; none of these waits for a lock, and who spins on `mmu_lock` has interrupts on.
//!
//! Linux v5.10 `virt/kvm/kvm_main.c`, `kvm_make_all_cpus_request()`. Not modelled: a vCPU that
//! moves to another CPU.

use crate::guard::Guard;
use crate::host::Host;
use crate::kernel;
use crate::mark::Mark;
use crate::platform::Ordering::{Release, SeqCst};
use crate::platform::{Platform, Word};
use crate::types::{CpuId, CpuMask};
use crate::vm::{Mmu, Vm};

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
/// `KVM_REQ_APIC_PAGE_RELOAD`: look the APIC access page up again.
pub const KVM_REQ_APIC_PAGE_RELOAD: u64 = 1 << 2;

impl<P: Platform, H: Host, M: Mmu<P>> Vm<P, H, M> {
    /// `kvm_flush_remote_tlbs`. `me` is the CPU of the vCPU thread that calls, if one does.
    ///
    /// Locks: any or none.
    #[kernel]
    pub fn kvm_flush_remote_tlbs(&self, me: Option<CpuId>) {
        if M::kvm_arch_flush_remote_tlb(self) {
            self.p.mark(Mark::FlushDone);
            return;
        }
        let owed = self.owed_before();
        self.kvm_make_all_cpus_request(me, KVM_REQ_TLB_FLUSH);
        self.paid(owed);
        self.p.mark(Mark::FlushDone);
    }

    /// `kvm_make_all_cpus_request`, for a request that waits.
    #[kernel]
    pub(crate) fn kvm_make_all_cpus_request(&self, me: Option<CpuId>, request: u64) {
        let wait = self.p.guarded(Guard::FlushRequestWait, || true);
        let mut targets = CpuMask::default();
        for cpu in (0..self.kvm.nr_vcpus).map(CpuId) {
            let kick = || Some(cpu) != me && self.kvm_request_needs_ipi(cpu, wait);
            let early = self.p.without(Guard::RequestBeforeMode, kick);
            self.kvm_make_request(cpu, request);
            // ORDERING: full barrier (smp_mb__before_atomic of kvm_vcpu_exiting_guest_mode), pairs
            // with vcpu_enter_guest, which sees the request or we see its mode, and with
            // walk_shadow_page_lockless_begin: it sees the unlinked SPTE or we see its mode. Not
            // judged under SC.
            self.p.guarded(Guard::SmpMbBeforeExitingGuestMode, || self.p.fence(SeqCst));
            if early.unwrap_or_else(kick) {
                targets.insert(cpu);
            }
            self.p.checkpoint((cpu, targets));
        }
        self.p.mark(Mark::FlushRequested);
        if !targets.is_empty() {
            self.p.checkpoint(());
            self.p.smp_call_function_many(me, targets, wait);
        }
    }

    /// `kvm_request_needs_ipi`: kicks a vCPU out of the guest. With `KVM_REQUEST_WAIT` a vCPU that
    /// walks shadow pages is interrupted too, to wait for it.
    pub(crate) fn kvm_request_needs_ipi(&self, cpu: CpuId, wait: bool) -> bool {
        let mode = &self.vcpu(cpu).mode;
        // ORDERING: full, as every x86 cmpxchg: it comes after the request was set. Not judged
        // under SC.
        let old = mode.compare_exchange(IN_GUEST_MODE, EXITING_GUEST_MODE, SeqCst, SeqCst);
        let old = old.unwrap_or_else(|other| other);
        if wait { old != OUTSIDE_GUEST_MODE } else { old == IN_GUEST_MODE }
    }

    /// `kvm_make_request`.
    #[track_caller]
    pub(crate) fn kvm_make_request(&self, cpu: CpuId, request: u64) {
        // ORDERING: release (smp_wmb in the kernel) pairs with the test in vcpu_enter_guest: what
        // was done before the request is seen by who serves it. Not judged under SC.
        self.vcpu(cpu).requests.or(request, Release);
    }
}
