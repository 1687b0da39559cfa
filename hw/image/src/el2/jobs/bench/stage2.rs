//! What the MMU of arm64 costs, operation by operation: by one CPU that calls KVM, while guests run
//! on others or nobody does.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use kvmmu_model::virt::memslots::DirtyLog;
use kvmmu_model::{Access, CpuId, FaultStatus, Gfn, GfnRange, Mmu, Rcu, RetPf};
use kvmmu_scenarios::World;
use kvmmu_scenarios::scenario::Profile;

use super::super::own;
use super::super::tests::set_stop;
use super::{Bench, Cost, ns};
use crate::el2::cpu::console::say;
use crate::el2::cpu::exit::{Exit, exit};
use crate::el2::cpu::tlbi::{self, Tlbis};
use crate::el2::cpu::{smp, sysreg, wait};
use crate::el2::machine::mmu::Stage2;
use crate::el2::machine::platform::El2;
use crate::el2::machine::vcpu::{self, Path};
use crate::el2::memory::guest::{Context, Program};
use crate::el2::memory::{frames, stage2};
use crate::el2::run::once;

/// How often each is measured.
const TIMES: u64 = 100;
/// The first page that guests run on: the second entry of the root.
const GUESTS: u64 = 4;
/// The vCPU in whose name KVM is called.
const ME: CpuId = CpuId(0);

type Vm = World<El2<Stage2>>;

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Op {
    /// A fault maps a page, and a table for it.
    Map,
    /// A fault maps a block.
    MapBlock,
    /// A fault gives W to a page.
    Relax,
    /// GET_DIRTY_LOG of one page.
    Harvest,
    /// The host takes the page away, and with it goes the table.
    Unmap,
    /// The host takes the block away.
    UnmapBlock,
    /// A fault puts a table in the place of a block.
    Split,
    /// A fault puts a block in the place of a table.
    Merge,
}

impl Op {
    const ALL: [Op; 8] = [
        Op::Map,
        Op::MapBlock,
        Op::Relax,
        Op::Harvest,
        Op::Unmap,
        Op::UnmapBlock,
        Op::Split,
        Op::Merge,
    ];

    fn name(self) -> &'static str {
        match self {
            Op::Map => "map",
            Op::MapBlock => "map block",
            Op::Relax => "relax_perms",
            Op::Harvest => "get_dirty_log",
            Op::Unmap => "unmap",
            Op::UnmapBlock => "unmap block",
            Op::Split => "split",
            Op::Merge => "merge",
        }
    }

    /// Brings about what it begins with.
    fn prepare(self, w: &Vm) {
        match self {
            Op::Map => w.vm.set_memory_region_log(0, DirtyLog::Empty),
            Op::MapBlock => {}
            Op::Relax => {
                w.vm.set_memory_region_log(0, DirtyLog::Empty);
                map(w);
                w.vm.kvm_vm_ioctl_get_dirty_log(0);
            }
            Op::Harvest | Op::Unmap => {
                w.vm.set_memory_region_log(0, DirtyLog::Empty);
                map(w);
            }
            Op::UnmapBlock => map(w),
            Op::Split => {
                map(w);
                w.vm.set_memory_region_log(0, DirtyLog::Empty);
            }
            Op::Merge => {
                w.vm.set_memory_region_log(0, DirtyLog::Empty);
                map(w);
                w.vm.set_memory_region_log(0, DirtyLog::Off);
            }
        }
    }

    /// It.
    fn perform(self, w: &Vm) {
        match self {
            Op::Map | Op::MapBlock => map(w),
            Op::Relax => fault(w, Gfn(0), FaultStatus { present: true, level: 3 }),
            Op::Harvest => {
                w.vm.kvm_vm_ioctl_get_dirty_log(0);
            }
            Op::Unmap | Op::UnmapBlock => unmap(w),
            Op::Split => fault(w, Gfn(0), FaultStatus { present: true, level: 2 }),
            Op::Merge => fault(w, Gfn(1), FaultStatus::present(false)),
        }
    }

    /// What comes after: nothing is mapped of the frames, and they are not logged.
    fn clean_up(self, w: &Vm) {
        if self == Op::Merge
            && let Some(callback) = Mmu::rcu(&w.vm.mmu).and_then(Rcu::wait_ripe)
        {
            Mmu::rcu_callback(&w.vm, callback);
        }
        unmap(w);
        w.vm.set_memory_region_log(0, DirtyLog::Off);
    }
}

fn unmap(w: &Vm) {
    let frames = GfnRange::new(Gfn(0), GUESTS);
    w.vm.invalidate_range_start(frames);
    w.vm.invalidate_range_end(frames);
}

fn map(w: &Vm) {
    fault(w, Gfn(0), FaultStatus::present(false));
}

/// A store faults.
fn fault(w: &Vm, gfn: Gfn, status: FaultStatus) {
    let ret = Mmu::kvm_mmu_do_page_fault(&w.vm, ME, gfn.0, Access::Write, status);
    if ret != RetPf::Fixed {
        exit(Exit::Internal, format_args!("bench: a fault of gfn{} became {ret:?}", gfn.0));
    }
}

/// What a measurement gave.
struct Measured {
    cost: Cost,
    least: u64,
    tlbis: Tlbis,
}

impl Bench {
    /// A row for each operation and version.
    pub(super) fn stage2(&self) {
        say!("bench: cycles (ns) of what the MMU of arm64 does, and its TLBIs");
        let heads = ["others idle", "guests running"];
        say!("| {:13} | {:11} | {:>17} | {:>17} | TLBIs", "", "", heads[0], heads[1]);
        for op in Op::ALL {
            for (version, name) in own::VERSIONS {
                let row = [0, self.vcpus_max].map(|guests| self.op(op, version, name, guests));
                let each = row[0].tlbis.iter();
                let tlbis: Vec<String> =
                    each.map(|(kind, count)| format!("{} {kind}", per_time(count))).collect();
                say!(
                    "| {:13} | {name:11} | {:>17} | {:>17} | {}",
                    op.name(),
                    row[0].cost.text(),
                    row[1].cost.text(),
                    if tlbis.is_empty() { String::from("none") } else { tlbis.join(", ") }
                );
            }
        }
    }

    fn op(&self, op: Op, version: Profile, name: &str, guests: usize) -> Measured {
        let world = once::build::<Stage2>(&own::huge_arm64(version));
        let measured = spin::Mutex::new(None);
        smp::parallel(guests + 1, &|i| {
            if let Some(vcpu) = i.checked_sub(1) {
                let page = GUESTS + vcpu as u64;
                let x = [stage2::ipa(page), 0, stage2::CONTROL_IPA, 0, 0, 0, 0, 0];
                let guest = &mut Context::new(Program::Count, x);
                vcpu::run(&world, CpuId(vcpu as u8), guest, Path::Fast);
                return;
            }
            let stores = |guest: usize| {
                // ORDERING: relaxed: a look.
                frames::page_word(GUESTS as usize + guest, 0).load(Relaxed) != 0
            };
            wait::until("guests to run", || (0..guests).all(stores));
            *measured.lock() = Some(measure(&world, op));
            set_stop(true);
        });
        let Some(measured) = measured.into_inner() else {
            unreachable!("the last CPU measures");
        };
        let each = measured.tlbis.iter();
        let counts: Vec<String> =
            each.map(|(kind, count)| format!("\"{kind}\":{}", per_time(count))).collect();
        say!(
            "{{\"kvmmu-figure\":1,\"name\":\"stage2\",\"op\":\"{}\",\"mmu\":\"{name}\",\
             \"guests\":{guests},\"core\":\"{}\",\"cycles_least\":{},\"cycles\":{},\"ns\":{},\
             \"tlbi\":{{{}}},\"twice\":{},{}",
            op.name(),
            smp::core_name(smp::worker_type(0)),
            measured.least,
            measured.cost.cycles,
            measured.cost.ns,
            counts.join(","),
            tlbi::is_twice(),
            self.about()
        );
        measured
    }
}

/// So many in [`TIMES`], each time: mostly a whole number.
fn per_time(count: u64) -> String {
    match (count / TIMES, count % TIMES) {
        (whole, 0) => format!("{whole}"),
        (whole, rest) => format!("{whole}.{rest:02}"),
    }
}

fn measure(w: &Vm, op: Op) -> Measured {
    let (mut cycles, mut ticks, mut least, mut tlbis) = (0, 0, u64::MAX, Tlbis::default());
    for _ in 0..TIMES {
        op.prepare(w);
        let before = tlbi::count();
        let (tick, cycle) = (sysreg::now(), sysreg::cycles());
        op.perform(w);
        let took = sysreg::cycles().wrapping_sub(cycle);
        ticks += sysreg::now() - tick;
        tlbis.add(tlbi::count().since(before));
        cycles += took;
        least = least.min(took);
        op.clean_up(w);
    }
    let cost = Cost { cycles: cycles / TIMES, ns: ns(ticks) / TIMES };
    Measured { cost, least, tlbis }
}
