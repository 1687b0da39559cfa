//! `direct_page_fault`: two-dimensional paging, and guests with paging off.
//!
//! Guarantee: a page is mapped only if the host had not begun to take it back when it was looked
//! up. Mechanism: the notifier sequence is read before the lookup and checked under `mmu_lock`.
//! Linux v5.10
//! `arch/x86/kvm/mmu/mmu.c`. Not modelled: async page faults (but for `prefault`), MMIO, large
//! pages, prefetch of neighbours, cache top-up, `make_mmu_pages_available`.

use super::fast_fault::Fault;
use super::map::Mapping;
use super::shadow_page::direct_base;
use super::{Mmu, MmuState, PG_LEVEL_4K, ROOT_LEVEL, Role, index_at};
use crate::guard::Guard;
use crate::host::{Host, PinnedPage};
use crate::kvm::memslots::{MemslotFound, MemslotSet};
use crate::mark::Mark;
use crate::platform::Ordering::{Acquire, Relaxed};
use crate::platform::{Lock, Platform, Word};
use crate::types::{Access, CpuId, Gfn, SpteLoc};

/// What becomes of a fault (`RET_PF_*`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RetPf {
    /// `RET_PF_RETRY`: let the guest fault again; what was in the way is over.
    Retry,
    /// `RET_PF_RETRY` for an invalidation: the guest faults again and again until
    /// `mmu_notifier_seq` differs from this. See [`Mmu::wait_for_invalidation`].
    RetryAfter(u64),
    /// `RET_PF_EMULATE`: emulate the instruction.
    Emulate,
    /// `RET_PF_INVALID`: the fast path passes it on.
    Invalid,
    /// `RET_PF_FIXED`: repaired.
    Fixed,
    /// `RET_PF_SPURIOUS`: there was nothing to repair (any more).
    Spurious,
    /// The guest's own tables do not allow it: a guest page fault is injected.
    GuestFault,
    /// `RET_PF_RETRY` for a memslot that is being deleted: the guest faults again and again until
    /// other memslots are installed. See [`Mmu::wait_for_memslots`].
    RetryAfterMemslots(MemslotSet),
    /// `KVM_PFN_NOSLOT`: the access is emulated as MMIO. `ram`: it should not be, a memslot has the
    /// frame.
    Mmio {
        /// A memslot has the frame, an invalid one.
        ram: bool,
    },
    /// The host must break a shared page first, then the guest faults again.
    BreakCow(Gfn),
}

impl<P: Platform, H: Host> Mmu<P, H> {
    /// `direct_page_fault`.
    ///
    /// Locks: takes `mmu_lock`; the vCPU thread holds `kvm->srcu`.
    pub fn direct_page_fault(&self, cpu: CpuId, gfn: Gfn, access: Access, present: bool) -> RetPf {
        let fault = Fault { cpu, page: gfn.0, access, present };
        self.p.call("direct_page_fault", || {
            if self.page_fault_handle_page_track(fault, gfn) {
                return RetPf::Emulate;
            }
            self.direct_page_fault_untracked(fault, gfn, false)
        })
    }

    /// True if the CPU that faulted has to drop what its own TLB has of the page: arm64 may keep
    /// the entry that denied the access. The local TLBI by IPA of `kvm_pgtable_stage2_relax_perms`
    /// (`kvm_tlb_flush_vmid_ipa_nsh` since 6.4). Formats whose faults are decided by a fresh walk
    /// need none.
    pub fn relax_perms_owes_local_flush(&self, present: bool, ret: RetPf) -> bool {
        self.format.caches_permission_faults
            && present
            && matches!(ret, RetPf::Fixed | RetPf::Spurious)
            && self.p.guarded(Guard::RelaxPermsLocalFlush, || true)
    }

    /// `kvm_arch_async_page_ready`: the page that a vCPU waited for has come; map it speculatively.
    ///
    /// Locks: as [`Mmu::direct_page_fault`].
    pub fn prefault(&self, cpu: CpuId, gfn: Gfn) -> RetPf {
        let fault = Fault { cpu, page: gfn.0, access: Access::Read, present: false };
        self.p.call("kvm_arch_async_page_ready", || {
            self.direct_page_fault_untracked(fault, gfn, true)
        })
    }

    /// `page_fault_handle_page_track`: a write to a tracked guest table is emulated.
    pub(super) fn page_fault_handle_page_track(&self, fault: Fault, gfn: Gfn) -> bool {
        // ORDERING: relaxed: a write that misses the count meets write protection under mmu_lock.
        fault.present
            && fault.access == Access::Write
            && self.gfn_track[gfn.0 as usize].load(Relaxed) != 0
    }

    #[inline]
    fn direct_page_fault_untracked(&self, fault: Fault, gfn: Gfn, prefault: bool) -> RetPf {
        let fast = self.fast_page_fault(fault, None);
        if fast != RetPf::Invalid {
            return fast;
        }
        self.direct_page_fault_locked(fault.cpu, fault.access, gfn, prefault)
    }

    /// What no fast fault repairs. A function of its own, so that it costs the fast path nothing.
    #[inline(never)]
    fn direct_page_fault_locked(
        &self,
        cpu: CpuId,
        access: Access,
        gfn: Gfn,
        prefault: bool,
    ) -> RetPf {
        let write = access == Access::Write;
        let early = self.p.without(Guard::GupOutsideMmuLock, || self.mmu_lock.lock());
        let (seq, page) = match self.lookup(gfn, write) {
            Ok(found) => found,
            Err(ret) => return ret,
        };
        self.p.checkpoint((seq, page));
        let ret = {
            let mut l = early.unwrap_or_else(|| self.mmu_lock.lock());
            if self.mmu_notifier_retry(&l, seq) {
                RetPf::RetryAfter(seq)
            } else {
                self.p.mark(Mark::SlowFault);
                let mapping = Mapping {
                    cpu,
                    gfn,
                    page,
                    guest_writable: true,
                    write_fault: write,
                    speculative: prefault,
                };
                self.direct_map(&mut l, mapping)
            }
        };
        self.p.checkpoint((page.pfn, ret));
        self.host.kvm_release_pfn_clean(page.pfn);
        ret
    }

    /// The notifier sequence and then the page, in that order: an invalidation after the first is
    /// noticed, one before it has already changed what the second returns.
    pub(super) fn lookup(&self, gfn: Gfn, write: bool) -> Result<(u64, PinnedPage), RetPf> {
        // ORDERING: acquire (smp_rmb in the kernel): the sequence is read before the page is looked
        // up; after it, it is too late, whatever the ordering.
        let read = || self.notifier_seq.load(Acquire);
        let seq = self.p.guarded(Guard::NotifierSeqBeforeGup, read);
        let page = self.gfn_to_pfn(gfn, write)?;
        let late = self.p.without(Guard::NotifierSeqBeforeGup, read);
        Ok((late.unwrap_or(seq), page))
    }

    /// `try_async_pf`: the memslot, then the page.
    ///
    /// Locks: a read section of `kvm->srcu`; may sleep.
    fn gfn_to_pfn(&self, gfn: Gfn, write: bool) -> Result<PinnedPage, RetPf> {
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
    fn direct_map(&self, l: &mut MmuState, m: Mapping) -> RetPf {
        self.p.call("__direct_map", || {
            let parent =
                SpteLoc { sp: self.vcpu(m.cpu).root, index: index_at(ROOT_LEVEL, m.gfn.0) };
            let spte = self.mmu_spte_get_lockless(parent);
            let child = if self.format.is_shadow_present(spte) {
                self.format.child(spte)
            } else {
                let base = direct_base(m.gfn.0);
                let sp = self.kvm_mmu_get_page(l, Some(m.cpu), base, Role::direct(PG_LEVEL_4K));
                self.link_shadow_page(l, parent, sp);
                sp
            };
            let leaf = SpteLoc { sp: child, index: index_at(PG_LEVEL_4K, m.gfn.0) };
            self.mmu_set_spte(l, leaf, m)
        })
    }
}
