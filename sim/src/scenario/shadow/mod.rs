//! Walkers of shadow pages that set A and D, and TLBs as views, by the places of entries.
//!
//! A TLB is no actor that fills and evicts. It is the set of what a CPU *may* have cached:
//! everything cacheable that an entry has held while this CPU ran guest code under a root that
//! reaches it, since the CPU's last flush. An access may use any of it, so it has one outcome for
//! the walk of the tables as they are and one for each cached translation that would end
//! differently. Upper levels are cached in the same way: a walk may go through a table that is
//! no longer linked.
//!
//! x86 decides a fault by a fresh walk, which also drops what was stale (Intel SDM volume 3,
//! caching of translations). arm64 may keep an entry that denied a store and let it deny the next
//! one, although memory allows it by now, until it is invalidated; a fault drops nothing
//! there. Entries that give translation or access-flag faults are never cached (Arm ARM, D8.17, TLB
//! maintenance). Which rules hold is up to the format: `caches_permission_faults`.

use kvmmu_model::arm64::{Dsb, TlbiScope};
use kvmmu_model::transition::hardware_update;
use kvmmu_model::virt::VCPUS;
use kvmmu_model::x86::mmu::paging::{PG_LEVEL_4K, SHADOW_PAGES, entries_of, frames_of};
use kvmmu_model::x86::mmu::walk::{ShadowWalk, hardware_walk};
use kvmmu_model::{
    Access, CpuId, FaultStatus, Guard, GuardSet, Mark, Object, Pfn, Platform, ShadowMmu, SpId,
    Spte, SpteLoc, Tables, Tag,
};
use kvmmu_scenarios::host_mm::PFNS;
use kvmmu_scenarios::machine::{AccessResult, GuestAccess, Machine, cacheable};
use kvmmu_scenarios::{Property, Scenario, World};

mod tlb;
mod tlbi;

use tlb::{Cached, Tlb};

use super::few::Few;
use super::hardware::{Walkers, mmu_state, touch};
use super::names::shadow_names;
use crate::machine::cell::SimCell;
use crate::machine::platform::{Shadow, Sim};
use crate::machine::word::SimWord;

/// The TLBs of all CPUs.
#[derive(Debug)]
pub struct Tlbs {
    cpus: [SimCell<Tlb>; VCPUS],
}

impl Tlbs {
    fn of(&self, cpu: CpuId) -> &SimCell<Tlb> {
        &self.cpus[usize::from(cpu.0)]
    }
}

/// Ways an access may be translated: through each table, by a walk or by a cached page.
const WAYS_MAX: usize = SHADOW_PAGES * (1 + PFNS) + 2;

/// One way an access may be translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Translation {
    /// By a walk: the leaf that it reaches, if the upper entries are there.
    Walk(Option<ShadowWalk>),
    /// By a cached leaf.
    Cached(SpteLoc, Pfn),
    /// Not at all: a cached leaf denies it.
    Denied,
}

/// All the ways an access may be translated; the first is the walk of the tables as they are.
struct Translations {
    list: [Translation; WAYS_MAX],
    len: usize,
}

impl Translations {
    fn push(&mut self, translation: Translation) {
        self.list[self.len] = translation;
        self.len += 1;
    }

    fn of(w: &World<Sim>, cpu: CpuId, page: u64, access: Access) -> Translations {
        let root = w.vm.mmu.root(cpu);
        let tlb = w.hardware.of(cpu).get();
        let walk = leaf_of_walk(w, root, page);
        let quiet = walk.and_then(|leaf| quiet_page(w, leaf, access));
        let mut all = Translations { list: [Translation::Walk(None); WAYS_MAX], len: 0 };
        all.push(Translation::Walk(walk));
        let mut denies = false;
        tlb.entries(ShadowWalk::new(root, page), &|loc| child(w, loc), &mut |at| {
            let leaf = at.level == PG_LEVEL_4K || is_large(w, at.loc);
            if leaf && Some(at) != walk {
                all.push(Translation::Walk(Some(at)));
            }
            let cached = tlb.of(at.loc);
            denies |= cached.denies;
            let pages = cached.pages(access).iter().map(Pfn).filter(|pfn| at.gives(*pfn));
            // What does just what the walk does is no other way.
            for pfn in pages.filter(|pfn| Some(*pfn) != quiet) {
                all.push(Translation::Cached(at.loc, pfn));
            }
        });
        let by_walk = walk.is_some_and(|leaf| is_denied(w, peek(w, leaf.loc), access));
        if access == Access::Write && denies && !by_walk {
            all.push(Translation::Denied);
        }
        all
    }
}

/// The leaf that a walk of the tables as they are ends at; `None`: an upper entry stops it.
fn leaf_of_walk(w: &World<Sim>, root: SpId, page: u64) -> Option<ShadowWalk> {
    let format = w.vm.mmu.format();
    let (at, entry) = hardware_walk(format, root, page, |loc| peek(w, loc));
    format.is_last(entry, at.level).then_some(at)
}

/// True if an entry of an upper level maps a page.
fn is_large(w: &World<Sim>, loc: SpteLoc) -> bool {
    w.vm.mmu.format().is_large(peek(w, loc))
}

/// The table that an entry of an upper level leads hardware to.
fn child(w: &World<Sim>, loc: SpteLoc) -> Option<SpId> {
    let (format, entry) = (w.vm.mmu.format(), peek(w, loc));
    let leads_on = format.allows(entry, Access::Read) && !format.is_large(entry);
    leads_on.then(|| format.child(entry))
}

/// The page of a leaf that a walk may use without changing it: a cached copy does just the same.
fn quiet_page(w: &World<Sim>, leaf: ShadowWalk, access: Access) -> Option<Pfn> {
    let (format, spte) = (w.vm.mmu.format(), peek(w, leaf.loc));
    cacheable(format, spte, access).then(|| leaf.pfn(format, spte))
}

/// True if the entry in memory denies the access as a cached one does: the translation is there.
fn is_denied(w: &World<Sim>, spte: Spte, access: Access) -> bool {
    let format = w.vm.mmu.format();
    format.fault_is_present(spte) && !format.allows(spte, access)
}

fn peek(w: &World<Sim>, loc: SpteLoc) -> Spte {
    Spte(w.vm.mmu.sptep(loc).peek())
}

/// What a CPU may cache of an entry with this value.
fn may_cache(w: &World<Sim>, loc: SpteLoc, spte: Spte) -> Cached {
    let format = w.vm.mmu.format();
    let level = w.vm.mmu.header(loc.sp, SimWord::peek).level();
    if !format.is_last(spte, level) {
        let walks = format.allows(spte, Access::Read);
        let tables = if walks { Few::one(u64::from(format.child(spte).0)) } else { Few::NONE };
        return Cached { tables, ..Cached::default() };
    }
    let all = || Few::row(format.pfn(spte).0, frames_of(level.saturating_sub(1)));
    let page = |access| if cacheable(format, spte, access) { all() } else { Few::NONE };
    let denies = format.caches_permission_faults
        && cacheable(format, spte, Access::Read)
        && !format.is_writable(spte);
    let (read, write) = (page(Access::Read), page(Access::Write));
    Cached { read, write, tables: Few::NONE, denies }
}

/// Adds what a CPU may cache of an entry with this value, and of everything under it.
fn cache(w: &World<Sim>, tlb: &mut Tlb, loc: SpteLoc, spte: Spte) {
    let cached = may_cache(w, loc, spte);
    tlb.add(loc, cached);
    for table in cached.tables.iter() {
        for below in entries_of(SpId(table as u8)) {
            cache(w, tlb, below, peek(w, below));
        }
    }
}

/// A CPU that runs guest code may cache all that the tables give, now as ever.
fn refill(w: &World<Sim>, tlb: &mut Tlb, cpu: CpuId) {
    if tlb.running {
        entries_of(w.vm.mmu.root(cpu)).for_each(|upper| cache(w, tlb, upper, peek(w, upper)));
    }
}

/// An SPTE changed: CPUs that run under a root that reaches it may cache the new value.
fn may_cache_new(w: &World<Sim>, tag: Tag, new: u64) {
    let loc = SpteLoc { sp: SpId(tag.index[0]), index: tag.index[1] };
    let new = Spte(new);
    for cpu in (0..w.vm.kvm.nr_vcpus).map(CpuId) {
        let cell = w.hardware.of(cpu);
        let mut tlb = cell.get();
        if !tlb.running || !tlb.tables_under(w.vm.mmu.root(cpu)).contains(u64::from(loc.sp.0)) {
            continue;
        }
        let before = tlb;
        cache(w, &mut tlb, loc, new);
        if tlb != before {
            cell.set(tlb);
        }
    }
}

/// True if a CPU with a request flushes its TLB before it runs guest code: no guard of that is
/// removed. Without the last there is a step between the last look at the requests and the entry.
pub(super) fn entry_flushes(without: GuardSet) -> bool {
    let steps = [Guard::EntryServesRequests, Guard::EntryRequestCheck, Guard::EntryIrqOff];
    !steps.into_iter().any(|guard| without.contains(guard))
}

/// The TLBs that nobody will read: of CPUs that do not run guest code and will never do so again,
/// or will flush before; `flushes`: where requests say so.
fn unread(w: &World<Sim>, flushes: bool, forget: &mut dyn FnMut(u16)) {
    for cpu in (0..w.vm.kvm.nr_vcpus).map(CpuId) {
        let (requests, read) = w.vm.vcpu(cpu).requests.glance();
        let tlb = w.hardware.of(cpu);
        if (!read || flushes && requests != 0) && tlb.glance(|tlb| !tlb.running) {
            forget(tlb.location());
        }
    }
}

/// The walk ended at a leaf: what it gives, with A and D set, or a fault.
fn use_leaf(
    w: &World<Sim>,
    cpu: CpuId,
    leaf: ShadowWalk,
    access: GuestAccess,
) -> Result<Pfn, AccessResult> {
    let format = w.vm.mmu.format();
    let spte = peek(w, leaf.loc);
    let Some(new) = hardware_update(format, spte, access.access) else {
        return Err(AccessResult::of_fault(format, spte));
    };
    if w.pml_is_full(cpu, spte, new) {
        return Err(AccessResult::PmlFull);
    }
    if new != spte {
        w.m.hardware_write(w.vm.mmu.sptep(leaf.loc), new.0);
        w.hardware_updated(cpu, access.page, spte, new);
    }
    if !w.vm.mmu.is_in_use(&mmu_state(w).mmu, leaf.loc, SimWord::peek) {
        Machine::violate(
            &w.m,
            Property::UseAfterFree,
            format_args!("vcpu{} walks a shadow page that was freed", cpu.0),
        );
    }
    Ok(leaf.pfn(format, spte))
}

/// A fault drops what is cached of the entries that it came from, where a walk decides faults.
fn drop_stale(w: &World<Sim>, cpu: CpuId, page: u64, leaf: Option<SpteLoc>) {
    if w.vm.mmu.format().caches_permission_faults {
        return;
    }
    w.hardware.of(cpu).with(|tlb| {
        let mut drop = |loc| tlb.replace(loc, may_cache(w, loc, peek(w, loc)));
        let mut at = Some(ShadowWalk::new(w.vm.mmu.root(cpu), page));
        while let Some(upper) = at.filter(|at| at.level > PG_LEVEL_4K) {
            drop(upper.loc);
            at = child(w, upper.loc).map(|sp| upper.next(sp));
        }
        leaf.into_iter().for_each(drop);
    });
}

impl Walkers for Shadow {
    type Mmu = ShadowMmu<Sim>;
    type Tlbs = Tlbs;
    const RENAMES: Object = Object::SpHeader;

    fn tlbs(sim: &Sim, _scenario: &Scenario) -> Tlbs {
        Tlbs { cpus: core::array::from_fn(|_| sim.cell(Tlb::default())) }
    }

    fn ways(w: &World<Sim>, cpu: CpuId, page: u64, access: Access) -> u8 {
        Translations::of(w, cpu, page, access).len as u8
    }

    /// In a frame of its own, which is not there while the thread waits for its turn and which no
    /// image of its stack has, therefore.
    #[inline(never)]
    fn carry_out(w: &World<Sim>, cpu: CpuId, access: GuestAccess, choice: u8) -> AccessResult {
        let all = Translations::of(w, cpu, access.page, access.access);
        let result = match all.list[usize::from(choice)] {
            Translation::Cached(_, pfn) => Ok((pfn, true)),
            Translation::Denied => {
                w.m.note(|| format!("guest: vcpu{} is denied the store by its TLB", cpu.0));
                w.m.mark(Mark::StaleTranslation);
                Err((AccessResult::Fault(FaultStatus::present(true)), None))
            }
            Translation::Walk(None) => {
                Err((AccessResult::Fault(FaultStatus::present(false)), None))
            }
            Translation::Walk(Some(leaf)) => match use_leaf(w, cpu, leaf, access) {
                Ok(pfn) => Ok((pfn, choice > 0)),
                Err(fault) => Err((fault, Some(leaf.loc))),
            },
        };
        let result = match result {
            Ok((pfn, stale)) => {
                touch(w, cpu, access, pfn, stale);
                AccessResult::Done
            }
            Err((fault, leaf)) => {
                drop_stale(w, cpu, access.page, leaf);
                fault
            }
        };
        w.m.observe(&result);
        result
    }

    fn for_each_writable_in_tlb(w: &World<Sim>, cpu: CpuId, each: impl FnMut(Pfn)) {
        let tlb = w.hardware.of(cpu).get();
        tlb.writable().iter().filter(|_| tlb.running).map(Pfn).for_each(each);
    }

    fn guest_entered(w: &World<Sim>, cpu: CpuId) {
        let (requests, read) = w.vm.vcpu(cpu).requests.glance();
        assert!(read, "vcpu{} enters the guest, after it was said that it will not", cpu.0);
        let owes = requests != 0 || w.hardware.of(cpu).glance(|tlb| tlb.owes_flush);
        assert!(
            !owes || !entry_flushes(w.m.without()),
            "vcpu{} enters the guest and owes a flush",
            cpu.0
        );
        w.hardware.of(cpu).with(|tlb| {
            tlb.running = true;
            refill(w, tlb, cpu);
        });
    }

    fn guest_left(w: &World<Sim>, cpu: CpuId) {
        w.hardware.of(cpu).with(|tlb| tlb.running = false);
    }

    fn requests_taken(w: &World<Sim>, cpu: CpuId) {
        w.hardware.of(cpu).with(|tlb| tlb.owes_flush = true);
    }

    fn spte_written(w: &World<Sim>, tag: Tag, new: u64) {
        may_cache_new(w, tag, new);
    }

    fn flush(w: &World<Sim>, cpu: CpuId) {
        w.hardware.of(cpu).with(Tlb::flush);
    }

    fn flush_page(w: &World<Sim>, cpu: CpuId, page: u64) {
        let root = w.vm.mmu.root(cpu);
        w.hardware.of(cpu).with(|tlb| tlb.flush_leaves(root, page));
    }

    fn preload(w: &World<Sim>, cpu: CpuId, page: u64, loc: SpteLoc, spte: Spte) {
        let format = w.vm.mmu.format();
        w.hardware.of(cpu).with(|tlb| {
            let mut at = ShadowWalk::new(w.vm.mmu.root(cpu), page);
            while at.loc != loc {
                let entry = peek(w, at.loc);
                tlb.add(at.loc, may_cache(w, at.loc, entry));
                at = at.next(format.child(entry));
            }
            tlb.add(loc, may_cache(w, loc, spte));
        });
    }

    fn tlbi(w: &World<Sim>, scope: TlbiScope) {
        tlbi::begin(w, scope);
    }

    fn dsb(w: &World<Sim>, dsb: Dsb) {
        tlbi::complete(w, dsb);
    }

    fn unread(w: &World<Sim>, flushes: bool, forget: &mut dyn FnMut(u16)) {
        unread(w, flushes, forget);
    }

    fn table_names(w: &World<Sim>, scenario: &Scenario) -> Vec<(Tag, String)> {
        shadow_names(scenario, |sp| w.vm.mmu.header(sp, SimWord::peek))
    }
}
