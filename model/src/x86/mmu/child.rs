//! The table below an entry of an upper level.
//!
//! Guarantee: a leaf goes into the table that the walk which led to it calls for. Mechanism: the
//! table that is linked is used only if it is of the same frame (since 7.1) and role (since 7.2).
//! Before, whatever was linked was used, which is the same only where the entry was zapped as the
//! guest's changed. The VMM's stores to guest memory zap nothing (CVE-2026-46113, CVE-2026-53359),
//! and an emulated store does so a little later. The frame that a leaf of a direct page maps then
//! follows from its place, and `rmap_add` puts it under the frame of the walk. Linux v5.10
//! `arch/x86/kvm/mmu/mmu.c`; the comparison is that of `kvm_mmu_get_child_sp`.

use super::walk::ShadowWalk;
use super::{Locked, Role, ShadowMmu};
use crate::guard::Guard;
use crate::host::Host;
use crate::mark::Mark;
use crate::platform::Platform;
use crate::types::{CpuId, Gfn, SpId, SpteLoc};
use crate::vm::Vm;

impl<P: Platform, H: Host> Vm<P, H, ShadowMmu<P>> {
    /// The table that an entry of an upper level leads to, made and linked if there is none:
    /// `role` says what it is for, given its level.
    ///
    /// Locks: `mmu_lock`.
    pub(super) fn child_at(
        &self,
        l: &mut Locked,
        me: Option<CpuId>,
        at: ShadowWalk,
        role: impl FnOnce(u8) -> (Gfn, Role),
    ) -> SpId {
        let (gfn, role) = role(at.level - 1);
        if let Some(linked) = self.linked_child(l, me, at.loc, gfn, role) {
            return linked;
        }
        let sp = self.kvm_mmu_get_page(l, me, gfn, role);
        self.link_shadow_page(l, at.loc, sp);
        sp
    }

    /// The table that an entry leads to, if it is of this frame and role. Another one is unlinked,
    /// and a large SPTE dropped.
    ///
    /// Locks: `mmu_lock`.
    pub(super) fn linked_child(
        &self,
        l: &mut Locked,
        me: Option<CpuId>,
        loc: SpteLoc,
        gfn: Gfn,
        role: Role,
    ) -> Option<SpId> {
        let spte = self.mmu_spte_get_lockless(loc);
        if self.mmu.format.is_large(spte) {
            self.drop_large_spte(l, me, loc);
            return None;
        }
        if !self.mmu.format.is_shadow_present(spte) {
            return None;
        }
        let child = self.mmu.format.child(spte);
        let page = *l.mmu.page(child);
        let other = self.p.guarded(Guard::ChildGfnCompare, || page.gfn != gfn)
            || self.p.guarded(Guard::ChildRoleCompare, || page.role != role);
        if !other {
            return Some(child);
        }
        self.unlink_child(l, me, child, loc);
        None
    }

    /// `validate_direct_spte`: unlinks a table below a large page of the guest that was made for
    /// other access than the guest's entries give now.
    ///
    /// Locks: `mmu_lock`.
    pub(super) fn validate_direct_spte(
        &self,
        l: &mut Locked,
        cpu: CpuId,
        loc: SpteLoc,
        writable: bool,
    ) {
        let spte = self.mmu_spte_get_lockless(loc);
        if !self.mmu.format.is_shadow_present(spte) || self.mmu.format.is_large(spte) {
            return;
        }
        let child = self.mmu.format.child(spte);
        let other = || l.mmu.page(child).role.writable != writable;
        if self.p.guarded(Guard::ValidateDirectSpte, other) {
            self.unlink_child(l, Some(cpu), child, loc);
        }
    }

    fn unlink_child(&self, l: &mut Locked, me: Option<CpuId>, child: SpId, loc: SpteLoc) {
        self.drop_parent_pte(l, child, loc);
        // No guard: the guest has not been told that its tables changed, and the table stays; who
        // frees it flushes.
        self.kvm_flush_remote_tlbs(me);
        self.p.mark(Mark::ChildUnlinked);
    }
}
