//! A and D of the guest's own page tables, which KVM sets in hardware's stead.
//!
//! Guarantee: an entry by which the guest reaches a page has A, and one by which it writes has D,
//! as on hardware; and what KVM stores for that goes to the guest's table and nowhere else.
//! Mechanism: the walk of a fault sets A; D only if the fault is a write, and until then the page
//! is mapped read-only, so that a write faults. The store is an atomic one by the VMM's address.
//! Linux v5.10 `arch/x86/kvm/mmu/paging_tmpl.h`. Not modelled: tables in read-only memslots. Not
//! v5.10: there, where the VMM's mapping has no struct pages (`VM_PFNMAP`), the offset of the
//! mapping was taken for the number of the page (until 5.18, and 5.10.110, commit 2a8859f373b0,
//! CVE-2022-1158).

use super::ShadowMmu;
use super::paging::{ROOT_LEVEL, index_at};
use super::walk::GuestWalk;
use crate::guard::Guard;
use crate::host::Host;
use crate::kernel;
use crate::mark::Mark;
use crate::platform::Platform;
use crate::spte::Gpte;
use crate::types::{Gfn, Gva};
use crate::vm::Vm;

impl<P: Platform, H: Host> Vm<P, H, ShadowMmu<P>> {
    /// `FNAME(update_accessed_dirty_bits)`: sets A in every entry of a walk, and D in its leaf if
    /// the fault is a write. `None`: an entry has changed, walk again.
    ///
    /// Locks: the vCPU thread holds `kvm->srcu`; may sleep.
    pub(super) fn update_accessed_dirty_bits(
        &self,
        mut walk: GuestWalk,
        gva: Gva,
        write: bool,
    ) -> Option<GuestWalk> {
        for level in (walk.level..=ROOT_LEVEL).rev() {
            let (table, old) = (walk.table(level), walk.ptes[usize::from(level) - 1]);
            let dirty = if write && level == walk.level { Gpte::D } else { 0 };
            let new = old.with(Gpte::A | dirty);
            let sets = new != old && self.p.guarded(Guard::WalkSetsAd, || true);
            if !sets {
                continue;
            }
            self.p.checkpoint((walk, level, new));
            if !self.cmpxchg_gpte(table, index_at(level, gva.0), old, new) {
                return None;
            }
            self.p.mark(Mark::GpteAdSet);
            self.p.guarded(Guard::GpteAdMarksDirty, || self.mark_page_dirty(table));
            walk.ptes[usize::from(level) - 1] = new;
        }
        Some(walk)
    }

    /// `FNAME(cmpxchg_gpte)`: false if the entry is not what the walk found.
    #[kernel("FNAME(cmpxchg_gpte)")]
    fn cmpxchg_gpte(&self, table: Gfn, index: u8, old: Gpte, new: Gpte) -> bool {
        let by_offset = || self.host.cmpxchg_by_offset(table, index, old, new);
        let by_offset = self.p.without(Guard::GpteCmpxchgByAddress, by_offset);
        by_offset.unwrap_or_else(|| self.host.try_cmpxchg_user(table, index, old, new))
    }

    /// `pte_access`, with `FNAME(protect_clean_gpte)`: an entry without D is not written by, until
    /// a write fault sets D.
    pub(super) fn pte_access(&self, walk: &GuestWalk) -> bool {
        walk.allows_writes() && !self.protect_clean_gpte(walk.leaf())
    }

    /// `FNAME(protect_clean_gpte)`.
    pub(super) fn protect_clean_gpte(&self, gpte: Gpte) -> bool {
        self.p.guarded(Guard::ProtectCleanGpte, || !gpte.is_dirty())
    }
}
