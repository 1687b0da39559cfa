//! Shadow pages: finding, making, linking, zapping and freeing them.
//!
//! Guarantee: a guest table that is shadowed is write-protected, in SPTEs and TLBs, before its
//! shadow page is linked; a shadow page is freed only after every CPU that could reach it was
//! kicked, and will flush before it enters the guest. Linux v5.10 `arch/x86/kvm/mmu/mmu.c`. Not
//! modelled: write flooding, `mmu_valid_gen`.

use super::paging::{PG_LEVEL_4K, ROOT_LEVEL, SpSet, all_pages, entries_of};
use super::{Locked, Role, ShadowMmu, ShadowPage};
use crate::guard::Guard;
use crate::host::Host;
use crate::kernel;
use crate::mark::Mark;
use crate::platform::Ordering::Relaxed;
use crate::platform::{Platform, Word};
use crate::types::{CpuId, Gfn, SpId, SpteLoc};
use crate::vm::Vm;

impl<P: Platform, H: Host> Vm<P, H, ShadowMmu<P>> {
    /// `kvm_mmu_get_page`: the shadow page of this frame and role, made if need be. A new indirect
    /// page comes back with its guest table write-protected and flushed.
    ///
    /// Locks: `mmu_lock`.
    ///
    /// # Panics
    /// If the pool is empty: scenarios stay below it, as `make_mmu_pages_available` would.
    #[kernel]
    pub(super) fn kvm_mmu_get_page(
        &self,
        l: &mut Locked,
        me: Option<CpuId>,
        gfn: Gfn,
        role: Role,
    ) -> SpId {
        let fits = |sp: &ShadowPage| sp.is_valid() && sp.gfn == gfn && sp.role == role;
        if let Some(found) = l.mmu.pages.iter().position(fits) {
            let sp = SpId(found as u8);
            if self.sync_what_was_found(l, me, sp) {
                return sp;
            }
        }
        let free = l.mmu.pages.iter().position(|sp| !sp.in_use).expect("a free shadow page");
        let sp = SpId(free as u8);
        self.alloc_page(l, sp, gfn, role);
        if !role.direct {
            self.account_shadowed(l, me, sp);
            if role.level == PG_LEVEL_4K && self.write_protect_table(l, gfn) {
                self.p.guarded(Guard::GetPageFlush, || self.kvm_flush_remote_tlbs(me));
            }
        }
        sp
    }

    /// `kvm_mmu_alloc_page`. The table is all zeroes: the kernel takes zeroed memory; here
    /// `kvm_mmu_prepare_zap_page` has cleared every entry of a page that is used again.
    fn alloc_page(&self, l: &mut Locked, sp: SpId, gfn: Gfn, role: Role) {
        let table = &self.mmu.tables[usize::from(sp.0)];
        self.p.allocated(&table.spt);
        self.p.allocated(&table.gfns);
        self.p.allocated(core::slice::from_ref(&table.header));
        let page = ShadowPage { in_use: true, gfn, role, ..ShadowPage::default() };
        debug_assert!(!l.mmu.page(sp).in_use, "allocated twice");
        *l.mmu.page_mut(sp) = page;
        // ORDERING: relaxed: published by the release of the link.
        table.header.store(page.header().0, Relaxed);
    }

    /// `account_shadowed`: counts it, keeps large SPTEs away from its frame, and tracks writes to
    /// tables above the 4K level.
    fn account_shadowed(&self, l: &mut Locked, me: Option<CpuId>, sp: SpId) {
        // ORDERING: relaxed: counts are changed under mmu_lock. kvm_mmu_pte_write reads this one
        // without: it stores the gpte, then reads the count; here the count goes up, then
        // FNAME(fetch) reads the gpte again. If both read the old value, the old gpte is mapped and
        // nobody zaps it. Each side needs a full barrier between its two steps, on x86 too. 5.10 to
        // 6.1 have none and so this hole; 6.12 has both.
        self.mmu.indirect_shadow_pages.add(1, Relaxed);
        let page = *l.mmu.page(sp);
        self.kvm_mmu_gfn_disallow_lpage(l, page.gfn);
        if page.role.level > PG_LEVEL_4K {
            // No guard: a write to a table that is not tracked meets its write protection, and the
            // slow path asks mmu_need_write_protect and emulates, too.
            // ORDERING: relaxed: as above.
            self.mmu.gfn_track[page.gfn.0 as usize].add(1, Relaxed);
            if self.write_protect_table(l, page.gfn) {
                self.p.guarded(Guard::GetPageFlush, || self.kvm_flush_remote_tlbs(me));
            }
        }
    }

    /// `rmap_write_protect`, of a guest table that is about to be shadowed.
    fn write_protect_table(&self, l: &Locked, gfn: Gfn) -> bool {
        self.p.guarded(Guard::GetPageWriteProtects, || self.rmap_write_protect(l, gfn))
    }

    /// `unaccount_shadowed`.
    fn unaccount_shadowed(&self, l: &mut Locked, sp: SpId) {
        // ORDERING: relaxed: as in account_shadowed.
        self.mmu.indirect_shadow_pages.add(u64::MAX, Relaxed);
        let page = *l.mmu.page(sp);
        self.kvm_mmu_gfn_allow_lpage(l, page.gfn);
        if page.role.level > PG_LEVEL_4K {
            // ORDERING: relaxed: as above.
            self.mmu.gfn_track[page.gfn.0 as usize].add(u64::MAX, Relaxed);
        }
    }

    /// `link_shadow_page`: the SPTE first, then the parent's place in the child.
    ///
    /// Locks: `mmu_lock`.
    #[kernel]
    pub(super) fn link_shadow_page(&self, l: &mut Locked, parent: SpteLoc, child: SpId) {
        debug_assert!(l.mmu.page(child).is_valid(), "a page that is linked is in use");
        self.mmu_spte_set(l, parent, self.mmu.format.nonleaf(child));
        let page = l.mmu.page_mut(child);
        page.parent_ptes.insert(parent);
        if page.unsync || page.unsync_child_bitmap != 0 {
            self.p.guarded(Guard::LinkMarksUnsync, || self.mark_unsync(l, parent));
        }
        self.p.mark(Mark::ShadowPageLinked);
    }

    /// `kvm_mmu_prepare_zap_page`: takes a page out of the tree. It drops its leaves, unlinks its
    /// children and its parents. No flush, and nothing is freed.
    ///
    /// Locks: `mmu_lock`.
    #[kernel]
    pub(super) fn kvm_mmu_prepare_zap_page(&self, l: &mut Locked, sp: SpId, invalid: &mut SpSet) {
        for loc in entries_of(sp) {
            self.mmu_page_zap_pte(l, loc);
        }
        // No guard: the SPTE and the page's list of parents change together, and kvm_mmu_free_page
        // asserts that no parent links what it frees.
        for parent in l.mmu.page(sp).parent_ptes.iter() {
            self.drop_parent_pte(l, sp, parent);
        }
        if !l.mmu.page(sp).role.direct {
            self.unaccount_shadowed(l, sp);
        }
        let page = l.mmu.page_mut(sp);
        page.role.invalid = true;
        // kvm_unlink_unsync_page.
        page.unsync = false;
        if l.mmu.page(sp).root_count == 0 {
            invalid.insert(sp);
        }
        self.p.mark(Mark::ShadowPageZapped);
    }

    /// `mmu_page_zap_pte`: drops a leaf, or unlinks a child.
    ///
    /// Locks: `mmu_lock`.
    pub(super) fn mmu_page_zap_pte(&self, l: &mut Locked, loc: SpteLoc) {
        let spte = self.mmu_spte_get_lockless(loc);
        if !self.mmu.format.is_shadow_present(spte) {
            if self.mmu.format.is_mmio(spte) {
                self.mmu_spte_clear_no_track(l, loc);
            }
            return;
        }
        if self.mmu.format.is_last(spte, l.mmu.page(loc.sp).role.level) {
            self.drop_spte(l, loc);
        } else {
            self.drop_parent_pte(l, self.mmu.format.child(spte), loc);
        }
    }

    /// `kvm_mmu_commit_zap_page`: flushes, which waits for lockless walkers, and then frees.
    ///
    /// Locks: `mmu_lock`.
    pub(super) fn kvm_mmu_commit_zap_page(&self, l: &mut Locked, invalid: SpSet) {
        if invalid.is_empty() {
            return;
        }
        self.p.call("kvm_mmu_commit_zap_page", || {
            self.p.guarded(Guard::FlushBeforeFree, || self.kvm_flush_remote_tlbs(None));
            for sp in invalid.iter() {
                self.kvm_mmu_free_page(l, sp);
            }
            self.p.without(Guard::FlushBeforeFree, || self.kvm_flush_remote_tlbs(None));
        });
    }

    /// `kvm_mmu_free_page`. Nobody may touch the memory from now on.
    fn kvm_mmu_free_page(&self, l: &mut Locked, sp: SpId) {
        let table = &self.mmu.tables[usize::from(sp.0)];
        debug_assert!(l.mmu.page(sp).in_use, "freed twice");
        debug_assert!(l.mmu.page(sp).parent_ptes.is_empty(), "freed while it is linked");
        *l.mmu.page_mut(sp) = ShadowPage::default();
        self.p.freed(&table.spt);
        self.p.freed(&table.gfns);
        self.p.freed(core::slice::from_ref(&table.header));
        self.p.mark(Mark::ShadowPageFreed);
    }

    /// `mmu_shrink_scan`, of one VM: zaps and frees the oldest page that is no root, here the one
    /// lowest in the pool.
    ///
    /// Locks: takes `mmu_lock`.
    pub(super) fn zap_oldest(&self) {
        let mut l = self.kvm.mmu_lock.lock();
        let oldest = l.mmu.pages.iter().position(|sp| sp.is_valid() && sp.root_count == 0);
        let Some(oldest) = oldest else { return };
        let mut invalid = SpSet::default();
        self.kvm_mmu_prepare_zap_page(&mut l, SpId(oldest as u8), &mut invalid);
        self.kvm_mmu_commit_zap_page(&mut l, invalid);
    }

    /// What `kvm_mmu_zap_all_fast` does, for roots that stay: everything below them is zapped and
    /// freed.
    ///
    /// Locks: `slots_lock`; takes `mmu_lock`.
    #[kernel("kvm_mmu_zap_all_fast")]
    pub(super) fn zap_all_but_roots(&self) {
        let mut l = self.kvm.mmu_lock.lock();
        let mut invalid = SpSet::default();
        for sp in all_pages() {
            let page = *l.mmu.page(sp);
            if page.is_valid() && page.root_count == 0 {
                self.kvm_mmu_prepare_zap_page(&mut l, sp, &mut invalid);
            }
        }
        self.kvm_mmu_commit_zap_page(&mut l, invalid);
    }

    /// `mmu_alloc_root`: the shadow page of a root, with shadow paging that of the guest's own
    /// root.
    ///
    /// Locks: `mmu_lock`.
    pub(super) fn mmu_alloc_root(&self, l: &mut Locked, guest: Option<Gfn>) -> SpId {
        let (gfn, role) = match guest {
            Some(root) => (root, Role::indirect(ROOT_LEVEL, true)),
            None => (Gfn(0), Role::direct(ROOT_LEVEL)),
        };
        let sp = self.kvm_mmu_get_page(l, None, gfn, role);
        l.mmu.page_mut(sp).root_count += 1;
        sp
    }
}
