//! Hardware virtualization on physical CPUs, which come and go.
//!
//! Guarantee: a CPU that is online while there is a VM has virtualization enabled. Mechanism:
//! counting VMs and bringing a CPU up both hold `kvm_count_lock`. Linux v5.10
//! `virt/kvm/kvm_main.c`, `kernel/cpu.c`. Not modelled: the first VM and the last, which interrupt
//! every CPU under that lock; the walk of `vm_list` on a CPU whose TSC went backwards; suspend.

use super::HOTPLUG_CPU;
use crate::guard::Guard;
use crate::host::Host;
use crate::kernel;
use crate::mark::Mark;
use crate::platform::Ordering::Relaxed;
use crate::platform::{Lock, Platform, RwLock, Word};
use crate::vm::{Mmu, Vm};

impl<P: Platform, H: Host, M: Mmu<P>> Vm<P, H, M> {
    /// `hardware_enable_all`: one more VM. Linux v5.10 `virt/kvm/kvm_main.c`.
    ///
    /// Locks: takes `kvm_count_lock`.
    #[kernel]
    pub(crate) fn hardware_enable_all(&self) {
        let system = self.kvm.system();
        let mut usage_count = system.kvm_count_lock.lock();
        self.p.without(Guard::CountLockNoMutex, || drop(system.kvm_lock.lock()));
        *usage_count += 1;
    }

    /// `hardware_disable_all`: one VM less. Linux v5.10 `virt/kvm/kvm_main.c`.
    ///
    /// Locks: takes `kvm_count_lock`.
    pub(crate) fn hardware_disable_all(&self) {
        self.p.call("hardware_disable_all", || *self.kvm.system().kvm_count_lock.lock() -= 1);
    }

    /// `cpu_up`: the CPU enables virtualization before it is online; nothing if it is online.
    /// Linux v5.10 `kernel/cpu.c`, `_cpu_up()`.
    ///
    /// Locks: takes `cpu_hotplug_lock` for writing, and in it those of `kvm_starting_cpu`.
    #[kernel]
    pub fn cpu_up(&self) {
        let system = self.kvm.system();
        let _hotplug = system.cpu_hotplug_lock.write();
        // ORDERING: relaxed: written under cpu_hotplug_lock, which is held.
        if system.cpu_online_mask.load(Relaxed) >> HOTPLUG_CPU.0 & 1 == 0 {
            // No guard for the order: no property asks which CPUs have virtualization enabled.
            self.kvm_starting_cpu();
            // ORDERING: relaxed: as above.
            system.cpu_online_mask.or(1 << HOTPLUG_CPU.0, Relaxed);
            self.p.mark(Mark::CpuOnline);
        }
    }

    /// `cpu_down`; nothing if the CPU is offline. Linux v5.10 `kernel/cpu.c`, `_cpu_down()`.
    ///
    /// Locks: takes `cpu_hotplug_lock` for writing, and in it those of `kvm_dying_cpu`.
    #[kernel]
    pub fn cpu_down(&self) {
        let system = self.kvm.system();
        let _hotplug = system.cpu_hotplug_lock.write();
        // ORDERING: relaxed: written under cpu_hotplug_lock, which is held.
        if system.cpu_online_mask.load(Relaxed) >> HOTPLUG_CPU.0 & 1 == 1 {
            // ORDERING: relaxed: as above.
            system.cpu_online_mask.and(!(1 << HOTPLUG_CPU.0), Relaxed);
            self.kvm_dying_cpu();
            self.p.mark(Mark::CpuOffline);
        }
    }

    /// `kvm_starting_cpu`: a CPU comes up. Linux v5.10 `virt/kvm/kvm_main.c`, later
    /// `kvm_online_cpu()`.
    ///
    /// Locks: `cpu_hotplug_lock`, held for writing; takes `kvm_count_lock`.
    #[kernel]
    fn kvm_starting_cpu(&self) {
        let system = self.kvm.system();
        let _kvm_lock = self.p.without(Guard::UsageCountOwnLock, || system.kvm_lock.lock());
        let usage_count = system.kvm_count_lock.lock();
        if *usage_count > 0 {
            // ORDERING: relaxed: written under kvm_count_lock, which is held.
            system.cpus_hardware_enabled.or(1 << HOTPLUG_CPU.0, Relaxed);
        }
    }

    /// `kvm_dying_cpu`: a CPU goes. Linux v5.10 `virt/kvm/kvm_main.c`, later `kvm_offline_cpu()`.
    ///
    /// Locks: `cpu_hotplug_lock`, held for writing; takes `kvm_count_lock`.
    #[kernel]
    fn kvm_dying_cpu(&self) {
        let system = self.kvm.system();
        let _kvm_lock = self.p.without(Guard::UsageCountOwnLock, || system.kvm_lock.lock());
        let usage_count = system.kvm_count_lock.lock();
        if *usage_count > 0 {
            // ORDERING: relaxed: written under kvm_count_lock, which is held.
            system.cpus_hardware_enabled.and(!(1 << HOTPLUG_CPU.0), Relaxed);
        }
    }
}
