//! Tables that go: those that a shared walk has unlinked, since 6.2, and all of them when a VM
//! ends. Linux v6.12 `arch/arm64/kvm/mmu.c`, `arch/arm64/kvm/hyp/pgtable.c`.
//!
//! Guarantee: no shared walk reads or writes a table that was freed. Mechanism: each is inside a
//! read section of RCU, and the table is freed after a grace period. What such a walk maps in the
//! dead table meanwhile is mapped nowhere: the guest reaches the page by the block. Who unmaps
//! holds `mmu_lock` alone, so that no shared walk is under way, and frees at once.

use super::{PTRS_PER_PTE, START_LEVEL, Stage2Mmu};
use crate::guard::Guard;
use crate::host::Host;
use crate::kernel;
use crate::mark::Mark;
use crate::platform::{Platform, Rcu};
use crate::types::{SpId, SpteLoc};
use crate::vm::Vm;

use super::pte::KvmPte;

impl<P: Platform, H: Host> Vm<P, H, Stage2Mmu<P>> {
    /// `stage2_free_unlinked_table`: the table goes after a grace period.
    pub(super) fn free_unlinked_table(&self, table: SpId) {
        self.p.mark(Mark::TableUnlinked);
        self.p.guarded(Guard::S2UnlinkedRcu, || {
            if let Some(rcu) = self.mmu.rcu.as_ref().filter(|_| self.mmu.frees) {
                rcu.call(u64::from(table.0));
            }
        });
        let now = || self.kvm_pgtable_stage2_free_unlinked(table);
        self.p.without(Guard::S2UnlinkedRcu, now);
    }

    /// `stage2_free_unlinked_table_rcu_cb`, by the thread that runs callbacks.
    pub fn stage2_free_unlinked_table_rcu_cb(&self, callback: u64) {
        self.kvm_pgtable_stage2_free_unlinked(SpId(callback as u8));
    }

    /// `kvm_pgtable_stage2_destroy`: every table is freed, the root last. No CPU walks them, and no
    /// other thread.
    #[kernel]
    pub(in crate::arm64) fn kvm_pgtable_stage2_destroy(&self) {
        for at in Stage2Mmu::<P>::pgd_entries() {
            let pte = KvmPte(self.p.owned(self.mmu.ptep(at)));
            if pte.is_table(START_LEVEL) {
                self.kvm_pgtable_stage2_free_unlinked(pte.follow());
            }
            if pte.is_valid() {
                self.put_page(at.sp);
            }
        }
        self.free_table(Stage2Mmu::<P>::PGD);
    }

    /// `kvm_pgtable_stage2_free_unlinked`, of a table of the last level: what is counted in it is
    /// counted no more (`stage2_free_walker`), then it is free.
    fn kvm_pgtable_stage2_free_unlinked(&self, table: SpId) {
        for index in 0..PTRS_PER_PTE as u8 {
            let pte = self.mmu.ptep(SpteLoc { sp: table, index });
            if KvmPte(self.p.owned(pte)).is_valid() {
                self.put_page(table);
            }
        }
        self.free_table(table);
    }
}
