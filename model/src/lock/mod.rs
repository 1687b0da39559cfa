//! The locks: one table, from which `kvmmu locks` makes section 3 of locking.rst again.
//!
//! A lock is made from a [`LockClass`] ([`crate::Platform::lock`]), and a class is an entry of the
//! table below with every field filled in: a lock without an entry does not compile. Locks that a
//! scenario file declares bring an entry of their own, and each is a class ([`LockClass::Own`]).
//! [`order`] says in which order they are taken and who says so; [`rules`] checks one acquisition
//! against all of that.

pub mod order;
pub mod rules;

macro_rules! locks {
    ($($(#[doc = $doc:literal])+ $variant:ident {
        name: $name:literal,
        short: $short:literal,
        kind: $kind:ident,
        arch: $arch:ident,
        section: $section:ident,
        leaf: $leaf:literal,
        protects: [$($protects:literal),* $(,)?],
        comment: $comment:literal,
    })+) => {
        /// A kind of lock, as lockdep has classes: all `vcpu->mutex` are one.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum LockClass {
            $($(#[doc = $doc])+ $variant,)+
            /// A lock that a scenario file declares, by its entry. It is not in the table.
            Own(&'static LockInfo),
        }

        /// The rows of the table.
        enum Row { $($variant,)+ }

        impl LockClass {
            /// Every class of the table, in its order.
            pub const ALL: &'static [LockClass] = &[$(LockClass::$variant,)+];

            /// Its row in the table; [`LockClass::ALL`]`.len()` if it has none.
            pub const fn row(self) -> usize {
                match self {
                    $(LockClass::$variant => Row::$variant as usize,)+
                    LockClass::Own(_) => LockClass::ALL.len(),
                }
            }

            /// Its entry.
            pub const fn info(self) -> &'static LockInfo {
                match self {
                    LockClass::Own(info) => info,
                    $(LockClass::$variant => &LockInfo {
                        name: $name,
                        short: $short,
                        kind: LockKind::$kind,
                        arch: Arch::$arch,
                        section: Section::$section,
                        leaf: $leaf,
                        protects: &[$($protects),*],
                        comment: $comment,
                    },)+
                }
            }
        }
    };
}

/// The entry of a lock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LockInfo {
    /// As the document writes it.
    pub name: &'static str,
    /// As traces and reports write it.
    pub short: &'static str,
    /// Its type, which decides whether taking it may sleep.
    pub kind: LockKind,
    /// Where it exists.
    pub arch: Arch,
    /// Where the document has it.
    pub section: Section,
    /// No other lock of this table is taken inside its critical sections.
    pub leaf: bool,
    /// What may be touched only by who holds it. The objects of [`crate::Object::protection`], and
    /// the data of the lock itself.
    pub protects: &'static [&'static str],
    /// What else a reader of the document should know.
    pub comment: &'static str,
}

/// The type of a lock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum LockKind {
    /// `struct mutex`: taking it may sleep.
    Mutex,
    /// `spinlock_t`: no sleeping inside. (PREEMPT_RT, where it sleeps, is not modelled.)
    Spinlock,
    /// `raw_spinlock_t`: the same, on PREEMPT_RT too.
    RawSpinlock,
    /// `rwlock_t`: no sleeping inside, for readers neither. A reader waits behind a writer that
    /// waits, as with the queued lock that most architectures have. (There a reader in an interrupt
    /// does not wait so: no interrupt handler of the model takes one.)
    Rwlock,
    /// `struct rw_semaphore`: taking it may sleep; a reader waits behind a writer that waits.
    RwSemaphore,
    /// `struct percpu_rw_semaphore`: the same to its users.
    PercpuRwSemaphore,
    /// `struct srcu_struct`: entering a read section never waits; a grace period waits, asleep, for
    /// the sections that began before it.
    Srcu,
    /// RCU: the same, but that nothing sleeps inside a read section.
    Rcu,
}

impl LockKind {
    /// Every type.
    pub const ALL: [LockKind; 8] = [
        LockKind::Mutex,
        LockKind::Spinlock,
        LockKind::RawSpinlock,
        LockKind::Rwlock,
        LockKind::RwSemaphore,
        LockKind::PercpuRwSemaphore,
        LockKind::Srcu,
        LockKind::Rcu,
    ];

    /// As the document writes it.
    pub const fn name(self) -> &'static str {
        match self {
            LockKind::Mutex => "mutex",
            LockKind::Spinlock => "spinlock_t",
            LockKind::RawSpinlock => "raw_spinlock_t",
            LockKind::Rwlock => "rwlock_t",
            LockKind::RwSemaphore => "rw_semaphore",
            LockKind::PercpuRwSemaphore => "percpu_rw_semaphore",
            LockKind::Srcu => "srcu",
            LockKind::Rcu => "rcu",
        }
    }
    /// True if a thread that waits for it spins.
    pub const fn spins(self) -> bool {
        matches!(self, LockKind::Spinlock | LockKind::RawSpinlock | LockKind::Rwlock)
    }
    /// True if no thread may sleep while it holds it, or is inside its read section.
    pub const fn forbids_sleep(self) -> bool {
        self.spins() || matches!(self, LockKind::Rcu)
    }
    /// True if it has read sections, which never wait, and grace periods, which wait for them.
    pub const fn has_sections(self) -> bool {
        matches!(self, LockKind::Srcu | LockKind::Rcu)
    }
    /// True if it is taken for reading or for writing.
    pub const fn has_readers(self) -> bool {
        matches!(self, LockKind::Rwlock | LockKind::RwSemaphore | LockKind::PercpuRwSemaphore)
    }
}

/// Where a lock exists.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Arch {
    /// Everywhere.
    Any,
    /// On x86.
    X86,
    /// On arm64.
    Arm64,
}

impl Arch {
    /// As the document writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Arch::Any => "any",
            Arch::X86 => "x86",
            Arch::Arm64 => "arm64",
        }
    }
}

/// Where the document (locking.rst of v5.10) has a lock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Section {
    /// In section 3, the reference.
    Reference,
    /// In section 1, the acquisition orders, alone.
    Orders,
    /// Nowhere: a lock of KVM.
    Kvm,
    /// Nowhere: a lock of the host around KVM.
    Host,
    /// Nowhere: a lock that this scenario file declares.
    File(&'static str),
    /// Not a lock of the kernel: of a small stand-alone program.
    Test,
}

/// How a lock is held or wanted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Mode {
    /// Alone: a mutex, a spinlock, a read-write lock for writing.
    Exclusive,
    /// With other readers: a read-write lock for reading, a read section of SRCU or RCU.
    Read,
    /// A grace period: wanted, never held.
    Synchronize,
}

/// A lock of a class, held or wanted in some way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Hold {
    /// Which lock.
    pub class: LockClass,
    /// How.
    pub mode: Mode,
}

impl Hold {
    /// This lock in this mode.
    pub const fn new(class: LockClass, mode: Mode) -> Hold {
        Hold { class, mode }
    }
    /// True if getting it may sleep. Entering a read section of SRCU or RCU never waits.
    pub const fn may_sleep(self) -> bool {
        match self.class.info().kind {
            LockKind::Mutex | LockKind::RwSemaphore | LockKind::PercpuRwSemaphore => true,
            LockKind::Spinlock | LockKind::RawSpinlock | LockKind::Rwlock => false,
            LockKind::Srcu | LockKind::Rcu => matches!(self.mode, Mode::Synchronize),
        }
    }
}

/// Which lock is to be made.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LockId {
    /// What lock it is.
    pub class: LockClass,
    /// Which one of several.
    pub index: u8,
    /// False if no two threads of this program can ever block each other on it. A simulator then
    /// does not make its acquisition a step; the lock rules are still checked.
    pub contended: bool,
}

impl LockClass {
    /// The only lock of its class.
    pub const fn one(self) -> LockId {
        self.nth(0)
    }
    /// One lock of a row.
    pub const fn nth(self, i: usize) -> LockId {
        LockId { class: self, index: i as u8, contended: true }
    }
    /// The class of the table whose short or full name this is.
    pub fn by_name(name: &str) -> Option<LockClass> {
        let named = |c: &LockClass| c.info().short == name || c.info().name == name;
        LockClass::ALL.iter().copied().find(named)
    }
}

impl LockId {
    /// The same lock in a program in which it is contended or not.
    #[must_use]
    pub const fn contended(self, contended: bool) -> LockId {
        LockId { contended, ..self }
    }
}

locks! {
    /// `kvm_lock`.
    KvmLock {
        name: "kvm_lock",
        short: "kvm_lock",
        kind: Mutex,
        arch: Any,
        section: Reference,
        leaf: false,
        protects: ["vm_list"],
        comment: "Not a leaf: set_nx_huge_pages() takes slots_lock of every VM inside it, and \
                  mmu_shrink_scan() kvm->srcu and mmu_lock. Two paths that are not modelled close \
                  cycles with the former: reclaim takes it wherever memory is allocated under \
                  slots_lock (mmu_shrink_scan(), until 6.13), and without CONSTANT_TSC the cpufreq \
                  notifier takes it inside cpu_hotplug_lock.",
    }
    /// `kvm_count_lock`.
    KvmCountLock {
        name: "kvm_count_lock",
        short: "kvm_count_lock",
        kind: RawSpinlock,
        arch: Any,
        section: Reference,
        leaf: true,
        protects: ["hardware virtualization enable/disable", "kvm_usage_count"],
        comment: "Raw: a CPU that comes up enables hardware with interrupts off. Held over the \
                  interrupts that the first and the last VM send to all CPUs. 6.3 gave the count \
                  to kvm_lock, 6.12 to a mutex of its own, kvm_usage_lock.",
    }
    /// `kvm->arch.tsc_write_lock`.
    TscWriteLock {
        name: "kvm_arch::tsc_write_lock",
        short: "tsc_write_lock",
        kind: RawSpinlock,
        arch: X86,
        section: Reference,
        leaf: true,
        protects: [
            "kvm_arch::{last_tsc_write,last_tsc_nsec,last_tsc_offset}",
            "tsc offset in vmcb",
        ],
        comment: "Raw and with interrupts off: time must not pass between the reading of the \
                  clock and the writing of the offset.",
    }
    /// `kvm->mmu_lock`.
    MmuLock {
        name: "kvm->mmu_lock",
        short: "mmu_lock",
        kind: Spinlock,
        arch: Any,
        section: Reference,
        leaf: true,
        protects: ["shadow page/shadow tlb entry", "rmap, gfn_track", "mmu_notifier_seq, _count"],
        comment: "A spinlock because notifiers take it where nobody may sleep. Lockless fast \
                  faults write SPTEs without it. A read-write lock from 5.12 on, on arm64 \
                  from 5.18 on.",
    }
    /// `kvm->srcu`.
    KvmSrcu {
        name: "kvm->srcu",
        short: "srcu",
        kind: Srcu,
        arch: Any,
        section: Reference,
        leaf: false,
        protects: ["kvm->memslots", "kvm->buses"],
        comment: "Read section: around every use of a memslot or of a bus, that is, around all of \
                  KVM_RUN but the guest itself and its sleep. Grace period: under slots_lock, \
                  before an old array is freed. So nothing that is held over one may be taken in \
                  a section.",
    }
    /// `per_cpu(blocked_vcpu_on_cpu_lock, cpu)`.
    BlockedVcpuOnCpuLock {
        name: "blocked_vcpu_on_cpu_lock",
        short: "blocked_vcpu_on_cpu_lock",
        kind: Spinlock,
        arch: X86,
        section: Reference,
        leaf: true,
        protects: ["blocked_vcpu_on_cpu"],
        comment: "One for each CPU, for VT-d posted interrupts: the list of vCPUs that sleep \
                  there and are to be woken by the wakeup vector, whose handler takes it in \
                  interrupt context. So everybody else takes it with interrupts off. Made a raw \
                  spinlock in 5.17 and in stable 5.10.",
    }
    /// `kvm->lock`.
    KvmMutex {
        name: "kvm->lock",
        short: "kvm->lock",
        kind: Mutex,
        arch: Any,
        section: Orders,
        leaf: false,
        protects: ["created_vcpus, kvm->vcpus[], online_vcpus", "creation of in-kernel devices"],
        comment: "Outermost of a VM's mutexes. Read sections of kvm->srcu never take it: grace \
                  periods are waited for inside it. arm64 takes it inside vcpu->mutex until 6.4, \
                  and only tries to take every vcpu->mutex inside it.",
    }
    /// `vcpu->mutex`.
    VcpuMutex {
        name: "vcpu->mutex",
        short: "vcpu->mutex",
        kind: Mutex,
        arch: Any,
        section: Orders,
        leaf: false,
        protects: ["the state of a vCPU, while an ioctl such as KVM_RUN works on it"],
        comment: "Held by every vCPU ioctl from beginning to end (but for the few that are \
                  asynchronous on s390 and powerpc).",
    }
    /// `kvm->slots_lock`.
    SlotsLock {
        name: "kvm->slots_lock",
        short: "slots_lock",
        kind: Mutex,
        arch: Any,
        section: Orders,
        leaf: false,
        protects: ["updates of kvm->memslots", "updates of kvm->buses"],
        comment: "Held over grace periods of kvm->srcu.",
    }
    /// `kvm->irq_lock`.
    IrqLock {
        name: "kvm->irq_lock",
        short: "irq_lock",
        kind: Mutex,
        arch: Any,
        section: Orders,
        leaf: true,
        protects: ["updates of kvm->irq_routing", "irq ack notifiers"],
        comment: "The grace period of kvm->irq_srcu comes after it is released. A leaf of the \
                  model: in the kernel irqfds.lock and the locks of ioapic and pic are taken \
                  inside it.",
    }
    /// `kvm->arch.hyperv.hv_lock`.
    HvLock {
        name: "kvm->arch.hyperv.hv_lock",
        short: "hv_lock",
        kind: Mutex,
        arch: X86,
        section: Orders,
        leaf: false,
        protects: ["hv_guest_os_id, hv_hypercall, tsc_ref", "conn_to_evt"],
        comment: "Not a leaf: guest memory is written inside it, which may fault (mmap_lock), and \
                  the reference counter is read under pvclock_gtod_sync_lock. Never held over a \
                  grace period of kvm->srcu. kvm_vm_ioctl_hv_eventfd() takes it without \
                  vcpu->mutex.",
    }
    /// `kvm->irq_srcu`.
    IrqSrcu {
        name: "kvm->irq_srcu",
        short: "irq_srcu",
        kind: Srcu,
        arch: Any,
        section: Kvm,
        leaf: false,
        protects: ["kvm->irq_routing"],
        comment: "Read section: around the delivery of an interrupt by its GSI.",
    }
    /// `kvm->arch.pvclock_gtod_sync_lock`.
    PvclockGtodSyncLock {
        name: "kvm->arch.pvclock_gtod_sync_lock",
        short: "pvclock_gtod_sync_lock",
        kind: Spinlock,
        arch: X86,
        section: Kvm,
        leaf: true,
        protects: ["use_master_clock, nr_vcpus_matched_tsc"],
        comment: "Taken after tsc_write_lock was released, never inside.",
    }
    /// `kvm->arch.xen.xen_lock`.
    XenLock {
        name: "kvm->arch.xen.xen_lock",
        short: "xen_lock",
        kind: Mutex,
        arch: X86,
        section: Kvm,
        leaf: true,
        protects: ["the event channels of a Xen guest"],
        comment: "Since 6.2, so that a hypercall, which has vcpu->mutex and is inside a read \
                  section of kvm->srcu, need not take kvm->lock. (Where a page of the guest has to \
                  be looked up again inside it, it is not quite a leaf.)",
    }
    /// `kvm_vmid_lock`.
    VmidLock {
        name: "kvm_vmid_lock",
        short: "kvm_vmid_lock",
        kind: Spinlock,
        arch: Arm64,
        section: Kvm,
        leaf: true,
        protects: ["kvm_next_vmid", "vmid_gen", "vmid"],
        comment: "Held over the interrupts that the end of a generation of VMIDs sends to all \
                  CPUs. From 5.18 on cpu_vmid_lock, a raw spinlock taken with interrupts off.",
    }
    /// `cpu_hotplug_lock`.
    CpuHotplugLock {
        name: "cpu_hotplug_lock",
        short: "cpu_hotplug_lock",
        kind: PercpuRwSemaphore,
        arch: Any,
        section: Host,
        leaf: false,
        protects: ["cpu_online_mask"],
        comment: "cpus_read_lock(), which static keys take when they change, in read sections of \
                  kvm->srcu too; held for writing while a CPU comes or goes and KVM is told. So \
                  nothing that is held over a grace period of kvm->srcu may be taken inside it.",
    }
    /// `mm->mmap_lock`.
    MmapLock {
        name: "mm->mmap_lock",
        short: "mmap_lock",
        kind: RwSemaphore,
        arch: Any,
        section: Host,
        leaf: false,
        protects: ["the VMM's address space (vmas)"],
        comment: "Whoever faults on user memory takes it for reading: gup, copy_to_user().",
    }
    /// The SRCU of `mm/mmu_notifier.c`.
    MmuNotifierSrcu {
        name: "srcu of mm/mmu_notifier.c",
        short: "mmu_notifier_srcu",
        kind: Srcu,
        arch: Any,
        section: Host,
        leaf: false,
        protects: ["the list of notifiers of an address space"],
        comment: "Read section: around the calls of KVM's notifiers. Grace period: when a VM is \
                  destroyed (mmu_notifier_unregister), under no lock.",
    }
    /// RCU.
    Rcu {
        name: "RCU",
        short: "rcu",
        kind: Rcu,
        arch: Any,
        section: Host,
        leaf: false,
        protects: ["stage-2 tables that faults walk together (arm64, 6.2 on)"],
        comment: "Read section: around a walk of stage 2 by a fault, inside mmu_lock, which is \
                  held for reading. A table that a block takes the place of is freed after a grace \
                  period.",
    }
    /// The host's page-table locks.
    PageTableLock {
        name: "host page-table lock",
        short: "host_mm",
        kind: Spinlock,
        arch: Any,
        section: Host,
        leaf: false,
        protects: ["the host's page table of guest memory, page references, swap"],
        comment: "The split page-table locks and those of reclaim, taken as one.",
    }
    /// A lock of a small stand-alone program.
    VarLock {
        name: "lock",
        short: "lock",
        kind: Mutex,
        arch: Any,
        section: Test,
        leaf: false,
        protects: [],
        comment: "Stand-alone programs make these.",
    }
    /// A spinlock of a small stand-alone program.
    VarSpinlock {
        name: "spinlock",
        short: "spinlock",
        kind: Spinlock,
        arch: Any,
        section: Test,
        leaf: false,
        protects: [],
        comment: "Stand-alone programs make these.",
    }
    /// A read-write lock of a small stand-alone program.
    VarRwLock {
        name: "rwlock",
        short: "rwlock",
        kind: RwSemaphore,
        arch: Any,
        section: Test,
        leaf: false,
        protects: [],
        comment: "Stand-alone programs make these.",
    }
    /// An SRCU of a small stand-alone program.
    VarSrcu {
        name: "srcu_struct",
        short: "srcu_struct",
        kind: Srcu,
        arch: Any,
        section: Test,
        leaf: false,
        protects: [],
        comment: "Stand-alone programs make these.",
    }
    /// An RCU domain of a small stand-alone program.
    VarRcu {
        name: "rcu_domain",
        short: "rcu_domain",
        kind: Rcu,
        arch: Any,
        section: Test,
        leaf: false,
        protects: [],
        comment: "Stand-alone programs make these.",
    }
}
