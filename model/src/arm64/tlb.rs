//! Flushing TLBs, by instruction: no request, no IPI. Linux `arch/arm64/kvm/hyp/vhe/tlb.c`.
//!
//! Guarantee: when one of these returns, no CPU uses what it drops, and every store that was made
//! by it is done. Each begins with the barrier that makes the changed descriptor visible: an
//! invalidation before it would be useless, a walk could cache the old one again. What guests run
//! by may combine both stages, and an invalidation by the address that stage 2 translates need not
//! reach that: all of stage 1 is invalidated after it, and not before it, or a walk between the two
//! makes a combined entry from one of stage 2 that is still there. There is one VM here, and so one
//! VMID, which is loaded.

use super::pgtable::Stage2Mmu;
use super::{Dsb, Tlbi, TlbiScope};
use crate::guard::Guard;
use crate::host::Host;
use crate::kernel;
use crate::platform::Platform;
use crate::types::{CpuId, Gfn};
use crate::vm::Vm;

impl<P: Platform, H: Host> Vm<P, H, Stage2Mmu<P>> {
    /// `__kvm_tlb_flush_vmid_ipa`: what translates one address, and the tables on the way. `level`
    /// is that of the leaf: a CPU without FEAT_TTL ignores it.
    #[kernel]
    pub(super) fn __kvm_tlb_flush_vmid_ipa(&self, ipa: Gfn, level: u8) {
        let stage1 = || {
            self.p.tlbi(TlbiScope::broadcast(Tlbi::Vmalle1));
            self.p.guarded(Guard::S2TlbiWait, || self.p.dsb(Dsb::Ish));
        };
        self.p.dsb(Dsb::Ishst);
        self.p.without(Guard::S2TlbiStage2First, stage1);
        self.p.tlbi(TlbiScope::broadcast(Tlbi::Ipas2e1 { ipa, level: Some(level) }));
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
        self.p.dsb(Dsb::Nshst);
        self.p.tlbi(TlbiScope::local(Tlbi::Ipas2e1 { ipa, level: Some(level) }, cpu));
        self.p.dsb(Dsb::Nsh);
        self.p.tlbi(TlbiScope::local(Tlbi::Vmalle1, cpu));
        self.p.dsb(Dsb::Nsh);
        self.p.isb();
    }

    /// `__kvm_tlb_flush_vmid`: everything of the VM.
    #[kernel]
    pub(super) fn __kvm_tlb_flush_vmid(&self) {
        self.p.dsb(Dsb::Ishst);
        self.p.tlbi(TlbiScope::broadcast(Tlbi::Vmalls12e1));
        self.p.guarded(Guard::S2TlbiWait, || self.p.dsb(Dsb::Ish));
        self.p.isb();
    }
}
