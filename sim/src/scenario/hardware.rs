//! The hardware of a scenario's machine: guest accesses, as far as they are the same whatever is
//! walked. What differs is in [`Walkers`].

use core::fmt;

use kvmmu_model::arm64::{Dsb, TlbiScope};
use kvmmu_model::virt::MmuLock;
use kvmmu_model::{Access, CpuId, Guarded, Mark, Object, Pfn, Platform, Spte, SpteLoc, Tag};
use kvmmu_scenarios::machine::{AccessResult, Cell, GuestAccess, Machine, with_byte};
use kvmmu_scenarios::mmu::{MmuState, ScenarioMmu};
use kvmmu_scenarios::oracle::shadowed_table;
use kvmmu_scenarios::{Property, Scenario, World};

use crate::machine::cell::SimCell;
use crate::machine::platform::Sim;
use crate::machine::word::SimWord;

/// The page-table walkers of a machine, and its TLBs. Functions of the same names are described in
/// [`Machine`].
pub trait Walkers: Sized + 'static {
    /// The MMU whose tables they walk.
    type Mmu: ScenarioMmu<Sim<Self>>;
    /// The TLBs of all CPUs.
    type Tlbs: fmt::Debug;

    /// Empty TLBs.
    fn tlbs(sim: &Sim<Self>, scenario: &Scenario) -> Self::Tlbs;
    /// In how many ways an access may be translated in the current state; at least 1.
    fn ways(w: &World<Sim<Self>>, cpu: CpuId, page: u64, access: Access) -> u8;
    /// The access, by the way that was chosen: 0 is the walk of the tables as they are.
    #[track_caller]
    fn carry_out(w: &World<Sim<Self>>, cpu: CpuId, access: GuestAccess, choice: u8)
    -> AccessResult;
    /// Calls `each` with every page that a CPU which runs guest code may write by its TLB alone.
    fn for_each_writable_in_tlb(w: &World<Sim<Self>>, cpu: CpuId, each: impl FnMut(Pfn));
    /// The guest runs from now on.
    fn guest_entered(w: &World<Sim<Self>>, cpu: CpuId);
    /// The guest does not run any more.
    fn guest_left(w: &World<Sim<Self>>, cpu: CpuId);
    /// A vCPU has taken its requests.
    fn requests_taken(_w: &World<Sim<Self>>, _cpu: CpuId) {}
    /// An entry has this value from now on.
    fn spte_written(w: &World<Sim<Self>>, tag: Tag, new: u64);
    /// Empties a TLB.
    fn flush(w: &World<Sim<Self>>, cpu: CpuId);
    /// Drops what a TLB has of one page.
    fn flush_page(w: &World<Sim<Self>>, cpu: CpuId, page: u64);
    /// The translation may be in a TLB before the first step.
    fn preload(w: &World<Sim<Self>>, cpu: CpuId, page: u64, loc: SpteLoc, spte: Spte);
    /// The thread that runs begins an invalidation.
    fn tlbi(w: &World<Sim<Self>>, scope: TlbiScope);
    /// A barrier of the thread that runs is complete, and with it what the thread has begun.
    fn dsb(w: &World<Sim<Self>>, dsb: Dsb);
    /// The locations of TLBs that nobody will read. `flushes`: vCPUs with a request flush theirs
    /// before they run guest code.
    fn unread(w: &World<Sim<Self>>, flushes: bool, forget: &mut dyn FnMut(u16));
    /// What the entries of tables are called in the current state.
    fn table_names(w: &World<Sim<Self>>, scenario: &Scenario) -> Vec<(Tag, String)>;
    /// What is written when the answer of [`Walkers::table_names`] may change.
    const RENAMES: Object;
}

/// A request that is no guest access: a choice of the program. The low byte says among how many.
const CHOOSE: u64 = 1 << 32;
/// A store by an instruction that KVM emulates, or a step of the guest: it has one outcome.
const STORE: u64 = 2 << 32;

/// How many outcomes a request may have: that of a guest access is translated in so many ways.
pub(crate) fn choices<A: Walkers>(w: &World<Sim<A>>, request: u64) -> u8 {
    match request & !0xffff_ffff {
        CHOOSE => return request as u8,
        STORE => return 1,
        _ => {}
    }
    let access = match request >> 16 {
        0 => Access::Read,
        1 => Access::Write,
        _ => Access::Fetch,
    };
    A::ways(w, CpuId(request as u8), request >> 8 & 0xff, access)
}

fn request(cpu: CpuId, access: GuestAccess) -> u64 {
    u64::from(cpu.0) | access.page << 8 | (access.access as u64) << 16
}

/// The guest reaches a page.
#[track_caller]
pub(super) fn touch<A: Walkers>(
    w: &World<Sim<A>>,
    cpu: CpuId,
    access: GuestAccess,
    pfn: Pfn,
    stale: bool,
) {
    let verb = match access.access {
        Access::Read => "reads",
        Access::Write => "writes",
        Access::Fetch => "fetches from",
    };
    let how = if stale { " through its TLB" } else { "" };
    w.m.note(|| format!("guest: vcpu{} {verb} pfn{}{how}", cpu.0, pfn.0));
    if stale {
        w.m.mark(Mark::StaleTranslation);
    }
    if access.access == Access::Write {
        w.m.mark(Mark::GuestWrite);
        let page = w.vm.host.page(pfn);
        let (byte, value) = access.byte;
        w.m.hardware_write(page, with_byte(page.peek(), byte, value));
        if w.watches(Property::ShadowedPtReadonly) {
            check_table_write(w, pfn);
        }
    }
    w.check_access(cpu, access, pfn);
}

/// What `mmu_lock` guards, whoever has it.
pub(super) fn mmu_state<A: Walkers>(w: &World<Sim<A>>) -> MmuState<Sim<A>> {
    match &w.vm.kvm.mmu_lock {
        MmuLock::Spin(lock) => lock.peek(),
        MmuLock::ReadWrite(lock) => lock.peek(),
    }
}

#[track_caller]
fn check_table_write<A: Walkers>(w: &World<Sim<A>>, pfn: Pfn) {
    if let Some(table) = shadowed_table(w, &mmu_state(w), pfn) {
        Machine::violate(
            &w.m,
            Property::ShadowedPtReadonly,
            format_args!("the guest writes gfn{}, a shadowed guest table, unseen by KVM", table.0),
        );
    }
}

impl<T: Guarded> Cell<T> for SimCell<T> {
    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        SimCell::with(self, f)
    }
    fn get(&self) -> T {
        SimCell::get(self)
    }
    fn commute(&self, f: impl FnOnce(&mut T)) {
        SimCell::commute(self, f);
    }
}

impl<A: Walkers> Machine for Sim<A> {
    type Cell<T: Guarded> = SimCell<T>;
    type Mmu = A::Mmu;
    type Hardware = A::Tlbs;

    fn cell<T: Guarded>(&self, init: T) -> SimCell<T> {
        Sim::cell(self, init)
    }
    #[track_caller]
    fn violate(&self, property: Property, detail: fmt::Arguments<'_>) {
        Sim::violate(self, property, || detail.to_string());
    }
    fn depends_on(&self, value: u64) {
        Sim::observe(self, &value);
    }
    #[track_caller]
    fn note(&self, what: fmt::Arguments<'_>) {
        Sim::note(self, || what.to_string());
    }
    #[track_caller]
    fn choose(&self, n: u8) -> u8 {
        let chosen = Sim::access(self, CHOOSE | u64::from(n));
        Sim::note(self, || format!("goes on with {} of {n}", chosen + 1));
        chosen
    }
    #[track_caller]
    fn irq_pending(&self, cpu: CpuId) -> bool {
        Sim::irq_pending(self, cpu)
    }
    #[track_caller]
    fn guest_step(&self) {
        Sim::access(self, STORE);
    }
    #[track_caller]
    fn store_byte(&self, page: &SimWord, byte: u8, value: u8) {
        Sim::access(self, STORE);
        self.hardware_write(page, with_byte(page.peek(), byte, value));
    }
    fn peek(&self, word: &SimWord) -> u64 {
        word.peek()
    }
    fn forget_after_swap(&self, word: &SimWord) {
        Sim::forget_after_swap(self, word);
    }
    fn hardware(&self, scenario: &Scenario) -> A::Tlbs {
        A::tlbs(self, scenario)
    }

    #[track_caller]
    fn guest_access(w: &World<Self>, cpu: CpuId, access: GuestAccess) -> AccessResult {
        let choice = w.m.access(request(cpu, access));
        A::carry_out(w, cpu, access, choice)
    }

    fn for_each_writable_in_tlb(w: &World<Self>, cpu: CpuId, each: impl FnMut(Pfn)) {
        A::for_each_writable_in_tlb(w, cpu, each);
    }

    fn guest_entered(w: &World<Self>, cpu: CpuId) {
        A::guest_entered(w, cpu);
    }

    fn guest_left(w: &World<Self>, cpu: CpuId) {
        A::guest_left(w, cpu);
    }

    fn requests_taken(w: &World<Self>, cpu: CpuId) {
        A::requests_taken(w, cpu);
    }

    fn spte_written(w: &World<Self>, tag: Tag, new: u64) {
        A::spte_written(w, tag, new);
    }
    #[track_caller]
    fn flush_tlb(w: &World<Self>, cpu: CpuId) {
        A::flush(w, cpu);
        Machine::note(&w.m, format_args!("vcpu{}: TLB flushed", cpu.0));
    }

    fn flush_tlb_page(w: &World<Self>, cpu: CpuId, page: u64) {
        A::flush_page(w, cpu, page);
        Machine::note(&w.m, format_args!("vcpu{}: TLB flushed of gfn{page}", cpu.0));
    }

    fn preload_tlb(w: &World<Self>, cpu: CpuId, page: u64, loc: SpteLoc, spte: Spte) {
        A::preload(w, cpu, page, loc, spte);
    }
}
