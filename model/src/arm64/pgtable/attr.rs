//! Changing what a leaf allows, and AF: the address and the size stay, so that nothing is broken.
//! Linux v5.10 `arch/arm64/kvm/hyp/pgtable.c`, `stage2_attr_walker()`.
//!
//! The new word is made from what was read and stored plainly: an AF that hardware sets in between
//! is lost, and the page looks unused for longer. S2AP has no other writer than the owner of
//! `mmu_lock`.

use super::pte::{AF, KvmPgtableProt, KvmPte, S2AP_W};
use super::walk::{NoMemory, Visit, Walker};
use super::{LAST_LEVEL, Locked, Stage2Mmu};
use crate::guard::Guard;
use crate::host::Host;
use crate::kernel;
use crate::mark::Mark;
use crate::platform::Ordering::Relaxed;
use crate::platform::{Platform, Word};
use crate::types::{Gfn, GfnRange};
use crate::vm::Vm;

/// `struct stage2_attr_data`.
struct Attrs {
    set: u64,
    clear: u64,
    /// The last leaf that was valid, as it was.
    pte: Option<KvmPte>,
    level: u8,
    /// Some leaf became another.
    changed: bool,
}

impl<P: Platform, H: Host> Vm<P, H, Stage2Mmu<P>> {
    /// `stage2_update_leaf_attrs`.
    fn stage2_update_leaf_attrs(
        &self,
        l: &mut Locked,
        range: GfnRange,
        set: u64,
        clear: u64,
    ) -> Attrs {
        let mut attrs = Attrs { set, clear, pte: None, level: LAST_LEVEL, changed: false };
        // It asks for no memory.
        let _walked = self.kvm_pgtable_walk(l, range, &mut attrs);
        attrs
    }

    /// `kvm_pgtable_stage2_wrprotect`: stores to these frames fault from when the flush is done
    /// that the caller owes. A block loses W whole. True if something had it.
    ///
    /// Locks: `mmu_lock`.
    #[kernel]
    pub(in crate::arm64) fn kvm_pgtable_stage2_wrprotect(
        &self,
        l: &mut Locked,
        range: GfnRange,
    ) -> bool {
        let changed = self.stage2_update_leaf_attrs(l, range, 0, S2AP_W).changed;
        if changed {
            self.p.mark(Mark::WriteProtected);
        }
        changed
    }

    /// `kvm_pgtable_stage2_relax_perms`: a leaf allows this, too. What CPUs have of it is dropped
    /// in any case: one that was denied may have kept the entry that denied it, though another has
    /// relaxed it since.
    ///
    /// Locks: `mmu_lock`.
    #[kernel]
    pub(in crate::arm64) fn kvm_pgtable_stage2_relax_perms(
        &self,
        l: &mut Locked,
        addr: Gfn,
        prot: KvmPgtableProt,
    ) {
        let set = if prot.write { S2AP_W } else { 0 };
        let attrs = self.stage2_update_leaf_attrs(l, GfnRange::one(addr), set, 0);
        let flush = || self.__kvm_tlb_flush_vmid_ipa(addr, attrs.level);
        let if_changed = self.p.without(Guard::S2RelaxFlushUnchanged, || attrs.changed);
        if if_changed.unwrap_or(true) {
            flush();
        }
        self.p.mark(Mark::PermsRelaxed);
    }

    /// `kvm_pgtable_stage2_mkold`: clears AF of the leaf of one frame; true if it was set. The
    /// caller flushes, or does not.
    ///
    /// Locks: `mmu_lock`.
    #[kernel]
    pub(in crate::arm64) fn kvm_pgtable_stage2_mkold(&self, l: &mut Locked, addr: Gfn) -> bool {
        let attrs = self.stage2_update_leaf_attrs(l, GfnRange::one(addr), 0, AF);
        attrs.pte.is_some_and(KvmPte::is_young)
    }

    /// `stage2_attr_walker`.
    fn stage2_attr_walker(&self, at: Visit, attrs: &mut Attrs) {
        if !at.pte.is_valid() {
            return;
        }
        let new = at.pte.without(attrs.clear).with(attrs.set);
        (attrs.pte, attrs.level) = (Some(at.pte), at.level);
        if new != at.pte {
            attrs.changed = true;
            // ORDERING: relaxed: WRITE_ONCE; what gives is published by the DSB of the flush that
            // follows, what takes by that which the caller owes.
            self.mmu.ptep(at.loc).store(new.0, Relaxed);
        }
    }
}

impl<P: Platform, H: Host> Walker<P, H> for Attrs {
    fn leaf(
        &mut self,
        vm: &Vm<P, H, Stage2Mmu<P>>,
        _l: &mut Locked,
        at: Visit,
    ) -> Result<(), NoMemory> {
        vm.stage2_attr_walker(at, self);
        Ok(())
    }
}
