//! What VM ioctls and exits do around the MMU, where it is more than one call of the model.

use kvmmu_model::virt::io_bus::IoAddress;
use kvmmu_model::{Access, CpuId, Gfn, Guard, Mmu, RwLock, Srcu, Tables};

use crate::machine::{Cell, GuestAccess, Machine};
use crate::mmu::MmuOf;
use crate::oracle::slot_of;
use crate::property::Property;
use crate::vmm_pause::VmmPause;
use crate::world::{Created, World};

impl<M: Machine> World<M> {
    /// An MMIO exit: the access goes to a device in the kernel, or else to user space, where nobody
    /// answers. (The kernel's emulator tries guest memory first, which is not there.)
    pub(super) fn mmio(&self, address: IoAddress, access: Access) {
        // On arm64 the handler of the abort is in one.
        let of_handler = !<MmuOf<M> as Mmu<M>>::RUN_HOLDS_SRCU;
        let _srcu = of_handler.then(|| self.vm.kvm.srcu.read_lock());
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
        self.check_recreating(cpu, access);
        self.check_created(cpu, access);
        self.check_device(cpu, access);
        self.mmio(IoAddress::Frame, access.access);
    }

    /// An access becomes MMIO: its slot is not one that the VMM is making again.
    fn check_recreating(&self, cpu: CpuId, access: GuestAccess) {
        let recreating = self.recreating.get();
        if recreating == 0 || !self.watches(Property::RamIsNotMmio) {
            return;
        }
        if let Some(slot) = slot_of(self, access.page).filter(|slot| recreating >> slot & 1 == 1) {
            self.m.violate(
                Property::RamIsNotMmio,
                format_args!(
                    "vcpu{}'s access to gfn{} becomes MMIO, and the VMM is making slot{slot} again",
                    cpu.0, access.page
                ),
            );
        }
    }

    /// An access of the guest may have faulted: the slots that are made by now are there for it.
    pub(super) fn faults(&self, cpu: CpuId) {
        if self.watches(Property::MmioGeneration) {
            self.created.with(|slots| slots.faulted[usize::from(cpu.0)] = slots.made);
        }
    }

    /// An access becomes MMIO: its frame is in no slot that was there when it faulted, and is
    /// still.
    fn check_created(&self, cpu: CpuId, access: GuestAccess) {
        if !self.watches(Property::MmioGeneration) {
            return;
        }
        let Created { made, faulted } = self.created.get();
        let there = faulted[usize::from(cpu.0)] & made;
        if let Some(slot) = slot_of(self, access.page).filter(|slot| there >> slot & 1 == 1) {
            self.m.violate(
                Property::MmioGeneration,
                format_args!(
                    "vcpu{}'s access to gfn{} becomes MMIO, and the ioctl that made slot{slot} had \
                     returned before its fault",
                    cpu.0, access.page
                ),
            );
        }
    }

    /// An access becomes MMIO, and memslots never change: the guest's tables name a device, or did.
    fn check_device(&self, cpu: CpuId, access: GuestAccess) {
        let shadowed = self.vm.mmu.guest_root(cpu).is_some();
        let constant = self.vm.kvm.memslots.are_constant();
        if !shadowed || !constant || !self.watches(Property::GuestTranslation) {
            return;
        }
        let has_slot = |gfn| slot_of(self, gfn).is_some();
        if !self.vm.host.guest_may_reach_device(cpu, access, has_slot) {
            self.m.violate(
                Property::GuestTranslation,
                format_args!(
                    "vcpu{}'s access to gva{} becomes MMIO, and its tables name memory since it \
                     invalidated the page",
                    cpu.0, access.page
                ),
            );
        }
    }

    /// The VMCS of a vCPU that runs names the APIC access page, mapped or on its way out.
    pub(super) fn check_apic_page(&self, cpu: CpuId) {
        let Some(apic) = &self.vm.kvm.apic_access_page else { return };
        let (host, pfn, gfn) = (self.vm.host.state(), apic.of(cpu), apic.gfn.0 as usize);
        let theirs = host.pte[gfn].pfn == Some(pfn) || host.swap_cache[gfn] == Some(pfn);
        self.m.note(format_args!("guest: vcpu{} uses its APIC by pfn{}", cpu.0, pfn.0));
        if !theirs && self.watches(Property::PfnSafety) {
            self.m.violate(
                Property::PfnSafety,
                format_args!(
                    "the VMCS of vcpu{} names pfn{} for its APIC, which the host has freed",
                    cpu.0, pfn.0
                ),
            );
        }
    }

    /// KVM_SET_USER_MEMORY_REGION with size 0. When it returns the slot is deleted.
    pub(super) fn delete_memslot(&self, slot: u8) {
        self.created.with(|slots| slots.made &= !(1 << slot));
        self.vm.delete_memory_region(usize::from(slot));
        self.deleted.with(|slots| *slots |= 1 << slot);
    }

    /// KVM_SET_USER_MEMORY_REGION with the size that the file gives. From when it begins the slot
    /// is deleted no more.
    pub(super) fn create_memslot(&self, slot: u8) {
        self.deleted.with(|slots| *slots &= !(1 << slot));
        self.vm.create_memory_region(usize::from(slot));
        self.created.with(|slots| slots.made |= 1 << slot);
    }

    /// The VMM deletes a slot and makes it again; no vCPU may notice.
    pub(super) fn recreate_memslot(&self, slot: u8) {
        self.m.call("recreate-memslot", || {
            let pause = |what: fn(&VmmPause<M>)| {
                self.m.guarded(Guard::VmmPausesVcpus, || self.pause.iter().for_each(what));
            };
            pause(VmmPause::begin);
            self.recreating.with(|slots| *slots |= 1 << slot);
            self.delete_memslot(slot);
            self.create_memslot(slot);
            self.recreating.with(|slots| *slots &= !(1 << slot));
            pause(VmmPause::end);
        });
    }

    /// MADV_PAGEOUT: reclaim, and with it the notifiers, inside `mmap_lock`.
    pub(super) fn madvise_pageout(&self, gfn: Gfn) {
        self.m.call("madvise_pageout", || {
            let _mmap_lock = self.vm.host.mmap_lock.read();
            self.swap_out(gfn);
        });
    }
}
