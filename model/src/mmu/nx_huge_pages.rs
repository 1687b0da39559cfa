//! The iTLB multihit mitigation is turned on or off: every VM builds its tables anew.
//!
//! Linux v5.10 `arch/x86/kvm/mmu/mmu.c`. Not modelled: the recovery threads, which it wakes.

use super::shadow_page::InvalidList;
use super::{Mmu, SHADOW_PAGES};
use crate::host::Host;
use crate::mark::Mark;
use crate::platform::{Lock, Platform};
use crate::types::SpId;

impl<P: Platform, H: Host> Mmu<P, H> {
    /// `set_nx_huge_pages`, a module parameter. Of the VMs of the list only this one has tables.
    ///
    /// Locks: takes `kvm_lock`, in it `slots_lock` of each VM, in it `mmu_lock`.
    ///
    /// # Panics
    /// In a program that is not contended.
    pub fn set_nx_huge_pages(&self) {
        self.p.call("set_nx_huge_pages", || {
            let _vm_list = self.kvm.system().kvm_lock.lock();
            let _slots_lock = self.kvm.slots_lock.lock();
            self.zap_all_but_roots();
            self.p.mark(Mark::NxHugePagesSet);
        });
    }

    /// What `kvm_mmu_zap_all_fast` does, for roots that stay: everything below them is zapped and
    /// freed.
    ///
    /// Locks: `slots_lock`; takes `mmu_lock`.
    fn zap_all_but_roots(&self) {
        self.p.call("kvm_mmu_zap_all_fast", || {
            let mut l = self.mmu_lock.lock();
            let mut invalid = InvalidList::default();
            for sp in (0..SHADOW_PAGES as u8).map(SpId) {
                let page = l.pages[usize::from(sp.0)];
                if page.is_valid() && page.root_count == 0 {
                    self.kvm_mmu_prepare_zap_page(&mut l, sp, &mut invalid);
                }
            }
            self.kvm_mmu_commit_zap_page(&mut l, invalid);
        });
    }
}
