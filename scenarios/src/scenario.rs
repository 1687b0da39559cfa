//! A race as data: who runs what over which memory, what must hold, and what is expected.

use alloc::string::String;
use alloc::vec::Vec;

use kvmmu_model::{Access, CpuId, Gfn, GuardSet, Gva, LockClass, Mark, Mode, Pfn};

use crate::property::Property;

/// A scenario, as its file says it, at one size.
#[derive(Clone, PartialEq, Debug)]
pub struct Scenario {
    /// The file's name without `.toml`.
    pub name: String,
    /// One line.
    pub title: String,
    /// The kernel text that it comes from.
    pub source: String,
    /// What happens, in a few sentences.
    pub about: String,
    /// The kernel whose guards are present.
    pub profile: Profile,
    /// How vCPUs translate, unless a thread says otherwise.
    pub paging: Paging,
    /// The layout of SPTEs.
    pub spte: Format,
    /// What a fast fault on an indirect page does where guards or the scenario let it run.
    pub indirect: IndirectFastFault,
    /// Guest memory known to KVM.
    pub slots: Vec<Slot>,
    /// How many host pages there are.
    pub host_pages: u8,
    /// What backs each guest frame before the first step, by gfn.
    pub backing: Vec<Backing>,
    /// Guest page tables; empty without shadow paging.
    pub guest_tables: Vec<GuestTable>,
    /// The gfn of the guest's root table.
    pub guest_root: Option<Gfn>,
    /// SPTEs that are there before the first step.
    pub map: Vec<InitialSpte>,
    /// One program per thread: vCPUs first, then host, user space.
    pub threads: Vec<Thread>,
    /// What user space does when every vCPU is out of KVM_RUN and all threads have ended.
    pub at_stop: Vec<Op>,
    /// What must always hold.
    pub always: Vec<Property>,
    /// What must be seen at least once when every guard is present.
    pub sometimes: Vec<Witness>,
    /// The use of locks is checked.
    pub lock_checks: bool,
    /// What is expected; the first is the one with every guard.
    pub expects: Vec<Expect>,
    /// The size that this was loaded at; 1 is the default.
    pub size: u8,
}

/// Architecture, algorithm version and guards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Profile {
    /// x86, the algorithms of 5.10, every guard present, later fixes included.
    Fixed,
    /// x86, every guard present, and of 6.1 what an SPTE may become without the lock: its fast
    /// fault, what it counts as volatile, when it owes a flush. The rest is as in 5.10.
    X86V6_1,
}

/// How a vCPU translates.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Paging {
    /// Two-dimensional paging, or a guest with paging off: every shadow page is direct.
    Direct,
    /// The guest's page tables are shadowed.
    Shadow,
}

/// The layout of SPTEs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Format {
    /// EPT with accessed and dirty bits.
    Ept,
    /// EPT without them: lockless access tracking.
    EptNoAd,
    /// The legacy layout, which nested paging on AMD shares.
    Npt,
    /// The same as Linux 6.1 has it.
    NptV6_1,
    /// arm64 stage 2; software keeps the access flag.
    Stage2,
    /// arm64 stage 2; hardware keeps the access flag and the dirty state.
    Stage2Hd,
}

/// What a fast fault on an indirect shadow page would do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum IndirectFastFault {
    /// It marks `sp->gfns[index]`, read before the cmpxchg.
    Gfns,
    /// It marks the gfn of its own guest walk.
    Walk,
    /// The document's proposal: it holds a reference on the page over the cmpxchg. Runs with every
    /// guard present.
    Pinned,
}

/// A memslot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot {
    /// Its first frame.
    pub base: Gfn,
    /// How many frames.
    pub pages: u8,
    /// True if dirty logging is on.
    pub log: bool,
}

/// What backs a guest frame in the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backing {
    /// The frame.
    pub gfn: Gfn,
    /// The host page; `None`: swapped out.
    pub pfn: Option<Pfn>,
    /// The host maps it writable.
    pub writable: bool,
    /// The page's own dirty flag.
    pub dirty: bool,
}

/// A guest page table and its entries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GuestTable {
    /// The frame that holds it.
    pub gfn: Gfn,
    /// Its entries.
    pub entries: Vec<Option<GuestEntry>>,
}

/// A present guest page-table entry, its A and D bits set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GuestEntry {
    /// The frame that it points to.
    pub gfn: Gfn,
    /// The guest may write.
    pub writable: bool,
}

/// What an address is relative to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Address {
    /// A guest-physical page: direct paging.
    Gfn(Gfn),
    /// A guest-virtual page: shadow paging.
    Gva(Gva),
}

/// An SPTE that is there before the first step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InitialSpte {
    /// What it translates.
    pub address: Address,
    /// The host page that it maps.
    pub pfn: Pfn,
    /// Host-writable.
    pub host_writable: bool,
    /// MMU-writable.
    pub mmu_writable: bool,
    /// Writable now. In a logged slot the frame's bit in the dirty bitmap is then set from the
    /// start.
    pub writable: bool,
    /// Accessed (formats with the bit).
    pub accessed: bool,
    /// Dirty (formats with the bit).
    pub dirty: bool,
    /// Marked for access tracking (`ept-no-ad`).
    pub tracked: bool,
    /// Every vCPU that runs guest code may have it in its TLB from the start.
    pub cached: bool,
}

/// A thread and its program.
#[derive(Clone, PartialEq, Debug)]
pub struct Thread {
    /// Its name in reports.
    pub name: String,
    /// What it is.
    pub kind: ThreadKind,
    /// How it translates (vCPUs).
    pub paging: Paging,
    /// What it does.
    pub run: Vec<Op>,
}

/// What a thread is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ThreadKind {
    /// A vCPU, pinned to a CPU of its own.
    Vcpu,
    /// The host's memory manager.
    Host,
    /// User space: the VMM.
    User,
}

/// An operation of a thread. Who may run it is in [`Op::runs_on`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Op {
    /// The guest loads, stores or fetches.
    Guest(Access, Address),
    /// The guest stores a page-table entry through a translation: `set-gpte gva1[0] gfn2`.
    SetGpte(Address, u8, Gfn),
    /// The guest stores a page-table entry by an instruction that KVM emulates:
    /// `emulate-gpte gfn3[0] gfn2`.
    EmulateGpte(Gfn, u8, Gfn),
    /// The guest invalidates a translation.
    Invlpg(Gva),
    /// An asynchronous page fault completes: the page is mapped speculatively.
    Prefault(Gfn),
    /// The host unmaps and reclaims a page.
    SwapOut(Gfn),
    /// The host brings a page in, by an access of its own.
    SwapIn(Gfn),
    /// The host merges two pages into one read-only page: the second takes the first's.
    KsmMerge(Gfn, Gfn),
    /// The host gives a shared page its own copy.
    CowBreak(Gfn),
    /// The host moves a mapping to another page, read-only, without start and end around it.
    ChangePte(Gfn, Pfn),
    /// The host ages a page (`clear_flush_young`).
    Age(Gfn),
    /// The host ages a page without a flush (`clear_young`).
    ClearYoung(Gfn),
    /// The shrinker zaps the oldest shadow page that is not a root.
    Shrink,
    /// GET_DIRTY_LOG of a slot, by index.
    GetDirtyLog(u8),
    /// User space copies the pages that its last harvest named.
    CopyHarvested,
    /// User space forgets what it harvested and has not copied.
    DropHarvested,
    // Memslots, buses, interrupt routing.
    /// KVM_SET_USER_MEMORY_REGION with size 0.
    DeleteMemslot(u8),
    /// The guest writes to the address of a device in the kernel.
    Mmio,
    /// KVM_IOEVENTFD: adds a device to the bus.
    RegisterMmio,
    /// KVM_IOEVENTFD: takes it off again. True: there is no memory for the smaller array.
    UnregisterMmio(bool),
    /// KVM_SET_GSI_ROUTING.
    SetGsiRouting,
    /// KVM_IRQ_LINE.
    IrqLine,
    /// KVM_CREATE_IRQCHIP.
    CreateIrqchip,
    /// KVM_CREATE_PIT.
    CreatePit,
    /// A vCPU switches AVIC off for an interrupt window, or on after it.
    AvicIrqWindow,
    /// User space has a page reclaimed: MADV_PAGEOUT.
    MadvisePageout(Gfn),

    // VMs, vCPUs, CPUs.
    /// User space creates another VM.
    CreateVm,
    /// User space destroys the VM that was created last.
    DestroyVm,
    /// User space creates a vCPU, which does not run.
    CreateVcpu,
    /// User space encrypts the state of every vCPU (KVM_SEV_LAUNCH_UPDATE_VMSA).
    UpdateVmsa,
    /// User space writes the TSC of a vCPU.
    SetTsc(CpuId),
    /// The mitigation of iTLB multihit changes, for every VM.
    SetNxHugePages,
    /// User space gives an eventfd to a connection of Hyper-V, and takes it back.
    HvEventfd,
    /// The guest sets its hypercall page (Hyper-V).
    HvSetMsr,
    /// The guest turns its APIC off.
    SetApicBase,
    /// The guest sends an event (Xen).
    XenEvtchnSend,
    /// The guest powers the next vCPU on (arm64).
    PsciCpuOn,
    /// The guest halts, until an interrupt is posted or its timer fires.
    Halt,
    /// A device posts an interrupt to a vCPU.
    PiWakeup(CpuId),
    /// A physical CPU comes up.
    CpuOnline,
    /// A physical CPU goes.
    CpuOffline,

    // Locks themselves.
    /// One of the operations that follow, so many of them: which one is up to the scheduler. None
    /// of those is a choice itself, or takes or gives back a lock.
    OneOf(u8),
    /// Takes a lock, in a program that is made of locks: `lock kvm->lock`, `read-lock mmap_lock`.
    Lock(LockRef, Mode),
    /// Gives back a lock that the program took: `unlock kvm->lock`, `read-unlock mmap_lock`.
    Unlock(LockRef, Mode),
    /// Waits for a grace period: `synchronize kvm->srcu`.
    Synchronize(LockRef),
}

/// A lock that a program names.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LockRef {
    /// What lock it is.
    pub class: LockClass,
    /// Whose: the vCPU or CPU, where there are several.
    pub index: u8,
}

/// The most witnesses of a scenario: machines note in one word which they have seen.
pub const SOMETIMES_MAX: usize = 64;

/// A thing to be seen at least once: one mark, or marks in order.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Witness {
    /// As the file has it.
    pub text: String,
    /// Each must come after the one before it; seeing the first again starts over.
    pub moments: Vec<Moment>,
}

/// One moment of a witness.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Moment {
    /// What happened.
    pub mark: Mark,
    /// In which thread, by index; `None`: any.
    pub thread: Option<u8>,
}

/// What is expected of a variant.
#[derive(Clone, PartialEq, Debug)]
pub struct Expect {
    /// The guards that it lacks.
    pub without: GuardSet,
    /// What is expected.
    pub verdict: Expected,
    /// The property that is violated.
    pub property: Option<Property>,
    /// What the counterexample must pass.
    pub story: Option<Witness>,
    /// Executions that `dpor` counts, where pinned.
    pub dpor_executions: Option<u64>,
    /// What loom says of it.
    pub loom: Engine,
    /// What shuttle says of it.
    pub shuttle: Engine,
    /// Why, in the author's words.
    pub because: String,
}

/// An expected verdict.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expected {
    /// Nothing is violated.
    Holds,
    /// The named property is violated.
    Violated,
}

/// What an engine other than the simulator is expected to say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Engine {
    /// It is not run.
    #[default]
    Skip,
    /// It finds nothing.
    Holds,
    /// It finds the violation.
    Violated,
}

impl Scenario {
    /// True if somebody waits for vCPU threads, or for readers of an SRCU: the locks that KVM_RUN
    /// and notifiers take are steps then, and free of charge otherwise.
    pub fn contends(&self) -> bool {
        self.threads.iter().flat_map(|t| &t.run).chain(&self.at_stop).any(|op| op.contends())
    }
}

/// A program as the file has it: each operation alone, and each choice with its alternatives.
pub fn steps(program: &[Op]) -> impl Iterator<Item = &[Op]> {
    let mut rest = program;
    core::iter::from_fn(move || {
        let len = match *rest.first()? {
            Op::OneOf(n) => usize::from(n) + 1,
            _ => 1,
        };
        let (step, after) = rest.split_at(len.min(rest.len()));
        rest = after;
        Some(if step.len() > 1 { &step[1..] } else { step })
    })
}

impl Op {
    /// See [`Scenario::contends`].
    fn contends(self) -> bool {
        match self {
            // Memslots, buses, interrupt routing.
            Op::DeleteMemslot(_)
            | Op::Mmio
            | Op::RegisterMmio
            | Op::UnregisterMmio(_)
            | Op::SetGsiRouting
            | Op::IrqLine
            | Op::CreateIrqchip
            | Op::CreatePit
            | Op::AvicIrqWindow => true,
            // VMs, vCPUs, CPUs.
            Op::CreateVm
            | Op::DestroyVm
            | Op::CreateVcpu
            | Op::UpdateVmsa
            | Op::SetTsc(_)
            | Op::SetNxHugePages
            | Op::HvEventfd
            | Op::HvSetMsr
            | Op::SetApicBase
            | Op::XenEvtchnSend
            | Op::PsciCpuOn
            | Op::Halt
            | Op::PiWakeup(_)
            | Op::CpuOnline
            | Op::CpuOffline => true,
            // Locks themselves.
            Op::Lock(..) | Op::Unlock(..) | Op::Synchronize(_) => true,
            _ => false,
        }
    }

    /// True if every kind of thread runs it; [`Op::runs_on`] says nothing then.
    pub fn runs_everywhere(self) -> bool {
        matches!(self, Op::OneOf(_) | Op::Lock(..) | Op::Unlock(..) | Op::Synchronize(_))
    }

    /// Who runs it. User space may run what the host does, too: by madvise, or by touching a page.
    pub fn runs_on(self) -> ThreadKind {
        match self {
            Op::Guest(..)
            | Op::SetGpte(..)
            | Op::EmulateGpte(..)
            | Op::Invlpg(_)
            | Op::Prefault(_) => ThreadKind::Vcpu,
            Op::GetDirtyLog(_) | Op::CopyHarvested | Op::DropHarvested => ThreadKind::User,
            // Memslots, buses, interrupt routing.
            Op::Mmio | Op::AvicIrqWindow => ThreadKind::Vcpu,
            Op::DeleteMemslot(_)
            | Op::RegisterMmio
            | Op::UnregisterMmio(_)
            | Op::SetGsiRouting
            | Op::IrqLine
            | Op::CreateIrqchip
            | Op::CreatePit
            | Op::MadvisePageout(_) => ThreadKind::User,
            // VMs, vCPUs, CPUs.
            Op::HvSetMsr | Op::SetApicBase | Op::XenEvtchnSend | Op::PsciCpuOn | Op::Halt => {
                ThreadKind::Vcpu
            }
            Op::CreateVm
            | Op::DestroyVm
            | Op::CreateVcpu
            | Op::UpdateVmsa
            | Op::SetTsc(_)
            | Op::SetNxHugePages
            | Op::HvEventfd => ThreadKind::User,
            _ => ThreadKind::Host,
        }
    }
}
