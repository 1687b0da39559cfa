//! The machine as a scenario's [`Machine`]: guest accesses are accesses of a guest, translated by
//! stage 2, and TLBs are TLBs.

use alloc::sync::Arc;
use core::fmt::Arguments;
use core::sync::atomic::Ordering::{Acquire, Relaxed};

use kvmmu_model::x86::mmu::paging::{PT_ENTRIES, ROOT_LEVEL};
use kvmmu_model::x86::mmu::walk::ShadowWalk;
use kvmmu_model::{Access, CpuId, Guarded, Mark, Pfn, Platform, Spte, SpteLoc, Tables, Word};
use kvmmu_scenarios::host_mm::PFNS;
use kvmmu_scenarios::machine::{AccessResult, Cell, GuestAccess, Machine};
use kvmmu_scenarios::{Property, Scenario, World};
use spin::Mutex;

use super::mmu::RealMmu;
use super::platform::{self, El2};
use super::watch;
use crate::el2::cpu::exit::{Exit as ExitCode, exit};
use crate::el2::cpu::tlbi;
use crate::el2::memory::frames::{self, Descriptor};
use crate::el2::memory::guest::{Abort, Context, Exit, Program};
use crate::el2::memory::stage2;
use crate::el2::record::recorder;
use crate::el2::record::story::{self, Effect};

/// Data for observers.
#[derive(Debug)]
pub(crate) struct Observed<T>(Mutex<T>);

impl<T: Guarded> Cell<T> for Observed<T> {
    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        f(&mut self.0.lock())
    }
}

impl<A: RealMmu> Machine for El2<A> {
    type Cell<T: Guarded> = Observed<T>;
    type Mmu = A::Mmu;
    type Hardware = ();

    fn cell<T: Guarded>(&self, init: T) -> Observed<T> {
        Observed(Mutex::new(init))
    }
    fn attach(&self, world: &Arc<World<Self>>) {
        watch::attach(world);
    }
    fn violate(&self, property: Property, detail: Arguments<'_>) {
        recorder::violate(property, detail);
    }
    fn irq_pending(&self, cpu: CpuId) -> bool {
        platform::irq_pending(cpu)
    }
    fn peek(&self, word: &Self::Word) -> u64 {
        // ORDERING: relaxed: an observer's look.
        word.load(Relaxed)
    }
    fn hardware(&self, _scenario: &Scenario) {}

    fn guest_access(world: &World<Self>, cpu: CpuId, access: GuestAccess) -> AccessResult {
        story::before(Effect::Guest);
        let surroundings = || (world.vm.host.state(), world.deleted.get());
        let before = (leaf(world, cpu, access.page), surroundings());
        let reached = match access_by_guest(access) {
            Ok(reached) => reached,
            Err(abort) => return AccessResult::Fault(A::status(abort)),
        };
        if access.access == Access::Write {
            world.m.mark(Mark::GuestWrite);
        }
        // What changed meanwhile may have been right at the moment of the access: then nothing is
        // said of it.
        let spte = leaf(world, cpu, access.page);
        if before.0 == spte && spte.is_none_or(|s| !world.vm.mmu.format().allows(s, access.access))
        {
            world.m.mark(Mark::StaleTranslation);
        }
        if let Some(pfn) = reached {
            if pfn.0 >= PFNS as u64 {
                check_exists(world, pfn);
                return AccessResult::Done;
            }
            let unchanged = || before.1 == surroundings();
            recorder::check_while(unchanged, || world.check_access(cpu, access, pfn));
        }
        AccessResult::Done
    }
    fn guest_entered(_world: &World<Self>, cpu: CpuId) {
        platform::set_in_guest(cpu, true);
    }
    fn guest_left(_world: &World<Self>, cpu: CpuId) {
        platform::set_in_guest(cpu, false);
    }
    fn flush_tlb(_world: &World<Self>, _cpu: CpuId) {
        tlbi::flush_local();
    }
    /// The CPU itself has to fill its TLB: it is asked to, before the program begins. By every page
    /// of a block.
    fn preload_tlb(world: &World<Self>, cpu: CpuId, page: u64, _loc: SpteLoc, spte: Spte) {
        let format = world.vm.mmu.format();
        let write = format.is_writable(spte);
        let pages = if format.is_last(spte, ROOT_LEVEL) { PT_ENTRIES as u64 } else { 1 };
        for page in page..page + pages {
            recorder::preload(recorder::Preload { cpu, page, write });
        }
    }
}

/// The guest has reached a page behind the last of the host: a block was mapped where none may be.
fn check_exists<A: RealMmu>(world: &World<El2<A>>, pfn: Pfn) {
    if world.watches(Property::PfnSafety) {
        recorder::violate(
            Property::PfnSafety,
            format_args!("the guest reaches pfn{}, which the host does not have", pfn.0),
        );
    }
}

/// The leaf SPTE of a page, if there is a table for it, as an observer sees it: past the model, who
/// must not touch a table that was freed.
fn leaf<A: RealMmu>(world: &World<El2<A>>, cpu: CpuId, page: u64) -> Option<Spte> {
    let format = world.vm.mmu.format();
    let read = |loc: SpteLoc| {
        Spte(Descriptor::at(usize::from(loc.sp.0), usize::from(loc.index)).load(Acquire))
    };
    let from_root = ShadowWalk::new(world.vm.mmu.root(cpu), page);
    let (at, spte) = from_root.down(format, read, |spte| format.is_shadow_present(spte));
    format.is_last(spte, at.level).then_some(spte)
}

/// Has a guest make an access: which host page it reached, if that is known, or its fault.
pub(crate) fn access_by_guest(access: GuestAccess) -> Result<Option<Pfn>, Abort> {
    let page = access.page;
    let (byte, value) = access.byte;
    let (program, address) = match access.access {
        Access::Write => (Program::Store, stage2::ipa(page) + u64::from(byte)),
        Access::Read => (Program::Load, stage2::ipa(page)),
        Access::Fetch => (Program::Fetch, stage2::code_ipa(page)),
    };
    let name = stage2::name_ipa(page);
    let mut guest = Context::new(program, [address, u64::from(value), name, 0, 0, 0, 0, 0]);
    match guest.run() {
        Exit::Done => Ok(frames::named(guest.x[3]).map(Pfn)),
        Exit::Abort(abort) if abort.fetch || guest.is_at_start(program) => Err(abort),
        // The access is over; the page went away before its name could be read.
        Exit::Abort(_) => Ok(None),
        Exit::Other { esr, pc } => {
            exit(ExitCode::Internal, format_args!("a guest stopped at {pc:#x}: esr {esr:#x}"))
        }
    }
}
