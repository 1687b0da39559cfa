//! Faults of a guest whose page tables are shadowed: `FNAME(walk_addr)`, `FNAME(page_fault)` and
//! `FNAME(fetch)` of Linux v5.10 `arch/x86/kvm/mmu/paging_tmpl.h`.
//!
//! Guarantee: what is mapped is what the guest's tables said *after* they were write-protected, or
//! out of sync. Mechanism: the guest's tables are read without any lock, and each entry is read
//! again once its table is shadowed; a change means retry. A large page of the guest is mapped by
//! a large SPTE if it may be, else by 4K, through direct pages. Not modelled: prefetch, and that
//! a write to the tables of its own translation is mapped by 4K (`FNAME(is_self_change_mapping)`):
//! with two levels that is the root, which is shadowed. What KVM does with A and D of the guest's
//! entries is in `guest_ad.rs`.

use super::fast_fault::Fault;
use super::map::Mapping;
use super::paging::{PG_LEVEL_4K, ROOT_LEVEL, direct_base, index_at};
use super::walk::{GuestWalk, ShadowWalk};
use super::{Locked, Role, ShadowMmu};
use crate::guard::Guard;
use crate::host::Host;
use crate::kernel;
use crate::mark::Mark;
use crate::platform::Platform;
use crate::spte::Gpte;
use crate::tables::Tables;
use crate::types::{Access, CpuId, Gfn, Gva, SpteLoc};
use crate::virt::memslots::MemslotFound;
use crate::vm::{RetPf, Vm};

impl<P: Platform, H: Host> Vm<P, H, ShadowMmu<P>> {
    /// `FNAME(walk_addr)`: walks the guest's tables, and sets A and D there as hardware would.
    /// `None`: they do not allow the access.
    ///
    /// Locks: none; guest memory is read as it is. The vCPU thread holds `kvm->srcu`; may sleep.
    #[kernel]
    pub fn walk_addr(&self, root: Gfn, gva: Gva, access: Access) -> Option<GuestWalk> {
        let write = access == Access::Write;
        loop {
            let walk = GuestWalk::new(root, gva, |table, index| self.read_gpte(table, index))?;
            if write && !walk.allows_writes() {
                return None;
            }
            if let Some(walk) = self.update_accessed_dirty_bits(walk, gva, write) {
                return Some(walk);
            }
        }
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
        let gfn = walk.gfn;
        if self.page_fault_handle_page_track(fault, gfn) {
            return RetPf::Emulate;
        }
        self.p.checkpoint(walk);
        let leaf = |l: &mut Locked| self.fetch(l, cpu, gva, &walk, |_| PG_LEVEL_4K);
        let (seq, page) = match self.lookup(gfn, write) {
            Ok(found) => found,
            Err(RetPf::Mmio { ram }) => return self.map_mmio(cpu, gva.0, gfn, ram, leaf),
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
                let mut m = Mapping::of_fault(fault, gfn, page, self.pte_access(&walk));
                let loc = self.fetch(&mut l, cpu, gva, &walk, |l| {
                    m = self.kvm_mmu_hugepage_adjust(l, m, walk.level);
                    m.level
                });
                loc.map_or(RetPf::Retry, |loc| self.mmu_set_spte(&mut l, loc, m))
            }
        };
        self.p.checkpoint((page.pfn, ret));
        self.put_page(page, ret);
        ret
    }

    /// `FNAME(fetch)`, up to the leaf, which it finds: shadows the guest's tables that are not
    /// shadowed yet, and reads each guest entry again after its table was write-protected. `None`:
    /// one has changed. `level`: that of the leaf, asked when the guest's tables are shadowed.
    ///
    /// Locks: `mmu_lock`.
    #[kernel("FNAME(fetch)")]
    fn fetch(
        &self,
        l: &mut Locked,
        cpu: CpuId,
        gva: Gva,
        walk: &GuestWalk,
        level: impl FnOnce(&Locked) -> u8,
    ) -> Option<SpteLoc> {
        if self.gpte_changed(walk, gva, ROOT_LEVEL) {
            return None;
        }
        let mut at = ShadowWalk::new(self.mmu.root(cpu), gva.0);
        while at.level > walk.level {
            let below = at.level - 1;
            let (gfn, role) = (walk.table(below), Role::indirect(below, walk.access_above(below)));
            let linked = self.linked_child(l, Some(cpu), at.loc, gfn, role);
            let get_page = || self.kvm_mmu_get_page(l, Some(cpu), gfn, role);
            let child = linked.unwrap_or_else(get_page);
            // The table is write-protected now: whoever changes it goes through kvm_mmu_pte_write,
            // which takes the lock and zaps what shadows the old entry. (The VMM does not.)
            if self.gpte_changed(walk, gva, below) {
                return None;
            }
            if linked.is_none() {
                self.link_shadow_page(l, at.loc, child);
            }
            at = at.next(child);
        }
        let level = level(l);
        while at.level > level {
            let writable = self.pte_access(walk);
            self.validate_direct_spte(l, cpu, at.loc, writable);
            let direct =
                |level| (direct_base(level, walk.gfn.0), Role::below_large(level, writable));
            at = at.next(self.child_at(l, Some(cpu), at, direct));
        }
        Some(at.loc)
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
