//! vCPUs: how they are created, how they sleep, and what else is done to them as a whole.

use super::SrcuSection;
use crate::host::Host;
use crate::mark::Mark;
use crate::mmu::{Mmu, VCPUS};
use crate::platform::Ordering::{Acquire, Relaxed, Release};
use crate::platform::{Lock, Platform, RwLock, Word};
use crate::types::CpuId;

impl<P: Platform, H: Host> Mmu<P, H> {
    /// `kvm_vm_ioctl_create_vcpu`: one more vCPU, which does not run; nothing if there are as many
    /// as there may be. Linux v5.10 `virt/kvm/kvm_main.c`.
    ///
    /// Locks: takes `kvm->lock` twice, and not in between, where the vCPU is made; then those of
    /// `kvm_arch_vcpu_postcreate`.
    pub fn kvm_vm_ioctl_create_vcpu(&self) {
        self.p.call("kvm_vm_ioctl_create_vcpu", || {
            let system = self.kvm.system();
            {
                let _lock = self.kvm.lock.lock();
                // ORDERING: relaxed: kvm->lock is held.
                if system.created_vcpus.load(Relaxed) == VCPUS as u64 {
                    return;
                }
                // ORDERING: relaxed: as above.
                system.created_vcpus.fetch_add(1, Relaxed);
            }
            self.p.checkpoint(());
            let vcpu = {
                let _lock = self.kvm.lock.lock();
                // ORDERING: release (smp_wmb in the kernel): whoever sees the count sees the vCPU.
                let vcpu = system.online_vcpus.fetch_add(1, Release);
                self.p.mark(Mark::VcpuCreated);
                vcpu
            };
            self.p.checkpoint(vcpu);
            self.kvm_arch_vcpu_postcreate(vcpu as usize);
        });
    }

    /// `kvm_arch_vcpu_postcreate`: user space can use the vCPU already. Linux v5.10
    /// `arch/x86/kvm/x86.c`.
    ///
    /// Locks: takes `vcpu->mutex`, and those of `kvm_synchronize_tsc` in it.
    fn kvm_arch_vcpu_postcreate(&self, vcpu: usize) {
        self.p.call("kvm_arch_vcpu_postcreate", || {
            let _mutex = self.kvm.vcpu_mutex[vcpu].lock();
            self.kvm_synchronize_tsc(true);
        });
    }

    /// `sev_launch_update_vmsa`: the state of every vCPU is encrypted. Linux v5.15
    /// `arch/x86/kvm/svm/sev.c`. In v5.10 only s390 nests these locks, in
    /// `kvm_s390_cpus_to_pv()`.
    ///
    /// Locks: takes `kvm->lock`, and in it each `vcpu->mutex` in turn.
    pub fn sev_launch_update_vmsa(&self) {
        self.p.call("sev_launch_update_vmsa", || {
            let _lock = self.kvm.lock.lock();
            // ORDERING: acquire pairs with the release in kvm_vm_ioctl_create_vcpu.
            let online = self.kvm.system().online_vcpus.load(Acquire);
            for mutex in self.kvm.vcpu_mutex.iter().take(online as usize) {
                drop(mutex.lock());
            }
            self.p.mark(Mark::VmsaUpdated);
        });
    }

    /// `kvm_lapic_set_base`, by which a guest turns its APIC off: the static key that says so has
    /// one more user, and code is patched on every CPU. Linux v5.10 `arch/x86/kvm/lapic.c`,
    /// `kernel/jump_label.c`, `static_key_slow_inc()`.
    ///
    /// Locks: `vcpu->mutex` and a read section of `kvm->srcu`; takes `cpu_hotplug_lock` for
    /// reading.
    pub fn kvm_lapic_set_base(&self) {
        self.p.call("kvm_lapic_set_base", || {
            let system = self.kvm.system();
            let _hotplug = system.cpu_hotplug_lock.read();
            // ORDERING: relaxed: written under cpu_hotplug_lock, which is held.
            system.cpu_online_mask.load(Relaxed);
            self.p.mark(Mark::ApicDisabled);
        });
    }

    /// `vcpu_block`: the vCPU halts. It sleeps until an interrupt is posted or its timer fires;
    /// either may come first, so that the sleep is one step that sees whether the one did. Linux
    /// v5.10 `arch/x86/kvm/x86.c`.
    ///
    /// Locks: `vcpu->mutex`. The read section of `kvm->srcu` is left while it sleeps: a grace
    /// period does not wait for it. Takes those of `pi_pre_block`.
    pub fn vcpu_block<'a>(&'a self, cpu: CpuId, srcu: &mut Option<SrcuSection<'a, P>>) {
        self.p.call("vcpu_block", || {
            if self.pi_pre_block(cpu) {
                self.p.mark(Mark::VcpuStayedAwake);
                return;
            }
            drop(srcu.take());
            self.p.might_sleep();
            self.p.mark(Mark::VcpuAsleep);
            let woken = self.kvm_vcpu_check_block(cpu);
            self.p.mark(if woken { Mark::VcpuWoken } else { Mark::VcpuTimer });
            self.p.checkpoint(());
            *srcu = self.vcpu_srcu_read_lock();
            self.pi_post_block(cpu);
        });
    }
}
