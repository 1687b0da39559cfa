//! Named moments. A scenario's `sometimes` witnesses and stories are made of these.

macro_rules! marks {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Something worth a name that happened in a step.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum Mark { $($(#[doc = $doc])+ $variant,)+ }

        impl Mark {
            /// Every mark, in declaration order.
            pub const ALL: &'static [Mark] = &[$(Mark::$variant,)+];

            /// The name that scenario files use.
            pub const fn name(self) -> &'static str {
                match self { $(Mark::$variant => $name,)+ }
            }

            /// One sentence: when it happens.
            pub const fn meaning(self) -> &'static str {
                match self { $(Mark::$variant => concat!($($doc),+),)+ }
            }
        }
    };
}

marks! {
    /// fast_page_fault read the SPTE that it is about to judge.
    FastFaultRead = "fast-fault-read",
    /// fast_page_fault's cmpxchg succeeded.
    FastFaultFixed = "fast-fault-fixed",
    /// fast_page_fault's cmpxchg met another value.
    FastFaultLost = "fast-fault-lost",
    /// fast_page_fault found the access allowed already.
    FastFaultSpurious = "fast-fault-spurious",
    /// fast_page_fault restored the R and X bits of an access-tracked SPTE.
    AccessTrackRestored = "access-track-restored",
    /// fast_page_fault made an SPTE writable.
    FastFaultWritable = "fast-fault-writable",
    /// mark_page_dirty set a bit of a dirty bitmap.
    MarkDirty = "mark-dirty",
    /// mmu_spte_clear_track_bits or mmu_spte_update read the old SPTE and judged it not volatile.
    JudgedNotVolatile = "judged-not-volatile",
    /// A plain (not atomic) store replaced an SPTE.
    SptePlainStore = "spte-plain-store",
    /// A shadow-present leaf SPTE was cleared.
    SpteZapped = "spte-zapped",
    /// A fault found another page mapped where it maps its own, and dropped that mapping.
    SpteOfAnotherPfn = "spte-of-another-pfn",
    /// A large SPTE was dropped, because a table comes in its place.
    LargeSpteDropped = "large-spte-dropped",
    /// A large SPTE comes in the place of a table, which was unlinked.
    LargeOverTable = "large-over-table",
    /// The log of a memslot has ended, and SPTEs that could be parts of a large one were dropped.
    CollapsibleZapped = "collapsible-zapped",
    /// Stage 2 of arm64: a leaf was stored, a page's or a block's.
    Stage2Mapped = "stage2-mapped",
    /// Stage 2 of arm64: a valid descriptor was made invalid, for another to come.
    Stage2Broken = "stage2-broken",
    /// Stage 2 of arm64: a descriptor was cleared, because its page goes.
    Stage2Unmapped = "stage2-unmapped",
    /// Stage 2 of arm64: a leaf allows more than before.
    PermsRelaxed = "perms-relaxed",
    /// Stage 2 of arm64: a table was linked, in the place of a block or of nothing.
    TableLinked = "table-linked",
    /// Stage 2 of arm64: a table was freed, and a block comes in its place.
    TableMerged = "table-merged",
    /// Stage 2 of arm64: a table was freed.
    TableFreed = "table-freed",
    /// Stage 2 of arm64: a fault left an entry to another one, or had nothing to change there.
    Stage2Again = "stage2-again",
    /// Stage 2 of arm64: a block took the place of a table, which waits for walkers to leave it.
    TableUnlinked = "table-unlinked",
    /// Stage 2 of arm64: a walk from chunk to chunk found that the tables are gone.
    Stage2Gone = "stage2-gone",
    /// Stage 2 of arm64: a VM was given a VMID.
    VmidAllocated = "vmid-allocated",
    /// Stage 2 of arm64: no VMID was left, and a new generation of them has begun.
    VmidRollover = "vmid-rollover",
    /// Stage 2 of arm64: VTTBR_EL2 was loaded, with the VMID that the VM has.
    VttbrLoaded = "vttbr-loaded",
    /// Stage 2 of arm64: a vCPU is on the CPU of another one, which has ended.
    VcpuMoved = "vcpu-moved",
    /// Stage 2 of arm64: the VM was released, with its tables.
    VmReleased = "vm-released",
    /// Stage 2 of arm64: VM 1 was destroyed, and another one has begun.
    VmReplaced = "vm-replaced",
    /// A shadow-present leaf SPTE was installed or rewritten.
    SpteSet = "spte-set",
    /// An SPTE was write-protected for the dirty log.
    WriteProtected = "write-protected",
    /// D of an SPTE was cleared for the dirty log.
    DirtyCleared = "dirty-cleared",
    /// An entry of a PML buffer went into the dirty bitmap.
    PmlDrained = "pml-drained",
    /// A vCPU left the guest because its PML buffer was full.
    PmlFull = "pml-full",
    /// An SPTE was write-protected because its page is a guest page table.
    WriteProtectedPt = "write-protected-pt",
    /// spte_write_protect decided that no flush is owed.
    NoFlushOwed = "no-flush-owed",
    /// An SPTE was marked for access tracking.
    AccessTracked = "access-tracked",
    /// A page fault was handled under mmu_lock.
    SlowFault = "slow-fault",
    /// A page fault gave up because a notifier ran or is running.
    NotifierRetry = "notifier-retry",
    /// A page fault gave up because a guest page table changed under it.
    GpteChanged = "gpte-changed",
    /// A guest page fault was injected or an access was emulated.
    Emulated = "emulated",
    /// A shadow page was linked.
    ShadowPageLinked = "shadow-page-linked",
    /// An entry led to another table than the walk called for, which was unlinked.
    ChildUnlinked = "child-unlinked",
    /// A shadow page was zapped.
    ShadowPageZapped = "shadow-page-zapped",
    /// A shadow page was freed.
    ShadowPageFreed = "shadow-page-freed",
    /// A lockless walk read a non-leaf SPTE.
    LocklessWalkStep = "lockless-walk-step",
    /// kvm_flush_remote_tlbs raised its requests.
    FlushRequested = "flush-requested",
    /// kvm_flush_remote_tlbs returned.
    FlushDone = "flush-done",
    /// A vCPU carried out a requested TLB flush.
    TlbFlushed = "tlb-flushed",
    /// kvm_mmu_notifier_invalidate_range_start returned.
    RangeStarted = "range-started",
    /// kvm_mmu_notifier_invalidate_range_end returned.
    RangeEnded = "range-ended",
    /// GET_DIRTY_LOG fetched and cleared a word of the bitmap that was not zero.
    Harvest = "harvest",
    /// A fault took a reference on a page by get_user_pages.
    Gup = "gup",
    /// The guest stored through a translation.
    GuestWrite = "guest-write",
    /// The guest used a translation that its SPTE no longer gives.
    StaleTranslation = "stale-translation",
    /// The guest entered.
    GuestEntered = "guest-entered",
    /// User space copied a harvested page.
    PageCopied = "page-copied",
    /// The VMM stored to guest memory by a mapping of its own.
    VmmStored = "vmm-stored",
    /// The host cleared its own page-table entry of a guest page.
    HostUnmapped = "host-unmapped",
    /// The host maps the frames of a large page one by one from now on.
    HugeSplit = "huge-split",
    /// The host wrote a dirty page out.
    SwappedOutDirty = "swapped-out-dirty",
    /// The host dropped a page as clean.
    ReclaimedClean = "reclaimed-clean",
    /// The host gave a free page to a guest frame.
    PageAllocated = "page-allocated",
    /// Two guest pages became one shared read-only page.
    KsmMerged = "ksm-merged",
    /// A shared page got a private copy.
    CowBroken = "cow-broken",
    /// change_pte moved an SPTE to another page.
    PteChanged = "pte-changed",
    /// KVM set A or D in an entry of a guest's page tables.
    GpteAdSet = "gpte-ad-set",
    /// The guest edited one of its page tables through a translation.
    GuestPtWrite = "guest-pt-write",
    /// A shadow page went out of sync: its guest may write the table.
    PageUnsynced = "page-unsynced",
    /// The SPTEs of a shadow page that was out of sync were compared with its guest's table.
    PageSynced = "page-synced",
    /// kvm_mmu_sync_roots found nothing out of sync.
    SyncSkipped = "sync-skipped",
    /// sync_page dropped an SPTE, and left the flush to whoever flushes next.
    FlushOwed = "flush-owed",
    // Memslots, buses, interrupt routing.
    /// install_new_memslots published an array of memslots.
    MemslotsInstalled = "memslots-installed",
    /// kvm_set_memslot freed the old array of memslots.
    MemslotsFreed = "memslots-freed",
    /// The deletion of a memslot zapped what mapped its frames.
    MemslotZapped = "memslot-zapped",
    /// A fault found the memslot of its frame invalid, and is tried again.
    MemslotInvalid = "memslot-invalid",
    /// A fault found no valid memslot for its frame, and the access became MMIO.
    MemslotMissing = "memslot-missing",
    /// An MMIO SPTE was set.
    MmioSpteSet = "mmio-spte-set",
    /// An access was taken for MMIO by what an MMIO SPTE says, or the vCPU remembers.
    MmioCached = "mmio-cached",
    /// CLEAR_DIRTY_LOG cleared bits of the bitmap.
    LogCleared = "log-cleared",
    /// The dirty log of a memslot begins, and its frames are write-protected.
    LogProtected = "log-protected",
    /// An array of devices was published, or the bus given up.
    BusReplaced = "bus-replaced",
    /// The grace period after that was over, and the old array was freed.
    BusFreed = "bus-freed",
    /// An MMIO access called a device.
    IoDeviceCalled = "iodev-called",
    /// A device was destroyed.
    IoDeviceDestroyed = "iodev-destroyed",
    /// An MMIO access found no device and went to user space.
    MmioExit = "mmio-exit",
    /// A table of interrupt routes was published.
    IrqRoutingReplaced = "irq-routing-replaced",
    /// An old table of interrupt routes was freed.
    IrqRoutingFreed = "irq-routing-freed",
    /// An interrupt was routed by a table.
    IrqRouted = "irq-routed",
    /// KVM_CREATE_IRQCHIP made the interrupt controllers.
    IrqchipCreated = "irqchip-created",
    /// KVM_CREATE_PIT made the timer.
    PitCreated = "pit-created",
    /// A vCPU switched AVIC off or on for an interrupt window.
    AvicToggled = "avic-toggled",
    // VMs, vCPUs, CPUs.
    /// A VM was created and is in vm_list.
    VmCreated = "vm-created",
    /// A notifier called another VM.
    OtherVmNotified = "other-vm-notified",
    /// A VM was destroyed.
    VmDestroyed = "vm-destroyed",
    /// The worker of an asynchronous page fault is through.
    AsyncPfExecuted = "async-pf-executed",
    /// KVM's code was unloaded.
    ModuleUnloaded = "module-unloaded",
    /// A vCPU was created; user space can use it.
    VcpuCreated = "vcpu-created",
    /// sev_launch_update_vmsa was through with every vCPU.
    VmsaUpdated = "vmsa-updated",
    /// A vCPU was powered on by another.
    VcpuPoweredOn = "vcpu-powered-on",
    /// User space wrote the TSC of a vCPU.
    TscWritten = "tsc-written",
    /// set_nx_huge_pages was through with every VM.
    NxHugePagesSet = "nx-huge-pages-set",
    /// A vCPU set an MSR of Hyper-V that its VM has once.
    HypervMsrSet = "hyperv-msr-set",
    /// No vCPU uses an eventfd that was taken back from a connection of Hyper-V.
    HypervEventfdGone = "hyperv-eventfd-gone",
    /// A vCPU sent an event to a Xen port.
    XenEventSent = "xen-event-sent",
    /// A vCPU looked the APIC access page up again.
    ApicPageReloaded = "apic-page-reloaded",
    /// A vCPU turned its APIC off, and a static key changed.
    ApicDisabled = "apic-disabled",
    /// A vCPU went to sleep.
    VcpuAsleep = "vcpu-asleep",
    /// A vCPU did not go to sleep: an interrupt was there.
    VcpuStayedAwake = "vcpu-stayed-awake",
    /// A vCPU was woken by a posted interrupt.
    VcpuWoken = "vcpu-woken",
    /// A vCPU was woken by its timer.
    VcpuTimer = "vcpu-timer",
    /// pi_wakeup_handler found a vCPU on its list that has an interrupt.
    VcpuKicked = "vcpu-kicked",
    /// The data cache was made coherent with a page.
    CacheCleaned = "cache-cleaned",
    /// A CPU came up.
    CpuOnline = "cpu-online",
    /// A CPU went.
    CpuOffline = "cpu-offline",
}
