//! What shared words and locks are called, and which lock should protect them.

use crate::lock::{LockClass, LockId};

/// Names a shared word or a lock: printed as `name`, `name[0]` or `name[0][1]`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tag {
    /// What it is.
    pub object: Object,
    /// Which one of several; unused places are 0 and not printed.
    pub index: [u8; 2],
}

impl Tag {
    /// The only object of its kind.
    pub const fn one(object: Object) -> Tag {
        Tag { object, index: [0, 0] }
    }
    /// One object of a row.
    pub const fn nth(object: Object, i: usize) -> Tag {
        Tag { object, index: [i as u8, 0] }
    }
    /// A lock.
    pub const fn lock(id: LockId) -> Tag {
        Tag { object: Object::Lock(id.class), index: [id.index, 0] }
    }
    /// One object of a table.
    pub const fn at(object: Object, i: usize, j: usize) -> Tag {
        Tag { object, index: [i as u8, j as u8] }
    }
}

/// Kinds of shared objects. The kernel's own name where it has one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Object {
    /// `sp->spt[i]`: an SPTE. Hardware reads it and sets A and D; written under `mmu_lock`, except
    /// by
    /// `fast_page_fault`.
    Spte,
    /// `sp->gfns[i]`, indirect shadow pages only.
    Gfns,
    /// The part of `struct kvm_mmu_page` that lockless walkers read: gfn and role.
    SpHeader,
    /// `vcpu->mode`.
    VcpuMode,
    /// `vcpu->requests`.
    VcpuRequests,
    /// `memslot->dirty_bitmap`.
    DirtyBitmap,
    /// `kvm->mmu_notifier_seq`.
    NotifierSeq,
    /// `kvm->arch.indirect_shadow_pages`.
    IndirectShadowPages,
    /// `sp->unsync_children`.
    UnsyncChildren,
    /// `kvm->tlbs_dirty`.
    TlbsDirty,
    /// `slot->arch.gfn_track[KVM_PAGE_TRACK_WRITE][gfn]`.
    GfnTrack,
    /// `page_count` of a page that holds a stage-2 table.
    PageCount,
    /// `kvm->arch.mmu.pgt`.
    Pgt,
    /// `kvm_vmid_gen`, later `vmid_generation`; and the generation of which the VMID of a VM is.
    VmidGeneration,
    /// `kvm->arch.mmu.vmid`: the VMID of a VM.
    Vmid,
    /// `active_vmids` of a CPU.
    ActiveVmid,
    /// A lock, or the data that only its owner touches.
    Lock(LockClass),
    /// The dirty flags of host pages.
    PageFlags,
    /// The contents of a host page.
    Page,
    /// The interrupt state of a physical CPU.
    Irq,
    /// The set of translations that a CPU may have cached of an SPTE.
    TlbView,
    /// User space's own memory: what it harvested and what it copied.
    User,
    /// A word that one thread touches alone.
    Local,
    /// A word of a small stand-alone program.
    Var,
    /// A word of a small stand-alone program that [`LockClass::VarLock`] protects.
    LockedVar,
    /// `kvm->memslots`: which array of memslots is in use.
    Memslots,
    /// An array of memslots.
    MemslotArray,
    /// `kvm->buses`: which array of devices is in use.
    Buses,
    /// An array of devices.
    BusArray,
    /// `kvm->irq_routing`: which table of routes is in use.
    IrqRouting,
    /// A table of routes.
    IrqRoutingTable,
    /// `kvm->created_vcpus`.
    CreatedVcpus,
    /// `kvm->online_vcpus`.
    OnlineVcpus,
    /// `cpu_online_mask`.
    CpuOnlineMask,
    /// `cpus_hardware_enabled`.
    CpusHardwareEnabled,
    /// A device on a bus.
    IoDevice,
    /// Which objects of a kind are allocated.
    Slab,
    /// `kvm->arch.irqchip_mode`: whether the interrupt controllers are in the kernel.
    IrqchipMode,
    /// `kvm->arch.vpit`.
    Vpit,
    /// `kvm->arch.apicv_inhibit_reasons`.
    ApicvInhibit,
    /// A vCPU that sleeps waits for this: `vcpu->wq`, with `pi_desc->control`.
    VcpuWakeup,
    /// `vcpu->arch.mp_state` of all vCPUs, on arm64.
    PoweredOn,
    /// `vcpu->arch`: the registers of a vCPU.
    VcpuArch,
    /// A vCPU thread has ended.
    VcpuEnded,
    /// What a VMM stops its vCPUs by.
    VmmPause,
    /// What a notifier needs of another VM.
    OtherVm,
    /// `kvm->users_count`, of another VM.
    UsersCount,
    /// The work of an asynchronous page fault: queued, running, or neither.
    AsyncPfWork,
    /// The references on the module.
    ModuleRefs,
    /// The module's code.
    ModuleText,
}

/// Which lock should protect an object.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Protection {
    /// Written under this lock; read by lockless readers too.
    WrittenUnder(LockClass),
    /// Replaced under the one; read inside a read section of the other, or under the first.
    Published {
        /// A lock.
        updater: LockClass,
        /// An SRCU.
        readers: LockClass,
    },
    /// No lock: atomic operations and barriers are the protocol.
    Lockless,
}

impl Object {
    /// The name that reports print.
    pub const fn name(self) -> &'static str {
        match self {
            Object::Spte => "spte",
            Object::Gfns => "sp->gfns",
            Object::SpHeader => "sp->role",
            Object::VcpuMode => "vcpu->mode",
            Object::VcpuRequests => "vcpu->requests",
            Object::DirtyBitmap => "dirty_bitmap",
            Object::NotifierSeq => "mmu_notifier_seq",
            Object::IndirectShadowPages => "indirect_shadow_pages",
            Object::UnsyncChildren => "sp->unsync_children",
            Object::TlbsDirty => "tlbs_dirty",
            Object::GfnTrack => "gfn_track",
            Object::PageCount => "page_count",
            Object::Pgt => "mmu->pgt",
            Object::VmidGeneration => "vmid_gen",
            Object::Vmid => "vmid",
            Object::ActiveVmid => "active_vmid",
            Object::Lock(class) => class.info().short,
            Object::PageFlags => "page_dirty",
            Object::Page => "page",
            Object::Irq => "irq",
            Object::TlbView => "tlb",
            Object::User => "user",
            Object::Local => "local",
            Object::Var => "var",
            Object::LockedVar => "locked_var",
            Object::Memslots => "kvm->memslots",
            Object::MemslotArray => "memslots",
            Object::Buses => "kvm->buses",
            Object::BusArray => "bus",
            Object::IrqRouting => "kvm->irq_routing",
            Object::IrqRoutingTable => "irq_routing_table",
            Object::CreatedVcpus => "created_vcpus",
            Object::OnlineVcpus => "online_vcpus",
            Object::CpuOnlineMask => "cpu_online_mask",
            Object::CpusHardwareEnabled => "cpus_hardware_enabled",
            Object::IoDevice => "iodev",
            Object::Slab => "slab",
            Object::IrqchipMode => "irqchip_mode",
            Object::Vpit => "vpit",
            Object::ApicvInhibit => "apicv_inhibit_reasons",
            Object::VcpuWakeup => "vcpu->wq",
            Object::PoweredOn => "mp_state",
            Object::VcpuArch => "vcpu->arch",
            Object::VcpuEnded => "vcpu_ended",
            Object::VmmPause => "vmm_pause",
            Object::OtherVm => "other_vm->arch",
            Object::UsersCount => "kvm->users_count",
            Object::AsyncPfWork => "apf->work",
            Object::ModuleRefs => "module_refs",
            Object::ModuleText => "module_text",
        }
    }

    /// Which lock should protect it.
    pub const fn protection(self) -> Protection {
        match self {
            Object::Spte
            | Object::Gfns
            | Object::SpHeader
            | Object::NotifierSeq
            | Object::IndirectShadowPages
            | Object::UnsyncChildren
            | Object::GfnTrack
            | Object::Pgt => Protection::WrittenUnder(LockClass::MmuLock),
            Object::Memslots => {
                Protection::Published { updater: LockClass::SlotsLock, readers: LockClass::KvmSrcu }
            }
            Object::Buses => {
                Protection::Published { updater: LockClass::SlotsLock, readers: LockClass::KvmSrcu }
            }
            Object::IrqRouting => {
                Protection::Published { updater: LockClass::IrqLock, readers: LockClass::IrqSrcu }
            }
            Object::CreatedVcpus | Object::OnlineVcpus | Object::IrqchipMode | Object::Vpit => {
                Protection::WrittenUnder(LockClass::KvmMutex)
            }
            Object::VcpuArch => Protection::WrittenUnder(LockClass::VcpuMutex),
            Object::CpuOnlineMask => Protection::WrittenUnder(LockClass::CpuHotplugLock),
            Object::CpusHardwareEnabled => Protection::WrittenUnder(LockClass::KvmCountLock),
            Object::VmidGeneration | Object::Vmid => Protection::WrittenUnder(LockClass::VmidLock),
            Object::LockedVar => Protection::WrittenUnder(LockClass::VarLock),
            _ => Protection::Lockless,
        }
    }
}
