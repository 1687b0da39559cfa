//! What VM ioctls and exits do around the MMU, where it is more than one call of the model.

use kvmmu_model::virt::io_bus::IoAddress;
use kvmmu_model::{Access, CpuId, Gfn, RwLock};

use crate::machine::{Cell, GuestAccess, Machine};
use crate::property::Property;
use crate::world::World;

impl<M: Machine> World<M> {
    /// An MMIO exit: the access goes to a device in the kernel, or else to user space, where nobody
    /// answers. (The kernel's emulator tries guest memory first, which is not there.)
    pub(super) fn mmio(&self, address: IoAddress, access: Access) {
        self.vm.kvm_io_bus_access(address, access);
    }

    /// A fault found no memslot: the access becomes MMIO. `ram`: there is one, an invalid one.
    pub(super) fn mmio_of_frame(&self, cpu: CpuId, access: GuestAccess, ram: bool) {
        if ram && self.watches(Property::RamIsNotMmio) {
            self.m.violate(
                Property::RamIsNotMmio,
                format_args!(
                    "vcpu{}'s access becomes MMIO, and a memslot has the frame still",
                    cpu.0
                ),
            );
        }
        self.mmio(IoAddress::Frame, access.access);
    }

    /// KVM_SET_USER_MEMORY_REGION with size 0. When it returns the slot is deleted.
    pub(super) fn delete_memslot(&self, slot: u8) {
        self.vm.delete_memory_region(usize::from(slot));
        self.deleted.with(|slots| *slots |= 1 << slot);
    }

    /// MADV_PAGEOUT: reclaim, and with it the notifiers, inside `mmap_lock`.
    pub(super) fn madvise_pageout(&self, gfn: Gfn) {
        self.m.call("madvise_pageout", || {
            let _mmap_lock = self.vm.host.mmap_lock.read();
            self.swap_out(gfn);
        });
    }
}
