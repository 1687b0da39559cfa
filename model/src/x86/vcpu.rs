//! vCPUs as a whole: how they sleep, and what else is done to them.

use crate::guard::Guard;
use crate::host::Host;
use crate::kernel;
use crate::mark::Mark;
use crate::platform::Ordering::{Acquire, Relaxed};
use crate::platform::{Lock, Platform, RwLock, Word};
use crate::types::CpuId;
use crate::virt::SrcuSection;
use crate::vm::{Mmu, Vm};

impl<P: Platform, H: Host, M: Mmu<P>> Vm<P, H, M> {
    /// Of `vcpu->arch`: KVM cannot read it any more.
    const ENCRYPTED: u64 = 1;

    /// `kvm_arch_vcpu_postcreate`: user space can use the vCPU already. Linux v5.10
    /// `arch/x86/kvm/x86.c`.
    ///
    /// Locks: takes `vcpu->mutex`, and those of `kvm_synchronize_tsc` in it.
    #[kernel]
    pub(crate) fn kvm_arch_vcpu_postcreate(&self, vcpu: usize) {
        let _mutex = self.kvm.vcpu_mutex[vcpu].lock();
        self.kvm_synchronize_tsc(true);
    }

    /// `sev_launch_update_vmsa`: the state of every vCPU is encrypted, while it is out of its
    /// ioctls. Linux v5.15 `arch/x86/kvm/svm/sev.c`. In v5.10 only s390 nests these locks, in
    /// `kvm_s390_cpus_to_pv()`. What 6.11 to 7.0 have for SNP takes no `vcpu->mutex` (commit
    /// cb923ee6a80f, CVE-2026-31591).
    ///
    /// Locks: takes `kvm->lock`, and in it each `vcpu->mutex` in turn.
    #[kernel]
    pub fn sev_launch_update_vmsa(&self) {
        let _lock = self.kvm.lock.lock();
        // ORDERING: acquire pairs with the release in kvm_vm_ioctl_create_vcpu. Not judged under
        // SC.
        let online = self.kvm.system().online_vcpus.load(Acquire);
        let arch = &self.kvm.system().vcpu_arch;
        for (mutex, arch) in self.kvm.vcpu_mutex.iter().zip(arch).take(online as usize) {
            let _mutex = self.p.guarded(Guard::VmsaLocksVcpus, || Some(mutex.lock()));
            // ORDERING: relaxed: vcpu->mutex is held.
            arch.store(Self::ENCRYPTED, Relaxed);
        }
        self.p.mark(Mark::VmsaUpdated);
    }

    /// `kvm_lapic_set_base`, by which a guest turns its APIC off: the static key that says so has
    /// one more user, and code is patched on every CPU. Linux v5.10 `arch/x86/kvm/lapic.c`,
    /// `kernel/jump_label.c`, `static_key_slow_inc()`.
    ///
    /// Locks: `vcpu->mutex` and a read section of `kvm->srcu`; takes `cpu_hotplug_lock` for
    /// reading.
    #[kernel]
    pub fn kvm_lapic_set_base(&self) {
        let system = self.kvm.system();
        let _hotplug = system.cpu_hotplug_lock.read();
        // ORDERING: relaxed: written under cpu_hotplug_lock, which is held.
        system.cpu_online_mask.load(Relaxed);
        self.p.mark(Mark::ApicDisabled);
    }

    /// `vcpu_block`: the vCPU halts. It sleeps until an interrupt is posted or its timer fires;
    /// either may come first, so that the sleep is one step that sees whether the one did. Linux
    /// v5.10 `arch/x86/kvm/x86.c`.
    ///
    /// Locks: `vcpu->mutex`. The read section of `kvm->srcu` is left while it sleeps: a grace
    /// period does not wait for it. Takes those of `pi_pre_block`.
    #[kernel]
    pub fn vcpu_block<'a>(&'a self, cpu: CpuId, srcu: &mut Option<SrcuSection<'a, P>>) {
        if self.pi_pre_block(cpu) {
            self.p.mark(Mark::VcpuStayedAwake);
            return;
        }
        // No guard: the sleep is one step here, and so no grace period can wait for it.
        drop(srcu.take());
        self.p.might_sleep();
        self.p.mark(Mark::VcpuAsleep);
        let woken = self.kvm_vcpu_check_block(cpu);
        self.p.mark(if woken { Mark::VcpuWoken } else { Mark::VcpuTimer });
        self.p.checkpoint(());
        *srcu = self.vcpu_srcu_read_lock();
        self.pi_post_block(cpu);
    }
}
