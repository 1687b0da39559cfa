//! VT-d posted interrupts for a vCPU that sleeps.
//!
//! Guarantee: an interrupt that is posted to a vCPU that goes to sleep wakes it, or keeps it from
//! sleeping. Mechanism: the vCPU is on its CPU's list before its descriptor names the wakeup
//! vector, and as long as it does. Linux v5.10 `arch/x86/kvm/vmx/posted_intr.c`. Not modelled: a
//! vCPU that moves to another CPU.

use crate::host::Host;
use crate::kernel;
use crate::mark::Mark;
use crate::platform::Ordering::SeqCst;
use crate::platform::{Lock, Platform, Word};
use crate::types::CpuId;
use crate::virt::VCPUS;
use crate::vm::{Mmu, Vm};

/// `pi_desc->control`, ON: an interrupt is posted and not taken yet.
const PI_ON: u64 = 1 << 0;
/// `pi_desc->control`, NV: the vector of the notification is the wakeup vector.
const PI_WAKEUP_VECTOR: u64 = 1 << 1;
/// The vCPU was kicked (`kvm_vcpu_kick`).
const KICKED: u64 = 1 << 2;

impl<P: Platform, H: Host, M: Mmu<P>> Vm<P, H, M> {
    fn vcpu_wakeup(&self, vcpu: CpuId) -> &P::Word {
        &self.kvm.system().vcpu_wakeup[usize::from(vcpu.0)]
    }

    /// `pi_pre_block`: from now on a posted interrupt raises the wakeup vector. True: one was
    /// posted before, the vCPU need not sleep. Linux v5.10 `arch/x86/kvm/vmx/posted_intr.c`.
    ///
    /// Locks: `vcpu->mutex` and a read section of `kvm->srcu`; takes `blocked_vcpu_on_cpu_lock` of
    /// its CPU, interrupts off.
    #[kernel]
    pub(crate) fn pi_pre_block(&self, cpu: CpuId) -> bool {
        self.p.local_irq_disable(cpu);
        // No guard for the order of list and vector: the timer ends every sleep here, and no
        // property asks by what a vCPU was woken.
        *self.blocked_vcpus(cpu) |= 1 << cpu.0;
        // ORDERING: full, as cmpxchg64: the vCPU is on the list before it has the vector.
        let posted = self.vcpu_wakeup(cpu).fetch_or(PI_WAKEUP_VECTOR, SeqCst) & PI_ON != 0;
        if posted {
            self.__pi_post_block(cpu);
        }
        self.p.local_irq_enable(cpu);
        posted
    }

    /// `pi_post_block`: the vCPU is awake. Linux v5.10 `arch/x86/kvm/vmx/posted_intr.c`.
    ///
    /// Locks: as for `pi_pre_block`.
    #[kernel]
    pub(crate) fn pi_post_block(&self, cpu: CpuId) {
        self.p.local_irq_disable(cpu);
        self.__pi_post_block(cpu);
        self.p.local_irq_enable(cpu);
    }

    /// Undoes it, in the reverse order; what was posted is taken.
    fn __pi_post_block(&self, cpu: CpuId) {
        // ORDERING: full, as cmpxchg64: the vCPU leaves the list when no CPU looks for it there.
        self.vcpu_wakeup(cpu).swap(0, SeqCst);
        *self.blocked_vcpus(cpu) &= !(1 << cpu.0);
    }

    /// The list of a CPU.
    #[track_caller]
    fn blocked_vcpus(&self, cpu: CpuId) -> <P::Lock<u64> as Lock<u64>>::Guard<'_> {
        self.kvm.system().blocked_vcpu_on_cpu_lock[usize::from(cpu.0)].lock()
    }

    /// True if the vCPU is to be awake. Linux v5.10 `virt/kvm/kvm_main.c`,
    /// `kvm_vcpu_check_block()`.
    pub(crate) fn kvm_vcpu_check_block(&self, cpu: CpuId) -> bool {
        // ORDERING: full: after the vCPU was seen to sleep.
        self.vcpu_wakeup(cpu).load(SeqCst) & (PI_ON | KICKED) != 0
    }

    /// A device posts an interrupt to a vCPU. If that sleeps, the wakeup vector is raised on its
    /// CPU. The handler runs concurrently with what it would interrupt, which allows more than a
    /// real CPU does: the thread that plays the device has no CPU to interrupt.
    ///
    /// Locks: those of `pi_wakeup_handler`.
    #[kernel]
    pub fn post_interrupt(&self, vcpu: CpuId) {
        // ORDERING: full: hardware posts by a locked operation.
        if self.vcpu_wakeup(vcpu).fetch_or(PI_ON, SeqCst) & PI_WAKEUP_VECTOR != 0 {
            self.pi_wakeup_handler(vcpu);
        }
    }

    /// `pi_wakeup_handler`, on a CPU: kicks those on its list who have an interrupt. Linux v5.10
    /// `arch/x86/kvm/vmx/posted_intr.c`.
    ///
    /// Locks: interrupt context; takes `blocked_vcpu_on_cpu_lock` of the CPU.
    #[kernel]
    fn pi_wakeup_handler(&self, cpu: CpuId) {
        let blocked = self.blocked_vcpus(cpu);
        let on_list = |vcpu: &CpuId| *blocked >> vcpu.0 & 1 == 1;
        for vcpu in (0..VCPUS as u8).map(CpuId).filter(on_list) {
            // ORDERING: full, as above.
            if self.vcpu_wakeup(vcpu).load(SeqCst) & PI_ON != 0 {
                // ORDERING: full, as above.
                self.vcpu_wakeup(vcpu).or(KICKED, SeqCst);
                self.p.mark(Mark::VcpuKicked);
            }
        }
    }
}
