//! Write-protecting a page by its rmap, by the length of the chain.
//!
//! The guest pages: four leaf tables of its own are shadowed, and all of their entries map one
//! frame. A harvest that finds the frame dirty write-protects every SPTE of its chain. KVM keeps a
//! chain as a list of arrays; the model as a set of places in its pool, so that finding the next
//! place is not what KVM does: what is measured is the change of the SPTEs.

use std::time::{Duration, Instant};

use kvmmu_model::mmu::MemslotConfig;
use kvmmu_model::mmu::{Mmu, PT_ENTRIES};
use kvmmu_model::platform::Ordering::Relaxed;
use kvmmu_model::{CpuId, Gfn, Kvm, Pfn, SpteFormat, SpteLoc, Word};

use super::host::ResidentHost;
use super::vm::writable;
use crate::native::{Dense, Native};

/// VMs in a turn.
const VMS: usize = 256;
const FORMAT: SpteFormat = SpteFormat::NPT;
/// The frame that everything maps.
const FRAME: u64 = 0;
/// The guest's root table, and behind it its leaf tables.
const ROOT: u64 = 3;
/// The longest chain: each leaf table of a root, full.
pub const LENGTH_MAX: usize = PT_ENTRIES * PT_ENTRIES;

/// VMs with chains of one length.
#[derive(Debug)]
pub struct Chains {
    vms: Vec<Mmu<Native<Dense>, ResidentHost>>,
    places: Vec<SpteLoc>,
}

impl Chains {
    /// Chains of this length.
    pub fn new(length: usize) -> Self {
        assert!((1..=LENGTH_MAX).contains(&length));
        let machine = Native::new(Dense);
        let mut places = Vec::new();
        let vms = (0..VMS).map(|_| vm(&machine, length, &mut places)).collect();
        Chains { vms, places }
    }

    /// Harvests in a turn.
    pub const fn harvests() -> u64 {
        VMS as u64
    }

    /// The frame is written through every mapping, and then harvested. The time is that of the
    /// harvests.
    ///
    /// # Panics
    /// If a harvest leaves a mapping writable.
    pub fn turn(&self) -> Duration {
        for vm in &self.vms {
            for place in &self.places {
                // ORDERING: relaxed: nobody else runs.
                vm.sptep(*place).store(writable(&FORMAT, Pfn(FRAME)).0, Relaxed);
            }
            vm.mark_page_dirty(Gfn(FRAME));
        }
        let started = Instant::now();
        for vm in &self.vms {
            vm.kvm_vm_ioctl_get_dirty_log(0);
        }
        let elapsed = started.elapsed();
        let left = |place: &SpteLoc| FORMAT.is_writable(self.vms[0].mmu_spte_get_lockless(*place));
        assert!(!self.places.iter().any(left), "a mapping is writable after the harvest");
        elapsed
    }
}

/// A VM whose guest maps one frame so often.
fn vm(
    machine: &Native<Dense>,
    length: usize,
    places: &mut Vec<SpteLoc>,
) -> Mmu<Native<Dense>, ResidentHost> {
    let slot = MemslotConfig { base_gfn: Gfn(FRAME), npages: 1, log: true };
    let kvm = Kvm::new(machine, false, 1);
    let mut mmu = Mmu::new(machine, ResidentHost::new(), kvm, FORMAT, &[slot], 1);
    mmu.kvm_mmu_load(CpuId(0), Some(Gfn(ROOT)));
    *places = (0..length)
        .map(|page| {
            let table = Gfn(ROOT + 1 + (page / PT_ENTRIES) as u64);
            let place = mmu.setup_path(CpuId(0), page as u64, Some((table, true)));
            mmu.setup_leaf(place, Gfn(FRAME), writable(&FORMAT, Pfn(FRAME)));
            place
        })
        .collect();
    mmu
}
