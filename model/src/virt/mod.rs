//! Generic KVM (`virt/kvm`): `struct kvm` and what it does for every architecture and MMU.
//!
//! File by file: `mmu_lock.rs`, `notifier.rs` (the host takes pages back), `dirty_log.rs`,
//! `requests.rs` (what a remote flush means and how it waits), `tlbs_dirty.rs` (flushes that are
//! owed), `memslots.rs`, `io_bus.rs` and `irq_routing.rs` (what vCPUs read is replaced under them;
//! `published.rs` is how), `vm.rs`, `vcpu.rs` and `async_pf.rs` (creating and destroying them),
//! `hardware.rs` (CPUs that come and go), `system.rs` (what is around a VM).

mod async_pf;
mod dirty_log;
mod hardware;
pub mod io_bus;
pub mod irq_routing;
pub mod memslots;
mod mmu_lock;
mod notifier;
pub mod published;
mod requests;
mod system;
mod tlbs_dirty;
mod vcpu;
mod vm;

pub use async_pf::AsyncPf;
pub use mmu_lock::{MmuGuard, MmuLock, MmuRead};
pub use requests::{
    EXITING_GUEST_MODE, IN_GUEST_MODE, KVM_REQ_APIC_PAGE_RELOAD, KVM_REQ_TLB_FLUSH,
    KVM_REQ_TLB_FLUSH_CURRENT, OUTSIDE_GUEST_MODE, READING_SHADOW_PAGE_TABLES,
};
pub use system::{HOTPLUG_CPU, System};

use io_bus::IoBus;
use irq_routing::IrqRouting;
use memslots::{MemslotSet, Memslots};

use crate::guard::Guard;
use crate::host::Host;
use crate::lock::LockClass;
use crate::platform::{Guarded, Platform, Srcu};
use crate::tag::{Object, Tag};
use crate::types::{CpuId, Gfn, GfnRange};
use crate::vm::{Mmu, Vm};
use crate::x86::{ApicAccessPage, Irqchip};

/// Guest frames of a VM.
pub const GFNS: usize = 8;
/// vCPUs of a VM.
pub const VCPUS: usize = 4;
/// Memslots of a VM.
pub const MEMSLOTS: usize = 2;

/// `struct kvm`. `S` is what `mmu_lock` guards of the MMU.
///
/// What is an `Option` is there only where something replaces it ([`VmConfig::contended`]).
#[derive(Debug)]
pub struct Kvm<P: Platform, S: Guarded> {
    /// `kvm->lock`: the outermost mutex.
    pub lock: P::Lock<()>,
    /// `kvm->slots_lock`: taken by every dirty-log and memslot ioctl.
    pub slots_lock: P::Lock<()>,
    /// `kvm->mmu_lock` and what only its owner touches.
    pub mmu_lock: MmuLock<P, S>,
    /// `kvm->mmu_notifier_seq`. Protected by: `mmu_lock`; faults read it before they take the lock.
    pub notifier_seq: P::Word,
    /// `kvm->tlbs_dirty`: flushes that are owed, and that the next flush pays. Protected by:
    /// nothing. `None`: no page goes out of sync, and nobody owes one.
    pub tlbs_dirty: Option<P::Word>,
    /// `kvm->irq_lock`: taken to change the routing of interrupts.
    pub irq_lock: P::Lock<()>,
    /// `kvm->srcu`: held for reading wherever memslots or buses are used.
    pub srcu: P::Srcu,
    /// `kvm->irq_srcu`: held for reading while an interrupt is routed.
    pub irq_srcu: P::Srcu,
    /// `vcpu->mutex`, by vCPU: held over each of its ioctls.
    pub vcpu_mutex: [P::Lock<()>; VCPUS],
    /// The vCPUs.
    pub vcpus: [Vcpu<P>; VCPUS],
    /// How many vCPUs there are.
    pub nr_vcpus: u8,
    /// `kvm->memslots`: which slots there are, and what flags they have.
    pub memslots: Memslots<P>,
    /// What is in each slot.
    pub slots: [Option<Memslot<P>>; MEMSLOTS],
    /// `kvm->buses`.
    pub buses: Option<IoBus<P>>,
    /// `kvm->irq_routing`.
    pub irq_routing: Option<IrqRouting<P>>,
    /// The interrupt controllers and the timer inside the kernel.
    pub irqchip: Option<Irqchip<P>>,
    /// `kvm->arch.apicv_inhibit_reasons`: not 0 while AVIC is off. Lockless.
    pub apicv_inhibit_reasons: Option<P::Word>,
    /// The APIC access page of VMX. `None`: it is not looked at.
    pub apic_access_page: Option<ApicAccessPage<P>>,
    /// Another VM, whose vCPU waits for a page. `None` in programs that have no such VM.
    pub async_pf: Option<AsyncPf<P>>,
    /// What is around this VM, and what only operations on whole VMs, vCPUs and CPUs touch. `None`
    /// in programs that have none of them.
    pub system: Option<System<P>>,
}

/// What only the owner of `mmu_lock` touches.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct MmuState<S> {
    /// What the MMU keeps there.
    pub mmu: S,
    /// `kvm->mmu_notifier_count`: invalidations in progress.
    pub notifier_count: u8,
}

/// `struct kvm_vcpu`.
#[derive(Debug)]
pub struct Vcpu<P: Platform> {
    /// `vcpu->mode`.
    pub mode: P::Word,
    /// `vcpu->requests`.
    pub requests: P::Word,
}

/// `struct kvm_memory_slot`.
#[derive(Debug)]
pub struct Memslot<P: Platform> {
    /// Its first frame.
    pub base_gfn: Gfn,
    /// How many frames.
    pub npages: u64,
    /// `dirty_bitmap`: bit i is frame `base_gfn + i`. Used while `kvm->memslots` says that the slot
    /// is logged. No lock: set by atomic operations, fetched and cleared by the harvest.
    pub dirty_bitmap: P::Word,
}

impl<P: Platform> Memslot<P> {
    /// Its frames.
    pub const fn frames(&self) -> GfnRange {
        GfnRange::new(self.base_gfn, self.npages)
    }
}

/// A memslot to be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemslotConfig {
    /// Its first frame.
    pub base_gfn: Gfn,
    /// How many frames.
    pub npages: u64,
    /// `KVM_MEM_LOG_DIRTY_PAGES`: dirty logging is on.
    pub log: bool,
    /// It is there before the first step; else `create_memory_region` makes it.
    pub there: bool,
}

/// A VM to be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VmConfig<'a> {
    /// Something in this program waits for those who run vCPUs, or for readers of `kvm->srcu`.
    /// Without that, their locks are no steps.
    pub contended: bool,
    /// Shadow pages may go out of sync.
    pub unsync: bool,
    /// How many vCPUs.
    pub nr_vcpus: u8,
    /// The memslots.
    pub slots: &'a [MemslotConfig],
}

/// A read section of `kvm->srcu`.
pub type SrcuSection<'a, P> = <<P as Platform>::Srcu as Srcu>::Section<'a>;

impl<P: Platform, S: Guarded + Default> Kvm<P, S> {
    pub(crate) fn new(p: &P, config: &VmConfig<'_>, lock_has_readers: bool) -> Self {
        let VmConfig { contended, unsync, nr_vcpus, slots } = *config;
        assert!(slots.len() <= MEMSLOTS && usize::from(nr_vcpus) <= VCPUS);
        let mutex = |class: LockClass| p.lock(class.one().contended(contended), ());
        let logged = |i: usize| slots.get(i).is_some_and(|s| s.log);
        let there = |i: usize| slots.get(i).is_none_or(|s| s.there);
        Kvm {
            lock: mutex(LockClass::KvmMutex),
            slots_lock: p.lock(LockClass::SlotsLock.one(), ()),
            mmu_lock: MmuLock::new(p, lock_has_readers),
            notifier_seq: p.word(Tag::one(Object::NotifierSeq), 0),
            tlbs_dirty: unsync.then(|| p.word(Tag::one(Object::TlbsDirty), 0)),
            irq_lock: mutex(LockClass::IrqLock),
            srcu: p.srcu(LockClass::KvmSrcu.one().contended(contended)),
            irq_srcu: p.srcu(LockClass::IrqSrcu.one().contended(contended)),
            vcpu_mutex: core::array::from_fn(|i| {
                p.lock(LockClass::VcpuMutex.nth(i).contended(contended), ())
            }),
            vcpus: core::array::from_fn(|i| Vcpu {
                mode: p.word(Tag::nth(Object::VcpuMode, i), OUTSIDE_GUEST_MODE),
                requests: p.word(Tag::nth(Object::VcpuRequests, i), 0),
            }),
            nr_vcpus,
            memslots: Memslots::new(p, contended, MemslotSet::at_first(there, logged)),
            slots: core::array::from_fn(|i| {
                slots.get(i).map(|s| Memslot {
                    base_gfn: s.base_gfn,
                    npages: s.npages,
                    dirty_bitmap: p.word(Tag::nth(Object::DirtyBitmap, i), 0),
                })
            }),
            buses: contended.then(|| IoBus::new(p)),
            irq_routing: contended.then(|| IrqRouting::new(p)),
            irqchip: contended.then(|| Irqchip::new(p)),
            apicv_inhibit_reasons: contended.then(|| p.word(Tag::one(Object::ApicvInhibit), 0)),
            apic_access_page: None,
            async_pf: None,
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

impl<P: Platform, H: Host, M: Mmu<P>> Vm<P, H, M> {
    /// A vCPU, which is also its CPU.
    #[inline]
    pub fn vcpu(&self, cpu: CpuId) -> &Vcpu<P> {
        &self.kvm.vcpus[usize::from(cpu.0)]
    }

    /// The read section of `kvm->srcu` in which `vcpu_run` handles exits. It ends while the guest
    /// runs, while the vCPU is blocked, and where KVM_RUN itself must wait for a grace period.
    ///
    /// Linux v5.10 `arch/x86/kvm/x86.c`, `vcpu_run()`. `None` on arm64.
    #[track_caller]
    pub fn vcpu_srcu_read_lock(&self) -> Option<SrcuSection<'_, P>> {
        if !M::RUN_HOLDS_SRCU {
            return None;
        }
        self.p.guarded(Guard::RunHoldsSrcu, || Some(()))?;
        Some(self.kvm.srcu.read_lock())
    }
}
