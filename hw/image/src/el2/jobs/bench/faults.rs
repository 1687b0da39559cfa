//! What a fault of a guest costs while the dirty log is harvested: on the fast path of x86, under
//! `mmu_lock`, and in `user_mem_abort` of each version, under a spinlock or under a lock that
//! faults share.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use kvmmu_model::SpteFormat;
use kvmmu_scenarios::World;
use kvmmu_scenarios::scenario::Profile;

use super::super::own::{self, migrating, migrating_arm64};
use super::super::stress::{self, Host, Load, Pages};
use super::{Bench, Cost, ns};
use crate::args::{Args, Mmu};
use crate::el2::cpu::console::say;
use crate::el2::machine::mmu::{RealMmu, Shadow, Stage2};
use crate::el2::machine::platform::El2;
use crate::el2::machine::vcpu::Path;
use crate::el2::run::once;

/// The host's period, in microseconds.
const PERIOD_US: u64 = 20;

/// Who repairs faults.
#[derive(Clone, Copy, Debug)]
enum Who {
    /// The MMU of x86.
    X86(Path),
    /// That of arm64, and its name.
    Arm64(Profile, &'static str),
}

impl Who {
    /// What heads its column.
    fn head(self) -> &'static str {
        match self {
            Who::X86(Path::Fast) => "fast_page_fault",
            Who::X86(Path::Locked) => "x86, mmu_lock",
            Who::Arm64(_, name) => name,
        }
    }
    /// What its lines are told apart by.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Who::X86(path) => ("x86", path.name()),
            Who::Arm64(_, name) => (name, "user_mem_abort"),
        }
    }
}

impl Bench {
    /// A row for each number of pages and of vCPUs.
    pub(super) fn faults(&self, args: &Args<'_>, arm64: bool) {
        let mut columns = Vec::new();
        if args.mmu != Mmu::Arm64 {
            columns.extend([Path::Fast, Path::Locked].map(Who::X86));
        }
        if arm64 {
            columns.extend(own::VERSIONS.map(|(version, name)| Who::Arm64(version, name)));
        }
        let row = |cells: &mut dyn Iterator<Item = String>| {
            cells.map(|cell| format!(" {cell:>19} |")).collect::<String>()
        };
        let mut table = Vec::new();
        for pages in [Pages::Spread, Pages::Two, Pages::One] {
            for vcpus in 1..=self.vcpus_max {
                let costs: Vec<Cost> =
                    columns.iter().map(|who| self.fault(args, *who, pages, vcpus)).collect();
                let what = format!("{}, {vcpus} vCPUs", pages.name());
                table.push((what, costs));
            }
        }
        say!("bench: cycles (ns) from a fault to the next entry, one CPU harvesting all the time");
        let heads = columns.iter().map(|who| String::from(who.head()));
        say!("| {:16} |{}", "stores to", row(&mut { heads }));
        for (what, costs) in &table {
            say!("| {what:16} |{}", row(&mut costs.iter().map(|cost| cost.text())));
        }
        if args.mmu == Mmu::All && arm64 {
            say!(
                "bench: the same, in faults of fast_page_fault. Under x86's lock one differs by the"
            );
            say!("bench: lock alone; those of arm64 invalidate, too: see relax_perms below");
            for (what, costs) in &table {
                let times = |cost: &Cost| {
                    let tenths = 10 * cost.cycles / costs[0].cycles.max(1);
                    format!("{}.{}", tenths / 10, tenths % 10)
                };
                say!("| {what:16} |{}", row(&mut costs.iter().map(times)));
            }
        }
    }

    /// Guests that store while one CPU harvests.
    fn fault(&self, args: &Args<'_>, who: Who, pages: Pages, vcpus: usize) -> Cost {
        match who {
            Who::X86(path) => self.fault_in(args, &x86(path), who, pages, vcpus),
            Who::Arm64(version, _) => {
                let world = once::build::<Stage2>(&migrating_arm64(version));
                self.fault_in(args, &world, who, pages, vcpus)
            }
        }
    }

    fn fault_in<A: RealMmu>(
        &self,
        args: &Args<'_>,
        world: &World<El2<A>>,
        who: Who,
        pages: Pages,
        vcpus: usize,
    ) -> Cost {
        let path = if let Who::X86(path) = who { path } else { Path::Fast };
        let (host, period_us) = (Host::Harvests, PERIOD_US);
        let load =
            Load { vcpus, pages, host, stores: args.stores, seed: args.seed, period_us, path };
        let done = stress::load(world, load);
        let faults = done.faults.all().max(1);
        let cost = Cost { cycles: done.faults.cycles / faults, ns: ns(done.faults.ticks) / faults };
        let least = done.faults.least.unwrap_or(0);
        let (mmu, path) = who.names();
        say!(
            "{{\"kvmmu-figure\":1,\"name\":\"fault\",\"mmu\":\"{mmu}\",\"path\":\"{path}\",\
             \"pages\":{},\"vcpus\":{vcpus},\"faults\":{faults},\"cycles_least\":{least},\
             \"cycles\":{},\"ns\":{},\"stores\":{},\"us\":{},\"rounds\":{},\"lost\":{},{}",
            pages.mask() + 1,
            cost.cycles,
            cost.ns,
            done.stores,
            done.us,
            done.rounds,
            done.lost,
            self.about()
        );
        cost
    }
}

fn x86(path: Path) -> Arc<World<El2<Shadow>>> {
    let mut world = once::build::<Shadow>(&migrating());
    if path == Path::Locked
        && let Some(world) = Arc::get_mut(&mut world)
    {
        // Nothing to restore without mmu_lock: a format whose accesses nobody tracks.
        world.vm.mmu.format = SpteFormat {
            acc_track_mask: 0,
            accessed_mask: SpteFormat::STAGE2.acc_track_restore_mask,
            ..SpteFormat::STAGE2
        };
    }
    world
}
