//! Guest stores to its own page tables that KVM emulates, and INVLPG.
//!
//! Linux v5.10 `arch/x86/kvm/mmu/mmu.c`. Not modelled: write flooding, misaligned stores, prefetch
//! of the new entry, for which alone 5.10 reads the entry again under the lock
//! (`mmu_pte_write_fetch_gpte`). So each SPTE that was present has gone for good, and the flush is
//! owed whatever the new entry says; 5.10 owes none where the prefetch left the page and as much
//! permission.

use super::ShadowMmu;
use super::paging::all_pages;
use crate::guard::Guard;
use crate::host::Host;
use crate::kernel;
use crate::platform::Ordering::Relaxed;
use crate::platform::{Platform, Word};
use crate::types::{CpuId, Gfn, Gva, SpteLoc};
use crate::virt::KVM_REQ_TLB_FLUSH_CURRENT;
use crate::vm::Vm;

impl<P: Platform, H: Host> Vm<P, H, ShadowMmu<P>> {
    /// `kvm_mmu_pte_write`: guest memory has the new entry; drop what shadows the old one.
    ///
    /// Locks: takes `mmu_lock`.
    #[kernel]
    pub(super) fn kvm_mmu_pte_write(&self, cpu: CpuId, table: Gfn, byte: u8) {
        // ORDERING: relaxed: pairs with account_shadowed. A full barrier is missing here between
        // the caller's store of the gpte and this load: a hole in 5.10 to 6.1, closed in 6.12.
        if self.mmu.indirect_shadow_pages.load(Relaxed) == 0 {
            return;
        }
        let mut l = self.kvm.mmu_lock.lock();
        let mut remote_flush = false;
        for sp in all_pages() {
            if !l.mmu.page(sp).shadows(table) {
                continue;
            }
            // An entry of a guest table is one byte here (`Gpte`).
            let loc = SpteLoc { sp, index: byte };
            let entry = self.mmu_spte_get_lockless(loc);
            self.p.guarded(Guard::PteWriteZaps, || self.mmu_page_zap_pte(&mut l, loc));
            remote_flush |= self.mmu.format.is_shadow_present(entry);
        }
        if remote_flush && self.p.guarded(Guard::PteWriteFlushes, || true) {
            self.kvm_flush_remote_tlbs(Some(cpu));
        } else {
            // No guard: no SPTE of the entry was present, and what is not present is in no TLB.
            self.kvm_make_request(cpu, KVM_REQ_TLB_FLUSH_CURRENT);
        }
    }

    /// `kvm_mmu_invlpg`: what shadows the page goes, where its table is out of sync; then the
    /// vCPU's own translation, which `flush` drops. (5.10 drops that first; the vCPU is not in the
    /// guest in between.)
    ///
    /// Locks: takes `mmu_lock`.
    #[kernel]
    pub(super) fn kvm_mmu_invlpg(&self, cpu: CpuId, gva: Gva, flush: impl FnOnce()) {
        self.vcpu_clear_mmio_info(cpu, Some(gva));
        let mut l = self.kvm.mmu_lock.lock();
        if self.mmu.unsync_children.is_some() {
            self.invlpg(&mut l, cpu, gva);
        }
        drop(l);
        flush();
    }
}
