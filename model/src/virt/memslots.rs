//! Memslots that come and go while vCPUs run.
//!
//! Guarantee: when `kvm_set_memslot` has deleted a slot, no SPTE and no TLB maps its frames, and no
//! fault that still goes on will map them. Mechanism: the slot is first made invalid, so that no
//! fault begins to map it (it is retried: its frames are RAM still); the grace period waits for
//! those that had found it valid, because KVM_RUN's read section of `kvm->srcu` is held over all of
//! a fault; what they mapped is zapped then, and flushed. Linux v5.10 `virt/kvm/kvm_main.c`,
//! `kvm_set_memslot()`. Not v5.10: there a fault that meets an invalid slot is not retried but
//! becomes MMIO, though the frame is RAM (retried since 5.13, commit e0c378684b65). Not modelled:
//! moved slots, address spaces.
//!
//! A slot that stays and changes its flags needs no invalid one in between. When its dirty log
//! begins, faults find the bitmap before anything is write-protected, and the grace period waits
//! for those that found none: what they map writable, and do not mark, is write-protected after.

use super::published::Published;
use super::{MEMSLOTS, Memslot, SrcuSection};
use crate::guard::Guard;
use crate::host::Host;
use crate::kernel;
use crate::mark::Mark;
use crate::platform::Ordering::Relaxed;
use crate::platform::{Lock, Platform, Srcu, Word};
use crate::spte::MMIO_GENERATION_MASK;
use crate::tag::Object;
use crate::types::Gfn;
use crate::vm::{Mmu, Vm};

/// The slot of the APIC access page (`APIC_ACCESS_PAGE_PRIVATE_MEMSLOT`). No guest frame is in it.
pub const APIC_ACCESS_PAGE_PRIVATE_MEMSLOT: usize = MEMSLOTS;

/// `kvm->memslots`. The pointer is protected by: `slots_lock` for updates, `kvm->srcu` for readers.
#[derive(Debug)]
pub struct Memslots<P: Platform> {
    /// `None` in programs that never replace them.
    published: Option<Published<P, 2>>,
    /// The memslots at first.
    first: MemslotSet,
}

/// What an array of memslots says: which slots there are, which of them are invalid, and which are
/// logged.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct MemslotSet(u64);

impl MemslotSet {
    /// Those slots that `there` says, and that of the APIC page; those that `logged` says are
    /// logged.
    pub(super) fn at_first(
        there: impl Fn(usize) -> bool,
        logged: impl Fn(usize) -> bool,
    ) -> MemslotSet {
        let all = (0..=MEMSLOTS).filter(|slot| there(*slot));
        let there = all.fold(MemslotSet(0), MemslotSet::with);
        let logged = (0..MEMSLOTS).filter(|slot| logged(*slot));
        logged.fold(there, |set, slot| set.logged(slot, true))
    }
    /// True if the array has the slot.
    pub const fn contains(self, slot: usize) -> bool {
        self.0 >> slot & 1 == 1
    }
    /// True if the array has it, and not as `KVM_MEMSLOT_INVALID`.
    pub const fn is_valid(self, slot: usize) -> bool {
        self.contains(slot) && self.0 >> (INVALID_SHIFT + slot) & 1 == 0
    }
    /// True if the array has it with `KVM_MEM_LOG_DIRTY_PAGES`.
    pub const fn is_logged(self, slot: usize) -> bool {
        self.contains(slot) && self.says_logged(slot)
    }
    /// The same, whether or not the array has the slot.
    const fn says_logged(self, slot: usize) -> bool {
        self.0 >> (LOGGED_SHIFT + slot) & 1 == 1
    }
    const fn with(self, slot: usize) -> MemslotSet {
        MemslotSet(self.0 | 1 << slot)
    }
    const fn without(self, slot: usize) -> MemslotSet {
        MemslotSet(self.0 & !(1 << slot))
    }
    const fn logged(self, slot: usize, on: bool) -> MemslotSet {
        let bit = 1 << (LOGGED_SHIFT + slot);
        MemslotSet(if on { self.0 | bit } else { self.0 & !bit })
    }
    const fn with_invalid(self, slot: usize) -> MemslotSet {
        MemslotSet(self.0 | 1 << (INVALID_SHIFT + slot))
    }
    /// How many arrays were installed before this one. `slots->generation` is the same once
    /// [`MemslotSet::is_update_in_progress`] is over, and one less until then.
    const fn generation(self) -> u64 {
        self.0 >> GENERATION_SHIFT
    }
    /// `KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS`: vCPUs may use the memslots before these.
    pub(crate) const fn is_update_in_progress(self) -> bool {
        self.0 & UPDATE_IN_PROGRESS != 0
    }
    /// `slots->generation`, with the mark of an update in its lowest bit. It goes up by one here,
    /// by the number of address spaces in the kernel.
    pub(crate) const fn whole_generation(self) -> u64 {
        let under_way = self.is_update_in_progress() as u64;
        self.generation().wrapping_sub(under_way) << 1 | under_way
    }
    /// What MMIO SPTEs keep of it: not the mark.
    pub(crate) const fn mmio_generation(self) -> u64 {
        self.whole_generation() >> 1 & MMIO_GENERATION_MASK
    }
    const fn in_progress(self) -> MemslotSet {
        MemslotSet(self.0 | UPDATE_IN_PROGRESS)
    }
    /// The array that it is in: the two take turns.
    const fn array(self) -> usize {
        (self.generation() % 2) as usize
    }
    const fn next_generation(self) -> MemslotSet {
        MemslotSet(self.0 + (1 << GENERATION_SHIFT))
    }
}

/// Of a set: the lowest bits say which slots there are, the bits from here on which are invalid.
const INVALID_SHIFT: usize = 8;
/// Of a set: the bits from here on say which slots are logged.
const LOGGED_SHIFT: usize = 16;
/// Of a set: its generation is to come.
const UPDATE_IN_PROGRESS: u64 = 1 << 23;
/// Of a set: the generation is from here on.
const GENERATION_SHIFT: u32 = 24;

const _: () = assert!(MEMSLOTS < INVALID_SHIFT, "each field has a bit for the APIC's slot, too");

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

/// A memslot as the memslots in use have it.
#[derive(Clone, Copy, Debug)]
pub struct FoundMemslot<'a, P: Platform> {
    /// The slot.
    pub slot: &'a Memslot<P>,
    /// `KVM_MEM_LOG_DIRTY_PAGES`.
    pub logged: bool,
    /// It is not `KVM_MEMSLOT_INVALID`.
    pub valid: bool,
}

impl<'a, P: Platform> FoundMemslot<'a, P> {
    /// `memslot->dirty_bitmap`, if there is one.
    pub fn dirty_bitmap(&self) -> Option<&'a P::Word> {
        self.logged.then_some(&self.slot.dirty_bitmap)
    }
}

/// `enum kvm_mr_change`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum KvmMrChange {
    /// `KVM_MR_CREATE`.
    Create,
    /// `KVM_MR_DELETE`.
    Delete,
    /// `KVM_MR_FLAGS_ONLY`: `KVM_MEM_LOG_DIRTY_PAGES` is set, or it is not.
    FlagsOnly {
        /// It is.
        log: bool,
    },
}

/// The dirty log of a slot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DirtyLog {
    /// There is none.
    Off,
    /// It begins empty, and all frames are write-protected.
    Empty,
    /// It begins with all bits set, and none is (`KVM_DIRTY_LOG_INITIALLY_SET`).
    InitiallySet,
}

impl<P: Platform> Memslots<P> {
    /// `replaced`: something in this program replaces them.
    pub(super) fn new(p: &P, replaced: bool, first: MemslotSet) -> Self {
        let init = Some(first.0);
        let published = || Published::new(p, Object::Memslots, Object::MemslotArray, init);
        Memslots { published: replaced.then(published), first }
    }

    /// Nothing ever replaces them. For observers.
    pub const fn are_constant(&self) -> bool {
        self.published.is_none()
    }

    /// The memslots in use. For observers, which look at words by `peek`.
    pub fn current(&self, peek: impl Fn(&P::Word) -> u64) -> MemslotSet {
        match &self.published {
            None => self.first,
            Some(slots) => slots.current(peek).map_or(MemslotSet(0), MemslotSet),
        }
    }
}

impl<P: Platform, H: Host, M: Mmu<P>> Vm<P, H, M> {
    /// `kvm_memslots`: the slots that there are.
    ///
    /// Locks: a read section of `kvm->srcu`, or `slots_lock`.
    #[track_caller]
    pub fn kvm_memslots(&self) -> MemslotSet {
        let Some(slots) = &self.kvm.memslots.published else {
            self.p.reads(Object::Memslots);
            return self.kvm.memslots.first;
        };
        self.p.call("kvm_memslots", || {
            slots.dereference().map_or(MemslotSet(0), |array| MemslotSet(slots.read(array)))
        })
    }

    /// `gfn_to_memslot`: the memslot that has the frame, invalid or not.
    ///
    /// Locks: a read section of `kvm->srcu`, or `slots_lock`.
    #[track_caller]
    pub fn gfn_to_memslot(&self, gfn: Gfn) -> Option<FoundMemslot<'_, P>> {
        let slots = self.kvm_memslots();
        let (id, slot) = self.search_memslots(gfn).filter(|(i, _)| slots.contains(*i))?;
        Some(FoundMemslot { slot, logged: slots.is_logged(id), valid: slots.is_valid(id) })
    }

    /// `id_to_memslot`: the memslot with this number.
    ///
    /// Locks: as [`Vm::gfn_to_memslot`].
    #[track_caller]
    pub fn id_to_memslot(&self, id: usize) -> Option<FoundMemslot<'_, P>> {
        let slots = self.kvm_memslots();
        let slot = self.kvm.slots.get(id)?.as_ref().filter(|_| slots.contains(id))?;
        Some(FoundMemslot { slot, logged: slots.is_logged(id), valid: slots.is_valid(id) })
    }

    /// `kvm_is_visible_gfn`, and what is to be known where it is false. An access to a frame
    /// without a slot is MMIO.
    ///
    /// Locks: as [`Vm::gfn_to_memslot`].
    #[track_caller]
    pub(crate) fn find_memslot(&self, gfn: Gfn) -> MemslotFound {
        let slots = self.kvm_memslots();
        match self.search_memslots(gfn) {
            // Where memslots never change, all of them are there.
            Some(_) if self.kvm.memslots.published.is_none() => MemslotFound::Valid,
            Some((slot, _)) if slots.is_valid(slot) => MemslotFound::Valid,
            Some((slot, _)) if slots.contains(slot) => MemslotFound::Invalid(slots),
            _ => MemslotFound::None,
        }
    }

    /// Stands for the faults that a guest takes in vain while a memslot is invalid: the next one
    /// that may end otherwise comes after others than `seen` are installed. The vCPU is outside its
    /// read section of `kvm->srcu` meanwhile, as it is while the guest runs between those faults:
    /// the grace period of the deletion does not wait for it.
    #[track_caller]
    pub fn wait_for_memslots<'a>(
        &'a self,
        seen: MemslotSet,
        srcu: &mut Option<SrcuSection<'a, P>>,
    ) {
        let leave = || srcu.take().is_some();
        let left = self.p.guarded(Guard::RetryLeavesSrcu, leave);
        if let Some(slots) = &self.kvm.memslots.published {
            slots.wait_for_another(seen.array(), seen.generation());
        }
        if left {
            *srcu = self.vcpu_srcu_read_lock();
        }
    }

    /// The number of the memslot that has the frame, whether or not it is there.
    pub(crate) fn memslot_id(&self, gfn: Gfn) -> Option<usize> {
        self.search_memslots(gfn).map(|(id, _)| id)
    }

    /// `search_memslots`, whether or not the slot is there.
    fn search_memslots(&self, gfn: Gfn) -> Option<(usize, &Memslot<P>)> {
        let slots = self.kvm.slots.iter().enumerate().filter_map(|(i, s)| Some((i, s.as_ref()?)));
        let has = |s: &Memslot<P>| gfn >= s.base_gfn && gfn.0 < s.base_gfn.0 + s.npages;
        slots.into_iter().find(|(_, s)| has(s))
    }

    /// `kvm_set_memory_region` with size 0: user space deletes a slot, if it is there.
    ///
    /// Locks: takes `slots_lock`.
    #[kernel("kvm_set_memory_region")]
    pub fn delete_memory_region(&self, slot: usize) {
        let _slots_lock = self.kvm.slots_lock.lock();
        self.kvm_set_memslot(slot, KvmMrChange::Delete);
    }

    /// `kvm_set_memory_region` of a slot that is not there: user space makes it, logged if it was
    /// so at first.
    ///
    /// Locks: takes `slots_lock`.
    #[kernel("kvm_set_memory_region")]
    pub fn create_memory_region(&self, slot: usize) {
        let _slots_lock = self.kvm.slots_lock.lock();
        if let (None, Some(Some(memslot))) = (self.id_to_memslot(slot), self.kvm.slots.get(slot)) {
            // kvm_alloc_dirty_bitmap, if it is logged; empty, without KVM_DIRTY_LOG_INITIALLY_SET.
            // ORDERING: relaxed: nobody finds it before the memslots are installed.
            memslot.dirty_bitmap.store(0, Relaxed);
        }
        self.kvm_set_memslot(slot, KvmMrChange::Create);
    }

    /// `kvm_set_memory_region` with other flags: the dirty log of a slot begins or ends, if the
    /// slot is there.
    ///
    /// Locks: takes `slots_lock`, and `mmu_lock` in it.
    #[kernel("kvm_set_memory_region")]
    pub fn set_memory_region_log(&self, slot: usize, log: DirtyLog) {
        let _slots_lock = self.kvm.slots_lock.lock();
        let (on, initially_set) = (log != DirtyLog::Off, log == DirtyLog::InitiallySet);
        let change = KvmMrChange::FlagsOnly { log: on };
        let Some(found) = self.id_to_memslot(slot).filter(|found| found.logged != on) else {
            return;
        };
        let memslot = found.slot;
        if on {
            // ORDERING: relaxed: nobody finds it before the memslots are installed.
            let all = initially_set && self.p.guarded(Guard::LogInitiallySet, || true);
            let bits = if all { (1 << memslot.npages) - 1 } else { 0 };
            memslot.dirty_bitmap.store(bits, Relaxed);
        }
        let commit = || self.kvm_arch_commit_memory_region(memslot, log);
        self.p.without(Guard::LogInstalledBeforeProtect, commit);
        self.kvm_set_memslot(slot, change);
        self.p.guarded(Guard::LogInstalledBeforeProtect, commit);
    }

    /// `kvm_arch_commit_memory_region`, of a slot whose log begins or ends.
    ///
    /// Locks: `slots_lock`; takes `mmu_lock`.
    fn kvm_arch_commit_memory_region(&self, slot: &Memslot<P>, log: DirtyLog) {
        match log {
            DirtyLog::Off => M::kvm_mmu_zap_collapsible_sptes(self, slot),
            DirtyLog::Empty => self.kvm_mmu_slot_apply_flags(slot, false),
            DirtyLog::InitiallySet => self.kvm_mmu_slot_apply_flags(slot, true),
        }
    }

    /// `kvm_mmu_slot_apply_flags`, of `kvm_arch_commit_memory_region`: what guests could write
    /// before the log began they write by a fault from now on; what is initially set, by 4K, after
    /// CLEAR_DIRTY_LOG, which flushes. A flush is owed even if no SPTE had W: aging may have taken
    /// it, and TLBs have it still. Not v5.10: there the flush depends on SPTEs (always since 6.0,
    /// commit b64d740ea7dd).
    ///
    /// Locks: `slots_lock`; takes `mmu_lock`. The flush comes after it.
    #[kernel]
    fn kvm_mmu_slot_apply_flags(&self, slot: &Memslot<P>, initially_set: bool) {
        let cleared_w = self.p.guarded(Guard::LogProtects, || {
            let mut l = self.kvm.mmu_lock.lock();
            M::kvm_mmu_slot_remove_write_access(self, &mut l, slot, initially_set)
        });
        self.p.mark(Mark::LogProtected);
        let always = !initially_set && self.p.guarded(Guard::LogFlushesAlways, || true);
        let flush = cleared_w || always;
        if flush {
            self.p.guarded(Guard::LogFlushes, || self.kvm_flush_remote_tlbs(None));
        }
    }

    /// `kvm_set_memslot`, unless the slot is as it should be already. A deletion takes two
    /// installations; the second one's array is the first one's old array, used again.
    ///
    /// Locks: `slots_lock`. Waits for grace periods of `kvm->srcu`.
    pub(crate) fn kvm_set_memslot(&self, slot: usize, change: KvmMrChange) {
        let Some(slots) = &self.kvm.memslots.published else { return };
        self.p.call("kvm_set_memslot", || {
            let Some(old) = slots.dereference() else { return };
            let set = MemslotSet(slots.read(old));
            let to = match change {
                KvmMrChange::Create => {
                    set.with(slot).logged(slot, self.kvm.memslots.first.says_logged(slot))
                }
                KvmMrChange::Delete => set.without(slot),
                KvmMrChange::FlagsOnly { log } => set.logged(slot, log),
            };
            if to == set {
                return;
            }
            let mut to = to.next_generation();
            // kvm_dup_memslots
            let copy = slots.kmalloc_other(&self.p, old);
            let mut unused = old;
            if change == KvmMrChange::Delete {
                let invalid = set.with_invalid(slot).next_generation();
                let zap = || {
                    if let Some(memslot) = self.kvm.slots.get(slot).and_then(Option::as_ref) {
                        let zap = || M::kvm_arch_flush_shadow_memslot(self, memslot);
                        self.p.guarded(Guard::MemslotDeleteZaps, zap);
                    }
                };
                self.p.without(Guard::MemslotInvalidBeforeZap, zap);
                self.install_new_memslots(slots, invalid);
                to = to.next_generation();
                self.p.guarded(Guard::MemslotInvalidBeforeZap, zap);
                unused = copy;
            }
            self.install_new_memslots(slots, to);
            slots.kfree(&self.p, unused);
            self.p.mark(Mark::MemslotsFreed);
        });
    }

    /// `install_new_memslots`: publishes an array and waits until nobody uses the other any more.
    /// Then the generation counts up: what a vCPU has not found in the old array, and remembers by
    /// the generation of the new one, it forgets.
    ///
    /// Locks: `slots_lock`.
    fn install_new_memslots(&self, slots: &Published<P, 2>, set: MemslotSet) {
        self.p.call("install_new_memslots", || {
            let last = self.p.guarded(Guard::MemslotsGenerationLast, || true);
            slots.write(set.array(), if last { set.in_progress().0 } else { set.0 });
            slots.assign_generation(Some(set.array()), set.generation());
            self.p.mark(Mark::MemslotsInstalled);
            self.p.guarded(Guard::MemslotFreeAfterGracePeriod, || self.kvm.srcu.synchronize());
            self.kvm_arch_memslots_updated(set);
            self.p.guarded(Guard::MemslotsGenerationLast, || slots.write(set.array(), set.0));
        });
    }

    /// `kvm_arch_memslots_updated`: where the generation of MMIO SPTEs begins anew, those that have
    /// it from before are zapped, with everything else.
    ///
    /// Locks: `slots_lock`; may take `mmu_lock`.
    fn kvm_arch_memslots_updated(&self, set: MemslotSet) {
        if set.mmio_generation() == 0 {
            self.p.guarded(Guard::MmioWrapZaps, || M::kvm_mmu_zap_all_fast(self));
        }
    }
}
