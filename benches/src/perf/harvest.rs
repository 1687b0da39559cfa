//! Harvesting 2^16 pages, and what of it each page costs.
//!
//! A VM of the model has eight frames in two slots, so 2^16 pages are those of 8192 VMs, whose
//! words are spread over megabytes as the tables of a large guest are. Each harvest is one
//! GET_DIRTY_LOG of a slot of four frames: it takes `slots_lock` and `mmu_lock`, fetches the
//! bitmap, write-protects the dirty pages by their rmap, and raises the request to flush. KVM does
//! the locks and the flush once for a slot of any size. So the time of a harvest is measured by how
//! many of its pages are dirty, and the line through these says what a page costs, and what the
//! rest.

use std::time::{Duration, Instant};

use kvmmu_model::platform::Ordering::Relaxed;
use kvmmu_model::virt::{GFNS, MEMSLOTS};
use kvmmu_model::{Gfn, Pfn, SpteFormat, Word};

use super::vm::{Vm, fleet, writable};
use crate::native::{Dense, Native};

/// Pages of a whole harvest.
pub const PAGES: usize = 1 << 16;
/// Pages of a slot.
pub const SLOT_PAGES: usize = GFNS / MEMSLOTS;
const FORMAT: SpteFormat = SpteFormat::NPT;

/// VMs with 2^16 pages in all.
#[derive(Debug)]
pub struct Guests {
    vms: Vec<Vm<Dense>>,
}

impl Guests {
    /// So many pages, a multiple of those of a VM.
    pub fn new(pages: usize) -> Self {
        Guests { vms: fleet(&Native::new(Dense), FORMAT, 1, true, pages / GFNS) }
    }

    /// Harvests in a turn.
    pub fn harvests(&self) -> usize {
        self.vms.len() * MEMSLOTS
    }

    /// So many pages of each slot are written, and then all of them harvested. The time is that of
    /// the harvests.
    ///
    /// # Panics
    /// If a harvest does not name what was written.
    pub fn turn(&self, dirty: usize) -> Duration {
        for vm in &self.vms {
            let frames = (0..MEMSLOTS).flat_map(|slot| {
                let base = slot * SLOT_PAGES;
                base..base + dirty
            });
            for gfn in frames.map(|gfn| gfn as u64) {
                // ORDERING: relaxed: nobody else runs.
                vm.sptep(gfn).store(writable(&FORMAT, Pfn(gfn)).0, Relaxed);
                vm.vm.mark_page_dirty(Gfn(gfn));
            }
        }
        let started = Instant::now();
        let mut harvested = 0;
        for vm in &self.vms {
            for slot in 0..MEMSLOTS {
                harvested += vm.vm.kvm_vm_ioctl_get_dirty_log(slot).count_ones() as usize;
            }
        }
        let elapsed = started.elapsed();
        assert_eq!(harvested, self.harvests() * dirty);
        elapsed
    }
}
