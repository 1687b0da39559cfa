//! Creating and destroying a VM.
//!
//! Guarantee: a VM that is being destroyed is in no list when its memory goes, and no notifier of
//! the host's memory manager still runs for it. Linux v5.10 `virt/kvm/kvm_main.c`. The VM is
//! another one than the one that is modelled, of the same process: no other thread knows its own
//! locks yet, so they are not here. None of the locks of this file is taken inside another.

use crate::host::Host;
use crate::kernel;
use crate::mark::Mark;
use crate::platform::{Lock, Platform};
use crate::vm::{Mmu, Vm};

impl<P: Platform, H: Host, M: Mmu<P>> Vm<P, H, M> {
    /// `kvm_create_vm`. Linux v5.10 `virt/kvm/kvm_main.c`.
    ///
    /// Locks: takes `kvm_count_lock`, `mmap_lock` for writing and `kvm_lock`, one after the other.
    #[kernel]
    pub fn kvm_create_vm(&self) {
        self.hardware_enable_all();
        self.host.mmu_notifier_register();
        let mut vm_list = self.kvm.system().kvm_lock.lock();
        *vm_list |= 1 << vm_list.trailing_ones();
        self.p.mark(Mark::VmCreated);
    }

    /// `kvm_destroy_vm`, of the VM that was created last; nothing if there is none but VM 0. The
    /// grace period of the notifiers' SRCU comes under no lock: those it waits for may want any.
    ///
    /// Locks: takes `kvm_lock` and `kvm_count_lock`, one after the other; the caller has none.
    #[kernel]
    pub fn kvm_destroy_vm(&self) {
        {
            let mut vm_list = self.kvm.system().kvm_lock.lock();
            let last = vm_list.ilog2();
            if last == 0 {
                return;
            }
            *vm_list &= !(1 << last);
        }
        // No guard: this VM is modelled by its place in the list alone, and has no memory to free.
        self.host.mmu_notifier_unregister();
        self.hardware_disable_all();
        self.p.mark(Mark::VmDestroyed);
    }
}
