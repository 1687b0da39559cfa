//! `direct_page_fault`: two-dimensional paging, and guests with paging off.
//!
//! Guarantee: a page is mapped only if the host has not begun to take it back since before it was
//! looked up. Mechanism: the notifier sequence is read before the lookup and checked under
//! `mmu_lock`. Linux v5.10 `arch/x86/kvm/mmu/mmu.c`. Not modelled: async page faults (but for
//! `prefault`), prefetch of neighbours, cache top-up, `make_mmu_pages_available`.

use super::fast_fault::Fault;
use super::map::Mapping;
use super::paging::{KVM_MAX_HUGEPAGE_LEVEL, PG_LEVEL_4K, direct_base};
use super::walk::ShadowWalk;
use super::{Locked, Role, ShadowMmu};
use crate::guard::Guard;
use crate::host::{Host, PinnedPage};
use crate::kernel;
use crate::mark::Mark;
use crate::platform::Ordering::{Acquire, Relaxed};
use crate::platform::{Platform, Word};
use crate::tables::Tables;
use crate::types::{Access, CpuId, Gfn, SpteLoc};
use crate::virt::memslots::MemslotFound;
use crate::vm::{RetPf, Vm};

impl<P: Platform, H: Host> Vm<P, H, ShadowMmu<P>> {
    /// `kvm_tdp_page_fault`, and `nonpaging_page_fault`: an access of the guest faulted.
    ///
    /// Locks: takes `mmu_lock`; the vCPU thread holds `kvm->srcu`.
    #[inline]
    pub fn kvm_tdp_page_fault(&self, cpu: CpuId, gfn: Gfn, access: Access, present: bool) -> RetPf {
        let fault = Fault { cpu, page: gfn.0, access, present };
        self.direct_page_fault(fault, gfn, false)
    }

    /// `kvm_arch_async_page_ready`: the page that a vCPU waited for has come; map it speculatively.
    ///
    /// Locks: as [`Vm::kvm_tdp_page_fault`].
    #[kernel]
    pub fn kvm_arch_async_page_ready(&self, cpu: CpuId, gfn: Gfn) -> RetPf {
        let fault = Fault { cpu, page: gfn.0, access: Access::Read, present: false };
        self.direct_page_fault(fault, gfn, true)
    }

    /// `direct_page_fault`: the fast path, or the slow: look the page up, take `mmu_lock`, see
    /// whether the host took the page back meanwhile, map it. `prefault`: no access asked for it.
    ///
    /// Locks: takes `mmu_lock`; the vCPU thread holds `kvm->srcu`.
    #[kernel]
    #[inline]
    fn direct_page_fault(&self, fault: Fault, gfn: Gfn, prefault: bool) -> RetPf {
        if self.page_fault_handle_page_track(fault, gfn) {
            return RetPf::Emulate;
        }
        self.p.checkpoint(());
        let fast = self.fast_page_fault(fault, None);
        if fast != RetPf::Invalid {
            return fast;
        }
        self.direct_page_fault_locked(fault, gfn, prefault)
    }

    /// The slow path. Out of line, so that it costs the fast path nothing.
    #[inline(never)]
    fn direct_page_fault_locked(&self, fault: Fault, gfn: Gfn, prefault: bool) -> RetPf {
        let (cpu, write) = (fault.cpu, fault.access == Access::Write);
        let early = self.p.without(Guard::GupOutsideMmuLock, || self.kvm.mmu_lock.lock());
        let (seq, page) = match self.lookup(gfn, write) {
            Ok(found) => found,
            Err(RetPf::Mmio { ram }) => {
                self.p.without(Guard::GupOutsideMmuLock, || drop(early));
                let leaf = |l: &mut Locked| Some(self.direct_leaf(l, cpu, gfn, PG_LEVEL_4K));
                return self.map_mmio(cpu, gfn.0, gfn, ram, leaf);
            }
            Err(ret) => return ret,
        };
        let release = || self.host.kvm_release_pfn_clean(page.pfn);
        self.p.without(Guard::FaultHoldsPage, release);
        let ret = {
            let mut l = early.unwrap_or_else(|| self.kvm.mmu_lock.lock());
            if self.mmu_notifier_retry(&l, seq) {
                RetPf::RetryAfter(seq)
            } else {
                self.p.mark(Mark::SlowFault);
                let of_fault = Mapping::of_fault(fault, gfn, page, true);
                let mapping = Mapping { speculative: prefault, ..of_fault };
                self.__direct_map(&mut l, mapping)
            }
        };
        self.p.checkpoint((page.pfn, ret));
        self.put_page(page, ret);
        ret
    }

    /// The end of a fault (`out_unlock`): its reference on the page goes, whatever became of it.
    pub(super) fn put_page(&self, page: PinnedPage, ret: RetPf) {
        let put = || {
            let release = || self.host.kvm_release_pfn_clean(page.pfn);
            self.p.guarded(Guard::FaultHoldsPage, release);
        };
        match ret {
            RetPf::RetryAfter(_) => self.p.guarded(Guard::RetryPutsPage, put),
            _ => put(),
        }
    }

    /// `page_fault_handle_page_track`: a write to a tracked guest table is emulated.
    pub(super) fn page_fault_handle_page_track(&self, fault: Fault, gfn: Gfn) -> bool {
        // No guard: a short cut. The slow path asks mmu_need_write_protect and emulates, too.
        // ORDERING: relaxed: a write that misses the count meets write protection under mmu_lock.
        fault.present
            && fault.access == Access::Write
            && self.mmu.gfn_track[gfn.0 as usize].load(Relaxed) != 0
    }

    /// The notifier sequence and then the page, in that order: an invalidation after the first is
    /// noticed, one before it has already changed what the second returns.
    pub(super) fn lookup(&self, gfn: Gfn, write: bool) -> Result<(u64, PinnedPage), RetPf> {
        // ORDERING: acquire (smp_rmb in the kernel): the sequence is read before the page is looked
        // up; after it, it is too late, whatever the ordering. Not judged under SC.
        let read = || self.kvm.notifier_seq.load(Acquire);
        let before = self.p.guarded(Guard::NotifierSeqBeforeGup, read);
        let page = self.try_async_pf(gfn, write)?;
        let late = self.p.without(Guard::NotifierSeqBeforeGup, read);
        let seq = late.unwrap_or(before);
        // Two bits stand for the 32 of an int, so that few invalidations reach its sign.
        let cut = self.p.without(Guard::NotifierSeqWhole, || ((seq as i64) << 62 >> 62) as u64);
        Ok((cut.unwrap_or(seq), page))
    }

    /// `try_async_pf`: the memslot, then the page.
    ///
    /// Locks: a read section of `kvm->srcu`; may sleep.
    fn try_async_pf(&self, gfn: Gfn, write: bool) -> Result<PinnedPage, RetPf> {
        match self.find_memslot(gfn) {
            MemslotFound::Valid => {}
            MemslotFound::Invalid(seen) if self.p.guarded(Guard::InvalidSlotRetries, || true) => {
                self.p.mark(Mark::MemslotInvalid);
                return Err(RetPf::RetryAfterMemslots(seen));
            }
            found => {
                self.p.mark(Mark::MemslotMissing);
                return Err(RetPf::Mmio { ram: found != MemslotFound::None });
            }
        }
        self.host.gfn_to_pfn(gfn, write).ok_or(RetPf::BreakCow(gfn))
    }

    /// `__direct_map`: makes the tables that are missing, then the leaf.
    ///
    /// Locks: `mmu_lock`.
    #[kernel]
    fn __direct_map(&self, l: &mut Locked, m: Mapping) -> RetPf {
        let m = self.kvm_mmu_hugepage_adjust(l, m, KVM_MAX_HUGEPAGE_LEVEL);
        let loc = self.direct_leaf(l, m.cpu, m.gfn, m.level);
        self.mmu_set_spte(l, loc, m)
    }

    /// Where a direct leaf of this level and frame is; the tables above it are made if need be, and
    /// large SPTEs there dropped.
    ///
    /// Locks: `mmu_lock`.
    pub(super) fn direct_leaf(&self, l: &mut Locked, cpu: CpuId, gfn: Gfn, level: u8) -> SpteLoc {
        let mut at = ShadowWalk::new(self.mmu.root(cpu), gfn.0);
        while at.level > level {
            let direct = |level| (direct_base(level, gfn.0), Role::direct(level));
            at = at.next(self.child_at(l, Some(cpu), at, direct));
        }
        at.loc
    }
}
