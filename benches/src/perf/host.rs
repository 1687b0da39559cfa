//! Hosts for measurements: one that has every page in memory, and one that has none.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::CachePadded;
use kvmmu_model::virt::GFNS;
use kvmmu_model::{Gfn, Gpte, Host, Pfn, PinnedPage};

/// The page's own dirty flag. The rest of a page's word are references.
const DIRTY: u64 = 1 << 63;

/// A host whose guest frames are its pages of the same numbers. Looking one up takes a reference,
/// as `get_user_pages_fast` does, and nothing else.
#[derive(Debug)]
pub struct ResidentHost {
    pages: [CachePadded<AtomicU64>; GFNS],
}

impl ResidentHost {
    /// A host with a page for each frame.
    pub fn new() -> Self {
        ResidentHost { pages: std::array::from_fn(|_| CachePadded::new(AtomicU64::new(0))) }
    }

    fn page(&self, pfn: Pfn) -> &AtomicU64 {
        &self.pages[pfn.0 as usize]
    }
}

impl Default for ResidentHost {
    fn default() -> Self {
        ResidentHost::new()
    }
}

impl Host for ResidentHost {
    #[inline]
    fn gfn_to_pfn(&self, gfn: Gfn, _write: bool) -> Option<PinnedPage> {
        let pfn = Pfn(gfn.0);
        // ORDERING: acquire: as a lookup that finds the page; pairs with the release below.
        self.page(pfn).fetch_add(1, Ordering::Acquire);
        Some(PinnedPage { pfn, writable: true })
    }
    fn gfn_to_pfn_atomic(&self, gfn: Gfn, write: bool) -> Option<PinnedPage> {
        self.gfn_to_pfn(gfn, write)
    }
    fn access_user_memory(&self) {}
    fn mmu_notifier_register(&self) {}
    fn mmu_notifier_unregister(&self) {}
    #[inline]
    fn kvm_release_pfn_clean(&self, pfn: Pfn) {
        // ORDERING: release: as put_page.
        self.page(pfn).fetch_sub(1, Ordering::Release);
    }
    #[inline]
    fn kvm_set_pfn_dirty(&self, pfn: Pfn) {
        let page = self.page(pfn);
        // ORDERING: relaxed: a flag that nobody waits for.
        if page.load(Ordering::Relaxed) & DIRTY == 0 {
            // ORDERING: relaxed: as above.
            page.fetch_or(DIRTY, Ordering::Relaxed);
        }
    }
    fn kvm_set_pfn_accessed(&self, _pfn: Pfn) {}
    /// No guest here pages.
    fn try_cmpxchg_user(&self, _: Gfn, _: u8, _: Gpte, _: Gpte) -> bool {
        false
    }
    fn cmpxchg_by_offset(&self, _: Gfn, _: u8, _: Gpte, _: Gpte) -> bool {
        false
    }
    fn read_gpte(&self, _table: Gfn, _index: u8) -> Gpte {
        Gpte(0)
    }
    fn copy_to_user(&self, _gfn: Gfn, _byte: u8, _value: u8) -> bool {
        true
    }
}

/// A host that never has a page: nothing can be mapped. What compilers know of it, they leave out:
/// of a fault only the fast path is left.
#[derive(Clone, Copy, Debug, Default)]
pub struct EmptyHost;

impl Host for EmptyHost {
    #[inline(always)]
    fn gfn_to_pfn(&self, _gfn: Gfn, _write: bool) -> Option<PinnedPage> {
        None
    }
    fn gfn_to_pfn_atomic(&self, _gfn: Gfn, _write: bool) -> Option<PinnedPage> {
        None
    }
    fn access_user_memory(&self) {}
    fn mmu_notifier_register(&self) {}
    fn mmu_notifier_unregister(&self) {}
    fn kvm_release_pfn_clean(&self, _pfn: Pfn) {}
    fn kvm_set_pfn_dirty(&self, _pfn: Pfn) {}
    fn kvm_set_pfn_accessed(&self, _pfn: Pfn) {}
    fn try_cmpxchg_user(&self, _: Gfn, _: u8, _: Gpte, _: Gpte) -> bool {
        false
    }
    fn cmpxchg_by_offset(&self, _: Gfn, _: u8, _: Gpte, _: Gpte) -> bool {
        false
    }
    fn read_gpte(&self, _table: Gfn, _index: u8) -> Gpte {
        Gpte(0)
    }
    fn copy_to_user(&self, _gfn: Gfn, _byte: u8, _value: u8) -> bool {
        true
    }
}
