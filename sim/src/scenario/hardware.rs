//! The exact hardware: page-table walkers that set A and D, and TLBs as views.
//!
//! A TLB is no actor that fills and evicts. It is the set of what a CPU *may* have cached:
//! everything cacheable that an entry has held while this CPU ran guest code under a root that
//! reaches it, since the CPU's last flush. An access may use any of it, so it has one outcome for
//! the walk of the tables as they are and one for each cached translation that would end
//! differently. Upper levels are cached in the same way: a walk may go through a table that is
//! linked no more.
//!
//! x86 decides a fault by a fresh walk, which also drops what was stale (Intel SDM volume 3,
//! caching of translations). arm64 may keep an entry that denied a store and let it deny the next
//! one, although memory allows it by now, until somebody invalidates it; a fault drops nothing
//! there. Entries that give translation or access-flag faults are never cached (Arm ARM, D8.17, TLB
//! maintenance). Which rules hold is up to the format: `caches_permission_faults`.

use kvmmu_model::mmu::{PG_LEVEL_4K, PT_ENTRIES, ROOT_LEVEL, SHADOW_PAGES, VCPUS, index_at};
use kvmmu_model::transition::hardware_update;
use kvmmu_model::{Access, CpuId, Guarded, Mark, Pfn, Platform, SpId, Spte, SpteLoc, Tag};
use kvmmu_scenarios::host_mm::PFNS;
use kvmmu_scenarios::machine::{AccessResult, Cell, GuestAccess, Machine, cacheable, with_byte};
use kvmmu_scenarios::oracle::{check_legal, shadowed_table};
use kvmmu_scenarios::{Property, World};

use crate::machine::cell::SimCell;
use crate::machine::platform::Sim;
use crate::machine::word::SimWord;

const ENTRIES: usize = SHADOW_PAGES * PT_ENTRIES;

/// The TLBs of all CPUs.
#[derive(Debug)]
pub struct Tlbs {
    cpus: [SimCell<Tlb>; VCPUS],
}

/// What one CPU may have cached.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Tlb {
    /// Runs guest code now, and so may cache what it can reach.
    running: bool,
    /// By SPTE: bits 0-7 pages that it may read, 8-15 pages that it may write without touching the
    /// SPTE again, 16-23 tables that it may walk; bit 31, where permission faults are cached: it
    /// may deny stores.
    entries: [u32; ENTRIES],
}

/// Ways an access may be translated: through each table, by a walk or by a cached page.
const WAYS_MAX: usize = SHADOW_PAGES * (1 + PFNS) + 2;
const WRITE_SHIFT: u32 = 8;
const TABLE_SHIFT: u32 = 16;
const DENIES: u32 = 1 << 31;

const _: () = assert!(PFNS <= 8 && TABLE_SHIFT as usize + SHADOW_PAGES <= 31);

fn place(loc: SpteLoc) -> usize {
    usize::from(loc.sp.0) * PT_ENTRIES + usize::from(loc.index)
}

/// One way an access may be translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Translation {
    /// By a walk: the leaf that it reaches, if the upper entry is there.
    Walk(Option<SpteLoc>),
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
        let format = &w.mmu.format;
        let upper = SpteLoc { sp: w.mmu.vcpu(cpu).root, index: index_at(ROOT_LEVEL, page) };
        let entry = peek(w, upper);
        let child = format.allows(entry, Access::Read).then(|| format.child(entry));
        let leaf_of = |sp| SpteLoc { sp, index: index_at(PG_LEVEL_4K, page) };
        let mut all = Translations { list: [Translation::Walk(None); WAYS_MAX], len: 0 };
        let walk = child.map(leaf_of);
        all.push(Translation::Walk(walk));
        let tlb = w.hardware.cpus[usize::from(cpu.0)].get();
        let quiet = walk.and_then(|leaf| quiet_page(w, peek(w, leaf), access));
        if let Some(leaf) = walk {
            all.push_cached(&tlb, leaf, access, quiet);
        }
        let tables = tlb.entries[place(upper)] >> TABLE_SHIFT;
        for table in (0..SHADOW_PAGES as u8).map(SpId).filter(|t| tables >> t.0 & 1 == 1) {
            if Some(table) != child {
                all.push(Translation::Walk(Some(leaf_of(table))));
                all.push_cached(&tlb, leaf_of(table), access, quiet);
            }
        }
        let stale = (0..SHADOW_PAGES as u8).map(SpId).filter(|t| tables >> t.0 & 1 == 1);
        let mut cached = child.into_iter().chain(stale).map(|sp| tlb.entries[place(leaf_of(sp))]);
        let denies = access == Access::Write && cached.any(|bits| bits & DENIES != 0);
        if denies && !walk.is_some_and(|leaf| is_denied(w, peek(w, leaf), access)) {
            all.push(Translation::Denied);
        }
        all
    }

    /// Adds what is cached of a leaf, unless it does what the walk does.
    fn push_cached(&mut self, tlb: &Tlb, leaf: SpteLoc, access: Access, quiet: Option<Pfn>) {
        let shift = if access == Access::Write { WRITE_SHIFT } else { 0 };
        let pages = tlb.entries[place(leaf)] >> shift & 0xff;
        for pfn in (0..PFNS as u64).filter(|p| pages >> p & 1 == 1).map(Pfn) {
            if Some(pfn) != quiet {
                self.push(Translation::Cached(leaf, pfn));
            }
        }
    }
}

/// The page of an SPTE that a walk may use without changing it: a cached copy does just the same.
fn quiet_page(w: &World<Sim>, spte: Spte, access: Access) -> Option<Pfn> {
    let format = &w.mmu.format;
    cacheable(format, spte, access).then(|| format.pfn(spte))
}

/// True if the entry in memory denies the access as a cached one does: the translation is there.
fn is_denied(w: &World<Sim>, spte: Spte, access: Access) -> bool {
    let format = &w.mmu.format;
    format.fault_is_present(spte) && !format.allows(spte, access)
}

fn peek(w: &World<Sim>, loc: SpteLoc) -> Spte {
    Spte(w.mmu.sptep(loc).peek())
}

/// What a CPU that runs under `root` may cache of this entry.
fn cacheable_bits(w: &World<Sim>, root: SpId, loc: SpteLoc, spte: Spte) -> u32 {
    let format = &w.mmu.format;
    if loc.sp == root {
        let walks = format.allows(spte, Access::Read);
        return if walks { 1 << (TABLE_SHIFT + u32::from(format.child(spte).0)) } else { 0 };
    }
    let bit = |access, shift: u32| {
        if cacheable(format, spte, access) { 1 << (shift + format.pfn(spte).0 as u32) } else { 0 }
    };
    let denies = format.caches_permission_faults
        && cacheable(format, spte, Access::Read)
        && !format.is_writable(spte);
    bit(Access::Read, 0) | bit(Access::Write, WRITE_SHIFT) | if denies { DENIES } else { 0 }
}

/// Adds everything cacheable under an entry of the root.
fn cache_under(w: &World<Sim>, tlb: &mut Tlb, root: SpId, upper: SpteLoc, entry: Spte) {
    let bits = cacheable_bits(w, root, upper, entry);
    tlb.entries[place(upper)] |= bits;
    if bits == 0 {
        return;
    }
    for index in 0..PT_ENTRIES as u8 {
        let leaf = SpteLoc { sp: w.mmu.format.child(entry), index };
        tlb.entries[place(leaf)] |= cacheable_bits(w, root, leaf, peek(w, leaf));
    }
}

/// An SPTE changed: CPUs that run under a root that reaches it may cache the new value.
pub(crate) fn spte_written(w: &World<Sim>, tag: Tag, new: u64) {
    let loc = SpteLoc { sp: SpId(tag.index[0]), index: tag.index[1] };
    let new = Spte(new);
    let mut is_root = false;
    for cpu in (0..w.mmu.nr_vcpus).map(CpuId) {
        let root = w.mmu.vcpu(cpu).root;
        is_root |= loc.sp == root;
        let cell = &w.hardware.cpus[usize::from(cpu.0)];
        let mut tlb = cell.get();
        if !tlb.running {
            continue;
        }
        let before = tlb;
        if loc.sp == root {
            cache_under(w, &mut tlb, root, loc, new);
        } else if reaches(&tlb, root, loc.sp) {
            tlb.entries[place(loc)] |= cacheable_bits(w, root, loc, new);
        }
        if tlb != before {
            cell.set(tlb);
        }
    }
    if !is_root && w.mmu.format.is_shadow_present(new) {
        check_legal(w, loc, new);
    }
}

fn reaches(tlb: &Tlb, root: SpId, table: SpId) -> bool {
    (0..PT_ENTRIES as u8)
        .map(|index| tlb.entries[place(SpteLoc { sp: root, index })] >> TABLE_SHIFT)
        .any(|tables| tables >> table.0 & 1 == 1)
}

/// No CPU that runs guest code may have a shadowed guest table writable in its TLB.
pub(crate) fn check_release(w: &World<Sim>) {
    if !w.watches(Property::ShadowedPtReadonly) {
        return;
    }
    let l = w.mmu.mmu_lock.peek();
    for cpu in (0..w.mmu.nr_vcpus).map(CpuId) {
        let tlb = w.hardware.cpus[usize::from(cpu.0)].get();
        let writable = tlb.entries.iter().fold(0, |bits, e| bits | e >> WRITE_SHIFT & 0xff);
        for pfn in (0..8).filter(|p| tlb.running && writable >> p & 1 == 1).map(Pfn) {
            if let Some(table) = shadowed_table(w, &l, pfn) {
                Machine::violate(
                    &w.m,
                    Property::ShadowedPtReadonly,
                    format_args!(
                        "gfn{} is a shadowed guest table, and vcpu{} has it writable in its TLB",
                        table.0, cpu.0
                    ),
                );
            }
        }
    }
}

/// A request that is no guest access: a choice of the program. The low byte says among how many.
const CHOOSE: u64 = 1 << 32;
/// A store by an instruction that KVM emulates: it has one outcome.
const STORE: u64 = 2 << 32;

/// How many outcomes a request may have: that of a guest access is translated in so many ways.
pub(crate) fn choices(w: &World<Sim>, request: u64) -> u8 {
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
    let (cpu, page) = (CpuId(request as u8), request >> 8 & 0xff);
    Translations::of(w, cpu, page, access).len as u8
}

fn request(cpu: CpuId, access: GuestAccess) -> u64 {
    u64::from(cpu.0) | access.page << 8 | (access.access as u64) << 16
}

/// The walk ended at a leaf: what it gives, with A and D set, or a fault.
fn use_leaf(w: &World<Sim>, cpu: CpuId, leaf: SpteLoc, access: Access) -> Result<Pfn, bool> {
    let format = &w.mmu.format;
    let spte = peek(w, leaf);
    let Some(new) = hardware_update(format, spte, access) else {
        return Err(format.fault_is_present(spte));
    };
    if new != spte {
        w.m.hardware_write(w.mmu.sptep(leaf), new.0);
    }
    let in_use = w.mmu.mmu_lock.peek().pages[usize::from(leaf.sp.0)].in_use;
    if !in_use {
        Machine::violate(
            &w.m,
            Property::UseAfterFree,
            format_args!("vcpu{} walks a shadow page that was freed", cpu.0),
        );
    }
    Ok(format.pfn(spte))
}

/// A fault drops what is cached of the entries that it came from, where a walk decides faults.
fn drop_stale(w: &World<Sim>, cpu: CpuId, page: u64, leaf: Option<SpteLoc>) {
    if w.mmu.format.caches_permission_faults {
        return;
    }
    let root = w.mmu.vcpu(cpu).root;
    let upper = SpteLoc { sp: root, index: index_at(ROOT_LEVEL, page) };
    w.hardware.cpus[usize::from(cpu.0)].with(|tlb| {
        for loc in [Some(upper), leaf].into_iter().flatten() {
            tlb.entries[place(loc)] = cacheable_bits(w, root, loc, peek(w, loc));
        }
    });
}

/// The guest reaches a page.
#[track_caller]
fn touch(w: &World<Sim>, cpu: CpuId, access: GuestAccess, pfn: Pfn, stale: bool) {
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
        let page = w.mmu.host.page(pfn);
        let (byte, value) = access.byte;
        w.m.hardware_write(page, with_byte(page.peek(), byte, value));
        if w.watches(Property::ShadowedPtReadonly) {
            check_table_write(w, pfn);
        }
    }
    w.check_access(cpu, access, pfn);
}

#[track_caller]
fn check_table_write(w: &World<Sim>, pfn: Pfn) {
    if let Some(table) = shadowed_table(w, &w.mmu.mmu_lock.peek(), pfn) {
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

impl Machine for Sim {
    type Cell<T: Guarded> = SimCell<T>;
    type Hardware = Tlbs;

    fn cell<T: Guarded>(&self, init: T) -> SimCell<T> {
        Sim::cell(self, init)
    }
    #[track_caller]
    fn violate(&self, property: Property, detail: core::fmt::Arguments<'_>) {
        Sim::violate(self, property.name(), || detail.to_string());
    }
    #[track_caller]
    fn note(&self, what: core::fmt::Arguments<'_>) {
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
    fn store_byte(&self, page: &SimWord, byte: u8, value: u8) {
        Sim::access(self, STORE);
        self.hardware_write(page, with_byte(page.peek(), byte, value));
    }
    fn peek(&self, word: &SimWord) -> u64 {
        word.peek()
    }
    fn hardware(&self) -> Tlbs {
        let empty = Tlb { running: false, entries: [0; ENTRIES] };
        Tlbs { cpus: core::array::from_fn(|_| Sim::cell(self, empty)) }
    }

    #[track_caller]
    fn guest_access(w: &World<Sim>, cpu: CpuId, access: GuestAccess) -> AccessResult {
        let choice = w.m.access(request(cpu, access));
        let all = Translations::of(w, cpu, access.page, access.access);
        let result = match all.list[usize::from(choice)] {
            Translation::Cached(_, pfn) => Ok((pfn, true)),
            Translation::Denied => {
                w.m.note(|| format!("guest: vcpu{} is denied the store by its TLB", cpu.0));
                w.m.mark(Mark::StaleTranslation);
                Err((true, None))
            }
            Translation::Walk(None) => Err((false, None)),
            Translation::Walk(Some(leaf)) => match use_leaf(w, cpu, leaf, access.access) {
                Ok(pfn) => Ok((pfn, choice > 0)),
                Err(present) => Err((present, Some(leaf))),
            },
        };
        let result = match result {
            Ok((pfn, stale)) => {
                touch(w, cpu, access, pfn, stale);
                AccessResult::Done
            }
            Err((present, leaf)) => {
                drop_stale(w, cpu, access.page, leaf);
                AccessResult::Fault(present)
            }
        };
        w.m.observe(&result);
        result
    }

    fn guest_entered(w: &World<Sim>, cpu: CpuId) {
        let root = w.mmu.vcpu(cpu).root;
        w.hardware.cpus[usize::from(cpu.0)].with(|tlb| {
            tlb.running = true;
            for index in 0..PT_ENTRIES as u8 {
                let upper = SpteLoc { sp: root, index };
                cache_under(w, tlb, root, upper, peek(w, upper));
            }
        });
    }

    fn guest_left(w: &World<Sim>, cpu: CpuId) {
        w.hardware.cpus[usize::from(cpu.0)].with(|tlb| tlb.running = false);
    }

    #[track_caller]
    fn flush_tlb(w: &World<Sim>, cpu: CpuId) {
        w.hardware.cpus[usize::from(cpu.0)].with(|tlb| tlb.entries = [0; ENTRIES]);
        Machine::note(&w.m, format_args!("vcpu{}: TLB flushed", cpu.0));
    }

    fn flush_tlb_page(w: &World<Sim>, cpu: CpuId, page: u64) {
        let root = w.mmu.vcpu(cpu).root;
        let index = index_at(PG_LEVEL_4K, page);
        w.hardware.cpus[usize::from(cpu.0)].with(|tlb| {
            for sp in (0..SHADOW_PAGES as u8).map(SpId).filter(|sp| *sp != root) {
                tlb.entries[place(SpteLoc { sp, index })] = 0;
            }
        });
        Machine::note(&w.m, format_args!("vcpu{}: TLB flushed of gfn{page}", cpu.0));
    }

    fn preload_tlb(w: &World<Sim>, cpu: CpuId, page: u64, loc: SpteLoc, spte: Spte) {
        let root = w.mmu.vcpu(cpu).root;
        let upper = SpteLoc { sp: root, index: index_at(ROOT_LEVEL, page) };
        w.hardware.cpus[usize::from(cpu.0)].with(|tlb| {
            tlb.entries[place(upper)] |= cacheable_bits(w, root, upper, peek(w, upper));
            tlb.entries[place(loc)] |= cacheable_bits(w, root, loc, spte);
        });
    }
}
