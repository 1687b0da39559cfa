//! TLB maintenance by instruction, on the exact TLBs.
//!
//! A `TLBI` posts an invalidation: what each CPU in its scope may have cached by then may be used
//! until a `DSB` of the thread that issued it completes, or until any other flush drops it. What a
//! CPU caches after the `TLBI` stays, and a CPU that runs guest code may at once cache again what
//! the tables give: a descriptor that is changed after the `TLBI` was not flushed.
//!
//! A TLB here holds what stage 2 gives (`IPA` to page, and the tables on the way), by place. So
//! `IPAS2E1` drops what may translate its address, from whatever level, and `VMALLE1`, which is
//! about entries that stage 1 is part of, nothing. Level hints are ignored, as by a CPU without
//! FEAT_TTL.
//!
//! Of two threads whose invalidations of one CPU overlap, the `DSB` that completes first completes
//! both: that a thread forgot its own is not seen in such a run.

use kvmmu_model::arm64::{Dsb, Tlbi, TlbiScope};
use kvmmu_model::x86::mmu::paging::{SpteSet, all_spte_locs};
use kvmmu_model::x86::mmu::walk::ShadowWalk;
use kvmmu_model::{CpuId, Tables};
use kvmmu_scenarios::World;

use super::super::posted::Posted;
use super::tlb::Tlb;
use super::{child, refill};
use crate::machine::platform::Sim;

/// The thread that runs begins an invalidation.
pub(super) fn begin(w: &World<Sim>, scope: TlbiScope) {
    let posted = Posted::by(w.m.thread(), scope.on);
    for cpu in cpus(w).filter(|cpu| scope.reaches(*cpu)) {
        w.hardware.of(cpu).with(|tlb| {
            tlb.post(in_scope(w, tlb, cpu, scope.what), posted);
            refill(w, tlb, cpu);
        });
    }
}

/// A barrier of the thread that runs is complete, and with it what the thread has begun.
pub(super) fn complete(w: &World<Sim>, dsb: Dsb) {
    let posted = Posted::completed(w.m.thread(), dsb);
    for cpu in cpus(w) {
        w.hardware.of(cpu).with(|tlb| tlb.complete(posted));
    }
}

fn cpus(w: &World<Sim>) -> impl Iterator<Item = CpuId> {
    (0..w.vm.kvm.nr_vcpus).map(CpuId)
}

/// The places of what an invalidation drops of a TLB.
fn in_scope(w: &World<Sim>, tlb: &Tlb, cpu: CpuId, what: Tlbi) -> SpteSet {
    let mut places = SpteSet::default();
    match what {
        Tlbi::Vmalls12e1 | Tlbi::Alle1 => all_spte_locs().for_each(|loc| places.insert(loc)),
        Tlbi::Ipas2e1 { ipa, .. } => {
            let root = ShadowWalk::new(w.vm.mmu.root(cpu), ipa.0);
            tlb.entries(root, &|loc| child(w, loc), &mut |at| places.insert(at.loc));
        }
        Tlbi::Vmalle1 => {}
    }
    places
}
