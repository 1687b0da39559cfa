//! What VM ioctls and exits do around the MMU, where it is more than one call of the model.

use kvmmu_model::{Access, Gfn, RwLock};

use crate::machine::Machine;
use crate::world::World;

impl<M: Machine> World<M> {
    /// An MMIO exit: the access goes to a device in the kernel, or else to user space, where nobody
    /// answers. (The kernel's emulator tries guest memory first, which is not there.)
    pub(super) fn mmio(&self, access: Access) {
        self.mmu.kvm_io_bus_access(access);
    }

    /// MADV_PAGEOUT: reclaim, and with it the notifiers, inside `mmap_lock`.
    pub(super) fn madvise_pageout(&self, gfn: Gfn) {
        self.m.call("madvise_pageout", || {
            let _mmap_lock = self.mmu.host.mmap_lock.read();
            self.swap_out(gfn);
        });
    }
}
