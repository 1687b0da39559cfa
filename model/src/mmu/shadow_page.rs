//! Shadow pages: finding, making, linking, zapping and freeing them.
//!
//! Guarantee: a guest table that is shadowed is write-protected, in SPTEs and TLBs, before its
//! shadow page is linked; a shadow page is freed only after every CPU that could reach it was
//! flushed. Linux v5.10 `arch/x86/kvm/mmu/mmu.c`. Not modelled: unsync pages, write flooding,
//! `mmu_valid_gen`.

use super::{Mmu, MmuState, PG_LEVEL_4K, Role, SHADOW_PAGES, ShadowPage, SpteSet, entries_of};
use crate::guard::Guard;
use crate::host::Host;
use crate::mark::Mark;
use crate::platform::Ordering::Relaxed;
use crate::platform::{Platform, Word};
use crate::types::{CpuId, Gfn, SpId, SpteLoc};

/// Shadow pages that were zapped and wait to be freed (`invalid_list`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct InvalidList(u8);

impl<P: Platform, H: Host> Mmu<P, H> {
    /// `kvm_mmu_get_page`: the shadow page of this frame and role, made if need be. A new indirect
    /// page comes back with its guest table write-protected and flushed.
    ///
    /// Locks: `mmu_lock`.
    ///
    /// # Panics
    /// If the pool is empty: scenarios stay below it, as `make_mmu_pages_available` would.
    pub(super) fn kvm_mmu_get_page(
        &self,
        l: &mut MmuState,
        me: Option<CpuId>,
        gfn: Gfn,
        role: Role,
    ) -> SpId {
        self.p.call("kvm_mmu_get_page", || {
            let fits = |sp: &ShadowPage| sp.is_valid() && sp.gfn == gfn && sp.role == role;
            if let Some(found) = l.pages.iter().position(fits) {
                return SpId(found as u8);
            }
            let free = l.pages.iter().position(|sp| !sp.in_use).expect("a free shadow page");
            let sp = SpId(free as u8);
            self.alloc_page(l, sp, gfn, role);
            if !role.direct {
                self.account_shadowed(l, me, sp);
                if role.level == PG_LEVEL_4K && self.rmap_write_protect(l, gfn) {
                    self.p.guarded(Guard::GetPageFlush, || self.kvm_flush_remote_tlbs(me));
                }
            }
            sp
        })
    }

    /// `kvm_mmu_alloc_page`: its table is all zeroes.
    fn alloc_page(&self, l: &mut MmuState, sp: SpId, gfn: Gfn, role: Role) {
        let table = &self.tables[usize::from(sp.0)];
        self.p.allocated(&table.spt);
        self.p.allocated(&table.gfns);
        self.p.allocated(core::slice::from_ref(&table.header));
        let page = &mut l.pages[usize::from(sp.0)];
        *page =
            ShadowPage { in_use: true, gfn, role, parent_ptes: SpteSet::default(), root_count: 0 };
        // ORDERING: relaxed: published by the release of the link.
        table.header.store(page.header(), Relaxed);
    }

    /// `account_shadowed`: counts it, and tracks writes to tables above the 4K level.
    fn account_shadowed(&self, l: &mut MmuState, me: Option<CpuId>, sp: SpId) {
        // ORDERING: relaxed: counts are changed under mmu_lock; kvm_mmu_pte_write peeks (a Dekker
        // pair with the re-read of the gpte that 5.10 leaves without barriers; needs TSO).
        self.indirect_shadow_pages.fetch_add(1, Relaxed);
        let page = l.pages[usize::from(sp.0)];
        if page.role.level > PG_LEVEL_4K {
            // ORDERING: relaxed: as above.
            self.gfn_track[page.gfn.0 as usize].fetch_add(1, Relaxed);
            if self.rmap_write_protect(l, page.gfn) {
                self.p.guarded(Guard::GetPageFlush, || self.kvm_flush_remote_tlbs(me));
            }
        }
    }

    /// `unaccount_shadowed`.
    fn unaccount_shadowed(&self, l: &MmuState, sp: SpId) {
        // ORDERING: relaxed: as in account_shadowed.
        self.indirect_shadow_pages.fetch_add(u64::MAX, Relaxed);
        let page = &l.pages[usize::from(sp.0)];
        if page.role.level > PG_LEVEL_4K {
            // ORDERING: relaxed: as above.
            self.gfn_track[page.gfn.0 as usize].fetch_add(u64::MAX, Relaxed);
        }
    }

    /// `link_shadow_page`: the SPTE first, then the parent's place in the child.
    ///
    /// Locks: `mmu_lock`.
    pub(super) fn link_shadow_page(&self, l: &mut MmuState, parent: SpteLoc, child: SpId) {
        self.p.call("link_shadow_page", || {
            self.mmu_spte_set(parent, self.format.nonleaf(child));
            l.pages[usize::from(child.0)].parent_ptes.insert(parent);
            self.p.mark(Mark::ShadowPageLinked);
        });
    }

    /// `kvm_mmu_prepare_zap_page`: takes a page out of the tree. It drops its leaves, unlinks its
    /// children and its parents. No flush, and nothing is freed.
    ///
    /// Locks: `mmu_lock`.
    pub(super) fn kvm_mmu_prepare_zap_page(
        &self,
        l: &mut MmuState,
        sp: SpId,
        invalid: &mut InvalidList,
    ) {
        self.p.call("kvm_mmu_prepare_zap_page", || {
            for loc in entries_of(sp) {
                self.mmu_page_zap_pte(l, loc);
            }
            for parent in l.pages[usize::from(sp.0)].parent_ptes.iter() {
                self.drop_parent_pte(l, sp, parent);
            }
            if !l.pages[usize::from(sp.0)].role.direct {
                self.unaccount_shadowed(l, sp);
            }
            l.pages[usize::from(sp.0)].role.invalid = true;
            if l.pages[usize::from(sp.0)].root_count == 0 {
                invalid.0 |= 1 << sp.0;
            }
            self.p.mark(Mark::ShadowPageZapped);
        });
    }

    /// `mmu_page_zap_pte`: drops a leaf, or unlinks a child.
    ///
    /// Locks: `mmu_lock`.
    pub(super) fn mmu_page_zap_pte(&self, l: &mut MmuState, loc: SpteLoc) {
        let spte = self.mmu_spte_get_lockless(loc);
        if !self.format.is_shadow_present(spte) {
            return;
        }
        if self.format.is_last(spte, l.pages[usize::from(loc.sp.0)].role.level) {
            self.drop_spte(l, loc);
        } else {
            self.drop_parent_pte(l, self.format.child(spte), loc);
        }
    }

    /// `kvm_mmu_commit_zap_page`: flushes, which waits for lockless walkers, and then frees.
    ///
    /// Locks: `mmu_lock`.
    pub(super) fn kvm_mmu_commit_zap_page(&self, l: &mut MmuState, invalid: InvalidList) {
        if invalid.0 == 0 {
            return;
        }
        self.p.call("kvm_mmu_commit_zap_page", || {
            self.p.guarded(Guard::FlushBeforeFree, || self.kvm_flush_remote_tlbs(None));
            for sp in (0..SHADOW_PAGES as u8).filter(|sp| invalid.0 >> sp & 1 == 1) {
                self.kvm_mmu_free_page(l, SpId(sp));
            }
            self.p.without(Guard::FlushBeforeFree, || self.kvm_flush_remote_tlbs(None));
        });
    }

    /// `kvm_mmu_free_page`. Nothing in it is a step: who touches the memory from now on is at
    /// fault.
    fn kvm_mmu_free_page(&self, l: &mut MmuState, sp: SpId) {
        let table = &self.tables[usize::from(sp.0)];
        l.pages[usize::from(sp.0)] = ShadowPage::UNUSED;
        self.p.freed(&table.spt);
        self.p.freed(&table.gfns);
        self.p.freed(core::slice::from_ref(&table.header));
        self.p.mark(Mark::ShadowPageFreed);
    }

    /// `mmu_shrink_scan`: zaps and frees the oldest page that is no root, here the one lowest in
    /// the pool. Called by the host under memory pressure. Linux v5.10
    /// `arch/x86/kvm/mmu/mmu.c`.
    ///
    /// Locks: takes `kvm_lock`, in it a read section of `kvm->srcu`, in it `mmu_lock`.
    pub fn mmu_shrink_scan(&self) {
        self.p.call("mmu_shrink_scan", || {
            use crate::platform::{Lock, Srcu};
            let _vm_list = self.kvm.system.as_ref().map(|system| system.kvm_lock.lock());
            let _srcu = self.kvm.srcu.read_lock();
            let mut l = self.mmu_lock.lock();
            let oldest = l.pages.iter().position(|sp| sp.is_valid() && sp.root_count == 0);
            let Some(oldest) = oldest else { return };
            let mut invalid = InvalidList::default();
            self.kvm_mmu_prepare_zap_page(&mut l, SpId(oldest as u8), &mut invalid);
            self.kvm_mmu_commit_zap_page(&mut l, invalid);
        });
    }

    /// `kvm_mmu_load`: gives a vCPU its root. With shadow paging the root is the shadow of the
    /// guest's.
    ///
    /// Called before the vCPU first runs; a change of roots at run time is not modelled.
    pub fn kvm_mmu_load(&mut self, cpu: CpuId, guest_root: Option<Gfn>) {
        use crate::platform::Lock;
        let root = {
            let mut l = self.mmu_lock.lock();
            let level = super::ROOT_LEVEL;
            let (gfn, role) = match guest_root {
                Some(root) => (root, Role::indirect(level, true)),
                None => (Gfn(0), Role::direct(level)),
            };
            let sp = self.kvm_mmu_get_page(&mut l, None, gfn, role);
            l.pages[usize::from(sp.0)].root_count += 1;
            sp
        };
        let vcpu = &mut self.vcpus[usize::from(cpu.0)];
        vcpu.root = root;
        vcpu.guest_root = guest_root;
    }

    /// Makes and links the shadow pages on the path to a page and returns the place of its leaf.
    /// `guest_table`: the guest's leaf table, and if the entry above it allows writes. For setting
    /// up a state, before any thread runs.
    pub fn setup_path(&self, cpu: CpuId, page: u64, guest_table: Option<(Gfn, bool)>) -> SpteLoc {
        use crate::platform::Lock;
        let mut l = self.mmu_lock.lock();
        let parent =
            SpteLoc { sp: self.vcpu(cpu).root, index: super::index_at(super::ROOT_LEVEL, page) };
        let spte = self.mmu_spte_get_lockless(parent);
        let child = if self.format.is_shadow_present(spte) {
            self.format.child(spte)
        } else {
            let (gfn, role) = match guest_table {
                Some((table, writable)) => (table, Role::indirect(PG_LEVEL_4K, writable)),
                None => (direct_base(page), Role::direct(PG_LEVEL_4K)),
            };
            let sp = self.kvm_mmu_get_page(&mut l, None, gfn, role);
            self.link_shadow_page(&mut l, parent, sp);
            sp
        };
        SpteLoc { sp: child, index: super::index_at(PG_LEVEL_4K, page) }
    }

    /// Installs a leaf as it is given, and its place in the rmap. For setting up a state.
    pub fn setup_leaf(&self, loc: SpteLoc, gfn: Gfn, spte: crate::Spte) {
        use crate::platform::Lock;
        let mut l = self.mmu_lock.lock();
        self.mmu_spte_set(loc, spte);
        self.rmap_add(&mut l, loc, gfn);
    }
}

/// The first frame of the direct leaf table that maps a frame.
pub(super) fn direct_base(page: u64) -> Gfn {
    Gfn(page & !(super::PT_ENTRIES as u64 - 1))
}
