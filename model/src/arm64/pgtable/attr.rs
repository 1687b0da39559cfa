//! Changing what a leaf allows, and AF: the address and the size stay, so that nothing is broken.
//! Linux `arch/arm64/kvm/hyp/pgtable.c`, `stage2_attr_walker()`.
//!
//! The new word is made from what was read. Who walks alone stores it plainly: an AF that hardware
//! sets in between is lost, and the page looks unused for longer. In a shared walk, since 6.2, it
//! is stored only if nothing has changed: another fault may have put a table there.

use super::pte::{AF, KvmPgtableProt, KvmPte, S2AP_W};
use super::walk::{Held, Visit, WalkError, Walker};
use super::{LAST_LEVEL, Stage2Mmu, Version};
use crate::guard::Guard;
use crate::host::Host;
use crate::kernel;
use crate::mark::Mark;
use crate::platform::Platform;
use crate::types::{CpuId, Gfn, GfnRange};
use crate::vm::{Mmu, Vm};

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
        l: Held<'_>,
        range: GfnRange,
        set: u64,
        clear: u64,
    ) -> (Attrs, Result<(), WalkError>) {
        let mut attrs = Attrs { set, clear, pte: None, level: LAST_LEVEL, changed: false };
        let walked = self.kvm_pgtable_walk(l, range, &mut attrs);
        (attrs, walked)
    }

    /// `kvm_pgtable_stage2_wrprotect`: stores to these frames fault from when the flush is done
    /// that the caller owes. A block loses W whole. True if something had it.
    ///
    /// Locks: `mmu_lock`.
    #[kernel]
    pub(in crate::arm64) fn kvm_pgtable_stage2_wrprotect(
        &self,
        l: Held<'_>,
        range: GfnRange,
    ) -> bool {
        let changed = self.stage2_update_leaf_attrs(l, range, 0, S2AP_W).0.changed;
        if changed {
            self.p.mark(Mark::WriteProtected);
        }
        changed
    }

    /// `kvm_pgtable_stage2_relax_perms`: a leaf allows this, too. What CPUs have of it is dropped
    /// in any case: one that was denied may have kept the entry that denied it, though another has
    /// relaxed it since. Since 6.5 (commit a12ab1378a88) that is done on this CPU alone, and since
    /// 6.7 (be097997a273) where the fault gives up, too.
    ///
    /// Locks: `mmu_lock`, since 6.2 for reading.
    ///
    /// # Errors
    /// Since 6.2: another fault has changed the entry.
    #[kernel]
    pub(in crate::arm64) fn kvm_pgtable_stage2_relax_perms(
        &self,
        l: Held<'_>,
        cpu: CpuId,
        addr: Gfn,
        prot: KvmPgtableProt,
    ) -> Result<(), WalkError> {
        let set = if prot.write { S2AP_W } else { 0 };
        let (attrs, walked) = self.stage2_update_leaf_attrs(l, GfnRange::one(addr), set, 0);
        let flush = || match self.mmu.version {
            Version::V6_12 => {
                self.__kvm_tlb_flush_vmid_ipa_nsh(self.mmu.cpu_of(cpu), addr, attrs.level);
            }
            _ => self.__kvm_tlb_flush_vmid_ipa(addr, attrs.level),
        };
        if walked.is_err() {
            self.p.guarded(Guard::S2RelaxFlushEagain, flush);
            return walked;
        }
        let if_changed = self.p.without(Guard::S2RelaxFlushUnchanged, || attrs.changed);
        if if_changed.unwrap_or(true) {
            flush();
        }
        self.p.mark(Mark::PermsRelaxed);
        Ok(())
    }

    /// `kvm_pgtable_stage2_mkold`: clears AF of the leaf of one frame; true if it was set. The
    /// caller flushes, or does not.
    ///
    /// Locks: `mmu_lock`.
    #[kernel]
    pub(in crate::arm64) fn kvm_pgtable_stage2_mkold(&self, l: Held<'_>, addr: Gfn) -> bool {
        let (attrs, _) = self.stage2_update_leaf_attrs(l, GfnRange::one(addr), 0, AF);
        attrs.pte.is_some_and(KvmPte::is_young)
    }

    /// `stage2_attr_walker`.
    ///
    /// # Errors
    /// Since 6.3 an entry that is invalid ends the walk of a fault (commit ddcadb297ce5); since 6.2
    /// one that has changed does.
    fn stage2_attr_walker(
        &self,
        l: Held<'_>,
        at: Visit,
        attrs: &mut Attrs,
    ) -> Result<(), WalkError> {
        if !at.pte.is_valid() {
            return if l.shared { self.again() } else { Ok(()) };
        }
        let new = at.pte.without(attrs.clear).with(attrs.set);
        (attrs.pte, attrs.level) = (Some(at.pte), at.level);
        if new == at.pte {
            return Ok(());
        }
        let plain = self.p.without(Guard::S2AttrCmpxchg, || l.plain());
        if !self.stage2_try_set_pte(plain.unwrap_or(l), at, new) {
            return self.again();
        }
        attrs.changed = true;
        Ok(())
    }
}

impl<P: Platform, H: Host> Walker<P, H> for Attrs {
    fn leaf(
        &mut self,
        vm: &Vm<P, H, Stage2Mmu<P>>,
        l: Held<'_>,
        at: Visit,
    ) -> Result<(), WalkError> {
        vm.stage2_attr_walker(l, at, self)
    }
}
