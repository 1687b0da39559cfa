//! The vocabulary of programs: one table, from which parsing, messages and the manual are made.

use alloc::string::String;

use kvmmu_model::{Access, Gfn, Gva, Pfn};

use crate::scenario::{Address, Op, ThreadKind};

/// An operation that programs may use.
#[derive(Clone, Copy, Debug)]
pub struct Verb {
    /// Its name.
    pub name: &'static str,
    /// What follows the name.
    pub arguments: &'static [Argument],
    /// The kind of thread that may run it.
    pub who: ThreadKind,
    /// What it does, in one sentence.
    pub meaning: &'static str,
    pub(super) make: fn(&[Value]) -> Option<Op>,
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
        }
    }
}

use Argument as A;
use ThreadKind::{Host, User, Vcpu};

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
                  with no range_start and range_end around it.",
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
        meaning: "User space copies the pages that its last get-dirty-log named to the destination \
                  of the migration.",
        make: |_| Some(Op::CopyHarvested),
    },
];

fn access(access: Access, values: &[Value]) -> Option<Op> {
    match *values {
        [Value::Address(address)] => Some(Op::Guest(access, address)),
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
        Vcpu => "vCPU",
        Host => "host",
        User => "user",
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

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
        };
        for verb in VERBS {
            let values: Vec<Value> = verb.arguments.iter().map(sample).collect();
            let op = (verb.make)(&values).expect(verb.name);
            assert_eq!(op.runs_on(), verb.who, "{}", verb.name);
        }
    }
}
