//! The I/O buses: the devices inside the kernel that a guest's MMIO and port accesses reach.
//!
//! Guarantee: a device is alive while an access to it goes on. Mechanism: accesses run in a read
//! section of `kvm->srcu`, which KVM_RUN holds; a device is destroyed, and the array that had it
//! freed, only after a grace period. Linux v5.10 `virt/kvm/kvm_main.c`, `kvm_io_bus_*()`. Not
//! v5.10: there, if there is no memory for the smaller array, the others are destroyed before the
//! grace period (after it since 5.13, commit 2ee3757424be). Not modelled: ranges (two ioeventfds
//! share one address, all other devices are elsewhere), the split into MMIO and port bus, coalesced
//! MMIO.

use core::slice;

use super::published::Published;
use crate::guard::Guard;
use crate::host::Host;
use crate::mark::Mark;
use crate::platform::Ordering::Relaxed;
use crate::platform::{Lock, Platform, Srcu, Word};
use crate::tag::{Object, Tag};
use crate::types::Access;
use crate::vm::{Mmu, Vm};

/// A device on the bus.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum IoDevice {
    /// An ioeventfd that is there from the start.
    FirstIoeventfd,
    /// The ioeventfd that KVM_IOEVENTFD adds and removes.
    Ioeventfd,
    /// The PIC: three devices in the kernel.
    Pic,
    /// The I/O APIC.
    Ioapic,
    /// The PIT.
    Pit,
}

impl IoDevice {
    /// The devices at [`IoAddress::Ioeventfds`].
    const IOEVENTFDS: [IoDevice; 2] = [IoDevice::FirstIoeventfd, IoDevice::Ioeventfd];

    const fn bit(self) -> u64 {
        1 << self as u8
    }
}

/// Where an MMIO access goes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum IoAddress {
    /// The address of the ioeventfds.
    Ioeventfds,
    /// A guest frame without a memslot: no device of the kernel is there.
    Frame,
}

/// `kvm->buses`. The pointer is protected by: `slots_lock` for updates, `kvm->srcu` for readers.
#[derive(Debug)]
pub struct IoBus<P: Platform> {
    array: Published<P, 2>,
    /// The memory of the ioeventfds.
    ioeventfds: [P::Word; 2],
}

impl<P: Platform> IoBus<P> {
    pub(crate) fn new(p: &P) -> Self {
        let first = Some(IoDevice::FirstIoeventfd.bit());
        let ioeventfds = core::array::from_fn(|i| p.word(Tag::nth(Object::IoDevice, i), 0));
        p.freed(&ioeventfds[1..]);
        IoBus { array: Published::new(p, Object::Buses, Object::BusArray, first), ioeventfds }
    }

    /// The memory of a device; `None`: it lives as long as the VM.
    fn memory(&self, device: IoDevice) -> Option<&P::Word> {
        match device {
            IoDevice::FirstIoeventfd => Some(&self.ioeventfds[0]),
            IoDevice::Ioeventfd => Some(&self.ioeventfds[1]),
            _ => None,
        }
    }

    /// The memory of a device is in use from now on.
    fn allocate(&self, p: &P, device: IoDevice) {
        if let Some(memory) = self.memory(device) {
            p.allocated(slice::from_ref(memory));
        }
    }

    /// `kvm_iodevice_destructor`.
    fn destroy(&self, p: &P, device: IoDevice) {
        if let Some(memory) = self.memory(device) {
            p.freed(slice::from_ref(memory));
            p.mark(Mark::IoDeviceDestroyed);
        }
    }
}

impl<P: Platform, H: Host, M: Mmu<P>> Vm<P, H, M> {
    /// `kvm_io_bus_write`, `kvm_io_bus_read`: offers an access to one device after another. False:
    /// no device has it, and it goes to user space.
    ///
    /// Locks: a read section of `kvm->srcu`.
    pub fn kvm_io_bus_access(&self, address: IoAddress, access: Access) -> bool {
        let write = access == Access::Write;
        let name = if write { "kvm_io_bus_write" } else { "kvm_io_bus_read" };
        let Some(bus) = &self.kvm.buses else { return false };
        self.p.call(name, || {
            let devices = bus.array.dereference().map_or(0, |array| bus.array.read(array));
            let here: &[IoDevice] = match address {
                IoAddress::Ioeventfds => &IoDevice::IOEVENTFDS,
                IoAddress::Frame => &[],
            };
            let there = here.iter().copied().filter(|d| devices & d.bit() != 0);
            let mut called = false;
            for memory in there.filter_map(|d| bus.memory(d)) {
                // ORDERING: relaxed: a device orders its own data.
                memory.load(Relaxed);
                self.p.mark(Mark::IoDeviceCalled);
                called = true;
            }
            if !called {
                self.p.mark(Mark::MmioExit);
            }
            called
        })
    }

    /// `kvm_assign_ioeventfd`: adds an ioeventfd to the bus, unless it is there.
    ///
    /// Locks: takes `slots_lock`.
    pub fn kvm_assign_ioeventfd(&self) {
        let Some(bus) = &self.kvm.buses else { return };
        self.p.call("kvm_assign_ioeventfd", || {
            let _slots_lock = self.kvm.slots_lock.lock();
            bus.allocate(&self.p, IoDevice::Ioeventfd);
            self.kvm_io_bus_register_dev(IoDevice::Ioeventfd);
        });
    }

    /// `kvm_deassign_ioeventfd`: takes it off the bus and frees it. `enomem`: there is no memory
    /// for the smaller array.
    ///
    /// Locks: takes `slots_lock`.
    pub fn kvm_deassign_ioeventfd(&self, enomem: bool) {
        let Some(bus) = &self.kvm.buses else { return };
        self.p.call("kvm_deassign_ioeventfd", || {
            let _slots_lock = self.kvm.slots_lock.lock();
            if self.kvm_io_bus_unregister_dev(IoDevice::Ioeventfd, enomem) {
                // ioeventfd_release
                bus.destroy(&self.p, IoDevice::Ioeventfd);
            }
        });
    }

    /// `kvm_io_bus_register_dev`, unless the device is there already.
    ///
    /// Locks: `slots_lock`. Waits for a grace period of `kvm->srcu`.
    pub(crate) fn kvm_io_bus_register_dev(&self, device: IoDevice) {
        let Some(bus) = &self.kvm.buses else { return };
        self.p.call("kvm_io_bus_register_dev", || {
            let Some(old) = bus.array.dereference() else { return };
            let devices = bus.array.read(old);
            if devices & device.bit() == 0 {
                self.replace_bus(bus, old, Some(devices | device.bit()));
                bus.array.kfree(&self.p, old);
            }
        });
    }

    /// `kvm_io_bus_unregister_dev`. False: the device is not there. The caller frees it after. With
    /// no memory for the smaller array the bus is given up, and all other devices are destroyed.
    ///
    /// Locks: `slots_lock`. Waits for a grace period of `kvm->srcu`.
    fn kvm_io_bus_unregister_dev(&self, device: IoDevice, enomem: bool) -> bool {
        let Some(bus) = &self.kvm.buses else { return false };
        self.p.call("kvm_io_bus_unregister_dev", || {
            let Some(old) = bus.array.dereference() else { return false };
            let devices = bus.array.read(old);
            if devices & device.bit() == 0 {
                return false;
            }
            let fewer = devices & !device.bit();
            let destroy_others = || {
                let others = IoDevice::IOEVENTFDS.into_iter().filter(|d| fewer & d.bit() != 0);
                others.for_each(|other| bus.destroy(&self.p, other));
            };
            if enomem {
                self.p.without(Guard::BusFreeAfterGracePeriod, destroy_others);
            }
            self.replace_bus(bus, old, (!enomem).then_some(fewer));
            if enomem {
                self.p.guarded(Guard::BusFreeAfterGracePeriod, destroy_others);
            }
            bus.array.kfree(&self.p, old);
            true
        })
    }

    /// Publishes an array with these devices, or none, and waits until nobody uses the old one.
    ///
    /// Locks: `slots_lock`.
    fn replace_bus(&self, bus: &IoBus<P>, old: usize, devices: Option<u64>) {
        let new = devices.map(|devices| {
            let new = bus.array.kmalloc_other(&self.p, old);
            bus.array.write(new, devices);
            new
        });
        bus.array.assign(new);
        self.p.mark(Mark::BusReplaced);
        // synchronize_srcu_expedited
        self.p.guarded(Guard::BusGracePeriod, || self.kvm.srcu.synchronize());
        self.p.mark(Mark::BusFreed);
    }
}
