//! The MMU of KVM for arm64: faults, and what generic KVM asks of it. Linux v5.10, v6.1 and v6.12
//! `arch/arm64/kvm/mmu.c`.
//!
//! Guarantee: as for every MMU ([`crate::virt::notifier`], [`crate::virt::dirty_log`]). Mechanism:
//! all of it is under `mmu_lock`: no fault goes without, and no reverse map is needed, because
//! frames are found by a walk. A fault samples the notifier sequence, looks the page up, and checks
//! under the lock. To 6.1 W is given only where the frame is marked under the same lock: what is
//! harvested is write-protected under it, too. In 6.12 faults hold the lock for reading, and mark
//! when they have given it back: in between another vCPU may store to the page, and the mark comes
//! before the one whose fault it was leaves KVM_RUN. Not modelled: device memory, instruction
//! fetches, the caches, `stage2_unmap_vm`; write protection does not yield.

use super::pgtable::{
    Held, KvmPgtableProt, LAST_LEVEL, Locked, START_LEVEL, Stage2Mmu, Version, WalkError, granule,
};
use crate::guard::Guard;
use crate::host::{Host, PinnedPage};
use crate::kernel;
use crate::mark::Mark;
use crate::platform::Ordering::Acquire;
use crate::platform::{Platform, Srcu, Word};
use crate::types::{Access, CpuId, FaultStatus, Gfn, GfnRange, Pfn};
use crate::virt::MmuGuard;
use crate::vm::{RetPf, Vm};

/// A fault, and what is known of its memslot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Abort {
    cpu: CpuId,
    gfn: Gfn,
    write: bool,
    status: FaultStatus,
    /// The slot, as it was looked up, has a dirty bitmap.
    logging_active: bool,
    /// Nothing larger than a page is mapped.
    force_pte: bool,
    /// `fault_supports_stage2_huge_mapping`: all of the block is in the slot.
    block_fits: bool,
}

/// A page that a fault is to map, and what was known when it was looked up.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Found {
    /// `mmu_notifier_seq`.
    seq: u64,
    /// The page; of a block the first.
    page: PinnedPage,
    /// The level of the leaf by the size of the VMA.
    level: u8,
}

impl<P: Platform, H: Host> Vm<P, H, Stage2Mmu<P>> {
    /// `kvm_handle_guest_abort`: an access of the guest faulted.
    ///
    /// Locks: a read section of `kvm->srcu` over all of it, which the rest of KVM_RUN is not in;
    /// takes `mmap_lock`, then `mmu_lock`.
    #[kernel]
    pub fn kvm_handle_guest_abort(
        &self,
        cpu: CpuId,
        gfn: Gfn,
        access: Access,
        status: FaultStatus,
    ) -> RetPf {
        let _srcu = self.p.guarded(Guard::RunHoldsSrcu, || Some(self.kvm.srcu.read_lock()));
        let memslot = match self.gfn_to_memslot(gfn) {
            Some(memslot) if memslot.valid => memslot,
            found => {
                self.p.mark(Mark::MemslotMissing);
                return RetPf::Mmio { ram: found.is_some() };
            }
        };
        let logging_active = memslot.logged;
        self.user_mem_abort(Abort {
            cpu,
            gfn,
            write: access == Access::Write,
            status,
            logging_active,
            force_pte: logging_active && self.p.guarded(Guard::S2LogForcePte, || true),
            block_fits: memslot.slot.frames().covers(granule_of(gfn, START_LEVEL)),
        })
    }

    /// `user_mem_abort`: looks the page up, takes `mmu_lock`, sees whether the host took it back
    /// meanwhile, and maps it, or relaxes what is mapped.
    ///
    /// Locks: a read section of `kvm->srcu`; takes `mmap_lock` for reading, then `mmu_lock`: since
    /// 6.2 (commit 1577cb5823ce) for reading.
    #[kernel]
    fn user_mem_abort(&self, abort: Abort) -> RetPf {
        let found = match self.lookup(abort) {
            Ok(found) => found,
            Err(ret) => return ret,
        };
        // No guard: a fault that only reads would mark its frame, too, which is reported in vain.
        let writable = found.page.writable && (abort.write || !abort.logging_active);
        let mark = || self.set_dirty(abort, found.level, found.page.pfn);
        self.p
            .without(Guard::S2MarkWithMap, || abort.write.then(|| self.mark_page_dirty(abort.gfn)));
        let readers = self.fault_reads(abort);
        let check = || match readers {
            true => self.mmu_notifier_retry(&self.kvm.mmu_lock.read(), found.seq),
            false => self.mmu_notifier_retry(&self.kvm.mmu_lock.lock(), found.seq),
        };
        let early = self.p.without(Guard::S2RetryInsideLock, check);
        let fault = |l: Held<'_>, state: &Locked| {
            if early.unwrap_or_else(|| self.mmu_notifier_retry(state, found.seq)) {
                return RetPf::RetryAfter(found.seq);
            }
            self.p.mark(Mark::SlowFault);
            let mapped = self.map_or_relax(l, abort, (found.page.pfn, found.level), writable);
            if self.mmu.version == Version::V6_1 && writable && mapped.is_ok() {
                mark();
            }
            if mapped == Err(WalkError::Again) { RetPf::Retry } else { RetPf::Fixed }
        };
        let ret = if readers {
            let l = self.kvm.mmu_lock.read();
            let shared = self.mmu.version >= Version::V6_12;
            fault(if shared { Held::shared(&l) } else { Held::alone(&l) }, &l)
        } else {
            let l = self.kvm.mmu_lock.lock();
            fault(Held::alone(&l), &l)
        };
        self.p.checkpoint((found.page.pfn, ret, writable));
        if self.mmu.version >= Version::V6_12 {
            if writable && ret == RetPf::Fixed {
                mark();
            }
        } else {
            self.host.kvm_set_pfn_accessed(found.page.pfn);
        }
        self.host.kvm_release_pfn_clean(found.page.pfn);
        ret
    }

    /// What may be written by the guest from now on, or since just now: the host has to write the
    /// page out, and the log has it. In 5.10 before it is mapped, in 6.1 (since 5.12) after, both
    /// under the lock; in 6.12 after the lock.
    ///
    /// Locks: a read section of `kvm->srcu`.
    fn set_dirty(&self, abort: Abort, level: u8, pfn: Pfn) {
        self.host.kvm_set_pfn_dirty(pfn);
        // Aligned to the size of the VMA. A slot that is logged has no such blocks.
        let marked = granule_of(abort.gfn, level).start;
        self.p.guarded(Guard::S2MarkWithMap, || self.mark_page_dirty(marked));
    }

    /// How a fault takes `mmu_lock`: true for reading. In 6.1 (since 5.18, commit f783ef1c0e82)
    /// where it can only give W, by a plain store: everything else that changes this entry holds
    /// the lock alone, and so nobody else's W is lost.
    fn fault_reads(&self, abort: Abort) -> bool {
        match self.mmu.version {
            Version::V5_10 => false,
            Version::V6_1 => {
                let relaxes = abort.status.present && abort.status.level == LAST_LEVEL;
                abort.logging_active && abort.write && relaxes
            }
            Version::V6_12 => true,
        }
    }

    /// The size of the VMA, the sequence, and the page, in that order: what has gone since the
    /// sequence was read is noticed, the VMA too, if it is read before `mmap_lock` is given back.
    ///
    /// Not v5.10: there it is read after that, and the size may be that of a VMA which was gone
    /// before (mended in 6.3, commit 13ec9308a857).
    fn lookup(&self, abort: Abort) -> Result<Found, RetPf> {
        // ORDERING: acquire (smp_rmb in the kernel, or the release of mmap_lock): the sequence is
        // read before the page is looked up. Not judged under SC.
        let read = || Some(self.kvm.notifier_seq.load(Acquire));
        let before_gup = self.p.guarded(Guard::NotifierSeqBeforeGup, || true);
        let (vma, inside) = self.host.vma_level(abort.gfn, || {
            let inside = before_gup && self.p.guarded(Guard::S2SeqBeforeMmapUnlock, || true);
            if inside { read() } else { None }
        });
        let block = vma > 1 && !abort.force_pte && abort.block_fits;
        let level = if block { START_LEVEL } else { LAST_LEVEL };
        let first = granule_of(abort.gfn, level).start;
        let seq = if before_gup { inside.or_else(read) } else { None };
        let page = self.host.gfn_to_pfn(first, abort.write).ok_or(RetPf::BreakCow(first))?;
        let seq = seq.or_else(read).unwrap_or_default();
        Ok(Found { seq, page, level })
    }

    /// The rest of `user_mem_abort`, under the lock.
    ///
    /// Locks: `mmu_lock`.
    ///
    /// # Errors
    /// Another fault is there, or has mapped the page.
    fn map_or_relax(
        &self,
        l: Held<'_>,
        abort: Abort,
        (pfn, vma_level): (Pfn, u8),
        writable: bool,
    ) -> Result<(), WalkError> {
        let prot = KvmPgtableProt { write: writable };
        let relax = |addr| self.kvm_pgtable_stage2_relax_perms(l, abort.cpu, addr, prot);
        let denied = |level| abort.status.present && abort.status.level == level;
        let small = vma_level == LAST_LEVEL && !abort.force_pte;
        if small && denied(START_LEVEL) && self.mmu.version > Version::V5_10 {
            // Since 5.15 the host is not asked for the size of what has denied the access. The
            // address stays that of the page: the block may be none any more.
            return relax(abort.gfn);
        }
        let thp = small && self.transparent_hugepage_adjust(abort);
        let level = if thp { START_LEVEL } else { vma_level };
        let range = granule_of(abort.gfn, level);
        let pfn = if thp { Pfn(pfn.0 & !(granule(level) - 1)) } else { pfn };
        if self.mmu.version == Version::V5_10 && writable {
            self.set_dirty(abort, vma_level, pfn);
        }
        if denied(level) {
            return relax(range.start);
        }
        // The pages for tables were put aside before the lock was taken.
        self.kvm_pgtable_stage2_map(l, range, pfn, prot, Some(abort.cpu))
    }

    /// `transparent_hugepage_adjust`: the page is of a huge one of the host, and that is mapped by
    /// a block. It is huge still: a split would have been noticed.
    ///
    /// Locks: `mmu_lock`.
    fn transparent_hugepage_adjust(&self, abort: Abort) -> bool {
        abort.block_fits && self.host.host_pfn_mapping_level(abort.gfn) > 1
    }
}

/// The tables as a whole.
impl<P: Platform, H: Host> Vm<P, H, Stage2Mmu<P>> {
    /// `unmap_stage2_range`: all of it is flushed whenever the lock is given back.
    ///
    /// Locks: `mmu_lock`, which it gives back and takes again.
    pub(super) fn unmap_stage2_range<'a>(
        &'a self,
        l: MmuGuard<'a, P, ()>,
        range: GfnRange,
    ) -> MmuGuard<'a, P, ()> {
        self.stage2_apply_range(l, range, |l, chunk| self.kvm_pgtable_stage2_unmap(l, chunk))
    }

    /// `stage2_apply_range`, with `resched`: from chunk to chunk, and between two of them others
    /// get the lock. They may have freed the tables: the root is looked up for each chunk.
    ///
    /// Locks: `mmu_lock`, which it gives back and takes again.
    fn stage2_apply_range<'a>(
        &'a self,
        mut l: MmuGuard<'a, P, ()>,
        range: GfnRange,
        mut each: impl FnMut(Held<'_>, GfnRange),
    ) -> MmuGuard<'a, P, ()> {
        let once = self.p.without(Guard::S2PgtReread, || self.mmu.has_pgt(&self.p, &l));
        for chunk in chunks(range) {
            if chunk.start != range.start {
                l = self.kvm.mmu_lock.cond_resched(l);
            }
            if !once.unwrap_or_else(|| self.mmu.has_pgt(&self.p, &l)) {
                // -EINVAL; since 6.12.112 that is no error here.
                self.p.mark(Mark::Stage2Gone);
                break;
            }
            each(Held::alone(&l), chunk);
        }
        l
    }

    /// `kvm_free_stage2_pgd`: no vCPU runs any more, and nobody finds the tables from now on. They
    /// are freed after the lock, and nothing is flushed.
    ///
    /// Locks: takes `mmu_lock`.
    #[kernel]
    pub(super) fn kvm_free_stage2_pgd(&self) {
        let had = self.mmu.take_pgt(&self.p, &self.kvm.mmu_lock.lock());
        if had {
            self.kvm_pgtable_stage2_destroy();
        }
    }
}

/// What is done at a time: of a range, what each entry of the root translates.
pub(super) fn chunks(range: GfnRange) -> impl Iterator<Item = GfnRange> {
    let first = (range.start < range.end).then_some(range.start);
    let chunk = move |start: Gfn| GfnRange {
        start,
        end: granule_of(start, START_LEVEL).end.min(range.end),
    };
    let starts = core::iter::successors(first, move |start| {
        Some(chunk(*start).end).filter(|end| *end < range.end)
    });
    starts.map(chunk)
}

/// The frames that an entry of this level translates, with this one among them.
fn granule_of(gfn: Gfn, level: u8) -> GfnRange {
    let size = granule(level);
    GfnRange::new(Gfn(gfn.0 & !(size - 1)), size)
}
