//! Restoring an access-tracked SPTE: the fast path against `mmu_lock`.
//!
//! The layout is EPT without A/D bits: aging takes the permissions away, and the next access
//! faults. The locked path maps the page anew; it serves a fetch, which the fast path of 5.10
//! leaves alone where hardware reports the translation as present. Nothing is logged.

use std::time::{Duration, Instant};

use kvmmu_model::RetPf;
use kvmmu_model::platform::Ordering::Relaxed;
use kvmmu_model::virt::GFNS;
use kvmmu_model::{Access, CpuId, Gfn, Pfn, SpteFormat, Word};

use super::vm::{Vm, fleet, writable};
use crate::native::{Dense, Native};

/// VMs in a turn.
const VMS: usize = 64;
const FORMAT: SpteFormat = SpteFormat::EPT_NO_AD;

/// VMs whose pages were all aged.
#[derive(Debug)]
pub struct Aged {
    vms: Vec<Vm<Dense>>,
}

impl Aged {
    /// All on one machine.
    pub fn new() -> Self {
        Aged { vms: fleet(&Native::new(Dense), FORMAT, 1, false, VMS) }
    }

    /// Faults in a turn.
    pub const fn faults() -> u64 {
        (VMS * GFNS) as u64
    }

    /// Every page is aged, and then touched once. The time is that of the faults.
    pub fn turn(&self, fast: bool) -> Duration {
        let access = if fast { Access::Read } else { Access::Fetch };
        for vm in &self.vms {
            for gfn in 0..GFNS as u64 {
                let aged = FORMAT.mark_for_access_track(writable(&FORMAT, Pfn(gfn)), false);
                // ORDERING: relaxed: nobody else runs.
                vm.sptep(gfn).store(aged.0, Relaxed);
            }
        }
        let started = Instant::now();
        for vm in &self.vms {
            for gfn in 0..GFNS as u64 {
                let ret = vm.vm.kvm_tdp_page_fault(CpuId(0), Gfn(gfn), access, true);
                assert_eq!(ret, RetPf::Fixed);
            }
        }
        started.elapsed()
    }
}

impl Default for Aged {
    fn default() -> Self {
        Aged::new()
    }
}
