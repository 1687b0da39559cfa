//! Page-modification logging of VMX: hardware keeps a log of what guests write.
//!
//! Guarantee: a frame whose D a CPU has set is in a harvest, or its bit is set, or the vCPU has not
//! handled its exit yet. Mechanism: the CPU writes the frame to a buffer of the vCPU as it sets D,
//! and exits where that is full; every exit empties the buffer into the dirty bitmap. A harvest
//! fetches the bitmap, then clears D. Linux v5.10 `arch/x86/kvm/vmx/vmx.c`; Intel SDM volume 3,
//! page-modification logging.

use crate::guard::Guard;
use crate::host::Host;
use crate::kernel;
use crate::mark::Mark;
use crate::platform::{Local, Platform};
use crate::types::{CpuId, CpuMask, Gfn};
use crate::vm::{Mmu, Vm};
use crate::x86::mmu::ShadowMmu;

/// `PML_ENTITY_NUM`: 512 in hardware.
pub const PML_ENTITY_NUM: u32 = 2;

/// Bits of an entry.
const ENTITY_BITS: u32 = 8;

/// `vmx->pml_pg`, and `GUEST_PML_INDEX`: the frames that were logged, counted from 1, the last in
/// the low byte.
#[derive(Debug)]
pub struct PmlBuffer<P: Platform>(P::Local);

impl<P: Platform> PmlBuffer<P> {
    /// An empty one.
    pub(crate) fn new(p: &P) -> Self {
        PmlBuffer(p.local(0))
    }

    /// Hardware that is to set D exits instead (`EXIT_REASON_PML_FULL`).
    pub fn is_full(&self) -> bool {
        self.0.get() >> (ENTITY_BITS * (PML_ENTITY_NUM - 1)) != 0
    }

    /// Hardware sets D for this frame.
    pub fn log(&self, gfn: Gfn) {
        self.0.set(self.0.get() << ENTITY_BITS | (gfn.0 + 1));
    }

    /// Takes the last entry.
    fn take(&self) -> Option<Gfn> {
        let entries = self.0.get();
        let gfn = (entries & ((1 << ENTITY_BITS) - 1)).checked_sub(1)?;
        self.0.set(entries >> ENTITY_BITS);
        Some(Gfn(gfn))
    }
}

impl<P: Platform, H: Host> Vm<P, H, ShadowMmu<P>> {
    /// `vmx_flush_pml_buffer`: what hardware has logged goes into the dirty bitmap. First thing of
    /// every exit.
    ///
    /// Locks: the vCPU thread holds `kvm->srcu`.
    #[kernel]
    pub(super) fn vmx_flush_pml_buffer(&self, cpu: CpuId) {
        let Some(buffers) = &self.mmu.pml else { return };
        while let Some(gfn) = buffers[usize::from(cpu.0)].take() {
            self.p.guarded(Guard::PmlDrained, || self.mark_page_dirty(gfn));
            self.p.mark(Mark::PmlDrained);
        }
    }
}

impl<P: Platform, H: Host, M: Mmu<P>> Vm<P, H, M> {
    /// `kvm_flush_pml_buffers`: every vCPU leaves the guest soon, and empties its buffer. Nobody
    /// waits for that: what comes too late for this harvest is in the next one.
    pub(super) fn kvm_flush_pml_buffers(&self) {
        for cpu in (0..self.kvm.nr_vcpus).map(CpuId) {
            // No guard: the last harvest comes when no vCPU runs.
            self.kvm_vcpu_kick(cpu);
        }
    }

    /// `kvm_vcpu_kick`, from no vCPU's thread.
    fn kvm_vcpu_kick(&self, cpu: CpuId) {
        if self.kvm_request_needs_ipi(cpu, false) {
            let mut target = CpuMask::default();
            target.insert(cpu);
            self.p.smp_call_function_many(None, target, false);
        }
    }
}
