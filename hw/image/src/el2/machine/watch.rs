//! What is checked against properties while a run is recorded: each SPTE that is written, and the
//! tables whenever `mmu_lock` is released.

use alloc::sync::Arc;
use alloc::vec::Vec;

use kvmmu_model::Tag;
use kvmmu_scenarios::mmu::MmuState;
use kvmmu_scenarios::{World, oracle};
use spin::RwLock;

use super::platform::El2;
use crate::el2::record::recorder::{self, Violation};
use crate::el2::record::story::{Force, Moment};

/// The world of the run that is recorded.
static WORLD: RwLock<Option<Arc<World<El2>>>> = RwLock::new(None);

/// Forgets everything of the last run.
pub(crate) fn reset() {
    recorder::reset();
    *WORLD.write() = None;
}

/// Begins to record a run in this world: see [`recorder::begin`].
pub(crate) fn begin(
    world: &Arc<World<El2>>,
    threads: usize,
    moments: Vec<Moment>,
    force: Force,
    seed: u64,
) {
    *WORLD.write() = Some(Arc::clone(world));
    recorder::begin(threads, moments, force, seed);
}

/// What happened in the run.
pub(crate) fn end() -> (Option<Violation>, Vec<Moment>) {
    let happened = recorder::end();
    *WORLD.write() = None;
    happened
}

/// An SPTE was written.
#[inline]
pub(crate) fn spte_written(tag: Tag, new: u64) {
    if recorder::is_recorded() {
        check_spte(tag, new);
    }
}

#[inline(never)]
fn check_spte(tag: Tag, new: u64) {
    if let Some(world) = WORLD.read().clone() {
        oracle::spte_written(&world, tag, new);
    }
}

/// `mmu_lock` is about to be released.
#[inline]
pub(crate) fn mmu_lock_released(state: &MmuState<El2>) {
    if recorder::is_recorded() {
        check_release(state);
    }
}

#[inline(never)]
fn check_release(state: &MmuState<El2>) {
    if let Some(world) = WORLD.read().clone() {
        oracle::mmu_unlocked(&world, state);
    }
}
