//! The operations of programs: one table, from which the types, the text of scenario files, its
//! reader, messages and the manual are made.
//!
//! An operation is a row here, an arm in [`crate::interpret`], and a function of the model.

mod argument;
mod table;

use alloc::string::String;
use core::fmt;

use kvmmu_model::{CpuId, Gfn, Gva, Mode, Pfn};

pub use self::argument::{
    Address, AnyGfn, Argument, Arguments, Entry, LockRef, SlotIndex, TableEntry,
};

/// An operation of any thread.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Op {
    /// Of a vCPU.
    Vcpu(VcpuOp),
    /// Of the host, or of user space.
    Host(HostOp),
    /// Of user space.
    User(UserOp),
    /// Of every thread.
    Lock(LockOp),
}

impl Op {
    /// True if some thread waits in it for vCPU threads or readers of an SRCU: the locks that
    /// KVM_RUN and notifiers take are steps then, and free of charge otherwise.
    pub const fn contends(self) -> bool {
        match self {
            Op::Vcpu(op) => op.contends(),
            Op::Host(op) => op.contends(),
            Op::User(op) => op.contends(),
            Op::Lock(op) => op.contends(),
        }
    }
}

/// The operation as scenario files have it.
impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::Vcpu(op) => op.fmt(f),
            Op::Host(op) => op.fmt(f),
            Op::User(op) => op.fmt(f),
            Op::Lock(op) => op.fmt(f),
        }
    }
}

impl VcpuOp {
    /// The entry of the guest's page tables that it stores to by a translation, and the frame that
    /// the entry has from then on.
    pub const fn stores_gpte(self) -> Option<(Entry, Gfn)> {
        match self {
            VcpuOp::SetGpte(entry, to)
            | VcpuOp::SetGpteReadonly(entry, to)
            | VcpuOp::SetGpteClean(entry, to) => Some((entry, to)),
            _ => None,
        }
    }
}

impl LockOp {
    /// The lock that it is about, and how that is taken, given back or waited for.
    pub const fn lock(self) -> (LockRef, Mode) {
        match self {
            LockOp::Lock(lock) | LockOp::Unlock(lock) => (lock, Mode::Exclusive),
            LockOp::ReadLock(lock) | LockOp::ReadUnlock(lock) => (lock, Mode::Read),
            LockOp::Synchronize(lock) => (lock, Mode::Synchronize),
        }
    }
}

/// An operation as programs name it.
#[derive(Clone, Copy, Debug)]
pub struct Verb {
    /// Its name.
    pub name: &'static str,
    /// The forms of what follows the name.
    pub arguments: &'static [&'static str],
    /// Who may run it.
    pub who: Who,
    /// What it does.
    pub meaning: &'static str,
}

impl Verb {
    /// The verb and its arguments: `set-gpte gfnN[I]|gvaN[I] gfnN`.
    pub fn form(&self) -> String {
        let mut form = String::from(self.name);
        for argument in self.arguments {
            form.push(' ');
            form.push_str(argument);
        }
        form
    }
}

/// The threads that may run an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Who {
    /// vCPUs.
    Vcpu,
    /// The host's memory manager, and user space: by madvise, or by touching a page.
    Host,
    /// User space.
    User,
    /// Every thread.
    Any,
}

impl Who {
    /// What the manual and messages call them.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vcpu => "vCPU",
            Self::Host => "host",
            Self::User => "user",
            Self::Any => "any",
        }
    }
}

table::operations! {
    Vcpu, contends: false {
        /// The guest loads from a page.
        Read(page: Address) = "read",
        /// The guest stores a new value to a page.
        Write(page: Address) = "write",
        /// The guest executes from a page.
        Fetch(page: Address) = "fetch",
        /// The guest points entry I of one of its page tables, reached by an ordinary store through
        /// a translation, to a frame, writable.
        SetGpte(entry: Entry, to: Gfn) = "set-gpte",
        /// The same with an entry that is read-only.
        SetGpteReadonly(entry: Entry, to: Gfn) = "set-gpte-readonly",
        /// The same with a writable entry that has no D.
        SetGpteClean(entry: Entry, to: Gfn) = "set-gpte-clean",
        /// As set-gpte, by an instruction that KVM emulates: guest memory is written, then
        /// kvm_mmu_pte_write runs.
        EmulateGpte(entry: TableEntry, to: Gfn) = "emulate-gpte",
        /// The guest invalidates its translation of a page.
        Invlpg(gva: Gva) = "invlpg",
        /// The guest loads CR3 with the value that it has, and so invalidates all of its
        /// translations.
        LoadCr3 = "load-cr3",
        /// The guest uses its APIC, which hardware finds by the page that the VMCS names.
        AccessApic = "access-apic",
        /// An asynchronous page fault completes: the page is mapped speculatively, without an
        /// access.
        Prefault(gfn: Gfn) = "prefault",
    }
    Host, contends: false {
        /// The host unmaps a frame between range_start and range_end and frees its page when nobody
        /// refers to it: written out if dirty, else dropped.
        SwapOut(gfn: Gfn) = "swap-out",
        /// The host maps the frames of a huge page one by one from then on, between range_start and
        /// range_end of all of them; the pages stay. swap-out of one of them does the same first.
        SplitHuge(gfn: Gfn) = "split-huge",
        /// The host touches a frame that is not there: it gets the free page with the lowest number
        /// and its old content.
        SwapIn(gfn: Gfn) = "swap-in",
        /// The host merges two frames with equal contents into one read-only page: the second takes
        /// the first's.
        KsmMerge(keep: Gfn, drop: Gfn) = "ksm-merge",
        /// The host gives a frame on a shared page a writable copy of its own.
        CowBreak(gfn: Gfn) = "cow-break",
        /// The host moves a frame to another page, read-only, by the change_pte notifier alone, as
        /// hosts before 3.7 did it (later ones call range_start before it, which leaves it nothing
        /// to change): it write-protects the frame, copies its contents to the page or compares
        /// them if other frames share it, and moves the frame. It gives up where somebody holds a
        /// reference, the contents differ, or the page has another use.
        ChangePte(gfn: Gfn, pfn: Pfn) = "change-pte",
        /// The host asks whether a frame was used, and clears the answer (clear_flush_young).
        Age(gfn: Gfn) = "age",
        /// The same without a TLB flush (clear_young).
        ClearYoung(gfn: Gfn) = "clear-young",
        /// The shrinker zaps the oldest shadow page that is not a root.
        Shrink = "shrink",
        /// The kernel runs the callbacks of RCU, each after its grace period, until all vCPUs have
        /// ended (a file of arm64-v6.12 alone). In a program without it what waits for one is never
        /// freed.
        RcuCallbacks = "rcu-callbacks",
    }
    User, contends: false {
        /// The KVM_GET_DIRTY_LOG ioctl: fetch and clear the bitmap of a slot, write-protect the
        /// pages that it names, flush.
        GetDirtyLog(slot: SlotIndex) = "get-dirty-log",
        /// The same ioctl with manual protect: user space gets the bitmap of a slot, which stays as
        /// it is.
        FetchDirtyLog(slot: SlotIndex) = "fetch-dirty-log",
        /// The KVM_CLEAR_DIRTY_LOG ioctl, with what user space has fetched of a slot and not
        /// cleared: clear these bits, write-protect the pages, flush.
        ClearDirtyLog(slot: SlotIndex) = "clear-dirty-log",
        /// A device of the VMM stores to a frame, by a mapping of its own; the VMM keeps a log of
        /// that itself.
        VmmWrite(gfn: Gfn) = "vmm-write",
        /// The VMM points entry I of a guest page table to a frame, writable, by a mapping of its
        /// own: KVM, which tracks what guests do, does not see it. A frame in no slot is a
        /// device's.
        VmmSetGpte(entry: TableEntry, to: AnyGfn) = "vmm-set-gpte",
        /// The same with an entry of the root, which maps a large page from then on.
        VmmSetLargeGpte(entry: TableEntry, to: Gfn) = "vmm-set-large-gpte",
        /// User space copies the pages that were harvested since the last copy to the destination
        /// of the migration: those of every get-dirty-log or fetch-dirty-log, as a VMM collects
        /// them, and those of vmm-write.
        CopyHarvested = "copy-harvested",
        /// User space copies all pages of a slot, as a migration does first, when their log has
        /// begun.
        CopySlot(slot: SlotIndex) = "copy-slot",
        /// A copy of what was harvested fails: the VMM keeps in mind what it has to copy.
        CopyFails = "copy-fails",
        /// User space forgets what was harvested and not copied, as if the copy had failed and
        /// nobody remembered the log.
        DropHarvested = "drop-harvested",
    }
    Vcpu, contends: true {
        /// The guest writes to the address of the ioeventfds: kvm_io_bus_write.
        Mmio = "mmio",
        /// The vCPU switches AVIC off for an interrupt window, or on again after it: a change of
        /// memslots from inside KVM_RUN.
        AvicIrqWindow = "avic-irq-window",
    }
    User, contends: true {
        /// The KVM_SET_USER_MEMORY_REGION ioctl with size 0: the slot becomes invalid, is zapped,
        /// and is deleted. Accesses to its frames are MMIO from then on.
        DeleteMemslot(slot: SlotIndex) = "delete-memslot",
        /// The same ioctl with the slot's size, if it is not there: it is made, as the file has it.
        CreateMemslot(slot: SlotIndex) = "create-memslot",
        /// Both in turn, as a VMM resizes a slot: it keeps vCPUs out of KVM_RUN meanwhile.
        RecreateMemslot(slot: SlotIndex) = "recreate-memslot",
        /// The same ioctl with KVM_MEM_LOG_DIRTY_PAGES: the dirty log of the slot begins, empty,
        /// and its frames are write-protected.
        StartDirtyLog(slot: SlotIndex) = "start-dirty-log",
        /// The same, with KVM_DIRTY_LOG_INITIALLY_SET: the log begins with all bits set, and
        /// nothing is write-protected.
        StartDirtyLogSet(slot: SlotIndex) = "start-dirty-log-set",
        /// The same ioctl without that flag: the dirty log of the slot ends.
        StopDirtyLog(slot: SlotIndex) = "stop-dirty-log",
        /// The KVM_IOEVENTFD ioctl: adds a second ioeventfd to the one that is there from the
        /// start.
        RegisterMmio = "register-mmio",
        /// The same ioctl takes the second ioeventfd off the bus and frees it.
        UnregisterMmio = "unregister-mmio",
        /// The same, and there is no memory for the smaller array: the bus is given up with all its
        /// devices.
        UnregisterMmioEnomem = "unregister-mmio-enomem",
        /// The KVM_SET_GSI_ROUTING ioctl: a new table of routes; the old one is freed after a grace
        /// period of kvm->irq_srcu.
        SetGsiRouting = "set-gsi-routing",
        /// The KVM_IRQ_LINE ioctl: routes an interrupt by the table.
        IrqLine = "irq-line",
        /// The KVM_CREATE_IRQCHIP ioctl: PIC and I/O APIC on the bus, and default routes.
        CreateIrqchip = "create-irqchip",
        /// The KVM_CREATE_PIT ioctl: a timer on the bus, notified of acknowledged interrupts.
        CreatePit = "create-pit",
    }
    User, contends: false {
        /// The VMM has a frame swapped out (MADV_PAGEOUT): swap-out, with mmap_lock held for
        /// reading.
        MadvisePageout(gfn: Gfn) = "madvise-pageout",
    }
    User, contends: true {
        /// User space maps small pages where a huge one of hugetlbfs is (munmap and mmap, with
        /// mmap_lock held for writing): the old pages are gone, and new ones come, empty, as frames
        /// are touched.
        MmapSmall(gfn: Gfn) = "mmap-small",
        /// User space gives the pages of a slot back (MADV_DONTNEED, with mmap_lock held for
        /// reading): they are gone, and new ones come, empty, as frames are touched.
        MadviseDontneed(slot: SlotIndex) = "madvise-dontneed",
        /// User space closes the VM when all vCPUs have ended (arm64): kvm_mmu_notifier_release, by
        /// mmu_notifier_unregister, which waits for notifiers that run.
        ReleaseVm = "release-vm",
        /// User space creates another VM: hardware_enable_all, mmu_notifier_register, vm_list.
        CreateVm = "create-vm",
        /// User space destroys the VM that was created last, if any but the one that the scenario
        /// is about: vm_list, mmu_notifier_unregister, hardware_disable_all.
        DestroyVm = "destroy-vm",
        /// User space closes another VM, a vCPU of which waits for a page: kvm_put_kvm.
        CloseVm = "close-vm",
        /// User space unloads KVM, if nobody holds a reference on the module.
        Rmmod = "rmmod",
        /// User space creates a vCPU, which does not run, if there is room for one.
        CreateVcpu = "create-vcpu",
        /// User space has the state of every vCPU encrypted (sev_launch_update_vmsa): it waits for
        /// each to be out of its ioctls.
        UpdateVmsa = "update-vmsa",
        /// User space writes the TSC of a vCPU (KVM_SET_MSRS).
        SetTsc(vcpu: CpuId) = "set-tsc",
        /// A module parameter is written, and every VM builds its tables anew.
        SetNxHugePages = "set-nx-huge-pages",
        /// User space gives an eventfd to a connection of Hyper-V and takes it back
        /// (KVM_HYPERV_EVENTFD).
        HvEventfd = "hv-eventfd",
    }
    Vcpu, contends: false {
        /// The scheduler moves the vCPU to the CPU of another one, when that has ended.
        MoveTo(vcpu: CpuId) = "move-to",
        /// The VM of this vCPU (VM 1) is destroyed, and another one like it begins, which has no
        /// VMID yet.
        NewVm = "new-vm",
    }
    Vcpu, contends: true {
        /// The guest names gfn0 its hypercall page (Hyper-V), and KVM writes to it.
        HvSetMsr = "hv-set-msr",
        /// The guest turns its APIC off: a static key changes, under cpus_read_lock.
        SetApicBase = "set-apic-base",
        /// The guest sends an event by a Xen hypercall.
        XenEvtchnSend = "xen-evtchn-send",
        /// The guest powers the next vCPU on (arm64).
        PsciCpuOn = "psci-cpu-on",
        /// A fault of the guest maps a page that the data cache has to be made coherent with
        /// (arm64).
        CleanCache = "clean-cache",
        /// The guest halts. It sleeps until pi-wakeup or its own timer: either may come first.
        Halt = "halt",
    }
    Host, contends: true {
        /// A device posts an interrupt to a vCPU; if that sleeps, pi_wakeup_handler runs.
        PiWakeup(vcpu: CpuId) = "pi-wakeup",
        /// The worker runs that brings the page in for which a vCPU of another VM waits:
        /// async_pf_execute.
        AsyncPf = "async-pf",
        /// A CPU on which no vCPU runs comes up. It is offline at first.
        CpuOnline = "cpu-online",
        /// That CPU goes.
        CpuOffline = "cpu-offline",
    }
    Any, contends: true {
        /// Takes a mutex, a spinlock, or a read-write lock for writing.
        Lock(lock: LockRef) = "lock",
        /// Gives it back.
        Unlock(lock: LockRef) = "unlock",
        /// Takes a read-write lock for reading, or begins a read section of an SRCU.
        ReadLock(lock: LockRef) = "read-lock",
        /// Gives it back, or ends the read section.
        ReadUnlock(lock: LockRef) = "read-unlock",
        /// Waits for a grace period of an SRCU: until every read section has ended that had begun
        /// before.
        Synchronize(lock: LockRef) = "synchronize",
    }
}
