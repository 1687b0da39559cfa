//! The APIC access page, which the VMCS of each vCPU names beside the SPTEs.
//!
//! Guarantee: when the host frees the page, no vCPU runs with a VMCS that names it. Mechanism: the
//! host asks between the change of its own entry and the end of the invalidation, and every vCPU is
//! made to look the page up again before it enters. One that looks it up before the host's entry
//! has changed finds the old page, and is asked after that. Linux v5.10 `arch/x86/kvm/x86.c`,
//! `arch/x86/kvm/vmx/vmx.c`. Not modelled: what hardware does with accesses to the page, nested
//! guests; the page has a memslot of its own in the kernel.

use crate::guard::Guard;
use crate::host::Host;
use crate::kernel;
use crate::mark::Mark;
use crate::platform::{Local, Platform};
use crate::types::{CpuId, Gfn, GfnRange, Pfn};
use crate::virt::memslots::MemslotFound;
use crate::virt::{KVM_REQ_APIC_PAGE_RELOAD, VCPUS};
use crate::vm::{Mmu, Vm};

/// The page, and what the VMCS of each vCPU says of it.
#[derive(Debug)]
pub struct ApicAccessPage<P: Platform> {
    /// Its frame (`APIC_DEFAULT_PHYS_BASE`).
    pub gfn: Gfn,
    /// `APIC_ACCESS_ADDR` of the VMCS, by vCPU. Only the vCPU's own thread touches it.
    apic_access_addr: [P::Local; VCPUS],
}

impl<P: Platform> ApicAccessPage<P> {
    /// This frame, which has this page.
    pub fn new(p: &P, gfn: Gfn, pfn: Pfn) -> Self {
        ApicAccessPage { gfn, apic_access_addr: core::array::from_fn(|_| p.local(pfn.0)) }
    }

    /// What hardware takes for the page.
    pub fn of(&self, cpu: CpuId) -> Pfn {
        Pfn(self.apic_access_addr[usize::from(cpu.0)].get())
    }
}

impl<P: Platform, H: Host, M: Mmu<P>> Vm<P, H, M> {
    /// `kvm_vcpu_reload_apic_access_page`, `vmx_set_apic_access_page_addr`: looks the page up and
    /// writes it to the VMCS. It is not kept: who takes it back asks for another reload. `flush` is
    /// the hardware's own TLB flush (`vmx_flush_tlb_current`).
    ///
    /// Locks: the vCPU thread holds `kvm->srcu`; may sleep.
    #[kernel]
    pub(super) fn kvm_vcpu_reload_apic_access_page(&self, cpu: CpuId, flush: impl FnOnce()) {
        let Some(apic) = &self.kvm.apic_access_page else { return };
        // Without a memslot the VMCS stays as it is. (No scenario shares the page, which the lookup
        // would have to break.)
        if self.find_memslot(apic.gfn) != MemslotFound::Valid {
            return;
        }
        let Some(page) = self.host.gfn_to_pfn(apic.gfn, true) else { return };
        apic.apic_access_addr[usize::from(cpu.0)].set(page.pfn.0);
        flush();
        self.host.kvm_release_pfn_clean(page.pfn);
        self.p.mark(Mark::ApicPageReloaded);
    }

    /// `kvm_arch_mmu_notifier_invalidate_range`: the host's entries of these frames have changed,
    /// and the invalidation has not ended yet.
    ///
    /// Locks: any or none.
    pub fn kvm_arch_mmu_notifier_invalidate_range(&self, frames: GfnRange) {
        self.p.guarded(Guard::ApicReloadAfterUnmap, || self.request_apic_reload(frames));
    }

    /// What kernels to 5.7 did in `range_start`, when the host's entry was as before.
    pub(crate) fn apic_reload_in_range_start(&self, frames: GfnRange) {
        self.p.without(Guard::ApicReloadAfterUnmap, || self.request_apic_reload(frames));
    }

    fn request_apic_reload(&self, frames: GfnRange) {
        if self.kvm.apic_access_page.as_ref().is_some_and(|apic| frames.contains(apic.gfn)) {
            self.kvm_make_all_cpus_request(None, KVM_REQ_APIC_PAGE_RELOAD);
        }
    }
}
