//! Creating and destroying a VM.
//!
//! Guarantee: a VM that is being destroyed is in no list when its memory goes, and no notifier of
//! the host's memory manager still runs for it. Linux v5.10 `virt/kvm/kvm_main.c`. The VM is
//! another one than the one that is modelled, of the same process: no other thread knows its own
//! locks yet, so they are not here. Several of these are one here, as the host's notifiers know
//! them. None of the locks of this file is taken inside another.

use crate::guard::Guard;
use crate::host::Host;
use crate::kernel;
use crate::mark::Mark;
use crate::platform::Ordering::Relaxed;
use crate::platform::{Lock, Platform, Word};
use crate::vm::{Mmu, Vm};

impl<P: Platform, H: Host, M: Mmu<P>> Vm<P, H, M> {
    /// `kvm_create_vm`: the VM is complete (`kvm_arch_init_vm`) when the host's notifiers may call
    /// it, and it is in `vm_list` after that. Linux v5.10 `virt/kvm/kvm_main.c`.
    ///
    /// Locks: takes `kvm_count_lock`, `mmap_lock` for writing and `kvm_lock`, one after the other.
    #[kernel]
    pub fn kvm_create_vm(&self) {
        let kvm_arch_init_vm = || self.p.allocated(&self.kvm.system().other_vm);
        self.p.guarded(Guard::VmCompleteBeforeNotifier, kvm_arch_init_vm);
        self.hardware_enable_all();
        self.host.mmu_notifier_register();
        let mut vm_list = self.kvm.system().kvm_lock.lock();
        *vm_list |= 1 << vm_list.trailing_ones();
        self.p.without(Guard::VmCompleteBeforeNotifier, kvm_arch_init_vm);
        self.p.mark(Mark::VmCreated);
    }

    /// `kvm_destroy_vm`, of the VM that was created last; nothing if there is none but VM 0. The
    /// grace period of the notifiers' SRCU comes under no lock: those it waits for may want any.
    ///
    /// Locks: takes `kvm_lock` and `kvm_count_lock`, one after the other; the caller has none.
    #[kernel]
    pub fn kvm_destroy_vm(&self) {
        let last = {
            let mut vm_list = self.kvm.system().kvm_lock.lock();
            let last = vm_list.ilog2();
            if last == 0 {
                return;
            }
            *vm_list &= !(1 << last);
            last
        };
        self.host.mmu_notifier_unregister();
        if last == 1 {
            self.p.freed(&self.kvm.system().other_vm);
        }
        self.hardware_disable_all();
        self.p.mark(Mark::VmDestroyed);
    }

    /// `kvm_mmu_notifier_invalidate_range_start`, of another VM: nothing of it is mapped, but it is
    /// asked.
    ///
    /// Locks: inside the host's SRCU of notifiers.
    pub fn notify_other_vm(&self) {
        // ORDERING: relaxed: mmap_lock orders it with mmu_notifier_register.
        self.kvm.system().other_vm[0].load(Relaxed);
        self.p.mark(Mark::OtherVmNotified);
    }
}
