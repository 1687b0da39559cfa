//! Making the interrupt controllers and the timer inside the kernel.
//!
//! Guarantee: each is made once, and is complete when an access can reach it. Mechanism:
//! `kvm->lock` over all of it; the buses change under `slots_lock`, the routes under `irq_lock`,
//! one after the other. Linux v5.10 `arch/x86/kvm/x86.c`, `i8259.c`, `ioapic.c`, `i8254.c`. Not
//! modelled: what the devices do, failures and their unwinding, the PIT's thread,
//! `kvm_request_apicv_update()` in `kvm_pit_set_reinject()` (with AVIC it takes `slots_lock`, too,
//! and releases it).

use crate::guard::Guard;
use crate::host::Host;
use crate::kernel;
use crate::mark::Mark;
use crate::platform::Ordering::{Relaxed, Release};
use crate::platform::{Lock, Platform, Word};
use crate::tag::{Object, Tag};
use crate::virt::io_bus::IoDevice;
use crate::vm::{Mmu, Vm};

/// `kvm->arch`, the devices. Protected by: `kvm->lock`; read without it.
#[derive(Debug)]
pub struct Irqchip<P: Platform> {
    /// `kvm->arch.irqchip_mode`: 0, or `KVM_IRQCHIP_KERNEL`.
    irqchip_mode: P::Word,
    /// `kvm->arch.vpit`: NULL or not.
    vpit: P::Word,
}

impl<P: Platform> Irqchip<P> {
    pub(crate) fn new(p: &P) -> Self {
        Irqchip {
            irqchip_mode: p.word(Tag::one(Object::IrqchipMode), 0),
            vpit: p.word(Tag::one(Object::Vpit), 0),
        }
    }
}

impl<P: Platform, H: Host, M: Mmu<P>> Vm<P, H, M> {
    /// KVM_CREATE_IRQCHIP of `kvm_arch_vm_ioctl`: the PIC, the I/O APIC and the default routes,
    /// unless they are there.
    ///
    /// Locks: takes `kvm->lock`; in it `slots_lock`, twice, then `irq_lock`.
    pub fn create_irqchip(&self) {
        let Some(irqchip) = &self.kvm.irqchip else { return };
        self.p.call("kvm_arch_vm_ioctl", || {
            let _lock = self.kvm.lock.lock();
            // ORDERING: relaxed: written under kvm->lock, which is held.
            if irqchip.irqchip_mode.load(Relaxed) != 0 {
                return; // -EEXIST
            }
            self.register_on_bus("kvm_pic_init", IoDevice::Pic);
            self.register_on_bus("kvm_ioapic_init", IoDevice::Ioapic);
            self.kvm_set_irq_routing();
            // ORDERING: release (smp_wmb in the kernel): pairs with irqchip_in_kernel. Not judged
            // under SC.
            irqchip.irqchip_mode.store(1, Release);
            self.p.mark(Mark::IrqchipCreated);
        });
    }

    /// The part of `kvm_pic_init` and `kvm_ioapic_init` that others see.
    fn register_on_bus(&self, name: &'static str, device: IoDevice) {
        self.p.call(name, || {
            let _slots_lock = self.kvm.slots_lock.lock();
            self.kvm_io_bus_register_dev(device);
        });
    }

    /// KVM_CREATE_PIT of `kvm_arch_vm_ioctl`, unless there is one.
    ///
    /// Locks: takes `kvm->lock`; in it see `kvm_create_pit`.
    pub fn create_pit(&self) {
        let Some(irqchip) = &self.kvm.irqchip else { return };
        self.p.call("kvm_arch_vm_ioctl", || {
            let _lock = self.kvm.lock.lock();
            // ORDERING: relaxed: written under kvm->lock, which is held.
            if irqchip.vpit.load(Relaxed) != 0 {
                return; // -EEXIST
            }
            self.kvm_create_pit();
            // ORDERING: relaxed: guests reach the PIT by the bus.
            irqchip.vpit.store(1, Relaxed);
            self.p.mark(Mark::PitCreated);
        });
    }

    /// `kvm_create_pit`.
    ///
    /// Locks: `kvm->lock`. Takes `irq_lock` three times, each time for a moment, then `slots_lock`.
    #[kernel]
    fn kvm_create_pit(&self) {
        // kvm_request_irq_source_id
        drop(self.kvm.irq_lock.lock());
        // kvm_pit_set_reinject: kvm_register_irq_ack_notifier, kvm_register_irq_mask_notifier
        drop(self.kvm.irq_lock.lock());
        let irq_lock = self.kvm.irq_lock.lock();
        let kept = self.p.without(Guard::PitReleasesIrqLock, || irq_lock);
        let slots_lock = self.kvm.slots_lock.lock();
        self.kvm_io_bus_register_dev(IoDevice::Pit);
        drop(slots_lock);
        drop(kept);
    }
}
