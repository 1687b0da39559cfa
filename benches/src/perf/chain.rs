//! Write-protecting a page by its rmap, by the length of the chain.
//!
//! The guest pages: four leaf tables of its own are shadowed, and all of their entries map one
//! frame. A harvest that finds the frame dirty write-protects every SPTE of its chain. KVM keeps a
//! chain as a list of arrays; the model as a set of places in its pool, so that finding the next
//! place is not what KVM does: what is measured is the change of the SPTEs.

use std::time::{Duration, Instant};

use kvmmu_model::Tables;
use kvmmu_model::platform::Ordering::Relaxed;
use kvmmu_model::virt::{MemslotConfig, VmConfig};
use kvmmu_model::x86::mmu::paging::PT_ENTRIES;
use kvmmu_model::x86::mmu::walk::GuestWalk;
use kvmmu_model::{CpuId, Gfn, Gpte, Gva, Mmu, Pfn, ShadowMmu, SpteFormat, SpteLoc, Vm, Word};

use super::host::ResidentHost;
use super::vm::{Shadowed, writable};
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
    vms: Vec<Shadowed<Dense, ResidentHost>>,
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
                vm.mmu.sptep(*place).store(writable(&FORMAT, Pfn(FRAME)).0, Relaxed);
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
) -> Shadowed<Dense, ResidentHost> {
    let slot = MemslotConfig { base_gfn: Gfn(FRAME), npages: 1, log: true, there: true };
    let config = VmConfig { contended: false, unsync: false, nr_vcpus: 1, slots: &[slot] };
    let mmu = ShadowMmu::new(machine, FORMAT);
    let vm = Vm::new(machine, ResidentHost::new(), &config, mmu);
    Mmu::kvm_mmu_load(&vm, CpuId(0), Some(Gfn(ROOT)));
    *places = (0..length)
        .map(|page| {
            let walk = GuestWalk::new(Gfn(ROOT), Gva(page as u64), |table, index| {
                let next = if table.0 == ROOT { ROOT + 1 + u64::from(index) } else { FRAME };
                Some(Gpte::new(Gfn(next), true))
            });
            let spte = writable(&FORMAT, Pfn(FRAME));
            Tables::setup_leaf(&vm, CpuId(0), page as u64, walk.as_ref(), spte)
        })
        .collect();
    vm
}
