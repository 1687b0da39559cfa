//! The model's own steps, for one kernel, with every guard.

use kvmmu_model::transition::hardware_update;
use kvmmu_model::{
    Access, Algorithm, FastFault, Guard, NewLeaf, Pfn, Spte, SpteFormat, Transitions,
};

use crate::event::{ErrorCode, Ret};
use crate::kernel::Kernel;

/// The steps of one kernel.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    kernel: Kernel,
}

/// What a fault maps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapped {
    /// The page.
    pub pfn: Pfn,
    /// The level of the table.
    pub level: u8,
    /// The host maps the page writable.
    pub host_writable: bool,
    /// Nobody asked for it yet.
    pub speculative: bool,
    /// The guest's own tables allow a write.
    pub guest_writable: bool,
    /// The frame is a guest's table, and write-protected for that.
    pub write_protected_pt: bool,
}

/// Every guard is there.
fn present(_: Guard) -> bool {
    true
}

impl Rules {
    /// Of a kernel.
    pub fn of(kernel: Kernel) -> Rules {
        Rules { kernel }
    }

    /// The layout.
    pub fn format(&self) -> &SpteFormat {
        &self.kernel.format
    }

    /// `kvm_mmu_set_spte` is written only if the SPTE changed.
    pub fn set_means_changed(&self) -> bool {
        self.kernel.algorithm == Algorithm::V6_1
    }

    fn steps(&self) -> Transitions<'_, fn(Guard) -> bool> {
        Transitions {
            format: &self.kernel.format,
            algorithm: self.kernel.algorithm,
            guard: present,
        }
    }

    /// KVM shadows the guest's own tables.
    pub fn guest_tables(&self) -> bool {
        self.kernel.guest_tables
    }

    /// `page_fault_can_be_fast`. Where a guest's own tables are shadowed no fault is.
    pub fn can_be_fast(&self, error: ErrorCode) -> bool {
        !self.guest_tables()
            && !error.reserved()
            && self.steps().page_fault_can_be_fast(access(error), error.present())
    }

    /// What a fast fault makes of an SPTE. Of a large page it depends on whether the slot is
    /// logged.
    pub fn fast_fault(&self, old: Spte, level: u8, error: ErrorCode, logged: bool) -> FastFault {
        self.steps().fast_page_fault(old, level, access(error), logged)
    }

    /// `make_spte` over `old`.
    pub fn new_leaf(&self, new: Mapped, old: Spte) -> Spte {
        let leaf = NewLeaf {
            pfn: new.pfn,
            level: new.level,
            host_writable: new.host_writable,
            guest_writable: new.guest_writable,
            write_protected_pt: new.write_protected_pt,
            speculative: new.speculative,
            can_unsync: true,
            old,
        };
        self.steps().make_spte(leaf)
    }

    /// What hardware may make of an SPTE by itself.
    pub fn by_hardware(&self, spte: Spte) -> impl Iterator<Item = Spte> + '_ {
        [Access::Read, Access::Write]
            .into_iter()
            .filter_map(move |access| hardware_update(self.format(), spte, access))
    }

    /// Write protection for the dirty log.
    pub fn write_protected(&self, spte: Spte) -> Option<Spte> {
        self.is_leaf(spte).then(|| self.steps().write_protect(spte, false)).flatten()
    }

    /// `mmu_spte_age`.
    pub fn aged(&self, spte: Spte) -> Option<Spte> {
        (self.is_leaf(spte) && self.format().is_accessed(spte))
            .then(|| self.steps().mark_for_access_track(spte))
    }

    /// The level of the table that a leaf is in: 2 stands for every level of large pages.
    pub fn level(&self, spte: Spte) -> u8 {
        if self.format().is_last(spte, 2) { 2 } else { 1 }
    }

    /// Shadow-present.
    pub fn is_leaf(&self, spte: Spte) -> bool {
        self.format().is_shadow_present(spte)
    }
}

/// What was tried.
pub fn access(error: ErrorCode) -> Access {
    if error.fetch() {
        Access::Fetch
    } else if error.write() {
        Access::Write
    } else {
        Access::Read
    }
}

/// What a fast fault is expected to return.
pub fn expected(attempt: FastFault) -> Ret {
    match attempt {
        FastFault::Spurious => Ret::Spurious,
        FastFault::Fix(_) => Ret::Fixed,
        FastFault::Refuse => Ret::Refused,
    }
}
