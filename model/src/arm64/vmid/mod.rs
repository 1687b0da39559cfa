//! VMIDs: what tells the TLB entries of one VM from those of another. Linux v5.10
//! `arch/arm64/kvm/arm.c`; since 5.18 `arch/arm64/kvm/vmid.c`.
//!
//! Guarantee: no guest is translated by what a CPU has cached of another VM, and a flush of a VM
//! reaches all that is cached of it. Mechanism: there are fewer VMIDs than VMs. They are given out
//! one by one; when there is none left a *generation* ends, every TLB is emptied, and who has one
//! of an old generation gets another before it runs. What differs is what becomes of guests that
//! run meanwhile: in 5.10 they are forced out (`v5_10.rs`), since 5.18 they go on, and their VMIDs
//! are theirs in the new generation, too (`v5_18.rs`).
//!
//! Here all VMIDs have been given out, to VMs that are gone. VM 0 is the one that is modelled;
//! VM 1, if there is one, has its tables and its memory, and nobody takes that back.

mod v5_10;
mod v5_18;

use super::pgtable::{Stage2Mmu, Version};
use crate::host::Host;
use crate::mark::Mark;
use crate::platform::Ordering::Relaxed;
use crate::platform::{Local, Platform, Word};
use crate::types::{CpuId, Vmid};
use crate::virt::VCPUS;
use crate::vm::Vm;

/// The VMs that share the VMIDs.
const VMS: usize = 2;

/// VMIDs of a run.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct VmidConfig {
    /// `kvm_arm_vmid_bits`: there are so many bits to a VMID, 8 or 16 in hardware. VMID 0 is no
    /// guest's.
    pub bits: u8,
    /// VM 0 has VMID 1 of this generation. Else it has none yet.
    pub given: bool,
    /// The vCPUs of VM 1, a bit each.
    pub other_vm: u8,
}

/// VMIDs are of so many bits at most.
pub const VMID_BITS_MAX: u8 = 2;

impl VmidConfig {
    /// The VM that a vCPU is of.
    pub const fn vm_of(self, vcpu: CpuId) -> usize {
        (self.other_vm >> vcpu.0 & 1) as usize
    }
    /// The VMIDs that there are, 0 included.
    pub const fn space(self) -> u8 {
        1 << self.bits
    }
}

/// All that is about VMIDs: who gives them out, and what vCPUs run with.
#[derive(Debug)]
pub struct Vmids<P: Platform> {
    config: VmidConfig,
    pub(super) allocator: Allocator<P>,
    vcpus: [Loaded<P>; VCPUS],
}

#[derive(Debug)]
pub(super) enum Allocator<P: Platform> {
    /// To 5.17.
    V5_10(v5_10::Generations<P>),
    /// Since 5.18.
    V5_18(v5_18::ActiveVmids<P>),
}

/// What a vCPU thread, and the CPU that it is on, keep.
#[derive(Debug)]
pub(super) struct Loaded<P: Platform> {
    /// `vcpu->cpu`.
    pub(super) cpu: P::Local,
    /// `mmu->last_vcpu_ran`: the CPUs on which it was the last vCPU of its VM, a bit each. Nobody
    /// else comes to them.
    pub(super) last_ran: P::Local,
    /// The VMID in `VTTBR_EL2` while the vCPU runs, or since it was loaded.
    pub(super) vttbr: P::Local,
}

impl<P: Platform> Vmids<P> {
    pub(super) fn new(p: &P, version: Version, config: VmidConfig) -> Self {
        let loaded = |i: usize| {
            // A VM that has a VMID has run.
            let ran = config.given && config.vm_of(CpuId(i as u8)) == 0;
            let (cpu, last_ran) = (i as u64, u64::from(ran) << i);
            Loaded { cpu: p.local(cpu), last_ran: p.local(last_ran), vttbr: p.local(0) }
        };
        let allocator = match version {
            Version::V5_10 => Allocator::V5_10(v5_10::Generations::new(p, config)),
            Version::V6_1 | Version::V6_12 => Allocator::V5_18(v5_18::ActiveVmids::new(p, config)),
        };
        Vmids { config, allocator, vcpus: core::array::from_fn(loaded) }
    }

    /// What it was made from.
    pub fn config(&self) -> VmidConfig {
        self.config
    }

    /// `vcpu->cpu`.
    pub fn cpu_of(&self, vcpu: CpuId) -> CpuId {
        CpuId(self.loaded(vcpu).cpu.get() as u8)
    }

    /// The VMID that a vCPU runs with.
    pub fn vttbr_of(&self, vcpu: CpuId) -> Vmid {
        Vmid(self.loaded(vcpu).vttbr.get() as u8)
    }

    /// The VMID that VM 0 has. `peek` looks at a word without a step.
    pub fn of_vm0(&self, peek: impl Fn(&P::Word) -> u64) -> Vmid {
        self.number(peek(self.word(0)))
    }

    /// Where the VMID of a VM is.
    fn word(&self, vm: usize) -> &P::Word {
        match &self.allocator {
            Allocator::V5_10(generations) => generations.vmid(vm),
            Allocator::V5_18(active) => active.id(vm),
        }
    }

    /// What such a word says, without a generation.
    fn number(&self, word: u64) -> Vmid {
        Vmid((word % u64::from(self.config.space())) as u8)
    }

    pub(super) fn loaded(&self, vcpu: CpuId) -> &Loaded<P> {
        &self.vcpus[usize::from(vcpu.0)]
    }
}

impl<P: Platform, H: Host> Vm<P, H, Stage2Mmu<P>> {
    /// The VMID that a VM has now, for `VTTBR_EL2`: `kvm_get_vttbr`.
    pub(super) fn kvm_get_vttbr(&self, vmids: &Vmids<P>, vm: usize) -> Vmid {
        // ORDERING: relaxed: in 5.10 the generation, which was read before, orders it; since 5.18
        // the lock or the cmpxchg of this CPU's own active VMID. Not judged under SC.
        vmids.number(vmids.word(vm).load(Relaxed))
    }

    /// `__tlb_switch_to_guest`: what is invalidated next is of this VM, by the VMID that it has
    /// now. One that a new generation has taken from it since names nothing of this VM: that went
    /// when the generation ended.
    ///
    /// Locks: any or none; interrupts are off until `__tlb_switch_to_host`.
    pub(super) fn __tlb_switch_to_guest(&self) -> Option<Vmid> {
        self.mmu.vmids.as_ref().map(|vmids| self.kvm_get_vttbr(vmids, 0))
    }

    /// The VM of this vCPU is destroyed, and another begins in its place, on the same tables and
    /// pages. What is cached of the first stays: destroying one flushes nothing.
    ///
    /// Locks: `vcpu->mutex`. The vCPU is on no CPU.
    pub fn replace_vm(&self, vcpu: CpuId) {
        let Some(vmids) = &self.mmu.vmids else { return };
        let vm = vmids.config.vm_of(vcpu);
        match &vmids.allocator {
            Allocator::V5_10(generations) => self.forget_vmid_v5_10(generations, vm),
            Allocator::V5_18(active) => self.forget_vmid_v5_18(active, vm),
        }
        vmids.loaded(vcpu).last_ran.set(0);
        self.p.mark(Mark::VmReplaced);
    }
}
