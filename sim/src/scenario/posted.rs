//! Who waits for an invalidation.

use kvmmu_model::CpuId;
use kvmmu_model::arm64::{Dsb, TlbiOn};

use crate::machine::THREADS_MAX;

/// Who has begun an invalidation that is not complete: a bit for each thread that did by broadcast,
/// and one for each that did on its own CPU.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub(crate) struct Posted(u32);

const _: () = assert!(2 * THREADS_MAX <= u32::BITS as usize, "Posted has two bits for each thread");

impl Posted {
    pub(crate) const NONE: Posted = Posted(0);

    /// This thread, in this way.
    pub(crate) fn by(thread: usize, on: TlbiOn) -> Posted {
        let local = on != TlbiOn::InnerShareable;
        Posted(1 << (thread % THREADS_MAX + if local { THREADS_MAX } else { 0 }))
    }
    /// What a barrier of this thread, and of the CPU that it runs on, completes.
    pub(crate) fn completed(thread: usize, dsb: Dsb) -> Posted {
        let ways = [TlbiOn::InnerShareable, TlbiOn::Local(CpuId(0))];
        let completed = ways.into_iter().filter(|on| dsb.completes(*on));
        completed.fold(Posted::NONE, |all, on| all.with(Posted::by(thread, on)))
    }
    /// True if one of these is among them.
    pub(crate) const fn has_any(self, others: Posted) -> bool {
        self.0 & others.0 != 0
    }
    pub(crate) const fn with(self, others: Posted) -> Posted {
        Posted(self.0 | others.0)
    }
}
