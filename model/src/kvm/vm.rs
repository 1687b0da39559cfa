//! Creating and destroying a VM.
//!
//! Guarantee: a VM that is being destroyed is in no list when its memory goes, and no notifier of
//! the host's memory manager still runs for it. Linux v5.10 `virt/kvm/kvm_main.c`. The VM is
//! another one than the one that is modelled, of the same process: its own locks nobody else knows
//! yet, so they are not here. None of the locks of this file is taken inside another.

use crate::host::Host;
use crate::mark::Mark;
use crate::mmu::Mmu;
use crate::platform::{Lock, Platform};

impl<P: Platform, H: Host> Mmu<P, H> {
    /// `kvm_create_vm`. Linux v5.10 `virt/kvm/kvm_main.c`.
    ///
    /// Locks: takes `kvm_count_lock`, `mmap_lock` for writing and `kvm_lock`, one after the other.
    pub fn kvm_create_vm(&self) {
        self.p.call("kvm_create_vm", || {
            self.hardware_enable_all();
            self.p.checkpoint(());
            self.host.mmu_notifier_register();
            self.p.checkpoint(());
            let mut vm_list = self.kvm.system().kvm_lock.lock();
            *vm_list |= 1 << vm_list.trailing_ones();
            self.p.mark(Mark::VmCreated);
        });
    }

    /// `kvm_destroy_vm`, of the VM that was created last; nothing if there is none but VM 0. The
    /// grace period of the notifiers' SRCU comes under no lock: whoever it waits for may want any.
    ///
    /// Locks: takes `kvm_lock` and `kvm_count_lock`, one after the other; the caller has none.
    pub fn kvm_destroy_vm(&self) {
        self.p.call("kvm_destroy_vm", || {
            {
                let mut vm_list = self.kvm.system().kvm_lock.lock();
                let last = vm_list.ilog2();
                if last == 0 {
                    return;
                }
                *vm_list &= !(1 << last);
            }
            self.p.checkpoint(());
            self.host.mmu_notifier_unregister();
            self.p.checkpoint(());
            self.hardware_disable_all();
            self.p.mark(Mark::VmDestroyed);
        });
    }
}
