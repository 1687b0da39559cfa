//! TLB maintenance of arm64, as data: what KVM invalidates by instruction, and which barriers order
//! that.
//!
//! x86 sends IPIs, and each CPU flushes its own TLB ([`crate::virt`]). arm64 has instructions that
//! reach the TLBs of all CPUs. A change of a descriptor is flushed in these steps:
//!
//! * `__kvm_tlb_flush_vmid_ipa`: `DSB ISHST`; `IPAS2E1IS`; `DSB ISH`; `VMALLE1IS`; `DSB ISH`; `ISB`
//! * `__kvm_tlb_flush_vmid_ipa_nsh`: the same on one CPU, with `NSHST`, `NSH` and without `IS`
//! * `__kvm_tlb_flush_vmid`: `DSB ISHST`; `VMALLS12E1IS`; `DSB ISH`; `ISB`
//! * `__kvm_flush_cpu_context`: `VMALLE1`; `DSB NSH`; `ISB`
//!
//! The first barrier makes the store of the descriptor visible to walks. An instruction begins an
//! invalidation; it is complete, that is, no CPU in its scope uses the old translations any more,
//! when a `DSB` of the CPU that issued it is. The instructions act on the VMID that is loaded, but
//! for `ALLE1`, which KVM uses when a generation of VMIDs ends (`__kvm_flush_vm_context`:
//! `DSB ISHST`; `ALLE1IS`; `DSB ISH`).

use core::fmt::{self, Display, Formatter};

use crate::types::{CpuId, Gfn, Vmid};

/// An invalidation: what of the VMID, and on which CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TlbiScope {
    /// What is invalidated.
    pub what: Tlbi,
    /// Where.
    pub on: TlbiOn,
    /// The VMID that is loaded; `None`: there is but one.
    pub vmid: Option<Vmid>,
}

/// What an invalidation drops, by the instruction's name without its `IS`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Tlbi {
    /// `VMALLS12E1`: everything of the VMID.
    Vmalls12e1,
    /// `IPAS2E1`: what translates one address by stage 2 alone: the leaf, and the entries of tables
    /// on the way to it. Entries that combine both stages may stay.
    Ipas2e1 {
        /// The address.
        ipa: Gfn,
        /// The level of the leaf, if the caller knows it. A CPU without FEAT_TTL ignores it.
        level: Option<u8>,
    },
    /// `VMALLE1`: stage 1, and entries that combine both stages. Those of stage 2 alone may stay.
    Vmalle1,
    /// `ALLE1`: everything, of every VMID.
    Alle1,
}

/// The CPUs that an invalidation reaches.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TlbiOn {
    /// All of them, by broadcast (`IS`, the inner shareable domain).
    InnerShareable,
    /// The CPU that issues it, which is this one.
    Local(CpuId),
}

impl TlbiScope {
    /// By broadcast (`..IS`).
    pub const fn broadcast(what: Tlbi) -> TlbiScope {
        TlbiScope { what, on: TlbiOn::InnerShareable, vmid: None }
    }
    /// On the CPU that issues it alone.
    pub const fn local(what: Tlbi, cpu: CpuId) -> TlbiScope {
        TlbiScope { what, on: TlbiOn::Local(cpu), vmid: None }
    }
    /// The same with this VMID loaded.
    #[must_use]
    pub const fn of(self, vmid: Option<Vmid>) -> TlbiScope {
        TlbiScope { vmid, ..self }
    }
    /// True if it is about what is cached under this VMID.
    pub fn is_of(self, vmid: Vmid) -> bool {
        self.what == Tlbi::Alle1 || self.vmid.is_none_or(|of| of == vmid)
    }
    /// True if it reaches this CPU.
    pub fn reaches(self, cpu: CpuId) -> bool {
        self.on == TlbiOn::InnerShareable || self.on == TlbiOn::Local(cpu)
    }
}

/// The instruction, as the assembler has it; an address as the frame that it is in, and the VMID if
/// there are several.
impl Display for TlbiScope {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let is = if self.on == TlbiOn::InnerShareable { "is" } else { "" };
        match self.what {
            Tlbi::Vmalls12e1 => write!(f, "tlbi vmalls12e1{is}")?,
            Tlbi::Ipas2e1 { ipa, .. } => write!(f, "tlbi ipas2e1{is}, gfn{}", ipa.0)?,
            Tlbi::Vmalle1 => write!(f, "tlbi vmalle1{is}")?,
            Tlbi::Alle1 => return write!(f, "tlbi alle1{is}"),
        }
        self.vmid.map_or(Ok(()), |vmid| write!(f, " of VMID {}", vmid.0))
    }
}

/// A data synchronisation barrier: the CPU goes on when what it waits for is complete.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Dsb {
    /// `DSB ISHST`: stores are visible to all CPUs, their walkers included. Completes no
    /// invalidation.
    Ishst,
    /// `DSB ISH`: so is everything else, and every invalidation of this CPU is complete.
    Ish,
    /// `DSB NSHST`: stores are visible to this CPU's walker.
    Nshst,
    /// `DSB NSH`: so is everything else, and the local invalidations of this CPU are complete.
    /// Those by broadcast need not be.
    Nsh,
}

impl Dsb {
    /// True if it completes invalidations on these CPUs.
    pub const fn completes(self, on: TlbiOn) -> bool {
        match self {
            Dsb::Ish => true,
            Dsb::Nsh => matches!(on, TlbiOn::Local(_)),
            Dsb::Ishst | Dsb::Nshst => false,
        }
    }
}

/// The instruction, as the assembler has it.
impl Display for Dsb {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dsb::Ishst => "dsb ishst",
            Dsb::Ish => "dsb ish",
            Dsb::Nshst => "dsb nshst",
            Dsb::Nsh => "dsb nsh",
        })
    }
}
