//! `struct kvm` and `struct kvm_vcpu` outside of the MMU: the locks of a VM, and what they protect.
//!
//! File by file: `vm.rs` and `vcpu.rs` (creating and destroying them, sleeping), `hardware.rs`
//! (CPUs that come and go), `tsc.rs`, `hyperv.rs`, `xen.rs`, `posted_intr.rs`, `psci.rs`;
//! `published.rs` is how memslots, buses and routes are replaced under their readers;
//! `memslots.rs`, `io_bus.rs`, `irq_routing.rs`, `irqchip.rs` and `apicv.rs` are who does it.

mod hardware;
mod hyperv;
mod posted_intr;
mod psci;
mod system;
mod tsc;
mod vcpu;
mod vm;
mod xen;

pub use system::{HOTPLUG_CPU, System};

mod apicv;
pub mod io_bus;
pub mod irq_routing;
pub mod irqchip;
pub mod memslots;
pub mod published;

use io_bus::IoBus;
use irq_routing::IrqRouting;
use irqchip::Irqchip;
use memslots::Memslots;

use crate::guard::Guard;
use crate::host::Host;
use crate::lock::LockClass;
use crate::mmu::{Mmu, VCPUS};
use crate::platform::{Platform, Srcu};
use crate::tag::{Object, Tag};

/// A VM.
///
/// What is an `Option` is there in contended VMs only ([`Kvm::new`]): elsewhere nobody replaces it.
#[derive(Debug)]
pub struct Kvm<P: Platform> {
    /// `kvm->lock`: the outermost mutex.
    pub lock: P::Lock<()>,
    /// `kvm->slots_lock`: taken by every dirty-log and memslot ioctl.
    pub slots_lock: P::Lock<()>,
    /// `kvm->irq_lock`: taken to change the routing of interrupts.
    pub irq_lock: P::Lock<()>,
    /// `kvm->srcu`: held for reading wherever memslots or buses are used.
    pub srcu: P::Srcu,
    /// `kvm->irq_srcu`: held for reading while an interrupt is routed.
    pub irq_srcu: P::Srcu,
    /// `vcpu->mutex`, by vCPU: held over each of its ioctls.
    pub vcpu_mutex: [P::Lock<()>; VCPUS],
    /// `kvm->memslots`: which slots there are. What is in them is in [`Mmu::memslots`].
    pub memslots: Option<Memslots<P>>,
    /// `kvm->buses`.
    pub buses: Option<IoBus<P>>,
    /// `kvm->irq_routing`.
    pub irq_routing: Option<IrqRouting<P>>,
    /// The interrupt controllers and the timer inside the kernel.
    pub irqchip: Option<Irqchip<P>>,
    /// `kvm->arch.apicv_inhibit_reasons`: not 0 while AVIC is off. Lockless.
    pub apicv_inhibit_reasons: Option<P::Word>,
    /// What is around this VM, and what only operations on whole VMs, vCPUs and CPUs touch. `None`
    /// in programs that have none of them.
    pub system: Option<System<P>>,
}

/// A read section of `kvm->srcu`.
pub type SrcuSection<'a, P> = <<P as Platform>::Srcu as Srcu>::Section<'a>;

impl<P: Platform> Kvm<P> {
    /// A VM. `contended`: something in this program waits for those who run vCPUs, or for readers
    /// of `kvm->srcu`. Without that, their locks are no steps.
    pub fn new(p: &P, contended: bool, nr_vcpus: u8) -> Self {
        let mutex = |class: LockClass| p.lock(class.one().contended(contended), ());
        Kvm {
            lock: mutex(LockClass::KvmMutex),
            slots_lock: p.lock(LockClass::SlotsLock.one(), ()),
            irq_lock: mutex(LockClass::IrqLock),
            srcu: p.srcu(LockClass::KvmSrcu.one().contended(contended)),
            irq_srcu: p.srcu(LockClass::IrqSrcu.one().contended(contended)),
            vcpu_mutex: core::array::from_fn(|i| {
                p.lock(LockClass::VcpuMutex.nth(i).contended(contended), ())
            }),
            memslots: contended.then(|| Memslots::new(p)),
            buses: contended.then(|| IoBus::new(p)),
            irq_routing: contended.then(|| IrqRouting::new(p)),
            irqchip: contended.then(|| Irqchip::new(p)),
            apicv_inhibit_reasons: contended.then(|| p.word(Tag::one(Object::ApicvInhibit), 0)),
            system: contended.then(|| System::new(p, nr_vcpus)),
        }
    }

    /// What is around this VM.
    ///
    /// # Panics
    /// In a program that is not contended: it has no operation that needs this.
    #[inline]
    pub fn system(&self) -> &System<P> {
        self.system.as_ref().expect("only contended programs have a system")
    }
}

impl<P: Platform, H: Host> Mmu<P, H> {
    /// The read section of `kvm->srcu` in which `vcpu_run` handles exits. It ends while the guest
    /// runs, while the vCPU is blocked, and where KVM_RUN itself must wait for a grace period.
    ///
    /// Linux v5.10 `arch/x86/kvm/x86.c`, `vcpu_run()`.
    #[track_caller]
    pub fn vcpu_srcu_read_lock(&self) -> Option<SrcuSection<'_, P>> {
        self.p.guarded(Guard::RunHoldsSrcu, || Some(()))?;
        Some(self.kvm.srcu.read_lock())
    }
}
