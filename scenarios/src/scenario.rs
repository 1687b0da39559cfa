//! A race as data: who runs what over which memory, what must hold, and what is expected.

use alloc::string::String;
use alloc::vec::Vec;

use kvmmu_model::arm64::VmidConfig;
use kvmmu_model::x86::mmu::walk::GuestWalk;
use kvmmu_model::{Gfn, Gpte, GuardSet, Gva, LockClass, Pfn};

use crate::ops::{Address, HostOp, Op, UserOp, VcpuOp, Who};
use crate::program::{OffVcpu, Program, Steps};
use crate::property::Property;
use crate::story::Story;

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
    /// Shadowed guest tables may go out of sync.
    pub unsync: bool,
    /// Page-modification logging keeps the dirty log.
    pub pml: bool,
    /// The frame of the APIC access page, which the VMCS of each vCPU names.
    pub apic_page: Option<Gfn>,
    /// CPUs have the errata of TLBI: a store that an entry has translated may be done after that
    /// was invalidated.
    pub early_completion: bool,
    /// VMIDs, and who is of another VM. `None`: there is one VM, which has one.
    pub vmid: Option<VmidConfig>,
    /// Guest memory known to KVM.
    pub slots: Vec<Slot>,
    /// How many host pages there are.
    pub host_pages: u8,
    /// What backs each guest frame before the first step, by gfn.
    pub backing: Vec<Backing>,
    /// The first frames of what the host maps by huge pages.
    pub huge: Vec<Gfn>,
    /// Those of them that are of hugetlbfs.
    pub hugetlb: Vec<Gfn>,
    /// Guest page tables; empty without shadow paging.
    pub guest_tables: Vec<GuestTable>,
    /// The gfn of the guest's root table.
    pub guest_root: Option<Gfn>,
    /// SPTEs that are there before the first step.
    pub map: Vec<InitialSpte>,
    /// The locks of its own, in the order of the file; each is [`LockClass::Own`].
    pub locks: Vec<LockClass>,
    /// One program per thread: vCPUs first, then host, user space.
    pub threads: Vec<Thread>,
    /// What user space does when every vCPU is out of KVM_RUN and all threads have ended.
    pub at_stop: Steps<OffVcpu>,
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
    /// arm64, the stage-2 MMU of 5.10, every guard present, later fixes included.
    Arm64V5_10,
    /// The same of 6.1.
    Arm64V6_1,
    /// The same of 6.12, in which faults walk together.
    Arm64V6_12,
}

/// An architecture, by what its KVM has for an MMU.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Arch {
    /// The MMU of shadow pages.
    #[default]
    X86,
    /// The stage-2 MMU.
    Arm64,
}

impl Profile {
    /// Its architecture.
    pub const fn arch(self) -> Arch {
        match self {
            Profile::Fixed | Profile::X86V6_1 => Arch::X86,
            Profile::Arm64V5_10 | Profile::Arm64V6_1 | Profile::Arm64V6_12 => Arch::Arm64,
        }
    }
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
    /// The descriptors of Linux for arm64, of [`Arch::Arm64`] alone.
    Arm64,
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
    /// It is there before the first step; else a program creates it.
    pub there: bool,
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

/// A present guest page-table entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GuestEntry {
    /// The frame that it points to.
    pub gfn: Gfn,
    /// The guest may write.
    pub writable: bool,
    /// Of the root: it maps a large page, which begins there.
    pub large: bool,
    /// A.
    pub accessed: bool,
    /// D.
    pub dirty: bool,
}

impl GuestEntry {
    /// As the guest stores it.
    pub fn gpte(self) -> Gpte {
        let bit = |is: bool, bit: u8| if is { bit } else { 0 };
        let clear = bit(!self.accessed, Gpte::A) | bit(!self.dirty, Gpte::D);
        Gpte::new(self.gfn, self.writable).with(bit(self.large, Gpte::PS)).without(clear)
    }
}

/// An entry of the guest's tables as a scenario has them at first.
pub fn read_gpte(tables: &[GuestTable], table: Gfn, index: u8) -> Option<Gpte> {
    let table = tables.iter().find(|t| t.gfn == table)?;
    let entry = (*table.entries.get(usize::from(index))?)?;
    Some(entry.gpte())
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
    /// It is of an upper level, and maps the large page that begins at its frame.
    pub large: bool,
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
    pub run: Program,
}

impl Thread {
    /// True if it is a vCPU that comes to the CPU of another one.
    pub fn moves(&self) -> bool {
        self.run.ops().any(|(_, op)| matches!(op, Op::Vcpu(VcpuOp::MoveTo(_))))
    }
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

impl ThreadKind {
    /// What messages call it.
    pub const fn name(self) -> &'static str {
        match self {
            ThreadKind::Vcpu => "vCPU",
            ThreadKind::Host => "host",
            ThreadKind::User => "user",
        }
    }

    /// True if it runs these operations. User space may do what the host does.
    pub fn runs(self, who: Who) -> bool {
        match who {
            Who::Vcpu => self == ThreadKind::Vcpu,
            Who::Host => self != ThreadKind::Vcpu,
            Who::User => self == ThreadKind::User,
            Who::Any => true,
        }
    }
}

/// The most witnesses of a scenario: machines note in one word which they have seen.
pub const SOMETIMES_MAX: usize = 64;

/// A thing to be seen at least once: one mark, or marks in order.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Witness {
    /// As the file has it.
    pub text: String,
    /// The marks.
    pub story: Story,
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
    /// The frame of the guest's leaf table for a virtual page, as its tables are at first.
    pub fn leaf_table(&self, gva: Gva) -> Option<Gfn> {
        let read = |table, index| read_gpte(&self.guest_tables, table, index);
        GuestWalk::leaf_table(self.guest_root?, gva, read)
    }

    /// The frame of a virtual page, as the guest's tables are at first.
    pub fn translate(&self, gva: Gva) -> Option<Gfn> {
        let read = |table, index| read_gpte(&self.guest_tables, table, index);
        GuestWalk::new(self.guest_root?, gva, read).map(|walk| walk.gfn)
    }

    /// Every operation of every program, and of the end.
    pub fn ops(&self) -> impl Iterator<Item = Op> {
        let threads = self.threads.iter().flat_map(|t| t.run.ops());
        threads.chain(self.at_stop.ops()).map(|(_, op)| op)
    }

    /// True if some operation is of another VM whose vCPU waits for a page.
    pub fn has_async_pf(&self) -> bool {
        self.ops().any(|op| {
            matches!(op, Op::Host(HostOp::AsyncPf) | Op::User(UserOp::CloseVm | UserOp::Rmmod))
        })
    }

    /// True if some thread runs the callbacks of RCU. Else what waits for a grace period is never
    /// freed.
    pub fn runs_rcu_callbacks(&self) -> bool {
        self.ops().any(|op| matches!(op, Op::Host(HostOp::RcuCallbacks)))
    }

    /// True if some vCPU comes to the CPU of another one.
    pub fn moves_vcpus(&self) -> bool {
        self.threads.iter().any(Thread::moves)
    }

    /// True if the VM ends before the scenario does.
    pub fn releases_vm(&self) -> bool {
        self.ops().any(|op| matches!(op, Op::User(UserOp::ReleaseVm)))
    }

    /// How many vCPUs there are.
    pub fn vcpus(&self) -> usize {
        self.threads.iter().filter(|thread| thread.kind == ThreadKind::Vcpu).count()
    }

    /// True if the VMM deletes memslots to make them again.
    pub fn recreates_memslots(&self) -> bool {
        self.ops().any(|op| matches!(op, Op::User(UserOp::RecreateMemslot(_))))
    }

    /// True if some operation contends: see [`Op::contends`](crate::ops::Op::contends).
    pub fn contends(&self) -> bool {
        self.ops().any(Op::contends)
    }
}
