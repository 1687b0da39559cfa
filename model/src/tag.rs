//! What shared words and locks are called, and which lock should protect them.

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
    /// One object of a table.
    pub const fn at(object: Object, i: usize, j: usize) -> Tag {
        Tag { object, index: [i as u8, j as u8] }
    }
}

/// Kinds of shared objects. The kernel's own name where it has one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
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
    /// `slot->arch.gfn_track[KVM_PAGE_TRACK_WRITE][gfn]`.
    GfnTrack,
    /// `kvm->mmu_lock`.
    MmuLock,
    /// `kvm->slots_lock`.
    SlotsLock,
    /// The host's page-table and page-flag locks, taken as one.
    HostMm,
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
    /// A word of a small stand-alone program.
    Var,
    /// A lock of a small stand-alone program.
    VarLock,
}

/// Which lock should protect an object.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Protection {
    /// Written under this lock; read by lockless readers too.
    WrittenUnder(Object),
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
            Object::GfnTrack => "gfn_track",
            Object::MmuLock => "mmu_lock",
            Object::SlotsLock => "slots_lock",
            Object::HostMm => "host_mm",
            Object::PageFlags => "page_dirty",
            Object::Page => "page",
            Object::Irq => "irq",
            Object::TlbView => "tlb",
            Object::User => "user",
            Object::Var => "var",
            Object::VarLock => "lock",
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
            | Object::GfnTrack => Protection::WrittenUnder(Object::MmuLock),
            _ => Protection::Lockless,
        }
    }
}
