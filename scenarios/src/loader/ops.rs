//! The vocabulary of programs: one table, from which parsing, messages and the manual are made.

use alloc::string::String;

use kvmmu_model::{Access, CpuId, Gfn, Gva, Mode, Pfn};

use crate::scenario::{Address, LockRef, Op, ThreadKind};

/// An operation that programs may use.
#[derive(Clone, Copy, Debug)]
pub struct Verb {
    /// Its name.
    pub name: &'static str,
    /// What follows the name.
    pub arguments: &'static [Argument],
    /// Who may run it.
    pub who: Who,
    /// What it does, in one sentence.
    pub meaning: &'static str,
    pub(super) make: fn(&[Value]) -> Option<Op>,
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
    /// True if a thread of this kind is one of them.
    pub fn has(self, kind: ThreadKind) -> bool {
        match self {
            Self::Vcpu => kind == ThreadKind::Vcpu,
            Self::Host => kind != ThreadKind::Vcpu,
            Self::User => kind == ThreadKind::User,
            Self::Any => true,
        }
    }
}

/// What may stand after a verb.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Argument {
    /// `gfn1` on a vCPU with `paging = "direct"`, `gva1` on one with `paging = "shadow"`.
    Address,
    /// An entry of a guest page table by the address that the guest uses: `gva1[0]` or `gfn3[0]`.
    Entry,
    /// An entry of a guest page table by its frame: `gfn3[0]`.
    TableEntry,
    /// A guest frame: `gfn1`.
    Frame,
    /// A guest-virtual page: `gva1`.
    Virtual,
    /// A host page: `pfn1`.
    HostPage,
    /// A memslot, counted from 0: `slot0`.
    Slot,
    /// A lock that is taken in this way: `kvm->lock`, `vcpu0->mutex`, `kvm->srcu`.
    Lock(Mode),
    /// A vCPU of the scenario: `vcpu0`.
    VcpuName,
}

/// An argument as a program has it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value {
    Address(Address),
    Entry(Address, u8),
    TableEntry(Gfn, u8),
    Frame(Gfn),
    Virtual(Gva),
    HostPage(Pfn),
    Slot(u8),
    Lock(LockRef),
    VcpuName(CpuId),
}

impl Argument {
    /// How the manual and messages write it.
    pub const fn form(self) -> &'static str {
        match self {
            Argument::Address => "gfnN|gvaN",
            Argument::Entry => "gfnN[I]|gvaN[I]",
            Argument::TableEntry => "gfnN[I]",
            Argument::Frame => "gfnN",
            Argument::Virtual => "gvaN",
            Argument::HostPage => "pfnN",
            Argument::Slot => "slotN",
            Argument::Lock(_) => "LOCK",
            Argument::VcpuName => "vcpuN",
        }
    }
}

use Argument as A;
use Who::{Any, Host, User, Vcpu};

/// Every operation, in the order of the manual.
pub const VERBS: &[Verb] = &[
    Verb {
        name: "read",
        arguments: &[A::Address],
        who: Vcpu,
        meaning: "The guest loads from a page.",
        make: |v| access(Access::Read, v),
    },
    Verb {
        name: "write",
        arguments: &[A::Address],
        who: Vcpu,
        meaning: "The guest stores a new value to a page.",
        make: |v| access(Access::Write, v),
    },
    Verb {
        name: "fetch",
        arguments: &[A::Address],
        who: Vcpu,
        meaning: "The guest executes from a page.",
        make: |v| access(Access::Fetch, v),
    },
    Verb {
        name: "set-gpte",
        arguments: &[A::Entry, A::Frame],
        who: Vcpu,
        meaning: "The guest points entry I of one of its page tables, reached by an ordinary store \
                  through a translation, to a frame, writable.",
        make: |v| match *v {
            [Value::Entry(table, index), Value::Frame(gfn)] => Some(Op::SetGpte(table, index, gfn)),
            _ => None,
        },
    },
    Verb {
        name: "emulate-gpte",
        arguments: &[A::TableEntry, A::Frame],
        who: Vcpu,
        meaning: "The same by an instruction that KVM emulates: guest memory is written, then \
                  kvm_mmu_pte_write runs.",
        make: |v| match *v {
            [Value::TableEntry(table, index), Value::Frame(gfn)] => {
                Some(Op::EmulateGpte(table, index, gfn))
            }
            _ => None,
        },
    },
    Verb {
        name: "invlpg",
        arguments: &[A::Virtual],
        who: Vcpu,
        meaning: "The guest invalidates its translation of a page.",
        make: |v| match *v {
            [Value::Virtual(gva)] => Some(Op::Invlpg(gva)),
            _ => None,
        },
    },
    Verb {
        name: "prefault",
        arguments: &[A::Frame],
        who: Vcpu,
        meaning: "An asynchronous page fault completes: the page is mapped speculatively, without \
                  an access.",
        make: |v| frame(Op::Prefault, v),
    },
    Verb {
        name: "swap-out",
        arguments: &[A::Frame],
        who: Host,
        meaning: "The host unmaps a frame between range_start and range_end and frees its page \
                  when nobody refers to it: written out if dirty, else dropped.",
        make: |v| frame(Op::SwapOut, v),
    },
    Verb {
        name: "swap-in",
        arguments: &[A::Frame],
        who: Host,
        meaning: "The host touches a frame that is not there: it gets the free page with the \
                  lowest number and its old content.",
        make: |v| frame(Op::SwapIn, v),
    },
    Verb {
        name: "ksm-merge",
        arguments: &[A::Frame, A::Frame],
        who: Host,
        meaning: "The host merges two frames with equal contents into one read-only page: the \
                  second takes the first's.",
        make: |v| match *v {
            [Value::Frame(first), Value::Frame(second)] => Some(Op::KsmMerge(first, second)),
            _ => None,
        },
    },
    Verb {
        name: "cow-break",
        arguments: &[A::Frame],
        who: Host,
        meaning: "The host gives a frame on a shared page a writable copy of its own.",
        make: |v| frame(Op::CowBreak, v),
    },
    Verb {
        name: "change-pte",
        arguments: &[A::Frame, A::HostPage],
        who: Host,
        meaning: "The host moves a frame to another page, read-only, by the change_pte notifier \
                  alone, as hosts before 3.7 did it (later ones call range_start before it, which \
                  leaves it nothing to change): it write-protects the frame, copies its contents \
                  to the page or compares them if other frames share it, and moves the frame. It \
                  gives up where somebody holds a reference, the contents differ, or the page has \
                  another use.",
        make: |v| match *v {
            [Value::Frame(gfn), Value::HostPage(pfn)] => Some(Op::ChangePte(gfn, pfn)),
            _ => None,
        },
    },
    Verb {
        name: "age",
        arguments: &[A::Frame],
        who: Host,
        meaning: "The host asks whether a frame was used, and clears the answer \
                  (clear_flush_young).",
        make: |v| frame(Op::Age, v),
    },
    Verb {
        name: "clear-young",
        arguments: &[A::Frame],
        who: Host,
        meaning: "The same without a TLB flush (clear_young).",
        make: |v| frame(Op::ClearYoung, v),
    },
    Verb {
        name: "shrink",
        arguments: &[],
        who: Host,
        meaning: "The shrinker zaps the oldest shadow page that is not a root.",
        make: |_| Some(Op::Shrink),
    },
    Verb {
        name: "get-dirty-log",
        arguments: &[A::Slot],
        who: User,
        meaning: "The KVM_GET_DIRTY_LOG ioctl: fetch and clear the bitmap of a slot, write-protect \
                  the pages that it names, flush.",
        make: |v| match *v {
            [Value::Slot(slot)] => Some(Op::GetDirtyLog(slot)),
            _ => None,
        },
    },
    Verb {
        name: "copy-harvested",
        arguments: &[],
        who: User,
        meaning: "User space copies the pages that were harvested since the last copy to the \
                  destination of the migration: those of every get-dirty-log, as a VMM collects \
                  them.",
        make: |_| Some(Op::CopyHarvested),
    },
    Verb {
        name: "drop-harvested",
        arguments: &[],
        who: User,
        meaning: "User space forgets what was harvested and not copied, as if the copy had failed \
                  and nobody remembered the log.",
        make: |_| Some(Op::DropHarvested),
    },
    // Memslots, buses, interrupt routing.
    Verb {
        name: "mmio",
        arguments: &[],
        who: Vcpu,
        meaning: "The guest writes to the address of the ioeventfds: kvm_io_bus_write.",
        make: |_| Some(Op::Mmio),
    },
    Verb {
        name: "avic-irq-window",
        arguments: &[],
        who: Vcpu,
        meaning: "The vCPU switches AVIC off for an interrupt window, or on again after it: a \
                  change of memslots from inside KVM_RUN.",
        make: |_| Some(Op::AvicIrqWindow),
    },
    Verb {
        name: "delete-memslot",
        arguments: &[A::Slot],
        who: User,
        meaning: "The KVM_SET_USER_MEMORY_REGION ioctl with size 0: the slot becomes invalid, is \
                  zapped, and is gone. Accesses to its frames are MMIO from then on.",
        make: |v| match *v {
            [Value::Slot(slot)] => Some(Op::DeleteMemslot(slot)),
            _ => None,
        },
    },
    Verb {
        name: "register-mmio",
        arguments: &[],
        who: User,
        meaning: "The KVM_IOEVENTFD ioctl: puts a second ioeventfd beside the one that is there \
                  from the start.",
        make: |_| Some(Op::RegisterMmio),
    },
    Verb {
        name: "unregister-mmio",
        arguments: &[],
        who: User,
        meaning: "The same ioctl takes the second ioeventfd off the bus and frees it.",
        make: |_| Some(Op::UnregisterMmio(false)),
    },
    Verb {
        name: "unregister-mmio-enomem",
        arguments: &[],
        who: User,
        meaning: "The same, and there is no memory for the smaller array: the bus is given up with \
                  all its devices.",
        make: |_| Some(Op::UnregisterMmio(true)),
    },
    Verb {
        name: "set-gsi-routing",
        arguments: &[],
        who: User,
        meaning: "The KVM_SET_GSI_ROUTING ioctl: a new table of routes; the old one is freed after \
                  a grace period of kvm->irq_srcu.",
        make: |_| Some(Op::SetGsiRouting),
    },
    Verb {
        name: "irq-line",
        arguments: &[],
        who: User,
        meaning: "The KVM_IRQ_LINE ioctl: routes an interrupt by the table.",
        make: |_| Some(Op::IrqLine),
    },
    Verb {
        name: "create-irqchip",
        arguments: &[],
        who: User,
        meaning: "The KVM_CREATE_IRQCHIP ioctl: PIC and I/O APIC on the bus, and default routes.",
        make: |_| Some(Op::CreateIrqchip),
    },
    Verb {
        name: "create-pit",
        arguments: &[],
        who: User,
        meaning: "The KVM_CREATE_PIT ioctl: a timer on the bus, told of acknowledged interrupts.",
        make: |_| Some(Op::CreatePit),
    },
    Verb {
        name: "madvise-pageout",
        arguments: &[A::Frame],
        who: User,
        meaning: "The VMM has a frame swapped out (MADV_PAGEOUT): swap-out, with mmap_lock held \
                  for reading.",
        make: |v| frame(Op::MadvisePageout, v),
    },
    // VMs, vCPUs, CPUs.
    Verb {
        name: "create-vm",
        arguments: &[],
        who: User,
        meaning: "User space creates another VM: hardware_enable_all, mmu_notifier_register, \
                  vm_list.",
        make: |_| Some(Op::CreateVm),
    },
    Verb {
        name: "destroy-vm",
        arguments: &[],
        who: User,
        meaning: "User space destroys the VM that was created last, if any but the one that the \
                  scenario is about: vm_list, mmu_notifier_unregister, hardware_disable_all.",
        make: |_| Some(Op::DestroyVm),
    },
    Verb {
        name: "create-vcpu",
        arguments: &[],
        who: User,
        meaning: "User space creates a vCPU, which does not run, if there is room for one.",
        make: |_| Some(Op::CreateVcpu),
    },
    Verb {
        name: "update-vmsa",
        arguments: &[],
        who: User,
        meaning: "User space has the state of every vCPU encrypted (sev_launch_update_vmsa): it \
                  waits for each to be out of its ioctls.",
        make: |_| Some(Op::UpdateVmsa),
    },
    Verb {
        name: "set-tsc",
        arguments: &[A::VcpuName],
        who: User,
        meaning: "User space writes the TSC of a vCPU (KVM_SET_MSRS).",
        make: |v| vcpu(Op::SetTsc, v),
    },
    Verb {
        name: "set-nx-huge-pages",
        arguments: &[],
        who: User,
        meaning: "A module parameter is written, and every VM builds its tables anew.",
        make: |_| Some(Op::SetNxHugePages),
    },
    Verb {
        name: "hv-eventfd",
        arguments: &[],
        who: User,
        meaning: "User space gives an eventfd to a connection of Hyper-V and takes it back \
                  (KVM_HYPERV_EVENTFD).",
        make: |_| Some(Op::HvEventfd),
    },
    Verb {
        name: "hv-set-msr",
        arguments: &[],
        who: Vcpu,
        meaning: "The guest names gfn0 its hypercall page (Hyper-V), and KVM writes to it.",
        make: |_| Some(Op::HvSetMsr),
    },
    Verb {
        name: "set-apic-base",
        arguments: &[],
        who: Vcpu,
        meaning: "The guest turns its APIC off: a static key changes, under cpus_read_lock.",
        make: |_| Some(Op::SetApicBase),
    },
    Verb {
        name: "xen-evtchn-send",
        arguments: &[],
        who: Vcpu,
        meaning: "The guest sends an event by a Xen hypercall.",
        make: |_| Some(Op::XenEvtchnSend),
    },
    Verb {
        name: "psci-cpu-on",
        arguments: &[],
        who: Vcpu,
        meaning: "The guest powers the next vCPU on (arm64).",
        make: |_| Some(Op::PsciCpuOn),
    },
    Verb {
        name: "halt",
        arguments: &[],
        who: Vcpu,
        meaning: "The guest halts. It sleeps until pi-wakeup or its own timer: either may come \
                  first.",
        make: |_| Some(Op::Halt),
    },
    Verb {
        name: "pi-wakeup",
        arguments: &[A::VcpuName],
        who: Host,
        meaning: "A device posts an interrupt to a vCPU; if that sleeps, pi_wakeup_handler runs.",
        make: |v| vcpu(Op::PiWakeup, v),
    },
    Verb {
        name: "cpu-online",
        arguments: &[],
        who: Host,
        meaning: "A CPU on which no vCPU runs comes up. It is offline at first.",
        make: |_| Some(Op::CpuOnline),
    },
    Verb {
        name: "cpu-offline",
        arguments: &[],
        who: Host,
        meaning: "That CPU goes.",
        make: |_| Some(Op::CpuOffline),
    },
    // Locks themselves.
    Verb {
        name: "lock",
        arguments: &[A::Lock(Mode::Exclusive)],
        who: Any,
        meaning: "Takes a mutex, a spinlock, or a read-write lock for writing.",
        make: |v| lock(|l| Op::Lock(l, Mode::Exclusive), v),
    },
    Verb {
        name: "unlock",
        arguments: &[A::Lock(Mode::Exclusive)],
        who: Any,
        meaning: "Gives it back.",
        make: |v| lock(|l| Op::Unlock(l, Mode::Exclusive), v),
    },
    Verb {
        name: "read-lock",
        arguments: &[A::Lock(Mode::Read)],
        who: Any,
        meaning: "Takes a read-write lock for reading, or begins a read section of an SRCU.",
        make: |v| lock(|l| Op::Lock(l, Mode::Read), v),
    },
    Verb {
        name: "read-unlock",
        arguments: &[A::Lock(Mode::Read)],
        who: Any,
        meaning: "Gives it back, or ends the read section.",
        make: |v| lock(|l| Op::Unlock(l, Mode::Read), v),
    },
    Verb {
        name: "synchronize",
        arguments: &[A::Lock(Mode::Synchronize)],
        who: Any,
        meaning: "Waits for a grace period of an SRCU: until every read section has ended that had \
                  begun before.",
        make: |v| lock(Op::Synchronize, v),
    },
];

fn lock(op: fn(LockRef) -> Op, values: &[Value]) -> Option<Op> {
    match *values {
        [Value::Lock(lock)] => Some(op(lock)),
        _ => None,
    }
}

fn access(access: Access, values: &[Value]) -> Option<Op> {
    match *values {
        [Value::Address(address)] => Some(Op::Guest(access, address)),
        _ => None,
    }
}

fn vcpu(op: fn(CpuId) -> Op, values: &[Value]) -> Option<Op> {
    match *values {
        [Value::VcpuName(vcpu)] => Some(op(vcpu)),
        _ => None,
    }
}

fn frame(op: fn(Gfn) -> Op, values: &[Value]) -> Option<Op> {
    match *values {
        [Value::Frame(gfn)] => Some(op(gfn)),
        _ => None,
    }
}

impl Verb {
    /// The verb and its arguments: `set-gpte gfnN[I]|gvaN[I] gfnN`.
    pub fn form(&self) -> String {
        let mut form = String::from(self.name);
        for argument in self.arguments {
            form.push(' ');
            form.push_str(argument.form());
        }
        form
    }
}

/// What a kind of thread is called in messages.
pub(super) fn kind_name(kind: ThreadKind) -> &'static str {
    match kind {
        ThreadKind::Vcpu => "vCPU",
        ThreadKind::Host => "host",
        ThreadKind::User => "user",
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use kvmmu_model::LockClass;

    use super::*;

    #[test]
    fn verbs_agree_with_the_operations_that_they_make() {
        let sample = |a: &Argument| match a {
            A::Address => Value::Address(Address::Gfn(Gfn(0))),
            A::Entry => Value::Entry(Address::Gva(Gva(0)), 0),
            A::TableEntry => Value::TableEntry(Gfn(0), 0),
            A::Frame => Value::Frame(Gfn(0)),
            A::Virtual => Value::Virtual(Gva(0)),
            A::HostPage => Value::HostPage(Pfn(0)),
            A::Slot => Value::Slot(0),
            A::Lock(_) => Value::Lock(LockRef { class: LockClass::KvmSrcu, index: 0 }),
            A::VcpuName => Value::VcpuName(CpuId(0)),
        };
        for verb in VERBS {
            let values: Vec<Value> = verb.arguments.iter().map(sample).collect();
            let op = (verb.make)(&values).expect(verb.name);
            let who = match op.runs_on() {
                _ if op.runs_everywhere() => Any,
                ThreadKind::Vcpu => Vcpu,
                ThreadKind::Host => Host,
                ThreadKind::User => User,
            };
            assert_eq!(who, verb.who, "{}", verb.name);
        }
    }
}
