//! Hardware and surroundings that MMU code does not call but scenarios need.
//!
//! loom, shuttle and real threads have the hardware of [`crate::software_tlb`], written on
//! [`Word`]s: a demand-filled TLB that uses what it has whenever that suffices. The simulator has
//! an exact one, which may use anything that hardware may have cached.

use alloc::sync::Arc;
use core::fmt::Arguments;

use kvmmu_model::platform::Ordering::Relaxed;
use kvmmu_model::x86::mmu::paging::PT_ENTRIES;
use kvmmu_model::{
    Access, CpuId, FaultStatus, Guarded, Pfn, Platform, Spte, SpteFormat, SpteLoc, Tag, Word,
};

use crate::mmu::ScenarioMmu;
use crate::property::Property;
use crate::scenario::Scenario;
use crate::world::World;

/// Data for observers: touching it is no step and synchronises nothing.
pub trait Cell<T: Guarded> {
    /// Changes it, or looks at it.
    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R;
    /// For updates that commute and on which no thread's next step depends, such as a reference
    /// count. Not logged for retries.
    fn commute(&self, f: impl FnOnce(&mut T)) {
        self.with(f);
    }
    /// A copy of it.
    fn get(&self) -> T {
        self.with(|t| *t)
    }
}

/// What the guest's instruction does with memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct GuestAccess {
    /// The page: a guest frame, or a guest-virtual page number with shadow paging.
    pub page: u64,
    /// What it tries.
    pub access: Access,
    /// The byte of the page that a store changes, and its new value.
    pub byte: (u8, u8),
}

/// How an access ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AccessResult {
    /// It was carried out.
    Done,
    /// It faulted.
    Fault(FaultStatus),
    /// It met an entry that marks MMIO.
    Mmio,
    /// Nothing: the CPU would have had to log it, and the buffer was full.
    PmlFull,
}

impl AccessResult {
    /// The fault of an access that this entry, the last of a walk, does not allow.
    pub fn of_fault(format: &SpteFormat, spte: Spte) -> AccessResult {
        if format.is_mmio(spte) {
            return AccessResult::Mmio;
        }
        AccessResult::Fault(FaultStatus::present(format.fault_is_present(spte)))
    }
}

/// A machine: a platform with hardware and observers.
pub trait Machine: Platform + 'static {
    /// Data for observers.
    type Cell<T: Guarded>: Cell<T> + core::fmt::Debug;

    /// The MMU that KVM has on it: whose tables its hardware walks.
    type Mmu: ScenarioMmu<Self>;

    /// TLBs, and what else hardware keeps.
    type Hardware: core::fmt::Debug;

    /// False if vCPUs reach memory and handle their faults without entering and leaving the guest:
    /// no requests, no `vcpu->mode`, no IPIs. The one place that reads it is `interpret::enter` and
    /// `leave`. For machines that judge the core only (loom); they say how a flush waits for a
    /// guest access.
    const KVM_RUN: bool = true;

    /// Makes a cell.
    fn cell<T: Guarded>(&self, init: T) -> Self::Cell<T>;
    /// From now on the machine says to this world what happens in it: see [`crate::Observer`].
    /// Called once, by [`World::attach`]. A machine that is not asked to judge while it runs says
    /// nothing.
    fn attach(&self, _world: &Arc<World<Self>>) {}
    /// Reports that a property is violated in the running step.
    #[track_caller]
    fn violate(&self, property: Property, detail: Arguments<'_>);
    /// What the running thread does from now on depends on this, which it has looked at without a
    /// step.
    #[inline(always)]
    fn depends_on(&self, _value: u64) {}
    /// Says in words what hardware, the guest, the host or user space did in the running step.
    #[inline(always)]
    #[track_caller]
    fn note(&self, _what: Arguments<'_>) {}
    /// One of `n` ways to go on, counted from 0: up to the scheduler. One step. A machine that does
    /// not explore such choices takes the first.
    #[track_caller]
    fn choose(&self, _n: u8) -> u8 {
        0
    }
    /// True if an IPI is waiting for this CPU, so that the guest must exit.
    #[track_caller]
    fn irq_pending(&self, cpu: CpuId) -> bool;
    /// Stores one byte of a page. One step.
    #[track_caller]
    fn store_byte(&self, page: &Self::Word, byte: u8, value: u8) {
        // ORDERING: relaxed: guest memory; the CAS loop stands for a byte store.
        let mut old = page.load(Relaxed);
        // ORDERING: relaxed: as above.
        while let Err(now) =
            page.compare_exchange(old, with_byte(old, byte, value), Relaxed, Relaxed)
        {
            old = now;
        }
    }

    /// The guest does something that changes no memory: one step.
    #[track_caller]
    fn guest_step(&self) {}

    /// The next swap of the word is the last that anybody sees of it: see [`Platform::forget`].
    fn forget_after_swap(&self, _word: &Self::Word) {}
    /// The content of a word, for observers: no step.
    fn peek(&self, word: &Self::Word) -> u64;

    /// Makes the hardware of a world.
    fn hardware(&self, scenario: &Scenario) -> Self::Hardware;
    /// One guest access, by the TLB or by a walk of the tables.
    #[track_caller]
    fn guest_access(world: &World<Self>, cpu: CpuId, access: GuestAccess) -> AccessResult;
    /// A guest access was translated, by the TLB if `from_tlb`, and has reached its page. For
    /// observers of machines that use [`crate::software_tlb`]; part of the step of the access.
    fn guest_translated(
        _world: &World<Self>,
        _cpu: CpuId,
        _access: GuestAccess,
        _pfn: Pfn,
        _from_tlb: bool,
    ) {
    }
    /// Calls `each` with every page that a CPU which runs guest code may write by its TLB alone.
    /// For observers: no step.
    fn for_each_writable_in_tlb(_world: &World<Self>, _cpu: CpuId, _each: impl FnMut(Pfn)) {}
    /// The guest runs from now on.
    fn guest_entered(_world: &World<Self>, _cpu: CpuId) {}
    /// The guest does not run any more. Its TLB stays as it is.
    fn guest_left(_world: &World<Self>, _cpu: CpuId) {}
    /// An SPTE has this value from now on: hardware that walks may see it. Part of the step of the
    /// write.
    fn spte_written(_world: &World<Self>, _tag: Tag, _new: u64) {}
    /// The vCPU of this CPU has taken its requests, and owes what they ask for. Part of the step of
    /// the write.
    fn requests_taken(_world: &World<Self>, _cpu: CpuId) {}
    /// Empties the TLB of a CPU that is not in the guest.
    #[track_caller]
    fn flush_tlb(world: &World<Self>, cpu: CpuId);
    /// Drops what the TLB of a CPU that is not in the guest has of one page, and leaves the rest.
    /// A machine may drop more.
    #[track_caller]
    fn flush_tlb_page(world: &World<Self>, cpu: CpuId, _page: u64) {
        Self::flush_tlb(world, cpu);
    }
    /// The translation of `loc` may be in the TLB of `cpu` before the first step.
    fn preload_tlb(world: &World<Self>, cpu: CpuId, page: u64, loc: SpteLoc, spte: Spte);
}

/// A page with one byte replaced.
pub fn with_byte(page: u64, byte: u8, value: u8) -> u64 {
    let shift = 8 * u32::from(byte);
    page & !(0xff << shift) | u64::from(value) << shift
}

/// True if hardware may keep the SPTE in a TLB for this access without touching it again.
pub fn cacheable(format: &SpteFormat, spte: Spte, access: Access) -> bool {
    let bits = match access {
        Access::Write => format.accessed_mask | format.dirty_mask,
        _ => format.accessed_mask,
    };
    format.allows(spte, access) && spte.0 & bits == bits
}

/// Pages that a vCPU can address: two leaf tables under its root.
pub const PAGES: usize = 2 * PT_ENTRIES;

const _: () = assert!(PAGES <= kvmmu_model::virt::GFNS);

/// The byte of a data page that a vCPU's stores change, so that stores of two vCPUs never hide one
/// another.
pub fn own_byte(cpu: CpuId) -> u8 {
    cpu.0
}
