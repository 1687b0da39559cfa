//! Guest stores to its own page tables that KVM emulates, and INVLPG.
//!
//! Linux v5.10 `arch/x86/kvm/mmu/mmu.c`. Not modelled: write flooding, misaligned stores, prefetch
//! of the new entry, unsync pages.

use super::{Mmu, SHADOW_PAGES};
use crate::guard::Guard;
use crate::host::Host;
use crate::kvm::memslots::MemslotFound;
use crate::mark::Mark;
use crate::platform::Ordering::Relaxed;
use crate::platform::{Lock, Platform, Word};
use crate::types::{CpuId, Gfn, SpId, SpteLoc};

/// What came of a store that KVM carries out for the guest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Emulated {
    /// Guest memory has it, and the shadow follows it.
    Done,
    /// The host has to break a shared page first, which runs this VM's notifiers. Tried again.
    BreakCow,
    /// It goes to a device, as [`super::RetPf::Mmio`].
    Mmio {
        /// It should not: a memslot has the frame.
        ram: bool,
    },
}

impl<P: Platform, H: Host> Mmu<P, H> {
    /// `emulator_write_phys`: the store to guest memory, the dirty log, then the shadow. Where no
    /// memslot has the frame, or one that is on its way out, the store becomes MMIO
    /// (`emulator_read_write_onepage`).
    ///
    /// Locks: takes `mmu_lock`; the vCPU thread holds `kvm->srcu`.
    pub fn emulator_write_phys(&self, cpu: CpuId, gfn: Gfn, byte: u8, value: u8) -> Emulated {
        self.p.call("emulator_write_phys", || {
            match self.find_memslot(gfn) {
                MemslotFound::Valid => {}
                MemslotFound::Invalid(_) => return Emulated::Mmio { ram: true },
                MemslotFound::None => return Emulated::Mmio { ram: false },
            }
            if !self.host.copy_to_user(gfn, byte, value) {
                return Emulated::BreakCow;
            }
            self.p.guarded(Guard::EmulatorMarksDirty, || self.mark_page_dirty(gfn));
            self.kvm_mmu_pte_write(cpu, gfn, byte);
            self.p.mark(Mark::Emulated);
            Emulated::Done
        })
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
                self.p.guarded(Guard::PteWriteZaps, || self.mmu_page_zap_pte(&mut l, loc));
                remote_flush |= self.format.is_shadow_present(entry);
            }
            if remote_flush && self.p.guarded(Guard::PteWriteFlushes, || true) {
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
