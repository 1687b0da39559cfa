//! What asks the MMU of every VM for something: the iTLB multihit mitigation is turned on or off,
//! and every VM builds its tables anew; the shrinker.
//!
//! Linux v5.10 `arch/x86/kvm/mmu/mmu.c`. Not modelled: the recovery threads, which it wakes.

use crate::host::Host;
use crate::kernel;
use crate::mark::Mark;
use crate::platform::{Lock, Platform, Srcu};
use crate::vm::{Mmu, Vm};

impl<P: Platform, H: Host, M: Mmu<P>> Vm<P, H, M> {
    /// `set_nx_huge_pages`, a module parameter. Of the VMs of the list only this one has tables.
    ///
    /// Locks: takes `kvm_lock`, in it `slots_lock` of each VM, in it `mmu_lock`.
    ///
    /// # Panics
    /// In a program that is not contended.
    #[kernel]
    pub fn set_nx_huge_pages(&self) {
        let _vm_list = self.kvm.system().kvm_lock.lock();
        let _slots_lock = self.kvm.slots_lock.lock();
        M::kvm_mmu_zap_all_fast(self);
        self.p.mark(Mark::NxHugePagesSet);
    }

    /// `mmu_shrink_scan`: the host is short of memory. Linux v5.10 `arch/x86/kvm/mmu/mmu.c`.
    ///
    /// Locks: takes `kvm_lock`, in it a read section of `kvm->srcu`, in it `mmu_lock`.
    #[kernel]
    pub fn mmu_shrink_scan(&self) {
        let _vm_list = self.kvm.system.as_ref().map(|system| system.kvm_lock.lock());
        // No guard: the section keeps memslots alive, which have the rmaps. Here the MMU has them.
        let _srcu = self.kvm.srcu.read_lock();
        M::mmu_shrink_scan(self);
    }
}
