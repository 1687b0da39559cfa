//! What is checked against properties while a run is recorded: each SPTE that is written, and the
//! tables whenever `mmu_lock` is released.

use alloc::sync::Arc;
use alloc::vec::Vec;

use kvmmu_scenarios::{Machine, Observer, World};
use spin::RwLock;

use super::mmu::RealMmu;
use super::platform::El2;
use crate::el2::record::recorder::{self, Violation};
use crate::el2::record::story::{Moment, Plan};

/// The world of the run that is recorded.
static WORLD: RwLock<Option<Arc<dyn Observer + Send + Sync>>> = RwLock::new(None);

/// Forgets everything of the last run.
pub(crate) fn reset() {
    recorder::reset();
    *WORLD.write() = None;
}

/// What happens from now on happens in this world.
pub(crate) fn attach<A: RealMmu>(world: &Arc<World<El2<A>>>) {
    let world: Arc<World<El2<A>>> = Arc::clone(world);
    *WORLD.write() = Some(world);
}

/// Begins to record a run in this world: see [`recorder::begin`].
pub(crate) fn begin<A: RealMmu>(world: &Arc<World<El2<A>>>, threads: usize, plan: Plan, seed: u64) {
    El2::NEW.attach(world);
    recorder::begin(threads, plan, seed);
}

/// What happened in the run.
pub(crate) fn end() -> (Option<Violation>, Vec<Moment>) {
    let happened = recorder::end();
    *WORLD.write() = None;
    happened
}

/// Something happened in the step that runs.
#[inline]
pub(crate) fn observe(say: impl FnOnce(&dyn Observer)) {
    if recorder::is_recorded() {
        tell(say);
    }
}

#[inline(never)]
fn tell(say: impl FnOnce(&dyn Observer)) {
    if let Some(world) = WORLD.read().clone() {
        say(&*world);
    }
}
