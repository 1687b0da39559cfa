//! Every protective step of the protocol, by name.
//!
//! Removing guards is the only way to break the model: there are no hand-made buggy copies of
//! functions. Where a guard is removed, something definite replaces it; `without` says exactly
//! what. The table is in six files, `mmu.rs`, `large.rs`, `guest_tables.rs`, `unsync.rs`, `virt.rs`
//! and `stage2.rs`. Each is a macro that hands the rows it was given, followed by its own, to
//! another macro.

#[macro_use]
mod define;
#[macro_use]
mod guest_tables;
mod info;
#[macro_use]
mod large;
#[macro_use]
mod mmu;
mod release;
mod set;
#[macro_use]
mod stage2;
#[macro_use]
mod unsync;
#[macro_use]
mod virt;

pub use info::{GuardInfo, Masked, ShownUnder};
pub use release::Release;
pub use set::GuardSet;

// The rows of `mmu.rs`, then those of the others in this order, make one enum.
macro_rules! with_large_guards {
    ($($rows:tt)*) => { large_guards!(with_guest_table_guards! { $($rows)* }); };
}
macro_rules! with_guest_table_guards {
    ($($rows:tt)*) => { guest_table_guards!(with_unsync_guards! { $($rows)* }); };
}
macro_rules! with_unsync_guards {
    ($($rows:tt)*) => { unsync_guards!(with_virt_guards! { $($rows)* }); };
}
macro_rules! with_virt_guards {
    ($($rows:tt)*) => { virt_guards!(with_stage2_guards! { $($rows)* }); };
}
macro_rules! with_stage2_guards {
    ($($rows:tt)*) => { stage2_guards!(guards! { $($rows)* }); };
}

mmu_guards!(with_large_guards! {});

impl Guard {
    /// False: under sequential consistency nothing can show that it is missing.
    pub const fn is_judged_under_sc(self) -> bool {
        matches!(self.info().shown_under, ShownUnder::Every)
    }
    /// The guard with this name.
    pub fn by_name(name: &str) -> Option<Guard> {
        Guard::ALL.iter().copied().find(|g| g.info().name == name)
    }
}
