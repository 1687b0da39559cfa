//! The host's memory manager, and how it notifies KVM.

use kvmmu_model::platform::Ordering::Relaxed;
use kvmmu_model::virt::Memslot;
use kvmmu_model::x86::mmu::paging::large_page_of;
use kvmmu_model::{Gfn, GfnRange, Guard, Mark, Mmu, Pfn, Rcu, RwLock, Srcu, Until, Word};

use crate::host_mm::{HostPte, huge_page};
use crate::machine::Machine;
use crate::ops::HostOp;
use crate::property::Property;
use crate::world::World;

/// `mm/mmu_notifier.c`: KVM is notified inside a read section of the notifiers' own SRCU.
impl<M: Machine> World<M> {
    fn invalidate_range_start(&self, frames: GfnRange) {
        let _srcu = self.vm.host.mmu_notifier_srcu.read_lock();
        if self.vm.kvm.system.is_some() && self.vm.host.has_other_vms() {
            self.vm.notify_other_vm();
        }
        self.vm.invalidate_range_start(frames);
    }
    fn invalidate_range_end(&self, frames: GfnRange) {
        let _srcu = self.vm.host.mmu_notifier_srcu.read_lock();
        self.vm.kvm_arch_mmu_notifier_invalidate_range(frames);
        self.vm.invalidate_range_end(frames);
    }
    fn notify_change_pte(&self, gfn: Gfn, pfn: Pfn) {
        let _srcu = self.vm.host.mmu_notifier_srcu.read_lock();
        self.vm.change_pte(gfn, pfn);
    }
    fn notify_clear_young(&self, gfn: Gfn, flush: bool) {
        let _srcu = self.vm.host.mmu_notifier_srcu.read_lock();
        let young = match flush {
            true => self.vm.clear_flush_young(gfn),
            false => self.vm.clear_young(gfn),
        };
        self.vm.host.asked_young(gfn, young);
    }
}

/// A frame on its way to another page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Moved {
    /// The page that it has.
    from: Pfn,
    /// The other page was free, and becomes a copy.
    copied: bool,
}

/// The host: its memory manager, its devices and CPUs.
impl<M: Machine> World<M> {
    /// An operation of the host, by its own thread or by user space.
    pub(super) fn run_host_op(&self, op: HostOp) {
        match op {
            HostOp::SwapOut(gfn) => self.swap_out(gfn),
            HostOp::SplitHuge(gfn) => self.split_huge(gfn),
            HostOp::SwapIn(gfn) => self.swap_in(gfn),
            HostOp::KsmMerge(keep, drop) => self.ksm_merge(keep, drop),
            HostOp::CowBreak(gfn) => self.cow_break(gfn),
            HostOp::ChangePte(gfn, pfn) => self.change_pte(gfn, pfn),
            HostOp::Age(gfn) => self.notify_clear_young(gfn, true),
            HostOp::ClearYoung(gfn) => self.notify_clear_young(gfn, false),
            HostOp::Shrink => self.vm.mmu_shrink_scan(),
            HostOp::PiWakeup(vcpu) => self.vm.post_interrupt(vcpu),
            HostOp::AsyncPf => self.vm.async_pf_execute(),
            HostOp::RcuCallbacks => self.run_rcu_callbacks(),
            HostOp::CpuOnline => self.vm.cpu_up(),
            HostOp::CpuOffline => self.vm.cpu_down(),
        }
    }

    /// What the kernel's RCU does by itself: it runs callbacks as their grace periods end, until no
    /// vCPU is left to hand one over.
    fn run_rcu_callbacks(&self) {
        while let Some(callback) = Mmu::rcu(&self.vm.mmu).and_then(Rcu::wait_ripe) {
            Mmu::rcu_callback(&self.vm, callback);
        }
    }

    /// Unmaps a page and reclaims it, unless there is a reference.
    pub(super) fn swap_out(&self, gfn: Gfn) {
        self.m.call("swap-out", || {
            if self.vm.host.is_huge(gfn) {
                self.split_huge(gfn);
            }
            let frames = GfnRange::one(gfn);
            self.m.guarded(Guard::HostZapNotifies, || self.invalidate_range_start(frames));
            self.m.checkpoint(());
            let pfn = self.unmap(gfn);
            self.m.checkpoint(pfn);
            self.m.guarded(Guard::HostZapNotifies, || self.invalidate_range_end(frames));
            if let Some(pfn) = pfn {
                self.m.checkpoint(pfn);
                self.reclaim(gfn, pfn);
            }
        });
    }

    /// Maps the frames of a huge page one by one (`__split_huge_pmd`). From then on each of its
    /// pages has a dirty flag of its own: in the kernel that comes a little later
    /// (`split_huge_page`), and not while there are references.
    fn split_huge(&self, gfn: Gfn) {
        self.m.call("split-huge", || {
            let frames = huge_page(gfn);
            self.m.guarded(Guard::HostZapNotifies, || self.invalidate_range_start(frames));
            self.m.checkpoint(());
            {
                let _mm = self.vm.host.lock();
                self.vm.host.update(|s| s.huge &= !(1 << large_page_of(gfn)));
                self.m.mark(Mark::HugeSplit);
                self.m.note(format_args!("host: the huge page of gfn{} is split", frames.start.0));
            }
            self.m.checkpoint(());
            self.m.guarded(Guard::HostZapNotifies, || self.invalidate_range_end(frames));
        });
    }

    /// Maps small pages where a huge one of hugetlbfs is: `munmap` and `mmap`, in one.
    pub(super) fn mmap_small(&self, gfn: Gfn) {
        self.m.call("mmap-small", || {
            let _mmap_lock = self.vm.host.mmap_lock.write();
            self.zap_page_range(huge_page(gfn));
        });
    }

    /// Gives the pages of a slot back.
    pub(super) fn madvise_dontneed(&self, slot: u8) {
        self.m.call("madvise-dontneed", || {
            let slot = self.vm.kvm.slots[usize::from(slot)].as_ref();
            let Some(frames) = slot.map(Memslot::frames) else { return };
            let _mmap_lock = self.vm.host.mmap_lock.read();
            self.zap_page_range(frames);
        });
    }

    /// `zap_page_range`: the pages of these frames are gone, what was in them, too, and huge pages
    /// with them.
    ///
    /// Locks: `mmap_lock`.
    fn zap_page_range(&self, frames: GfnRange) {
        self.m.guarded(Guard::HostZapNotifies, || self.invalidate_range_start(frames));
        self.m.checkpoint(());
        {
            let _mm = self.vm.host.lock();
            self.vm.host.update(|s| {
                for gfn in frames.iter() {
                    let (frame, keep) = (gfn.0 as usize, !(1 << large_page_of(gfn)));
                    (s.huge, s.hugetlb) = (s.huge & keep, s.hugetlb & keep);
                    (s.pte[frame], s.swap[frame]) = (HostPte::default(), 0);
                    s.swap_cache[frame] = None;
                }
            });
            self.m.mark(Mark::HostUnmapped);
            self.m.note(format_args!("host: the pages from gfn{} on are gone", frames.start.0));
        }
        self.m.checkpoint(());
        self.m.guarded(Guard::HostZapNotifies, || self.invalidate_range_end(frames));
    }

    /// `mmu_notifier_unregister`, of the last reference on the VM: no vCPU holds one any more.
    pub(super) fn release_vm(&self) {
        self.m.call("release-vm", || {
            for left in self.left.iter().flatten().take(usize::from(self.vm.kvm.nr_vcpus)) {
                left.wait_until(Until::Is(1));
            }
            {
                let _srcu = self.vm.host.mmu_notifier_srcu.read_lock();
                self.vm.kvm_mmu_notifier_release();
            }
            self.vm.host.mmu_notifier_srcu.synchronize();
            self.m.mark(Mark::VmReleased);
        });
    }

    /// Clears the host's own entry of a frame; the page goes to the swap cache, where one that was
    /// unmapped before may still be. The page, if there is one.
    fn unmap(&self, gfn: Gfn) -> Option<Pfn> {
        let g = gfn.0 as usize;
        let _mm = self.vm.host.lock();
        self.vm.host.update(|s| {
            s.pte[g].writable = false;
            if let Some(pfn) = s.pte[g].pfn.take() {
                s.swap_cache[g] = Some(pfn);
                self.m.mark(Mark::HostUnmapped);
                self.m.note(format_args!("host: gfn{g} unmapped from pfn{}", pfn.0));
            }
            s.swap_cache[g]
        })
    }

    /// Frees an unused page: written out if it is dirty, dropped if it is clean.
    fn reclaim(&self, gfn: Gfn, pfn: Pfn) {
        let g = gfn.0 as usize;
        let _mm = self.vm.host.lock();
        let state = self.vm.host.state();
        let unused = state.swap_cache[g] == Some(pfn) && !self.vm.host.is_referenced(pfn);
        self.m.checkpoint((pfn, unused, state.is_mapped(pfn)));
        if !unused || state.is_mapped(pfn) {
            return;
        }
        let dirty = self.vm.host.test_clear_page_dirty(pfn);
        // ORDERING: relaxed: nobody else uses the page.
        let content = self.vm.host.page(pfn).load(Relaxed);
        if dirty {
            // One place in swap for all frames that the page is of.
            self.vm.host.update(|s| {
                let frames = s.swap.iter_mut().zip(s.swap_cache);
                frames.filter(|(_, p)| *p == Some(pfn)).for_each(|(swap, _)| *swap = content);
            });
            self.m.mark(Mark::SwappedOutDirty);
            self.m.note(format_args!("host: pfn{} written out and freed", pfn.0));
        } else {
            self.m.mark(Mark::ReclaimedClean);
            self.m.note(format_args!("host: pfn{} dropped as clean and freed", pfn.0));
            if content != state.swap[g] && self.watches(Property::Swap) {
                self.m.violate(
                    Property::Swap,
                    format_args!(
                        "gfn{g} was written, and its page is dropped as clean: it comes back old"
                    ),
                );
            }
        }
        self.vm.host.update(|s| s.swap_cache[g] = None);
    }

    /// The host brings the frame in, for a caller that is going to store to it. A shared page
    /// stays read-only: the store has to break it.
    fn swap_in(&self, gfn: Gfn) {
        self.m.call("swap-in", || {
            let _mm = self.vm.host.lock();
            let state = self.vm.host.state();
            let g = gfn.0 as usize;
            let shared =
                state.pte[g].pfn.or(state.swap_cache[g]).is_some_and(|p| state.is_shared(p));
            self.vm.host.fault_in(gfn, !shared);
        });
    }

    /// Two frames with equal contents come to share one read-only page, as KSM does it: each is
    /// write-protected first, a page that has a reference is left alone.
    fn ksm_merge(&self, keep: Gfn, drop: Gfn) {
        self.m.call("ksm-merge", || {
            let Some(kept) = self.write_protect_page(keep) else { return };
            self.m.checkpoint(kept);
            let Some(dropped) = self.write_protect_page(drop) else { return };
            self.m.checkpoint((kept, dropped));
            if kept != dropped && self.have_same_contents(kept, dropped) {
                self.m.checkpoint((kept, dropped));
                self.replace_page((keep, kept), (drop, dropped));
            }
        });
    }

    /// KSM's `write_protect_page`. `None` if the frame is not mapped or its page is pinned.
    fn write_protect_page(&self, gfn: Gfn) -> Option<Pfn> {
        let g = gfn.0 as usize;
        self.m.call("write_protect_page", || {
            self.invalidate_range_start(GfnRange::one(gfn));
            let pfn = {
                let _mm = self.vm.host.lock();
                self.vm.host.update(|s| {
                    let pfn = s.pte[g].pfn.filter(|p| !self.vm.host.is_referenced(*p))?;
                    s.pte[g].writable = false;
                    Some(pfn)
                })
            };
            self.m.checkpoint(pfn);
            self.invalidate_range_end(GfnRange::one(gfn));
            pfn
        })
    }

    /// KSM's `replace_page`: maps a frame to the page of another, read-only, between start and end.
    /// It gives up if either entry is not what it was when the pages were compared (`pte_same`), or
    /// if the pages are not equal any more: somebody may have stored since, and another thread have
    /// write-protected the page again. KSM's page locks keep that away.
    fn replace_page(&self, keep: (Gfn, Pfn), drop: (Gfn, Pfn)) {
        let (gfn, pfn) = (drop.0, keep.1);
        self.invalidate_range_start(GfnRange::one(gfn));
        {
            let _mm = self.vm.host.lock();
            let state = self.vm.host.state();
            let is = |(gfn, pfn): (Gfn, Pfn)| {
                state.pte[gfn.0 as usize] == HostPte { pfn: Some(pfn), writable: false }
            };
            let unchanged = is(keep) && is(drop);
            self.m.checkpoint((keep, drop, unchanged));
            if unchanged && self.have_same_contents(pfn, drop.1) {
                self.set_pte_at_notify(gfn, pfn);
                // try_to_merge_one_page: what swap has of the two frames may be old.
                kvmmu_model::Host::kvm_set_pfn_dirty(&self.vm.host, pfn);
                self.m.note(format_args!("host: gfn{} is now pfn{}, read-only", gfn.0, pfn.0));
                self.m.mark(Mark::KsmMerged);
            }
        }
        self.invalidate_range_end(GfnRange::one(gfn));
    }

    /// Moves a frame to another page, read-only, by `change_pte` alone, as hosts before 3.7 did it
    /// (commit 2ec74c3ef2d8 put range_start before it): first to its own page, which
    /// write-protects it, then to the other one, if nothing has come in between.
    fn change_pte(&self, gfn: Gfn, pfn: Pfn) {
        self.m.call("change-pte", || {
            if let Some(moved) = self.write_protect_for_move(gfn, pfn) {
                self.m.checkpoint(moved);
                self.move_frame(gfn, pfn, moved);
            }
        });
    }

    /// Write-protects a frame, and takes the page that it is to move to if that is free. `None`:
    /// there is nothing to move, or nowhere.
    fn write_protect_for_move(&self, gfn: Gfn, pfn: Pfn) -> Option<Moved> {
        let g = gfn.0 as usize;
        let _mm = self.vm.host.lock();
        let state = self.vm.host.state();
        let copied = self.vm.host.is_free(pfn);
        let from = state.pte[g].pfn.filter(|p| !self.vm.host.is_referenced(*p));
        let from = from.filter(|p| *p != pfn && (copied || state.is_shareable(pfn)));
        self.m.checkpoint((from, copied));
        let from = from?;
        self.notify_change_pte(gfn, from);
        self.vm.host.update(|s| {
            s.pte[g].writable = false;
            s.taken |= u8::from(copied) << pfn.0;
        });
        self.m.note(format_args!("host: gfn{} is write-protected", gfn.0));
        Some(Moved { from, copied })
    }

    /// The second half: the old page is released when no SPTE maps it any more.
    fn move_frame(&self, gfn: Gfn, pfn: Pfn, Moved { from, copied }: Moved) {
        let g = gfn.0 as usize;
        let _mm = self.vm.host.lock();
        let state = self.vm.host.state();
        let unchanged = state.pte[g] == HostPte { pfn: Some(from), writable: false }
            && !self.vm.host.is_referenced(from);
        self.m.checkpoint((from, copied, unchanged));
        if unchanged && copied {
            // ORDERING: relaxed: the page is write-protected.
            let content = self.vm.host.page(from).load(Relaxed);
            // ORDERING: relaxed: the page is ours until it is mapped.
            self.vm.host.page(pfn).store(content, Relaxed);
        }
        let moves =
            unchanged && (copied || state.is_shareable(pfn) && self.have_same_contents(from, pfn));
        if moves {
            self.set_pte_at_notify(gfn, pfn);
            kvmmu_model::Host::kvm_set_pfn_dirty(&self.vm.host, pfn);
            self.m.note(format_args!("host: gfn{} is now pfn{}, read-only", gfn.0, pfn.0));
        }
        if copied && !moves {
            self.vm.host.update(|s| s.taken &= !(1 << pfn.0));
        }
    }

    /// `set_pte_at_notify`: secondary MMUs first, the host's own entry after. The page is in the
    /// host's hands until then: by them it may be reached before the frame has it.
    ///
    /// Locks: the host's.
    fn set_pte_at_notify(&self, gfn: Gfn, pfn: Pfn) {
        let taken = 1 << pfn.0;
        self.vm.host.update(|s| s.taken |= taken);
        self.notify_change_pte(gfn, pfn);
        self.vm.host.update(|s| {
            s.pte[gfn.0 as usize] = HostPte { pfn: Some(pfn), writable: false };
            s.taken &= !taken;
        });
    }

    /// True if two pages are equal. Both are write-protected.
    fn have_same_contents(&self, one: Pfn, other: Pfn) -> bool {
        // ORDERING: relaxed: nobody writes them.
        self.vm.host.page(one).load(Relaxed) == self.vm.host.page(other).load(Relaxed)
    }

    /// Gives a frame on a shared page a copy of its own, writable.
    pub(super) fn cow_break(&self, gfn: Gfn) {
        self.m.call("cow-break", || {
            let g = gfn.0 as usize;
            self.invalidate_range_start(GfnRange::one(gfn));
            {
                let _mm = self.vm.host.lock();
                let state = self.vm.host.state();
                // A page in the swap cache is mapped first, as do_swap_page does it.
                let page = state.pte[g].pfn.or(state.swap_cache[g]);
                if let Some(old) = page.filter(|p| state.is_shared(*p)) {
                    let new = self.vm.host.alloc_page();
                    self.m.checkpoint((old, new));
                    // ORDERING: relaxed: the old page is read-only, the new one not mapped yet.
                    let content = self.vm.host.page(old).load(Relaxed);
                    self.vm.host.page(new).store(content, Relaxed);
                    let pte = HostPte { pfn: Some(new), writable: true };
                    self.vm.host.update(|s| {
                        s.pte[g] = pte;
                        s.swap_cache[g] = None;
                    });
                    kvmmu_model::Host::kvm_set_pfn_dirty(&self.vm.host, new);
                    self.m.mark(Mark::CowBroken);
                }
            }
            self.invalidate_range_end(GfnRange::one(gfn));
        });
    }
}
