//! Guest stores to its own page tables that KVM emulates, and INVLPG.
//!
//! Linux v5.10 `arch/x86/kvm/mmu/mmu.c`. Not modelled: write flooding, misaligned stores, prefetch
//! of the new entry, unsync pages.

use super::{Mmu, SHADOW_PAGES};
use crate::guard::Guard;
use crate::host::Host;
use crate::mark::Mark;
use crate::platform::Ordering::Relaxed;
use crate::platform::{Lock, Platform, Word};
use crate::spte::Gpte;
use crate::types::{CpuId, Gfn, SpId, SpteLoc};

impl<P: Platform, H: Host> Mmu<P, H> {
    /// `emulator_write_phys`: the store to guest memory, the dirty log, then the shadow.
    ///
    /// Locks: takes `mmu_lock`.
    pub fn emulator_write_phys(&self, cpu: CpuId, table: Gfn, index: u8, gpte: Gpte) {
        self.p.call("emulator_write_phys", || {
            self.host.write_gpte(table, index, gpte);
            if self.p.guard(Guard::EmulatorMarksDirty) {
                self.mark_page_dirty(table);
            }
            self.kvm_mmu_pte_write(cpu, table, index);
            self.p.mark(Mark::Emulated);
        });
    }

    /// `kvm_mmu_pte_write`: guest memory has the new entry; drop what shadows the old one.
    ///
    /// Locks: takes `mmu_lock`.
    fn kvm_mmu_pte_write(&self, cpu: CpuId, table: Gfn, index: u8) {
        self.p.call("kvm_mmu_pte_write", || {
            // ORDERING: relaxed: pairs with account_shadowed; 5.10 has no full barrier here (6.12
            // has).
            if self.indirect_shadow_pages.load(Relaxed) == 0 {
                return;
            }
            let mut l = self.mmu_lock.lock();
            let mut remote_flush = false;
            for sp in (0..SHADOW_PAGES as u8).map(SpId) {
                let page = l.pages[usize::from(sp.0)];
                if !page.is_valid() || page.role.direct || page.gfn != table {
                    continue;
                }
                let loc = SpteLoc { sp, index };
                let entry = self.mmu_spte_get_lockless(loc);
                if self.p.guard(Guard::PteWriteZaps) {
                    self.mmu_page_zap_pte(&mut l, loc);
                }
                remote_flush |= self.format.is_shadow_present(entry);
            }
            if remote_flush && self.p.guard(Guard::PteWriteFlushes) {
                self.kvm_flush_remote_tlbs(Some(cpu));
            } else {
                self.kvm_make_request(cpu, super::KVM_REQ_TLB_FLUSH_CURRENT);
            }
        });
    }

    /// `kvm_mmu_invlpg`: shadow pages are changed only where the guest's table is unsync, which
    /// none is yet; what remains is the flush of this vCPU's own translation, which `flush` does.
    ///
    /// Locks: takes `mmu_lock`.
    pub fn kvm_mmu_invlpg(&self, flush: impl FnOnce()) {
        self.p.call("kvm_mmu_invlpg", || {
            drop(self.mmu_lock.lock());
            flush();
        });
    }
}
