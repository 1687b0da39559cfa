//! What stands after a verb: each kind of argument is a type, and a row of the table below.

use core::fmt;

use kvmmu_model::{CpuId, Gfn, Gva, LockClass, Pfn};

/// What an address is relative to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Address {
    /// A guest-physical page: direct paging.
    Gfn(Gfn),
    /// A guest-virtual page: shadow paging.
    Gva(Gva),
}

/// An entry of a guest page table by the address that the guest uses.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Entry {
    /// The table.
    pub table: Address,
    /// Which entry of it.
    pub index: u8,
}

/// An entry of a guest page table by its frame.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TableEntry {
    /// The table.
    pub table: Gfn,
    /// Which entry of it.
    pub index: u8,
}

/// A guest frame that need not be in a slot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct AnyGfn(pub Gfn);

/// A memslot, counted from 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SlotIndex(pub u8);

/// A lock that a program names.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LockRef {
    /// What lock it is.
    pub class: LockClass,
    /// Whose: the vCPU or CPU, where there are several. Of a file's own locks: which one, in the
    /// order of the file.
    pub index: u8,
}

/// An argument of an operation.
pub trait Argument: Copy {
    /// How the manual and messages write it.
    const FORM: &'static str;

    /// Reads it, where it is next.
    ///
    /// # Errors
    ///
    /// What is next is no such argument.
    fn read<A: Arguments>(from: &mut A) -> Result<Self, A::Error>;

    /// Writes it as scenario files have it.
    ///
    /// # Errors
    ///
    /// Those of the formatter.
    fn write(self, f: &mut fmt::Formatter<'_>) -> fmt::Result;
}

/// Each kind of argument: who reads it, its type, its form, and its text.
macro_rules! arguments {
    ($($(#[doc = $doc:literal])+
    $name:ident: $type:ident = $form:literal, |$value:ident| $text:expr;)+) => {
        /// The arguments of an operation, read one after another. Each method fails if the next is
        /// not what its name says.
        pub trait Arguments {
            /// What is wrong with an argument.
            type Error;
            $(
                $(#[doc = $doc])+
                fn $name(&mut self) -> Result<$type, Self::Error>;
            )+
        }

        $(impl Argument for $type {
            const FORM: &'static str = $form;

            fn read<A: Arguments>(from: &mut A) -> Result<$type, A::Error> {
                from.$name()
            }
            fn write(self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let $value = self;
                f.write_fmt($text)
            }
        })+
    };
}

arguments! {
    /// `gfn1` on a vCPU with `paging = "direct"`, `gva1` on one with `paging = "shadow"`.
    address: Address = "gfnN|gvaN", |address| format_args!("{address}");
    /// An entry of a guest page table, by the address that the guest uses: `gva1[0]` or `gfn3[0]`.
    entry: Entry = "gfnN[I]|gvaN[I]", |entry| format_args!("{}[{}]", entry.table, entry.index);
    /// An entry of a guest page table, by its frame: `gfn3[0]`.
    table_entry: TableEntry = "gfnN[I]", |e| format_args!("gfn{}[{}]", e.table.0, e.index);
    /// A guest frame: `gfn1`.
    gfn: Gfn = "gfnN", |gfn| format_args!("gfn{}", gfn.0);
    /// A guest frame, in a slot or not: `gfn1`.
    any_gfn: AnyGfn = "gfnN", |any| format_args!("gfn{}", any.0.0);
    /// A guest-virtual page: `gva1`.
    gva: Gva = "gvaN", |gva| format_args!("gva{}", gva.0);
    /// A host page: `pfn1`.
    pfn: Pfn = "pfnN", |pfn| format_args!("pfn{}", pfn.0);
    /// A memslot, counted from 0: `slot0`.
    slot: SlotIndex = "slotN", |slot| format_args!("slot{}", slot.0);
    /// A lock: `kvm->lock`, `vcpu0->mutex`, `kvm->srcu`.
    lock: LockRef = "LOCK", |lock| format_args!("{lock}");
    /// A vCPU of the scenario: `vcpu0`.
    vcpu: CpuId = "vcpuN", |vcpu| format_args!("vcpu{}", vcpu.0);
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Address::Gfn(gfn) => gfn.write(f),
            Address::Gva(gva) => gva.write(f),
        }
    }
}

/// The name of the lock, as traces have it.
impl fmt::Display for LockRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match LockRef::around(self.class) {
            Some((stem, rest)) => write!(f, "{stem}{}{rest}", self.index),
            None => f.write_str(self.class.info().short),
        }
    }
}

impl LockRef {
    /// What stands around the number of the vCPU or CPU, where each has a lock of this class.
    pub const fn around(class: LockClass) -> Option<(&'static str, &'static str)> {
        match class {
            LockClass::VcpuMutex => Some(("vcpu", "->mutex")),
            LockClass::BlockedVcpuOnCpuLock => Some(("cpu", ".blocked_vcpu_on_cpu_lock")),
            _ => None,
        }
    }
}
