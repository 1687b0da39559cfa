//! Memslots that come and go while vCPUs run.
//!
//! Guarantee: when `kvm_set_memslot` has deleted a slot, no SPTE and no TLB maps its frames, and no
//! fault that still goes on will map them. Mechanism: the slot is first made invalid, so that no
//! fault begins to map it (it is retried: its frames are RAM still); the grace period waits for
//! those that had found it valid, because KVM_RUN's read section of `kvm->srcu` is held over all of
//! a fault; what they mapped is zapped then, and flushed. Linux v5.10 `virt/kvm/kvm_main.c`,
//! `kvm_set_memslot()`, with the retry of commit e0c378684b65. Not modelled: moved slots, changed
//! flags, what cached MMIO SPTEs need of generation numbers, address spaces.

use super::published::Published;
use crate::guard::Guard;
use crate::host::Host;
use crate::mark::Mark;
use crate::mmu::{MEMSLOTS, Memslot, Mmu};
use crate::platform::{Lock, Platform, Srcu};
use crate::tag::Object;
use crate::types::Gfn;

/// The slot of the APIC access page (`APIC_ACCESS_PAGE_PRIVATE_MEMSLOT`). No guest frame is in it.
pub const APIC_ACCESS_PAGE_PRIVATE_MEMSLOT: usize = MEMSLOTS;

/// `kvm->memslots`. The pointer is protected by: `slots_lock` for updates, `kvm->srcu` for readers.
#[derive(Debug)]
pub struct Memslots<P: Platform>(Published<P, 2>);

/// What an array of memslots says: which slots there are, and which of them are invalid.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct MemslotSet(u64);

impl MemslotSet {
    /// Every slot is there.
    const ALL: MemslotSet = MemslotSet((1 << (MEMSLOTS + 1)) - 1);

    /// True if the array has the slot.
    pub const fn contains(self, slot: usize) -> bool {
        self.0 >> slot & 1 == 1
    }
    /// True if the array has it, and not as `KVM_MEMSLOT_INVALID`.
    pub const fn is_valid(self, slot: usize) -> bool {
        self.contains(slot) && self.0 >> (8 + slot) & 1 == 0
    }
    const fn with(self, slot: usize) -> MemslotSet {
        MemslotSet(self.0 | 1 << slot)
    }
    const fn without(self, slot: usize) -> MemslotSet {
        MemslotSet(self.0 & !(1 << slot))
    }
    const fn with_invalid(self, slot: usize) -> MemslotSet {
        MemslotSet(self.0 | 1 << (8 + slot))
    }
    /// `slots->generation`: how many arrays were installed before this one.
    const fn generation(self) -> u64 {
        self.0 >> GENERATION_SHIFT
    }
    /// The array that it is in: the two take turns.
    const fn array(self) -> usize {
        (self.generation() % 2) as usize
    }
    const fn next_generation(self) -> MemslotSet {
        MemslotSet(self.0 + (1 << GENERATION_SHIFT))
    }
}

/// Where the generation begins: below it are the slots, and which of them are invalid.
const GENERATION_SHIFT: u32 = 16;

const _: () = assert!(MEMSLOTS < 8);

/// What becomes of the search for a frame's memslot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum MemslotFound {
    /// A valid slot has the frame.
    Valid,
    /// The slot that has it is on its way out: `KVM_MEMSLOT_INVALID` in these memslots.
    Invalid(MemslotSet),
    /// No slot has it.
    None,
}

/// `enum kvm_mr_change`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum KvmMrChange {
    /// `KVM_MR_CREATE`.
    Create,
    /// `KVM_MR_DELETE`.
    Delete,
}

impl<P: Platform> Memslots<P> {
    pub(super) fn new(p: &P) -> Self {
        let all = Some(MemslotSet::ALL.0);
        Memslots(Published::new(p, Object::Memslots, Object::MemslotArray, all))
    }
}

impl<P: Platform, H: Host> Mmu<P, H> {
    /// `kvm_memslots`: the slots that there are.
    ///
    /// Locks: a read section of `kvm->srcu`, or `slots_lock`.
    #[track_caller]
    pub fn kvm_memslots(&self) -> MemslotSet {
        let Some(Memslots(slots)) = &self.kvm.memslots else {
            self.p.reads(Object::Memslots);
            return MemslotSet::ALL;
        };
        self.p.call("kvm_memslots", || {
            slots.dereference().map_or(MemslotSet(0), |array| MemslotSet(slots.read(array)))
        })
    }

    /// `gfn_to_memslot`: the memslot that has the frame, invalid or not, and the frame's place in
    /// it.
    ///
    /// Locks: a read section of `kvm->srcu`, or `slots_lock`.
    #[track_caller]
    pub fn gfn_to_memslot(&self, gfn: Gfn) -> Option<(&Memslot<P>, u64)> {
        let slots = self.kvm_memslots();
        let (_, slot) = self.search_memslots(gfn).filter(|(i, _)| slots.contains(*i))?;
        Some((slot, gfn.0 - slot.base_gfn.0))
    }

    /// `id_to_memslot`: the memslot with this number.
    ///
    /// Locks: as [`Mmu::gfn_to_memslot`].
    #[track_caller]
    pub fn id_to_memslot(&self, id: usize) -> Option<&Memslot<P>> {
        let slots = self.kvm_memslots();
        self.memslots.get(id)?.as_ref().filter(|_| slots.contains(id))
    }

    /// `kvm_is_visible_gfn`, and what is to be known where it is false. An access to a frame
    /// without a slot is MMIO. Where memslots never change, every frame that a scenario names is
    /// taken to have one.
    ///
    /// Locks: as [`Mmu::gfn_to_memslot`].
    #[track_caller]
    pub(crate) fn find_memslot(&self, gfn: Gfn) -> MemslotFound {
        let slots = self.kvm_memslots();
        match self.search_memslots(gfn) {
            _ if self.kvm.memslots.is_none() => MemslotFound::Valid,
            Some((slot, _)) if slots.is_valid(slot) => MemslotFound::Valid,
            Some((slot, _)) if slots.contains(slot) => MemslotFound::Invalid(slots),
            _ => MemslotFound::None,
        }
    }

    /// Stands for the faults that a guest takes in vain while a memslot is invalid: the next one
    /// that may end otherwise comes after others than `seen` are installed. The vCPU must be
    /// outside its read section of `kvm->srcu`, as it is while the guest runs between those faults.
    #[track_caller]
    pub fn wait_for_memslots(&self, seen: MemslotSet) {
        if let Some(Memslots(slots)) = &self.kvm.memslots {
            slots.wait_for_another(seen.array(), seen.generation());
        }
    }

    /// `search_memslots`, whether or not the slot is there.
    fn search_memslots(&self, gfn: Gfn) -> Option<(usize, &Memslot<P>)> {
        let slots = self.memslots.iter().enumerate().filter_map(|(i, s)| Some((i, s.as_ref()?)));
        let has = |s: &Memslot<P>| gfn >= s.base_gfn && gfn.0 < s.base_gfn.0 + s.npages;
        slots.into_iter().find(|(_, s)| has(s))
    }

    /// `kvm_set_memory_region` with size 0: user space deletes a slot, if it is there.
    ///
    /// Locks: takes `slots_lock`.
    pub fn delete_memory_region(&self, slot: usize) {
        self.p.call("kvm_set_memory_region", || {
            let _slots_lock = self.kvm.slots_lock.lock();
            self.kvm_set_memslot(slot, KvmMrChange::Delete);
        });
    }

    /// `kvm_set_memslot`, unless the slot is as it should be already. A deletion takes two
    /// installations; the second one's array is the first one's old array, used again.
    ///
    /// Locks: `slots_lock`. Waits for grace periods of `kvm->srcu`.
    pub(super) fn kvm_set_memslot(&self, slot: usize, change: KvmMrChange) {
        let Some(Memslots(slots)) = &self.kvm.memslots else { return };
        self.p.call("kvm_set_memslot", || {
            let Some(old) = slots.dereference() else { return };
            let set = MemslotSet(slots.read(old));
            self.p.checkpoint((old, set));
            let to = match change {
                KvmMrChange::Create => set.with(slot),
                KvmMrChange::Delete => set.without(slot),
            };
            if to == set {
                return;
            }
            let mut to = to.next_generation();
            // kvm_dup_memslots
            let mut new = slots.kmalloc_other(&self.p, old);
            if change == KvmMrChange::Delete {
                let invalid = set.with_invalid(slot).next_generation();
                slots.write(new, invalid.0);
                self.install_new_memslots(invalid);
                to = to.next_generation();
                self.p.checkpoint((old, to));
                let zap = || self.kvm_arch_flush_shadow_memslot(slot);
                self.p.guarded(Guard::MemslotDeleteZaps, zap);
                new = old;
            }
            // update_memslots
            slots.write(new, to.0);
            self.install_new_memslots(to);
            slots.kfree(&self.p, 1 - new);
            self.p.mark(Mark::MemslotsFreed);
        });
    }

    /// `install_new_memslots`: publishes an array and waits until nobody uses the other any more.
    ///
    /// Locks: `slots_lock`.
    fn install_new_memslots(&self, set: MemslotSet) {
        let Some(Memslots(slots)) = &self.kvm.memslots else { return };
        self.p.call("install_new_memslots", || {
            slots.assign_generation(Some(set.array()), set.generation());
            self.p.mark(Mark::MemslotsInstalled);
            self.p.guarded(Guard::MemslotFreeAfterGracePeriod, || self.kvm.srcu.synchronize());
        });
    }

    /// `kvm_arch_flush_shadow_memslot`: zaps what maps the frames of a slot, and flushes. 5.10 zaps
    /// the whole VM (`kvm_mmu_zap_all_fast`).
    ///
    /// Locks: takes `mmu_lock`.
    fn kvm_arch_flush_shadow_memslot(&self, slot: usize) {
        let Some(Some(memslot)) = self.memslots.get(slot) else { return };
        self.p.call("kvm_arch_flush_shadow_memslot", || {
            let mut l = self.mmu_lock.lock();
            let mut flush = false;
            for offset in 0..memslot.npages {
                flush |= self.kvm_zap_rmapp(&mut l, Gfn(memslot.base_gfn.0 + offset));
            }
            if flush {
                self.p.mark(Mark::MemslotZapped);
                self.p.guarded(Guard::MemslotDeleteFlushes, || self.kvm_flush_remote_tlbs(None));
            }
        });
    }
}
