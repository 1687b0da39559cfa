//! Flushing TLBs, by instruction: no request, no IPI. Linux `arch/arm64/kvm/hyp/vhe/tlb.c`.
//!
//! Guarantee: when one of these returns, no CPU uses what it drops, and every store that was made
//! by it is done. Each begins with the barrier that makes the changed descriptor visible: an
//! invalidation before it would be useless, a walk could cache the old one again. What guests run
//! by may combine both stages, and an invalidation by the address that stage 2 translates need not
//! reach that: all of stage 1 is invalidated after it, and not before it, or a walk between the two
//! makes a combined entry from one of stage 2 that is still there. The VMID of the VM is loaded for
//! that, whoever flushes.

use super::pgtable::Stage2Mmu;
use super::{Dsb, Tlbi, TlbiScope};
use crate::guard::Guard;
use crate::host::Host;
use crate::kernel;
use crate::platform::Platform;
use crate::types::{CpuId, Gfn, Vmid};
use crate::vm::Vm;

impl<P: Platform, H: Host> Vm<P, H, Stage2Mmu<P>> {
    /// `__kvm_tlb_flush_vmid_ipa`: what translates one address, and the tables on the way. `level`
    /// is that of the leaf: a CPU without FEAT_TTL ignores it.
    #[kernel]
    pub(super) fn __kvm_tlb_flush_vmid_ipa(&self, ipa: Gfn, level: u8) {
        self.p.guarded(Guard::S2TlbiPublish, || self.p.dsb(Dsb::Ishst));
        let vmid = self.__tlb_switch_to_guest();
        let stage1 = || {
            self.__tlbi(TlbiScope::broadcast(Tlbi::Vmalle1).of(vmid));
            self.p.guarded(Guard::S2TlbiWait, || self.p.dsb(Dsb::Ish));
        };
        self.p.without(Guard::S2TlbiStage2First, stage1);
        let leaf = Tlbi::Ipas2e1 { ipa, level: Some(level) };
        self.__tlbi(TlbiScope::broadcast(leaf).of(vmid));
        self.p.dsb(Dsb::Ish);
        self.p.guarded(Guard::S2TlbiStage2First, || {
            self.p.guarded(Guard::S2TlbiCombined, stage1);
        });
        self.p.isb();
    }

    /// `__kvm_tlb_flush_vmid_ipa_nsh`, since 6.5: the same on this CPU alone. For what is allowed
    /// now and was denied: nobody else is made to use it.
    #[kernel]
    pub(super) fn __kvm_tlb_flush_vmid_ipa_nsh(&self, cpu: CpuId, ipa: Gfn, level: u8) {
        self.p.guarded(Guard::S2TlbiPublish, || self.p.dsb(Dsb::Nshst));
        let vmid = self.__tlb_switch_to_guest();
        let leaf = Tlbi::Ipas2e1 { ipa, level: Some(level) };
        self.p.tlbi(TlbiScope::local(leaf, cpu).of(vmid));
        self.p.dsb(Dsb::Nsh);
        self.p.tlbi(TlbiScope::local(Tlbi::Vmalle1, cpu).of(vmid));
        self.p.dsb(Dsb::Nsh);
        self.p.isb();
    }

    /// `__kvm_tlb_flush_vmid`: everything of the VM.
    #[kernel]
    pub(super) fn __kvm_tlb_flush_vmid(&self) {
        self.p.guarded(Guard::S2TlbiPublish, || self.p.dsb(Dsb::Ishst));
        let vmid = self.__tlb_switch_to_guest();
        self.__tlbi(TlbiScope::broadcast(Tlbi::Vmalls12e1).of(vmid));
        self.p.guarded(Guard::S2TlbiWait, || self.p.dsb(Dsb::Ish));
        self.p.isb();
    }

    /// `__kvm_flush_cpu_context`: what this CPU has of stage 1, of the VM with this VMID.
    pub(super) fn __kvm_flush_cpu_context(&self, vmid: Vmid, cpu: CpuId) {
        self.p.tlbi(TlbiScope::local(Tlbi::Vmalle1, cpu).of(Some(vmid)));
        self.p.dsb(Dsb::Nsh);
        self.p.isb();
    }

    /// `__kvm_flush_vm_context`: everything of every VM, because VMIDs are given out again.
    #[kernel]
    pub(super) fn __kvm_flush_vm_context(&self) {
        self.p.guarded(Guard::S2TlbiPublish, || self.p.dsb(Dsb::Ishst));
        self.__tlbi(TlbiScope::broadcast(Tlbi::Alle1));
        self.p.dsb(Dsb::Ish);
    }

    /// `__tlbi`, by broadcast: twice, with a barrier between, where CPUs have Cortex-A55 erratum
    /// 2441007 or A76 4193800: a store that was translated before may be done after the first.
    /// What it waits for, and so all that is said of a flush, is the second.
    ///
    /// Not v5.10 to v5.10.110, which work around neither: A55 since 6.1 (commit 171df58028bf), A76
    /// since 5.10.259, 6.1.176 and 6.12.94. Those repeat one invalidation of a sequence alone,
    /// which is not modelled.
    #[track_caller]
    fn __tlbi(&self, scope: TlbiScope) {
        self.p.tlbi(scope);
        if self.mmu.early_completion {
            self.p.guarded(Guard::S2TlbiRepeat, || {
                self.p.dsb(Dsb::Ish);
                self.p.tlbi(scope);
            });
        }
    }
}
