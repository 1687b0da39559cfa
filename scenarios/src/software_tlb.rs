//! A TLB on words: for machines that have none of their own.

use kvmmu_model::platform::Ordering::{AcqRel, Acquire, Relaxed};
use kvmmu_model::transition::hardware_update;
use kvmmu_model::virt::VCPUS;
use kvmmu_model::x86::mmu::paging::{KVM_MAX_HUGEPAGE_LEVEL, PG_LEVEL_4K, frames_of};
use kvmmu_model::x86::mmu::walk::hardware_walk;
use kvmmu_model::{Access, CpuId, FaultStatus, Mark, Object, Pfn, Spte, Tables, Tag, Word};

use crate::machine::{AccessResult, GuestAccess, Machine, PAGES, cacheable};
use crate::world::World;

/// The TLBs of all CPUs, by CPU and page. Only a CPU's own thread touches its entries.
#[derive(Debug)]
pub struct SoftwareTlb<M: Machine> {
    entries: [[M::Word; PAGES]; VCPUS],
}

impl<M: Machine> SoftwareTlb<M> {
    /// Empty TLBs.
    pub fn new(m: &M) -> Self {
        let word = |cpu, page| m.word(Tag::at(Object::TlbView, cpu, page), 0);
        SoftwareTlb { entries: core::array::from_fn(|c| core::array::from_fn(|p| word(c, p))) }
    }

    /// What a CPU has cached of a page's translation: an SPTE, 0 for none.
    pub fn entry(&self, cpu: CpuId, page: u64) -> &M::Word {
        &self.entries[usize::from(cpu.0)][page as usize]
    }
}

/// Empties the TLB of a CPU.
#[track_caller]
pub fn flush<M: Machine<Hardware = SoftwareTlb<M>>>(world: &World<M>, cpu: CpuId) {
    for entry in &world.hardware.entries[usize::from(cpu.0)] {
        // ORDERING: relaxed: only this CPU's thread touches its TLB.
        entry.store(0, Relaxed);
    }
}

/// Puts a translation into the TLB of a CPU before the first step; of a large page that begins with
/// this one, of all of its pages.
pub fn preload<M: Machine<Hardware = SoftwareTlb<M>>>(
    world: &World<M>,
    cpu: CpuId,
    page: u64,
    spte: Spte,
) {
    let format = world.vm.mmu.format();
    let level = if format.is_large(spte) { KVM_MAX_HUGEPAGE_LEVEL } else { PG_LEVEL_4K };
    for i in 0..frames_of(level - 1) as u64 {
        let of_page = format.with_pfn(spte, Pfn(format.pfn(spte).0 + i));
        let entry = &world.hardware.entries[usize::from(cpu.0)][(page + i) as usize];
        // ORDERING: relaxed: before any thread runs.
        entry.store(of_page.0, Relaxed);
    }
}

/// One guest access: by the TLB if that suffices, else by a walk.
#[track_caller]
pub fn access<M: Machine<Hardware = SoftwareTlb<M>>>(
    w: &World<M>,
    cpu: CpuId,
    access: GuestAccess,
) -> AccessResult {
    let format = w.vm.mmu.format();
    let entry = &w.hardware.entries[usize::from(cpu.0)][access.page as usize];
    // ORDERING: relaxed: only this CPU's thread touches its TLB.
    let mut spte = Spte(entry.load(Relaxed));
    let from_tlb = cacheable(format, spte, access.access);
    if !from_tlb {
        match walk(w, cpu, access) {
            Ok(found) => spte = found,
            Err(fault) => {
                // ORDERING: relaxed: as above. A fault drops the stale entry.
                entry.store(0, Relaxed);
                return fault;
            }
        }
        // ORDERING: relaxed: as above.
        entry.store(spte.0, Relaxed);
    }
    let write = access.access == Access::Write;
    let page = w.vm.host.page(format.pfn(spte));
    if write {
        w.m.store_byte(page, access.byte.0, access.byte.1);
    } else {
        // ORDERING: relaxed: a guest load.
        page.load(Relaxed);
    }
    M::guest_translated(w, cpu, access, format.pfn(spte), from_tlb);
    if write {
        w.m.mark(Mark::GuestWrite);
    }
    w.check_access(cpu, access, format.pfn(spte));
    AccessResult::Done
}

/// The hardware walk: sets A and D by a conditional atomic update of the entry that it uses.
fn walk<M: Machine>(w: &World<M>, cpu: CpuId, access: GuestAccess) -> Result<Spte, AccessResult> {
    let format = w.vm.mmu.format();
    // ORDERING: acquire: the walker sees a table before its entries.
    let read = |loc| Spte(w.vm.mmu.sptep(loc).load(Acquire));
    let root = w.vm.mmu.root(cpu);
    let (at, mut spte) = hardware_walk(format, root, access.page, read);
    if !format.is_last(spte, at.level) {
        return Err(AccessResult::Fault(FaultStatus::present(false)));
    }
    let word = w.vm.mmu.sptep(at.loc);
    loop {
        let Some(new) = hardware_update(format, spte, access.access) else {
            return Err(AccessResult::of_fault(format, spte));
        };
        // What is kept is of one page.
        let of_page = |spte| format.with_pfn(spte, at.pfn(format, spte));
        if new == spte {
            return Ok(of_page(spte));
        }
        if w.pml_is_full(cpu, spte, new) {
            return Err(AccessResult::PmlFull);
        }
        // ORDERING: acq-rel: hardware's locked update.
        match w.m.lockless(|| word.compare_exchange(spte.0, new.0, AcqRel, Acquire)) {
            Ok(_) => {
                w.hardware_updated(cpu, access.page, spte, new);
                return Ok(of_page(new));
            }
            Err(now) => spte = Spte(now),
        }
    }
}
