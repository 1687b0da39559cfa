//! Faults of a guest whose page tables are shadowed: `FNAME(walk_addr)`, `FNAME(page_fault)` and
//! `FNAME(fetch)` of Linux v5.10 `arch/x86/kvm/mmu/paging_tmpl.h`.
//!
//! Guarantee: what is mapped is what the guest's tables said *after* they were write-protected.
//! Mechanism: the guest's tables are read without any lock, and each entry is read again once its
//! table is shadowed; a change means retry. Not modelled: guest A and D bits (always set),
//! prefetch.

use super::fast_fault::{Fault, IndirectFastFault};
use super::map::Mapping;
use super::{Mmu, MmuState, PG_LEVEL_4K, ROOT_LEVEL, RetPf, Role, index_at};
use crate::guard::Guard;
use crate::host::Host;
use crate::kvm::memslots::MemslotFound;
use crate::mark::Mark;
use crate::platform::{Lock, Platform};
use crate::spte::Gpte;
use crate::types::{Access, CpuId, Gfn, Gva, SpteLoc};

/// `struct guest_walker`: what a walk of the guest's tables found.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct GuestWalk {
    /// The frames of the tables, leaf level first (`table_gfn`).
    pub table_gfn: [Gfn; 2],
    /// The entries, leaf level first (`ptes`).
    pub ptes: [Gpte; 2],
}

impl GuestWalk {
    /// The frame that the address translates to.
    pub fn gfn(&self) -> Gfn {
        self.ptes[0].gfn()
    }
    /// `pte_access`: every level allows writes.
    pub fn is_writable(&self) -> bool {
        self.ptes.iter().all(|p| p.is_writable())
    }
}

impl<P: Platform, H: Host> Mmu<P, H> {
    /// `FNAME(walk_addr)`: walks the guest's tables. `None`: they do not allow the access.
    ///
    /// Locks: none; guest memory is read as it is.
    pub fn walk_addr(&self, root: Gfn, gva: Gva, access: Access) -> Option<GuestWalk> {
        self.p.call("walk_addr", || {
            let upper = self.read_gpte(root, index_at(ROOT_LEVEL, gva.0))?;
            if !upper.is_present() {
                return None;
            }
            let leaf = self.read_gpte(upper.gfn(), index_at(PG_LEVEL_4K, gva.0))?;
            let walk = GuestWalk { table_gfn: [upper.gfn(), root], ptes: [leaf, upper] };
            let allowed = leaf.is_present() && (access != Access::Write || walk.is_writable());
            allowed.then_some(walk)
        })
    }

    /// `FNAME(page_fault)`.
    ///
    /// Locks: takes `mmu_lock`; the vCPU thread holds `kvm->srcu`.
    ///
    /// # Panics
    /// If the vCPU has no guest page tables.
    pub fn shadow_page_fault(&self, cpu: CpuId, gva: Gva, access: Access, present: bool) -> RetPf {
        let fault = Fault { cpu, page: gva.0, access, present };
        let root = self.vcpu(cpu).guest_root.expect("shadow paging");
        self.p.call("FNAME(page_fault)", || {
            let Some(walk) = self.walk_addr(root, gva, access) else {
                return RetPf::GuestFault;
            };
            self.p.checkpoint(walk);
            if let Some(ret) = self.indirect_fast_page_fault(fault, &walk) {
                return ret;
            }
            let gfn = walk.gfn();
            if self.page_fault_handle_page_track(fault, gfn) {
                return RetPf::Emulate;
            }
            let write = access == Access::Write;
            let (seq, page) = match self.lookup(gfn, write) {
                Ok(found) => found,
                Err(ret) => return ret,
            };
            self.p.checkpoint((walk, seq, page));
            let ret = {
                let mut l = self.mmu_lock.lock();
                if self.mmu_notifier_retry(&l, seq) {
                    RetPf::RetryAfter(seq)
                } else {
                    self.p.mark(Mark::SlowFault);
                    let guest_writable = walk.is_writable();
                    let write_fault = write;
                    let speculative = false;
                    let mapping =
                        Mapping { cpu, gfn, page, guest_writable, write_fault, speculative };
                    self.fetch(&mut l, root, gva, &walk, mapping)
                }
            };
            self.p.checkpoint((page.pfn, ret));
            self.host.kvm_release_pfn_clean(page.pfn);
            ret
        })
    }

    /// The call that 5.10 does not make: a fast fault on an indirect page. It is there if guard
    /// `fast-fault-direct-only` is gone, or as the document's proposal with the page pinned.
    fn indirect_fast_page_fault(&self, fault: Fault, walk: &GuestWalk) -> Option<RetPf> {
        let pinned = self.indirect_fast_fault == IndirectFastFault::Pinned;
        if !pinned && self.p.guarded(Guard::FastFaultDirectOnly, || true) {
            return None;
        }
        let ret = self.fast_page_fault(fault, Some(walk.gfn()));
        (ret != RetPf::Invalid).then_some(ret)
    }

    /// `FNAME(fetch)`: shadows the guest's leaf table if it is not yet, re-checks each guest entry
    /// after its table was write-protected, then maps.
    ///
    /// Locks: `mmu_lock`.
    fn fetch(&self, l: &mut MmuState, root: Gfn, gva: Gva, walk: &GuestWalk, m: Mapping) -> RetPf {
        self.p.call("FNAME(fetch)", || {
            let upper = || self.gpte_changed(root, index_at(ROOT_LEVEL, gva.0), walk.ptes[1]);
            if self.p.guarded(Guard::GpteRecheckUpper, upper) {
                return RetPf::Retry;
            }
            let parent = SpteLoc { sp: self.vcpu(m.cpu).root, index: index_at(ROOT_LEVEL, gva.0) };
            let spte = self.mmu_spte_get_lockless(parent);
            let (child, fresh) = if self.format.is_shadow_present(spte) {
                (self.format.child(spte), false)
            } else {
                let role = Role::indirect(PG_LEVEL_4K, walk.ptes[1].is_writable());
                (self.kvm_mmu_get_page(l, Some(m.cpu), walk.table_gfn[0], role), true)
            };
            let (table, index) = (walk.table_gfn[0], index_at(PG_LEVEL_4K, gva.0));
            let leaf = || self.gpte_changed(table, index, walk.ptes[0]);
            if self.p.guarded(Guard::GpteRecheckLeaf, leaf) {
                return RetPf::Retry;
            }
            if fresh {
                self.link_shadow_page(l, parent, child);
            }
            let leaf = SpteLoc { sp: child, index: index_at(PG_LEVEL_4K, gva.0) };
            self.mmu_set_spte(l, leaf, m)
        })
    }

    /// Reads an entry of a guest table (`kvm_vcpu_read_guest_atomic`, or `gfn_to_hva` and the user
    /// address). `None`: no memslot has the table, or one that is on its way out
    /// (`KVM_HVA_ERR_BAD`).
    #[track_caller]
    fn read_gpte(&self, table: Gfn, index: u8) -> Option<Gpte> {
        let found = self.find_memslot(table) == MemslotFound::Valid;
        found.then(|| self.host.read_gpte(table, index))
    }

    /// `FNAME(gpte_changed)`.
    #[track_caller]
    fn gpte_changed(&self, table: Gfn, index: u8, seen: Gpte) -> bool {
        let changed = self.read_gpte(table, index) != Some(seen);
        if changed {
            self.p.mark(Mark::GpteChanged);
        }
        changed
    }
}
