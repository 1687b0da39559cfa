//! The dirty log: marking pages, and the harvest.
//!
//! Guarantee: a page that a guest wrote is in a harvest, or its bit is set, or the vCPU that wrote
//! it is still inside KVM_RUN. Mechanism: the harvest fetches and clears a word of the bitmap, then
//! write-protects its pages, both under `mmu_lock`; the flush follows outside the lock and before
//! user space sees the result, so that a store through a stale TLB entry is covered by it. Linux
//! v5.10
//! `virt/kvm/kvm_main.c`, `kvm_get_dirty_log_protect()`. Not modelled: PML, manual protect, the
//! dirty ring, bitmaps of more than one word.

use super::Mmu;
use crate::guard::Guard;
use crate::host::Host;
use crate::mark::Mark;
use crate::platform::Ordering::{AcqRel, Relaxed};
use crate::platform::{Lock, Platform, Word};
use crate::types::Gfn;

impl<P: Platform, H: Host> Mmu<P, H> {
    /// `kvm_vcpu_mark_page_dirty`: sets the frame's bit, if its slot is logged.
    ///
    /// Locks: `kvm->srcu`, held by the caller.
    pub fn mark_page_dirty(&self, gfn: Gfn) {
        let Some((slot, offset)) = self.gfn_to_memslot(gfn) else { return };
        let Some(bitmap) = &slot.dirty_bitmap else { return };
        self.p.call("mark_page_dirty", || {
            // ORDERING: acq-rel: set_bit_le is a locked operation; it follows the cmpxchg of a fast
            // fault.
            bitmap.fetch_or(1 << offset, AcqRel);
            self.p.mark(Mark::MarkDirty);
        });
    }

    /// `kvm_vm_ioctl_get_dirty_log`, without manual protect: the frames that were written since the
    /// last call, as bits of the slot.
    ///
    /// Locks: takes `slots_lock`, and `mmu_lock` in it. The flush comes after `mmu_lock`, under
    /// `slots_lock`, and so does `copy_to_user`, which may take `mmap_lock`.
    pub fn kvm_vm_ioctl_get_dirty_log(&self, slot: usize) -> u64 {
        self.p.call("kvm_vm_ioctl_get_dirty_log", || {
            let _slots_lock = self.kvm.slots_lock.lock();
            // ENOENT: nothing is copied.
            let Some(harvested) = self.kvm_get_dirty_log_protect(slot) else { return 0 };
            self.p.checkpoint(harvested);
            if harvested.flush {
                self.p.guarded(Guard::FlushAfterHarvest, || self.kvm_flush_remote_tlbs(None));
            }
            self.p.call("copy_to_user", || self.host.access_user_memory());
            harvested.mask
        })
    }

    /// `kvm_get_dirty_log_protect`: flush whenever a word was not zero, whatever the SPTEs were.
    /// `None`: there is no such memslot, or it is not logged.
    fn kvm_get_dirty_log_protect(&self, slot: usize) -> Option<Harvested> {
        let slot = self.id_to_memslot(slot)?;
        let bitmap = slot.dirty_bitmap.as_ref()?;
        let harvested = self.p.call("kvm_get_dirty_log_protect", || {
            let l = self.mmu_lock.lock();
            // ORDERING: relaxed: a hint; the exchange below decides.
            let seen = bitmap.load(Relaxed);
            if seen == 0 {
                return Harvested { mask: 0, flush: false };
            }
            let protect = |mask: u64| {
                for offset in (0..slot.npages).filter(|o| mask >> o & 1 == 1) {
                    let gfn = Gfn(slot.base_gfn.0 + offset);
                    for loc in l.rmap[gfn.0 as usize].iter() {
                        self.spte_write_protect(loc, false);
                    }
                }
            };
            self.p.without(Guard::HarvestClearThenProtect, || protect(seen));
            // ORDERING: acq-rel: what is marked before is in this harvest, after in the next.
            let mask = bitmap.swap(0, AcqRel);
            self.p.mark(Mark::Harvest);
            self.p.guarded(Guard::HarvestClearThenProtect, || protect(mask));
            Harvested { mask, flush: true }
        });
        Some(harvested)
    }
}

/// What `kvm_get_dirty_log_protect` found.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Harvested {
    mask: u64,
    flush: bool,
}
