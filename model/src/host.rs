//! What KVM asks of the rest of the host kernel: pages, their flags, and guest memory.

use crate::spte::Gpte;
use crate::types::{Gfn, Pfn};

/// A page that was looked up, with a reference held on it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PinnedPage {
    /// The page.
    pub pfn: Pfn,
    /// The host maps it writable (`map_writable`).
    pub writable: bool,
}

/// The host kernel around KVM. Each call is one step that takes effect at once.
pub trait Host {
    /// `gfn_to_pfn`: may sleep, brings the page in, takes a reference. `None`: the lookup has to
    /// break a shared page first, which runs this VM's own notifiers; the fault is retried after
    /// that.
    #[track_caller]
    fn gfn_to_pfn(&self, gfn: Gfn, write: bool) -> Option<PinnedPage>;
    /// `gfn_to_pfn_atomic`: never sleeps and never brings a page in; takes a reference.
    #[track_caller]
    fn gfn_to_pfn_atomic(&self, gfn: Gfn, write: bool) -> Option<PinnedPage>;
    /// `host_pfn_mapping_level`: the level at which the host's own page table maps the frame.
    #[track_caller]
    fn host_pfn_mapping_level(&self, _gfn: Gfn) -> u8 {
        1
    }
    /// `find_vma` and `vma_kernel_pagesize`, in a read section of `mmap_lock`: the level at which
    /// the VMA of the frame is mapped; 1 is 4 KiB. `inside` runs before the section ends.
    #[track_caller]
    fn vma_level<R>(&self, _gfn: Gfn, inside: impl FnOnce() -> R) -> (u8, R) {
        (1, inside())
    }
    /// `copy_to_user` and `copy_from_user` of what is no guest memory: may sleep, and take
    /// `mmap_lock` for reading if they fault.
    #[track_caller]
    fn access_user_memory(&self);
    /// `vm_mmap` and `vm_munmap`: change the VMM's address space; take `mmap_lock` for writing.
    #[track_caller]
    fn vm_mmap(&self) {}
    /// `mmap_read_lock`, `get_user_pages_remote` with `FOLL_NOWAIT`, and `mmap_read_unlock` unless
    /// it said that it has done that itself.
    #[track_caller]
    fn get_user_pages_remote(&self) {}
    /// `mmu_notifier_register`: the host tells one more VM what becomes of this address space.
    /// Takes `mmap_lock` for writing.
    #[track_caller]
    fn mmu_notifier_register(&self);
    /// `mmu_notifier_unregister`: one VM less; waits until no notifier runs that may have begun for
    /// it. Called with no lock that a notifier may want.
    #[track_caller]
    fn mmu_notifier_unregister(&self);
    /// No page for a table is left: there are fewer than this program needs. In the kernel a fault
    /// fills its cache before it takes `mmu_lock`, and waits for memory there.
    #[track_caller]
    fn out_of_table_pages(&self) {}
    /// `kvm_release_pfn_clean`: gives the reference back.
    #[track_caller]
    fn kvm_release_pfn_clean(&self, pfn: Pfn);
    /// `kvm_set_pfn_dirty`: sets the page's own dirty flag.
    #[track_caller]
    fn kvm_set_pfn_dirty(&self, pfn: Pfn);
    /// `kvm_set_pfn_accessed`: tells reclaim that the page was used.
    #[track_caller]
    fn kvm_set_pfn_accessed(&self, pfn: Pfn);
    /// Reads an entry of a guest page table from guest memory (`kvm_vcpu_read_guest_atomic`).
    #[track_caller]
    fn read_gpte(&self, table: Gfn, index: u8) -> Gpte;
    /// Changes an entry of a guest page table by the VMM's address (`__try_cmpxchg_user`): may
    /// sleep, and brings the page in. False: the entry held another value.
    #[track_caller]
    fn try_cmpxchg_user(&self, table: Gfn, index: u8, old: Gpte, new: Gpte) -> bool;
    /// The same by the place of the table in the VMM's mapping, taken for the number of its page.
    #[track_caller]
    fn cmpxchg_by_offset(&self, table: Gfn, index: u8, old: Gpte, new: Gpte) -> bool;
    /// Stores one byte of a guest frame by the VMM's address, as `__copy_to_user` does: may sleep,
    /// takes `mmap_lock` for reading if it faults, and leaves the page dirty. False: nothing is
    /// stored, the fault has to break a shared page first, which runs this VM's own notifiers.
    #[track_caller]
    fn copy_to_user(&self, gfn: Gfn, byte: u8, value: u8) -> bool;
}
