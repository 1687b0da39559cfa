//! What must always hold, named and stated once.

macro_rules! properties {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Something that must always hold.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum Property { $($(#[doc = $doc])+ $variant,)+ }

        impl Property {
            /// Every property, in declaration order.
            pub const ALL: &'static [Property] = &[$(Property::$variant,)+];

            /// The name that scenario files and reports use.
            pub const fn name(self) -> &'static str {
                match self { $(Property::$variant => $name,)+ }
            }

            /// What it says.
            pub const fn statement(self) -> &'static str {
                match self { $(Property::$variant => concat!($($doc),+),)+ }
            }

            /// The property with this name.
            pub fn by_name(name: &str) -> Option<Property> {
                Property::ALL.iter().copied().find(|p| p.name() == name)
            }
        }
    };
}

properties! {
    /// After the last harvest and copy the destination of a migration equals its source.
    Migration = "migration",
    /// A page that the guest wrote is not dropped as clean.
    Swap = "swap",
    /// That a page was used, which hardware says by A, reaches the host: by the SPTE, when the host
    /// asks, or by the page's own flag.
    Accessed = "accessed",
    /// The guest does not reach a page that the host has taken back.
    PfnSafety = "pfn-safety",
    /// When all threads have ended, every reference that a fault took on a page was given back,
    /// once.
    PageRefs = "page-refs",
    /// No writable translation of a shadowed guest page table exists once its shadow page is
    /// linked.
    ShadowedPtReadonly = "shadowed-pt-readonly",
    /// The guest does not write to a page that the host maps read-only.
    HostReadonly = "host-readonly",
    /// The H, M and W bits of each SPTE are a legal combination.
    SpteLegal = "spte-legal",
    /// When mmu_lock is released, each leaf SPTE has its one place in the rmap of the gfn that it
    /// maps.
    RmapExact = "rmap-exact",
    /// Once the ioctl that deletes a memslot has returned, no SPTE and no TLB maps its frames.
    MemslotGone = "memslot-gone",
    /// An access to a frame that a memslot has, valid or on its way out, or that the VMM is making
    /// again, does not become MMIO.
    RamIsNotMmio = "ram-is-not-mmio",
    /// Once the ioctl that makes a memslot has returned, no access to its frames that faults then
    /// becomes MMIO.
    MmioGeneration = "mmio-generation",
    /// A vCPU reaches, by a virtual page, a frame that the guest's tables gave since that vCPU
    /// invalidated the page last, and writes it only if they allowed that; a store that KVM
    /// emulates counts from its end on.
    GuestTranslation = "guest-translation",
    /// A guest that reaches a page by its tables as they are finds A in each entry on the way, and
    /// D in the last one if it has written.
    GuestAd = "guest-ad",
    /// When a descriptor of stage 2 becomes valid, no CPU has another translation cached of the
    /// same frames: of another page, or of another size.
    Bbm = "bbm",
    /// When mmu_lock is released, each table of stage 2 counts itself and its valid entries.
    TableRefcount = "table-refcount",
    /// An access of a VM reaches no page of another one, and is not denied by an entry of another
    /// one.
    VmIsolation = "vm-isolation",
    /// KVM looks into no array of a memslot outside of its bounds. Always checked.
    SlotBounds = "slot-bounds",
    /// No thread touches a shadow page, an array or a device that was freed. Always checked.
    UseAfterFree = "use-after-free",
    /// Some thread can go on until all have ended. Always checked.
    Deadlock = "deadlock",
    /// No cycle and no set of blocked retries keeps every operation from completing. Always
    /// checked.
    Livelock = "livelock",
    /// Locks are taken in the orders of locking.rst. Always checked, as are the other lock-*
    /// properties, unless lock checks are off.
    LockOrder = "lock-order",
    /// The orders in which locks are taken, all executions together, have no cycle.
    LockCycle = "lock-cycle",
    /// Nobody asks for something that may sleep while a spinlock is held, inside a read section of
    /// RCU, or while interrupts are off.
    LockSleep = "lock-sleep",
    /// No lock is taken inside a leaf.
    LockLeaf = "lock-leaf",
    /// What a lock protects is touched by its owner only, or inside its SRCU read section.
    LockProtection = "lock-protection",
    /// A lock is not taken twice, is released by its owner, and is not held at the end.
    LockUsage = "lock-usage",
    /// The host does not run out of pages: the scenario gave it enough. Always checked.
    EnoughPages = "enough-pages",
    /// The guest never writes. False on purpose: what the canary must be caught by.
    GuestNeverWrites = "guest-never-writes",
}
