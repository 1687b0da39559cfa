//! The dirty log: marking pages, and the harvest.
//!
//! Guarantee: a page that a guest wrote is in a harvest, or its bit is set, or the vCPU whose fault
//! let it be written is still inside KVM_RUN. That need not be the vCPU that wrote: a fast fault
//! sets W and marks after, and in between another vCPU may store by the same SPTE and leave.
//! Mechanism: the harvest fetches and clears a word of the bitmap, then write-protects its pages,
//! both under `mmu_lock`; a flush follows before user space sees the result. Linux v5.10
//! `virt/kvm/kvm_main.c`, `kvm_get_dirty_log_protect()`. The kernel keeps what it has fetched in
//! the second half of the bitmap (`kvm_second_dirty_bitmap`) and copies that to user space; here it
//! is what the function returns. Not modelled: the dirty ring, bitmaps of more than one word. How a
//! log begins is in `memslots.rs`; with PML D is cleared in place of write protection (`vmx.rs`).
//!
//! With manual protect (`KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2`) the harvest is two ioctls: GET copies
//! the bitmap, CLEAR clears what user space names of it and write-protects that. User space reads
//! a page after CLEAR; what was written between the two is in the page that it reads. It clears
//! only bits that it got: another's bit that it cleared would be a page that nobody copies.
//!
//! Why the flush may come after `mmu_lock`, here and nowhere else: a store through a stale TLB
//! entry before the flush is to a page that this harvest names, and user space reads the page after
//! the ioctl, so the store is in what it reads. `slots_lock`, held over the flush, keeps out the
//! next harvest, which would find the pages write-protected already. And whoever else finds W clear
//! meanwhile finds H and M still set, and so flushes for itself (`mmu_spte_update`).

use super::Memslot;
use super::memslots::FoundMemslot;
use crate::guard::Guard;
use crate::host::Host;
use crate::kernel;
use crate::mark::Mark;
use crate::platform::Ordering::{AcqRel, Relaxed};
use crate::platform::{Lock, Platform, Word};
use crate::types::Gfn;
use crate::vm::{Mmu, Vm};

impl<P: Platform, H: Host, M: Mmu<P>> Vm<P, H, M> {
    /// `mark_page_dirty`, `kvm_vcpu_mark_page_dirty`: sets the frame's bit, if its slot is logged.
    ///
    /// Locks: `kvm->srcu`, held by the caller.
    pub fn mark_page_dirty(&self, gfn: Gfn) {
        let Some(memslot) = self.gfn_to_memslot(gfn) else { return };
        let Some(bitmap) = memslot.dirty_bitmap() else { return };
        self.mark_page_dirty_in_slot(bitmap, gfn.0 - memslot.slot.base_gfn.0);
    }

    /// `mark_page_dirty_in_slot`: sets the bit.
    #[kernel("mark_page_dirty")]
    fn mark_page_dirty_in_slot(&self, bitmap: &P::Word, offset: u64) {
        // ORDERING: acq-rel: set_bit_le is a locked operation; it follows the cmpxchg of a fast
        // fault.
        self.p.guarded(Guard::MarkDirtyAtomic, || bitmap.or(1 << offset, AcqRel));
        // ORDERING: relaxed: in place of the locked operation; it orders nothing.
        let plain = || bitmap.store(bitmap.load(Relaxed) | 1 << offset, Relaxed);
        self.p.without(Guard::MarkDirtyAtomic, plain);
        self.p.mark(Mark::MarkDirty);
    }

    /// `kvm_vm_ioctl_get_dirty_log`, without manual protect: the frames that were written since the
    /// last call, as bits of the slot.
    ///
    /// Locks: takes `slots_lock`, and `mmu_lock` in it. The flush comes after `mmu_lock`, under
    /// `slots_lock`, and so does `copy_to_user`, which may take `mmap_lock`.
    #[kernel]
    pub fn kvm_vm_ioctl_get_dirty_log(&self, slot: usize) -> u64 {
        let _slots_lock = self.kvm.slots_lock.lock();
        // ENOENT: nothing is copied.
        let Some(memslot) = self.id_to_memslot(slot).filter(|found| found.logged) else { return 0 };
        let Harvested { mask, flush } = self.kvm_get_dirty_log_protect(memslot);
        if flush {
            self.p.guarded(Guard::FlushAfterHarvest, || self.kvm_flush_remote_tlbs(None));
        }
        self.p.call("copy_to_user", || self.host.access_user_memory());
        mask
    }

    /// `kvm_get_dirty_log_protect`: fetches and clears the bitmap, then write-protects what it
    /// named, so that whatever is written from now on is marked anew. A flush is owed whenever the
    /// bitmap was not zero, whatever the SPTEs were: a TLB may have what they lost.
    /// If it was zero none is: what was writable before the last harvest was flushed by that, and a
    /// page that was made writable since is marked, or about to be, and then in the next harvest.
    ///
    /// Locks: `slots_lock`; takes `mmu_lock`.
    #[kernel]
    fn kvm_get_dirty_log_protect(&self, memslot: FoundMemslot<'_, P>) -> Harvested {
        let slot = memslot.slot;
        M::kvm_arch_sync_dirty_log(self);
        let mut l = self.kvm.mmu_lock.lock();
        // ORDERING: relaxed: a hint; the exchange below decides.
        let seen = slot.dirty_bitmap.load(Relaxed);
        if seen == 0 {
            return Harvested { mask: 0, flush: false };
        }
        let early = self.p.without(Guard::HarvestClearThenProtect, || {
            M::kvm_arch_mmu_enable_log_dirty_pt_masked(self, &mut l, slot, seen)
        });
        let plain = self.p.without(Guard::HarvestXchg, || {
            // ORDERING: relaxed: in place of the locked operation; it orders nothing.
            slot.dirty_bitmap.store(0, Relaxed);
            seen
        });
        // ORDERING: acq-rel: what is marked before is in this harvest, after in the next.
        let mask = plain.unwrap_or_else(|| slot.dirty_bitmap.swap(0, AcqRel));
        self.p.mark(Mark::Harvest);
        let protect = || M::kvm_arch_mmu_enable_log_dirty_pt_masked(self, &mut l, slot, mask);
        let cleared_w = self.p.guarded(Guard::HarvestClearThenProtect, protect);
        let judged = self.p.without(Guard::HarvestFlushesAlways, || early.unwrap_or(cleared_w));
        Harvested { mask, flush: judged.unwrap_or(true) }
    }
}

/// With manual protect.
impl<P: Platform, H: Host, M: Mmu<P>> Vm<P, H, M> {
    /// `kvm_vm_ioctl_get_dirty_log` with manual protect: a copy of the bitmap, which stays.
    ///
    /// Locks: takes `slots_lock`.
    #[kernel("kvm_vm_ioctl_get_dirty_log")]
    pub fn get_dirty_log_copy(&self, slot: usize) -> u64 {
        let _slots_lock = self.kvm.slots_lock.lock();
        let Some(memslot) = self.id_to_memslot(slot).filter(|found| found.logged) else { return 0 };
        M::kvm_arch_sync_dirty_log(self);
        // ORDERING: relaxed: a copy of what is there; CLEAR decides.
        let mask = memslot.slot.dirty_bitmap.load(Relaxed);
        self.p.call("copy_to_user", || self.host.access_user_memory());
        mask
    }

    /// `kvm_vm_ioctl_clear_dirty_log`: the frames of a slot whose bits are set here are not dirty
    /// any more, and written to by a fault again.
    ///
    /// Locks: takes `slots_lock`, and `mmu_lock` in it. The flush comes after `mmu_lock`.
    #[kernel]
    pub fn kvm_vm_ioctl_clear_dirty_log(&self, slot: usize, mask: u64) {
        let _slots_lock = self.kvm.slots_lock.lock();
        let Some(memslot) = self.id_to_memslot(slot).filter(|found| found.logged) else { return };
        M::kvm_arch_sync_dirty_log(self);
        self.p.call("copy_from_user", || self.host.access_user_memory());
        if self.kvm_clear_dirty_log_protect(memslot.slot, mask) {
            self.p.guarded(Guard::FlushAfterClear, || self.kvm_flush_remote_tlbs(None));
        }
    }

    /// `kvm_clear_dirty_log_protect`: clears bits, then write-protects the frames of those that
    /// were set; true if there were any. Bits that are clear already are somebody else's: their
    /// frames are write-protected, or marked again soon. To protect those as well would cost faults
    /// and nothing else.
    ///
    /// Locks: `slots_lock`; takes `mmu_lock`.
    #[kernel]
    fn kvm_clear_dirty_log_protect(&self, slot: &Memslot<P>, mask: u64) -> bool {
        let mut l = self.kvm.mmu_lock.lock();
        let mut protect = |mask| {
            M::kvm_arch_mmu_enable_log_dirty_pt_masked(self, &mut l, slot, mask);
        };
        self.p.without(Guard::ClearThenProtect, || protect(mask));
        let plain = self.p.without(Guard::ClearAtomic, || {
            // ORDERING: relaxed: in place of the locked operation; it orders nothing.
            let word = slot.dirty_bitmap.load(Relaxed);
            slot.dirty_bitmap.store(word & !mask, Relaxed);
            word & mask
        });
        // ORDERING: acq-rel: a mark that comes before is cleared, one that comes after stays.
        let fetch = || slot.dirty_bitmap.fetch_and(!mask, AcqRel) & mask;
        let cleared = plain.unwrap_or_else(fetch);
        self.p.mark(Mark::LogCleared);
        self.p.guarded(Guard::ClearThenProtect, || protect(cleared));
        cleared != 0
    }
}

/// What `kvm_get_dirty_log_protect` found.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Harvested {
    mask: u64,
    flush: bool,
}
