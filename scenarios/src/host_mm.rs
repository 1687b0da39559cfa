//! The host's memory manager: its page table for the guest's memory, pages, references, swap, KSM.
//!
//! Each of its actions is one critical section of one lock and so one step, but for copies of page
//! contents. Page flags are atomic, as in the kernel, where they are set under `mmu_lock`.

use kvmmu_model::platform::Ordering::{AcqRel, Relaxed};
use kvmmu_model::virt::GFNS;
use kvmmu_model::x86::mmu::paging::{
    KVM_MAX_HUGEPAGE_LEVEL, LARGE_PAGES, PG_LEVEL_4K, PT_ENTRIES, frames_of, large_page_of,
    page_base,
};
use kvmmu_model::{
    CpuId, Gfn, GfnRange, Gpte, Guard, Gva, Host, Lock, LockClass, Mark, Object, Pfn, PinnedPage,
    RwLock, Srcu, Tag, Word,
};

use crate::accesses::PageAccesses;
use crate::guest_tables::GuestTranslations;
use crate::machine::{Cell, GuestAccess, Machine, with_byte};
use crate::property::Property;
use crate::scenario::Backing;

/// Host pages.
pub const PFNS: usize = 8;

/// The host's entry for a guest frame.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct HostPte {
    /// The page; `None`: not mapped.
    pub pfn: Option<Pfn>,
    /// The host maps it writable.
    pub writable: bool,
}

/// What the host knows, apart from page contents and flags.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct HostState {
    /// The page table, by gfn.
    pub pte: [HostPte; GFNS],
    /// Pages that were unmapped while there was a reference: they keep their contents.
    pub swap_cache: [Option<Pfn>; GFNS],
    /// Contents of swapped-out frames; of a page that is in memory, what a clean drop leaves.
    pub swap: [u64; GFNS],
    /// Bit i: the host has page i in its hands, to map it; secondary MMUs may do so before it does.
    pub taken: u8,
    /// Bit i: one entry maps all frames of large page i.
    pub huge: u8,
    /// Bit i: large page i is in a VMA of hugetlbfs.
    pub hugetlb: u8,
}

const _: () = assert!(PFNS <= u8::BITS as usize);
const _: () = assert!(LARGE_PAGES <= u8::BITS as usize);

/// The frames of the large page that this one is in.
pub(crate) const fn huge_page(gfn: Gfn) -> GfnRange {
    let frames = frames_of(KVM_MAX_HUGEPAGE_LEVEL - 1) as u64;
    GfnRange::new(page_base(KVM_MAX_HUGEPAGE_LEVEL, gfn), frames)
}

impl HostState {
    /// True if one entry maps all frames of the large page that this one is in.
    pub(crate) const fn is_huge(&self, gfn: Gfn) -> bool {
        self.huge >> large_page_of(gfn) & 1 == 1
    }
    /// True if some frame maps the page, or is about to.
    pub fn is_mapped(&self, pfn: Pfn) -> bool {
        self.pte.iter().any(|p| p.pfn == Some(pfn)) || self.taken >> pfn.0 & 1 == 1
    }
    /// True if frames map the page, all of them read-only.
    pub fn is_read_only(&self, pfn: Pfn) -> bool {
        self.is_mapped(pfn) && !self.pte.iter().any(|p| p.pfn == Some(pfn) && p.writable)
    }
    /// True if another frame may come to share the page: frames map it, all of them read-only.
    pub fn is_shareable(&self, pfn: Pfn) -> bool {
        self.is_read_only(pfn) && self.taken >> pfn.0 & 1 == 0
    }
    /// True if the page is that of two frames or more: mapped, or unmapped and still theirs.
    pub fn is_shared(&self, pfn: Pfn) -> bool {
        let mapped = self.pte.iter().map(|p| p.pfn);
        mapped.chain(self.swap_cache).filter(|p| *p == Some(pfn)).count() > 1
    }
    /// True if the host itself has no use for the page.
    fn is_unused(&self, pfn: Pfn) -> bool {
        !self.is_mapped(pfn) && !self.swap_cache.contains(&Some(pfn))
    }
}

/// The memory manager.
#[derive(Debug)]
pub struct HostMm<M: Machine> {
    m: M,
    /// `mm->mmap_lock` of the VMM.
    pub mmap_lock: M::RwLock<()>,
    /// The SRCU around calls of notifiers.
    pub mmu_notifier_srcu: M::Srcu,
    lock: M::Lock<()>,
    state: M::Cell<HostState>,
    /// References held on each page, those of page tables not counted.
    refs: M::Cell<[u8; PFNS]>,
    /// Contents of each page: eight bytes stand for it.
    memory: [M::Word; PFNS],
    /// Bit i: page i is dirty.
    dirty: M::Word,
    pages: u8,
    /// There were huge pages at first.
    has_huge: bool,
    /// Some of them in VMAs of hugetlbfs.
    has_hugetlb: bool,
    /// How many other VMs the notifiers know.
    other_vms: M::Cell<u8>,
    /// What the guest may translate to.
    translations: GuestTranslations<M>,
    /// Which pages are in use.
    accesses: PageAccesses<M>,
}

impl<M: Machine> HostMm<M> {
    /// A host with so many pages and this backing of guest frames, some of them by huge pages,
    /// which begin at `huge`, those of `hugetlb` in VMAs of hugetlbfs. `contended`: as for
    /// [`kvmmu_model::virt::VmConfig`].
    pub fn new(
        m: &M,
        pages: u8,
        backing: &[Backing],
        (huge, hugetlb): (&[Gfn], &[Gfn]),
        contended: bool,
    ) -> Self {
        let large =
            |pages: &[Gfn]| pages.iter().fold(0, |bits, gfn| bits | 1 << large_page_of(*gfn));
        let mut state = HostState {
            pte: [HostPte::default(); GFNS],
            swap_cache: [None; GFNS],
            swap: [0; GFNS],
            taken: 0,
            huge: large(huge),
            hugetlb: large(hugetlb),
        };
        let mut dirty = 0;
        for b in backing {
            state.pte[b.gfn.0 as usize] = HostPte { pfn: b.pfn, writable: b.writable };
            if let (Some(pfn), true) = (b.pfn, b.dirty) {
                dirty |= 1 << pfn.0;
            }
        }
        HostMm {
            mmap_lock: m.rw_lock(LockClass::MmapLock.one().contended(contended), ()),
            mmu_notifier_srcu: m.srcu(LockClass::MmuNotifierSrcu.one().contended(contended)),
            lock: m.lock(LockClass::PageTableLock.one(), ()),
            state: m.cell(state),
            refs: m.cell([0; PFNS]),
            memory: core::array::from_fn(|i| m.word(Tag::nth(Object::Page, i), 0)),
            dirty: m.word(Tag::one(Object::PageFlags), dirty),
            pages,
            has_huge: !huge.is_empty(),
            has_hugetlb: !hugetlb.is_empty(),
            other_vms: m.cell(0),
            translations: GuestTranslations::new(m),
            accesses: PageAccesses::unwatched(),
            m: m.clone(),
        }
    }

    /// Watches what the guest's own tables allow from now on. Before the first step.
    pub fn watch_guest_tables(&mut self, root: Gfn) {
        self.translations.watch(root);
        self.guest_stored(false);
    }

    /// Watches from now on whether A reaches the host. Before the first step.
    pub(crate) fn watch_accesses(&mut self) {
        self.accesses.watch(&self.m);
    }

    /// Hardware has set A of an SPTE that maps the page. Part of the step of the access.
    pub fn hardware_set_accessed(&self, pfn: Pfn) {
        self.accesses.used(pfn);
    }

    /// The host has asked whether a frame was used, and this was KVM's answer.
    pub(crate) fn asked_young(&self, gfn: Gfn, young: bool) {
        self.accesses.asked(|| self.state().pte[gfn.0 as usize].pfn, young);
    }

    /// The pages, a bit each, that were used, and of which the host was not told.
    pub(crate) fn untold_accesses(&self) -> u8 {
        self.accesses.untold()
    }

    /// The guest has stored to a page in this step; `emulated`: KVM has in its stead.
    pub fn guest_stored(&self, emulated: bool) {
        let read = |pfn| self.m.peek(self.page(pfn));
        self.translations.stored(read, &self.state(), emulated);
    }

    /// What KVM does to emulate a store is done.
    pub fn guest_store_emulated(&self) {
        self.translations.emulated();
    }

    /// A vCPU begins to invalidate what it has cached of a virtual page; `None`: of every page.
    pub fn guest_invalidates(&self, cpu: CpuId, gva: Option<Gva>) {
        self.translations.invalidates(cpu, gva);
    }

    /// True if the guest's tables may let this access of a vCPU reach the page.
    pub fn guest_may_reach(&self, cpu: CpuId, access: GuestAccess, pfn: Pfn) -> bool {
        self.translations.allow(cpu, access, pfn, &self.state())
    }

    /// True if the guest's tables may let this access of a vCPU go to a device.
    pub(crate) fn guest_may_reach_device(
        &self,
        cpu: CpuId,
        access: GuestAccess,
        has_slot: impl Fn(u64) -> bool,
    ) -> bool {
        self.translations.allow_mmio(cpu, access, has_slot)
    }

    /// The contents of a page.
    pub fn page(&self, pfn: Pfn) -> &M::Word {
        &self.memory[pfn.0 as usize]
    }
    /// The contents of a frame, wherever they are: in its page, or in swap.
    #[track_caller]
    pub fn content(&self, gfn: Gfn) -> u64 {
        let state = self.state.get();
        let g = gfn.0 as usize;
        match state.pte[g].pfn.or(state.swap_cache[g]) {
            // ORDERING: relaxed: guest memory, which vCPUs write as they like.
            Some(pfn) => self.page(pfn).load(Relaxed),
            None => state.swap[g],
        }
    }
    /// Notifiers call other VMs, too.
    pub(crate) fn has_other_vms(&self) -> bool {
        let vms = self.other_vms.get();
        self.m.checkpoint(vms);
        vms > 0
    }
    /// True if one entry maps all frames of the large page that this one is in.
    pub(crate) fn is_huge(&self, gfn: Gfn) -> bool {
        self.has_huge && self.m.call("huge", || self.state.get().is_huge(gfn))
    }
    /// The page, or all of the huge page that it is in, as it is mapped in this step: a bit each.
    fn compound_page(&self, pfn: Pfn) -> u64 {
        if !self.has_huge {
            return 1 << pfn.0;
        }
        let state = self.state.get();
        let maps = |gfn: &Gfn| state.is_huge(*gfn) && state.pte[gfn.0 as usize].pfn == Some(pfn);
        let Some(gfn) = (0..GFNS as u64).map(Gfn).find(maps) else { return 1 << pfn.0 };
        let pages = huge_page(gfn).iter().filter_map(|gfn| state.pte[gfn.0 as usize].pfn);
        pages.fold(0, |pages, pfn| pages | 1 << pfn.0)
    }
    /// What the host knows. Not a step.
    pub fn state(&self) -> HostState {
        self.state.get()
    }
    /// The host's page-table locks, taken as one.
    pub fn page_table_lock(&self) -> &M::Lock<()> {
        &self.lock
    }
    /// Takes the host's lock, which every change of its page table does.
    #[track_caller]
    pub fn lock(&self) -> <M::Lock<()> as Lock<()>>::Guard<'_> {
        self.lock.lock()
    }
    /// Changes what the host knows; the lock is held.
    pub fn update<R>(&self, f: impl FnOnce(&mut HostState) -> R) -> R {
        self.state.with(f)
    }
    /// True if there is a reference on the page. The host's lock is held.
    pub fn is_referenced(&self, pfn: Pfn) -> bool {
        self.refs.get()[pfn.0 as usize] != 0
    }
    /// References held on each page.
    pub(crate) fn references(&self) -> [u8; PFNS] {
        self.refs.get()
    }
    /// True if the page is unused. The host's lock is held.
    pub fn is_free(&self, pfn: Pfn) -> bool {
        self.state.get().is_unused(pfn) && !self.is_referenced(pfn)
    }
    /// Reads and clears a page's dirty flag.
    #[track_caller]
    pub fn test_clear_page_dirty(&self, pfn: Pfn) -> bool {
        // ORDERING: acq-rel: a locked bit operation.
        self.dirty.fetch_and(!(1 << pfn.0), AcqRel) >> pfn.0 & 1 == 1
    }

    /// Nobody reads the dirty flags of pages any more.
    pub(crate) fn forget_page_flags(&self) {
        self.m.forget(&self.dirty);
    }

    /// The lowest free page. The host's lock is held. Without one the run ends: the scenario gave
    /// the host too few pages.
    pub fn alloc_page(&self) -> Pfn {
        let free = (0..u64::from(self.pages)).map(Pfn).find(|p| self.is_free(*p));
        let page = free.unwrap_or_else(|| {
            let pages = self.pages;
            self.m.violate(Property::EnoughPages, format_args!("all {pages} pages are in use"));
            Pfn(0)
        });
        self.accesses.allocated(page);
        page
    }

    /// Handles a fault of the host's own page table: maps the frame, brings its contents in, breaks
    /// nothing. The host's lock is held.
    pub fn fault_in(&self, gfn: Gfn, write: bool) -> PinnedPage {
        let g = gfn.0 as usize;
        let state = self.state.get();
        let pte = state.pte[g];
        let pfn = match (pte.pfn, state.swap_cache[g]) {
            (Some(pfn), _) | (None, Some(pfn)) => pfn,
            (None, None) => {
                let pfn = self.alloc_page();
                // ORDERING: relaxed: the page is ours until it is mapped.
                self.page(pfn).store(state.swap[g], Relaxed);
                self.m.mark(Mark::PageAllocated);
                self.m.note(format_args!("host: pfn{} allocated for gfn{g}", pfn.0));
                pfn
            }
        };
        let made_writable = write && !pte.writable;
        let writable = pte.pfn.is_some() && pte.writable || write;
        self.update(|s| {
            s.pte[g] = HostPte { pfn: Some(pfn), writable };
            s.swap_cache[g] = None;
            if s.is_huge(gfn) {
                huge_page(gfn).iter().for_each(|g| s.pte[g.0 as usize].writable = writable);
            }
        });
        if made_writable {
            self.kvm_set_pfn_dirty(pfn);
        }
        PinnedPage { pfn, writable }
    }

    /// True if an access to the frame has to break a shared page first. The host's lock is held.
    fn breaks_cow(&self, gfn: Gfn, write: bool) -> bool {
        let state = self.state.get();
        let pte = state.pte[gfn.0 as usize];
        let page = pte.pfn.or(state.swap_cache[gfn.0 as usize]);
        let breaks = write && !pte.writable && page.is_some_and(|pfn| state.is_shared(pfn));
        self.m.checkpoint((pte, page, breaks));
        breaks
    }

    /// An atomic change of one byte of a page, if it holds the old value.
    #[track_caller]
    fn change_entry(&self, page: Pfn, index: u8, old: Gpte, new: Gpte) -> bool {
        let word = self.page(page);
        loop {
            // ORDERING: relaxed: guest memory, which vCPUs write as they like.
            let content = word.load(Relaxed);
            self.m.checkpoint(content);
            if (content >> (8 * u32::from(index))) as u8 != old.0 {
                return false;
            }
            let to = with_byte(content, index, new.0);
            // ORDERING: acq-rel: a locked operation.
            if word.compare_exchange(content, to, AcqRel, Relaxed).is_ok() {
                self.kvm_set_pfn_dirty(page);
                return true;
            }
        }
    }

    fn get_page(&self, pfn: Pfn) {
        self.refs.commute(|refs| refs[pfn.0 as usize] += 1);
        self.m.mark(Mark::Gup);
    }
}

impl<M: Machine> Host for HostMm<M> {
    fn gfn_to_pfn(&self, gfn: Gfn, write: bool) -> Option<PinnedPage> {
        self.m.call("gfn_to_pfn", || {
            self.m.might_sleep();
            let _mmap_lock = self.mmap_lock.read();
            let _mm = self.lock.lock();
            if self.breaks_cow(gfn, write) {
                return None;
            }
            let page = self.fault_in(gfn, write);
            self.get_page(page.pfn);
            self.m.note(format_args!("gup: gfn{} is pfn{}", gfn.0, page.pfn.0));
            Some(page)
        })
    }

    fn gfn_to_pfn_atomic(&self, gfn: Gfn, write: bool) -> Option<PinnedPage> {
        self.m.call("gfn_to_pfn_atomic", || {
            let _mm = self.lock.lock();
            let pte = self.state.get().pte[gfn.0 as usize];
            self.m.checkpoint(pte);
            let pfn = pte.pfn?;
            if write && !pte.writable {
                return None;
            }
            self.get_page(pfn);
            self.m.note(format_args!("gup: gfn{} is pfn{}", gfn.0, pfn.0));
            Some(PinnedPage { pfn, writable: pte.writable })
        })
    }

    fn vma_level<R>(&self, gfn: Gfn, inside: impl FnOnce() -> R) -> (u8, R) {
        let _mmap_lock = self.mmap_lock.read();
        if !self.has_hugetlb {
            return (PG_LEVEL_4K, inside());
        }
        let hugetlb =
            self.m.call("find_vma", || self.state.get().hugetlb >> large_page_of(gfn) & 1 == 1);
        (if hugetlb { KVM_MAX_HUGEPAGE_LEVEL } else { PG_LEVEL_4K }, inside())
    }

    /// Part of the step before it: a fault asks under `mmu_lock`, when no invalidation runs. Where
    /// a log ends, or KVM is not notified, the host may split the page at any time.
    fn host_pfn_mapping_level(&self, gfn: Gfn) -> u8 {
        if self.is_huge(gfn) { KVM_MAX_HUGEPAGE_LEVEL } else { PG_LEVEL_4K }
    }

    fn access_user_memory(&self) {
        self.m.might_sleep();
        drop(self.mmap_lock.read());
    }

    fn vm_mmap(&self) {
        self.m.might_sleep();
        drop(self.mmap_lock.write());
    }

    fn get_user_pages_remote(&self) {
        self.m.call("get_user_pages_remote", || {
            self.m.might_sleep();
            let mmap_lock = self.mmap_lock.read();
            if self.m.guarded(Guard::GupSaysWhatItHolds, || true) {
                drop(mmap_lock);
            } else {
                core::mem::forget(mmap_lock);
            }
        });
    }

    fn mmu_notifier_register(&self) {
        self.m.call("mmu_notifier_register", || {
            let _mmap_lock = self.mmap_lock.write();
            self.other_vms.with(|vms| *vms += 1);
        });
    }

    fn mmu_notifier_unregister(&self) {
        self.m.call("mmu_notifier_unregister", || {
            self.other_vms.with(|vms| *vms -= 1);
            self.mmu_notifier_srcu.synchronize();
        });
    }

    fn kvm_release_pfn_clean(&self, pfn: Pfn) {
        self.m.call("kvm_release_pfn_clean", || {
            let _mm = self.lock.lock();
            self.refs.commute(|refs| refs[pfn.0 as usize] = refs[pfn.0 as usize].wrapping_sub(1));
        });
    }

    #[track_caller]
    fn out_of_table_pages(&self) {
        self.m.violate(Property::EnoughPages, format_args!("all pages for tables are in use"));
    }

    #[track_caller]
    fn kvm_set_pfn_dirty(&self, pfn: Pfn) {
        // ORDERING: acq-rel: a locked bit operation.
        let pages = self.compound_page(pfn);
        // Whether it is a part of a huge page the host may change before the step.
        if pages != 1 << pfn.0 {
            self.m.depends_on(pages);
        }
        self.dirty.or(pages, AcqRel);
    }

    /// A hint for reclaim, and no step: only `accessed` looks at it.
    fn kvm_set_pfn_accessed(&self, pfn: Pfn) {
        self.accesses.referenced(pfn);
    }

    /// Of a table that is swapped out, what it says; it is not brought in.
    #[track_caller]
    fn read_gpte(&self, table: Gfn, index: u8) -> Gpte {
        Gpte((self.content(table) >> (8 * u32::from(index))) as u8)
    }

    #[track_caller]
    fn try_cmpxchg_user(&self, table: Gfn, index: u8, old: Gpte, new: Gpte) -> bool {
        self.m.call("__try_cmpxchg_user", || {
            self.m.might_sleep();
            let _mmap_lock = self.mmap_lock.read();
            let _mm = self.lock.lock();
            // No guest table is shared: scenario files cannot merge them.
            let page = self.fault_in(table, true).pfn;
            self.m.checkpoint(page);
            self.change_entry(page, index, old, new)
        })
    }

    #[track_caller]
    fn cmpxchg_by_offset(&self, table: Gfn, index: u8, old: Gpte, new: Gpte) -> bool {
        self.m.call("cmpxchg_gpte", || {
            let _mmap_lock = self.mmap_lock.read();
            // The VMM's mapping begins with gfn0.
            let page = Pfn(table.0);
            let _mm = self.lock.lock();
            if self.state.get().pte[table.0 as usize].pfn != Some(page) {
                self.m.violate(
                    Property::PfnSafety,
                    format_args!(
                        "KVM changes an entry of gfn{} in pfn{}, which is not the frame's",
                        table.0, page.0
                    ),
                );
            }
            self.change_entry(page, index, old, new)
        })
    }

    #[track_caller]
    fn copy_to_user(&self, gfn: Gfn, byte: u8, value: u8) -> bool {
        self.m.call("__copy_to_user", || {
            self.m.might_sleep();
            let _mmap_lock = self.mmap_lock.read();
            let _mm = self.lock.lock();
            if self.breaks_cow(gfn, true) {
                return false;
            }
            let page = self.fault_in(gfn, true).pfn;
            self.m.checkpoint(page);
            self.m.store_byte(self.page(page), byte, value);
            self.guest_stored(true);
            let gpte = Gpte(value);
            if usize::from(byte) < PT_ENTRIES && gpte.is_present() {
                self.m.note(format_args!("guest: gfn{}[{byte}] = gfn{}", gfn.0, gpte.gfn().0));
            } else {
                self.m.note(format_args!("guest: gfn{}[{byte}] = {value:#x}", gfn.0));
            }
            // The CPU sets D in the host's entry, which is the page's when it is unmapped.
            self.kvm_set_pfn_dirty(page);
            true
        })
    }
}
