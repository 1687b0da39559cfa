//! What hardware walks, what observers look at, and how a run's first state is made. Not KVM.

use core::fmt::Debug;

use crate::host::Host;
use crate::platform::{Guarded, Platform};
use crate::spte::{Spte, SpteFormat};
use crate::types::{CpuId, Gfn, GfnRange, SpId, SpteLoc};
use crate::vm::{Mmu, Vm};
use crate::x86::mmu::Header;
use crate::x86::mmu::walk::GuestWalk;

/// The tables of an MMU.
pub trait Tables<P: Platform>: Debug + Sized {
    /// What `mmu_lock` guards of the MMU.
    type State: Guarded + Default;

    /// The layout of its entries.
    fn format(&self) -> &SpteFormat;

    /// Where hardware begins to walk for a vCPU.
    fn root(&self, cpu: CpuId) -> SpId;

    /// The root of the guest's own tables, where those are shadowed.
    fn guest_root(&self, _cpu: CpuId) -> Option<Gfn> {
        None
    }

    /// The memory of an entry.
    fn sptep(&self, loc: SpteLoc) -> &P::Word;

    /// What a table is for: its level, and what it maps. `peek` looks at a word without a step.
    fn header(&self, sp: SpId, peek: impl Fn(&P::Word) -> u64) -> Header;

    /// The memory of the table that an entry is in is in use. `peek` looks at a word without a
    /// step.
    fn is_in_use(&self, l: &Self::State, loc: SpteLoc, peek: impl Fn(&P::Word) -> u64) -> bool;

    /// Installs a leaf on the path of a vCPU to a page, a large one above the 4K level, and says
    /// where. `guest`: what the guest's own tables say of the page. Before any thread runs.
    fn setup_leaf<H: Host>(
        vm: &Vm<P, H, Self>,
        cpu: CpuId,
        page: u64,
        guest: Option<&GuestWalk>,
        spte: Spte,
    ) -> SpteLoc
    where
        Self: Mmu<P>;

    /// A guest frame that is linked as a page table and in sync with it, of those that `is` says.
    fn shadowed_table(_l: &Self::State, _is: impl Fn(Gfn) -> bool) -> Option<Gfn> {
        None
    }

    /// The frames whose reverse maps have this leaf, a bit each; `None`: there are no such maps.
    fn in_rmaps(_l: &Self::State, _loc: SpteLoc) -> Option<u64> {
        None
    }

    /// A table whose reference count is not what its entries say, where tables have one: the table,
    /// its count, and how many valid entries it has. `peek` looks at a word without a step.
    fn miscounted(
        &self,
        _l: &Self::State,
        _peek: impl Fn(&P::Word) -> u64,
    ) -> Option<(SpId, u8, u8)> {
        None
    }

    /// Calls `each` with every entry that maps a page, or may. `peek` looks at a word without a
    /// step.
    fn for_each_leaf(
        &self,
        l: &Self::State,
        peek: impl Fn(&P::Word) -> u64,
        each: impl FnMut(Leaf),
    );
}

/// A place for a leaf and what is known of it.
#[derive(Clone, Copy, Debug)]
pub struct Leaf {
    /// Where it is.
    pub loc: SpteLoc,
    /// What it holds.
    pub spte: Spte,
    /// The frames that it maps; `None`: it maps nothing.
    pub frames: Option<GfnRange>,
}
