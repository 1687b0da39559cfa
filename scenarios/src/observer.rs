//! Who watches a run. A machine gets its observer once, before the run ([`Machine::attach`]; in the
//! simulator a program has it), and says what happens inside the step that it happens in. What that
//! means is judged by [`crate::oracle`], the same for every machine.
//!
//! Accesses of the guest are said by [`World::check_access`]. That freed memory is touched only the
//! machine can see: it reports that itself.

use core::any::Any;

use kvmmu_model::{CpuId, Tag};

use crate::machine::Machine;
use crate::mmu::MmuState;
use crate::oracle;
use crate::world::World;

/// What a machine says.
pub trait Observer {
    /// A word that was made with [`kvmmu_model::Object::Spte`] has this value from now on. Part of
    /// the step of the write.
    #[track_caller]
    fn spte_written(&self, tag: Tag, new: u64);
    /// A vCPU has taken the requests that were made to it. Part of the step of the write.
    fn requests_taken(&self, _tag: Tag) {}
    /// `mmu_lock` is released in this step with what it guards: the [`MmuState`] of the machine.
    fn mmu_unlocked(&self, state: &dyn Any);
}

impl<M: Machine> Observer for World<M> {
    fn spte_written(&self, tag: Tag, new: u64) {
        M::spte_written(self, tag, new);
        oracle::spte_written(self, tag, new);
    }
    fn requests_taken(&self, tag: Tag) {
        M::requests_taken(self, CpuId(tag.index[0]));
    }
    fn mmu_unlocked(&self, state: &dyn Any) {
        let state: Option<&MmuState<M>> = state.downcast_ref();
        debug_assert!(state.is_some(), "mmu_lock guards the state of another MMU");
        if let Some(state) = state {
            oracle::mmu_unlocked(self, state);
        }
    }
}
