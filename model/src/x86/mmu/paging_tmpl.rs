//! Faults of a guest whose page tables are shadowed: `FNAME(walk_addr)`, `FNAME(page_fault)` and
//! `FNAME(fetch)` of Linux v5.10 `arch/x86/kvm/mmu/paging_tmpl.h`.
//!
//! Guarantee: what is mapped is what the guest's tables said *after* they were write-protected, or
//! out of sync. Mechanism: the guest's tables are read without any lock, and each entry is read
//! again once its table is shadowed; a change means retry. Not modelled: guest A and D bits (always
//! set), prefetch.

use super::fast_fault::Fault;
use super::map::Mapping;
use super::paging::{PG_LEVEL_4K, ROOT_LEVEL, index_at};
use super::walk::{GuestWalk, ShadowWalk};
use super::{Locked, Role, ShadowMmu};
use crate::guard::Guard;
use crate::host::Host;
use crate::kernel;
use crate::mark::Mark;
use crate::platform::{Lock, Platform};
use crate::spte::Gpte;
use crate::tables::Tables;
use crate::types::{Access, CpuId, Gfn, Gva};
use crate::virt::memslots::MemslotFound;
use crate::vm::{RetPf, Vm};

impl<P: Platform, H: Host> Vm<P, H, ShadowMmu<P>> {
    /// `FNAME(walk_addr)`: walks the guest's tables. `None`: they do not allow the access.
    ///
    /// Locks: none; guest memory is read as it is.
    #[kernel]
    pub fn walk_addr(&self, root: Gfn, gva: Gva, access: Access) -> Option<GuestWalk> {
        let walk = GuestWalk::new(root, gva, |table, index| self.read_gpte(table, index))?;
        (access != Access::Write || walk.is_writable()).then_some(walk)
    }

    /// `FNAME(page_fault)`.
    ///
    /// Locks: takes `mmu_lock`; the vCPU thread holds `kvm->srcu`.
    #[kernel("FNAME(page_fault)")]
    pub fn shadow_page_fault(
        &self,
        cpu: CpuId,
        root: Gfn,
        gva: Gva,
        access: Access,
        present: bool,
    ) -> RetPf {
        self.p.checkpoint(present);
        let fault = Fault { cpu, page: gva.0, access, present };
        let write = access == Access::Write;
        let Some(walk) = self.walk_addr(root, gva, access) else { return RetPf::GuestFault };
        if let Some(ret) = self.indirect_fast_page_fault(fault, &walk) {
            return ret;
        }
        let gfn = walk.gfn();
        if self.page_fault_handle_page_track(fault, gfn) {
            return RetPf::Emulate;
        }
        self.p.checkpoint(walk);
        let (seq, page) = match self.lookup(gfn, write) {
            Ok(found) => found,
            Err(ret) => return ret,
        };
        let release = || self.host.kvm_release_pfn_clean(page.pfn);
        self.p.without(Guard::FaultHoldsPage, release);
        let ret = {
            let mut l = self.kvm.mmu_lock.lock();
            if self.mmu_notifier_retry(&l, seq) {
                RetPf::RetryAfter(seq)
            } else {
                self.p.mark(Mark::SlowFault);
                let mapping = Mapping::of_fault(fault, gfn, page, walk.is_writable());
                self.fetch(&mut l, gva, &walk, mapping)
            }
        };
        self.p.checkpoint((page.pfn, ret));
        self.p.guarded(Guard::FaultHoldsPage, release);
        ret
    }

    /// `FNAME(fetch)`: shadows the guest's tables that are not shadowed yet, reads each guest entry
    /// again after its table was write-protected, then maps.
    ///
    /// Locks: `mmu_lock`.
    #[kernel("FNAME(fetch)")]
    fn fetch(&self, l: &mut Locked, gva: Gva, walk: &GuestWalk, m: Mapping) -> RetPf {
        if self.gpte_changed(walk, gva, ROOT_LEVEL) {
            return RetPf::Retry;
        }
        let mut at = ShadowWalk::new(self.mmu.root(m.cpu), gva.0);
        while at.level > PG_LEVEL_4K {
            let spte = self.mmu_spte_get_lockless(at.loc);
            let below = at.level - 1;
            let linked =
                self.mmu.format.is_shadow_present(spte).then(|| self.mmu.format.child(spte));
            let child = linked.unwrap_or_else(|| {
                let role = Role::indirect(below, walk.access_above(below));
                self.kvm_mmu_get_page(l, Some(m.cpu), walk.table(below), role)
            });
            // The table is write-protected now: whoever changes it goes through kvm_mmu_pte_write,
            // which takes the lock and zaps what shadows the old entry.
            if self.gpte_changed(walk, gva, below) {
                return RetPf::Retry;
            }
            if linked.is_none() {
                self.link_shadow_page(l, at.loc, child);
            }
            at = at.next(child);
        }
        self.mmu_set_spte(l, at.loc, m)
    }

    /// Reads an entry of a guest table (`kvm_vcpu_read_guest_atomic`, or `gfn_to_hva` and the user
    /// address). `None`: no memslot has the table, or one that is on its way out
    /// (`KVM_HVA_ERR_BAD`).
    #[track_caller]
    pub(super) fn read_gpte(&self, table: Gfn, index: u8) -> Option<Gpte> {
        // No guard: the kernel has no address to read from without a memslot, and no property asks
        // where an entry was read.
        let found = self.find_memslot(table) == MemslotFound::Valid;
        found.then(|| self.host.read_gpte(table, index))
    }

    /// `FNAME(gpte_changed)`: the entry of this level is not what the walk found.
    #[track_caller]
    fn gpte_changed(&self, walk: &GuestWalk, gva: Gva, level: u8) -> bool {
        let (table, seen) = (walk.table(level), walk.ptes[usize::from(level) - 1]);
        let changed = || self.read_gpte(table, index_at(level, gva.0)) != Some(seen);
        let changed = if level == PG_LEVEL_4K {
            self.p.guarded(Guard::GpteRecheckLeaf, changed)
        } else {
            self.p.guarded(Guard::GpteRecheckUpper, changed)
        };
        if changed {
            self.p.mark(Mark::GpteChanged);
        }
        changed
    }
}
