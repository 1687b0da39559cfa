//! The checks behind the properties: what observers look at, in the running step or at the end.

use kvmmu_model::arm64::pgtable::OtherVm;
use kvmmu_model::virt::{GFNS, Memslot};
use kvmmu_model::{Access, CpuId, Gfn, GfnRange, Gva, Leaf, Pfn, SpId, Spte, SpteLoc, Tables, Tag};

use crate::guest_tables;
use crate::host_mm::PFNS;
use crate::machine::{Cell, GuestAccess, Machine};
use crate::mmu::{MmuOf, MmuState};
use crate::property::Property;
use crate::world::World;

impl<M: Machine> World<M> {
    /// True if the scenario asks for this property.
    pub fn watches(&self, property: Property) -> bool {
        self.watched >> property as u32 & 1 == 1
    }
}

/// The state before the first step.
pub(crate) fn check_start<M: Machine>(w: &World<M>) {
    if let Some((loc, spte)) = w.illegal {
        check_legal(w, loc, spte);
    }
}

/// A leaf SPTE that is shadow-present has this value: are its H, M and W legal?
#[track_caller]
pub fn check_legal<M: Machine>(w: &World<M>, loc: SpteLoc, spte: Spte) {
    let f = w.vm.mmu.format();
    if !w.watches(Property::SpteLegal) || f.is_legal_leaf(spte) {
        return;
    }
    let bits = [f.is_host_writable(spte), f.is_mmu_writable(spte), f.is_writable(spte)];
    let [h, m, writable] = bits.map(u8::from);
    w.m.violate(
        Property::SpteLegal,
        format_args!("spte[{}][{}] has (H, M, W) = ({h}, {m}, {writable})", loc.sp.0, loc.index),
    );
}

/// A guest access reached a page.
#[track_caller]
pub(crate) fn check_access<M: Machine>(w: &World<M>, cpu: CpuId, access: GuestAccess, pfn: Pfn) {
    let host = w.vm.host.state();
    let write = access.access == Access::Write;
    if w.has_other_vm {
        check_isolation(w, cpu, pfn);
        if w.is_of_other_vm(cpu) {
            return;
        }
    }
    if w.watches(Property::PfnSafety) && !host.is_mapped(pfn) {
        let what = if write { "writes" } else { "reads" };
        w.m.violate(
            Property::PfnSafety,
            format_args!("the guest {what} pfn{}, which the host has taken back", pfn.0),
        );
    }
    check_slot_of_access(w, cpu, access, pfn);
    let shadow = w.vm.mmu.guest_root(cpu).is_some();
    if shadow
        && w.watches(Property::GuestTranslation)
        && !w.vm.host.guest_may_reach(cpu, access, pfn)
    {
        w.m.violate(
            Property::GuestTranslation,
            format_args!(
                "vcpu{} {} pfn{} by gva{}, which its tables do not allow since it invalidated \
                 the page",
                cpu.0,
                if write { "writes" } else { "reads" },
                pfn.0,
                access.page
            ),
        );
    }
    check_guest_ad(w, cpu, access, pfn);
    if !write {
        return;
    }
    w.wrote.with(|wrote| *wrote = true);
    if w.watches(Property::HostReadonly) && host.is_read_only(pfn) {
        w.m.violate(
            Property::HostReadonly,
            format_args!("the guest writes pfn{}, which the host maps read-only", pfn.0),
        );
    }
    if w.watches(Property::GuestNeverWrites) {
        w.m.violate(Property::GuestNeverWrites, format_args!("the guest wrote pfn{}", pfn.0));
    }
}

/// What the guest does by an entry is in A and D of that entry.
#[track_caller]
fn check_guest_ad<M: Machine>(w: &World<M>, cpu: CpuId, access: GuestAccess, pfn: Pfn) {
    let Some(root) = w.vm.mmu.guest_root(cpu).filter(|_| w.watches(Property::GuestAd)) else {
        return;
    };
    let host = w.vm.host.state();
    let read = |page| w.m.peek(w.vm.host.page(page));
    let Some(walk) = guest_tables::walk(root, Gva(access.page), read, &host) else { return };
    let entries = &walk.ptes[usize::from(walk.level) - 1..];
    let write = access.access == Access::Write;
    let told =
        entries.iter().all(|entry| entry.is_accessed()) && (!write || walk.leaf().is_dirty());
    if host.pte[walk.gfn.0 as usize].pfn == Some(pfn) && !told {
        w.m.violate(
            Property::GuestAd,
            format_args!(
                "vcpu{} {} by gva{}, and its tables have no {} of that",
                cpu.0,
                if write { "writes" } else { "reads" },
                access.page,
                if write { "D" } else { "A" }
            ),
        );
    }
}

/// The frame of an access is in no slot that is deleted. With shadow paging the frame is any that
/// the page backs: only if all of those are in deleted slots it is known which.
#[track_caller]
fn check_slot_of_access<M: Machine>(w: &World<M>, cpu: CpuId, access: GuestAccess, pfn: Pfn) {
    let deleted = w.deleted.get();
    if deleted == 0 || !w.watches(Property::MemslotGone) {
        return;
    }
    let host = w.vm.host.state();
    let is_deleted = |gfn: u64| slot_of(w, gfn).is_some_and(|slot| deleted >> slot & 1 == 1);
    let direct = w.vm.mmu.guest_root(cpu).is_none();
    let gone = if direct {
        is_deleted(access.page).then_some(access.page)
    } else {
        let backs = |gfn: &u64| host.pte[*gfn as usize].pfn == Some(pfn);
        let mut frames = (0..GFNS as u64).filter(backs);
        let first = frames.next();
        first.filter(|gfn| is_deleted(*gfn) && frames.all(is_deleted))
    };
    if let Some(gfn) = gone {
        w.m.violate(
            Property::MemslotGone,
            format_args!(
                "vcpu{} reaches gfn{gfn}, and the ioctl that deleted its slot has returned",
                cpu.0
            ),
        );
    }
}

/// The slot that a frame is in, deleted or not.
pub(crate) fn slot_of<M: Machine>(w: &World<M>, gfn: u64) -> Option<usize> {
    let has = |s: &Memslot<M>| gfn >= s.base_gfn.0 && gfn < s.base_gfn.0 + s.npages;
    w.vm.kvm.slots.iter().position(|slot| slot.as_ref().is_some_and(has))
}

/// Each VM reaches pages of its own. Those of VM 1 are its for good, and nobody else's.
#[track_caller]
fn check_isolation<M: Machine>(w: &World<M>, cpu: CpuId, pfn: Pfn) {
    let (vm, owner) = [w.is_of_other_vm(cpu), pfn >= OtherVm::FIRST_PAGE].map(u8::from).into();
    if vm != owner {
        w.m.violate(
            Property::VmIsolation,
            format_args!("vcpu{} of VM {vm} reaches pfn{}, a page of VM {owner}", cpu.0, pfn.0),
        );
    }
}

/// A frame that is a guest table with a linked shadow page, if this page is one.
pub fn shadowed_table<M: Machine>(w: &World<M>, l: &MmuState<M>, pfn: Pfn) -> Option<Gfn> {
    let host = w.vm.host.state();
    MmuOf::<M>::shadowed_table(&l.mmu, |gfn| host.pte[gfn.0 as usize].pfn == Some(pfn))
}

/// An SPTE was written. Part of the step of the write.
#[track_caller]
pub fn spte_written<M: Machine>(w: &World<M>, tag: Tag, new: u64) {
    let loc = SpteLoc { sp: SpId(tag.index[0]), index: tag.index[1] };
    let (mmu, new) = (&w.vm.mmu, Spte(new));
    let is_leaf = || mmu.format().is_last(new, mmu.header(loc.sp, |word| w.m.peek(word)).level());
    if mmu.format().is_shadow_present(new) && is_leaf() {
        check_legal(w, loc, new);
    }
}

/// `mmu_lock` is about to be released with this state.
pub fn mmu_unlocked<M: Machine>(w: &World<M>, l: &MmuState<M>) {
    check_deleted(w, l);
    check_counts(w, l);
    let (rmap, tables) = (w.watches(Property::RmapExact), w.watches(Property::ShadowedPtReadonly));
    if !rmap && !tables {
        return;
    }
    w.vm.mmu.for_each_leaf(
        &l.mmu,
        |word| w.m.peek(word),
        |leaf| {
            if rmap && let Some(listed) = MmuOf::<M>::in_rmaps(&l.mmu, leaf.loc) {
                check_rmap(w, leaf, listed);
            }
            let pages = pages(w, &leaf);
            if tables
                && w.vm.mmu.format().is_writable(leaf.spte)
                && let Some(table) = pages.into_iter().find_map(|pfn| shadowed_table(w, l, pfn))
            {
                let what = format_args!(
                    "gfn{} is a shadowed guest table, and an SPTE maps it writable",
                    table.0
                );
                w.m.violate(Property::ShadowedPtReadonly, what);
            }
        },
    );
    if tables {
        check_tlbs(w, l);
    }
}

fn check_counts<M: Machine>(w: &World<M>, l: &MmuState<M>) {
    if !w.watches(Property::TableRefcount) {
        return;
    }
    if let Some((table, count, valid)) = w.vm.mmu.miscounted(&l.mmu, |word| w.m.peek(word)) {
        w.m.violate(
            Property::TableRefcount,
            format_args!(
                "table{} has {valid} valid entries, and its page is counted {count} times",
                table.0
            ),
        );
    }
}

/// The pages that a leaf maps.
fn pages<M: Machine>(w: &World<M>, leaf: &Leaf) -> impl Iterator<Item = Pfn> {
    let first = w.vm.mmu.format().pfn(leaf.spte).0;
    (first..).map(Pfn).take(leaf.frames.map_or(0, |frames| frames.iter().count()))
}

fn check_rmap<M: Machine>(w: &World<M>, leaf: Leaf, listed: u64) {
    for g in 0..GFNS as u64 {
        let listed = listed >> g & 1 == 1;
        let maps = leaf.frames.is_some_and(|frames| frames.contains(Gfn(g)));
        if listed != maps {
            w.m.violate(
                Property::RmapExact,
                format_args!(
                    "spte[{}][{}] is {} and {} in the rmap of gfn{g}",
                    leaf.loc.sp.0,
                    leaf.loc.index,
                    if leaf.frames.is_some() { "present" } else { "not present" },
                    if listed { "listed" } else { "not listed" },
                ),
            );
        }
    }
}

/// No CPU that runs guest code may have a shadowed guest table writable in its TLB.
fn check_tlbs<M: Machine>(w: &World<M>, l: &MmuState<M>) {
    for cpu in (0..w.vm.kvm.nr_vcpus).map(CpuId) {
        M::for_each_writable_in_tlb(w, cpu, |pfn| {
            if let Some(table) = shadowed_table(w, l, pfn) {
                w.m.violate(
                    Property::ShadowedPtReadonly,
                    format_args!(
                        "gfn{} is a shadowed guest table, and vcpu{} has it writable in its TLB",
                        table.0, cpu.0
                    ),
                );
            }
        });
    }
}

/// The end of a run, after the stop phase.
pub fn check_end<M: Machine>(w: &World<M>) {
    if w.watches(Property::Migration) {
        check_migration(w);
    }
    if w.watches(Property::MemslotGone) {
        check_deleted(w, &w.vm.kvm.mmu_lock.lock());
    }
    if w.watches(Property::PageRefs) {
        check_references(w);
    }
    if w.watches(Property::Accessed) {
        check_accessed(w, &w.vm.kvm.mmu_lock.lock());
    }
}

/// Nobody uses a page any more: there is no reference on it, and not one less than none.
fn check_references<M: Machine>(w: &World<M>) {
    let references = w.vm.host.references();
    if let Some(pfn) = references.iter().position(|references| *references != 0) {
        w.m.violate(
            Property::PageRefs,
            format_args!(
                "{} references are left on pfn{pfn}, and all threads have ended",
                references[pfn] as i8
            ),
        );
    }
}

/// A page that hardware says was used has an SPTE that still says so, or the host knows it.
fn check_accessed<M: Machine>(w: &World<M>, l: &MmuState<M>) {
    let mut untold = w.vm.host.untold_accesses();
    let peek = |word: &M::Word| w.m.peek(word);
    w.vm.mmu.for_each_leaf(&l.mmu, peek, |leaf| {
        if w.vm.mmu.format().is_accessed(leaf.spte) {
            pages(w, &leaf).for_each(|pfn| untold &= !(1 << pfn.0));
        }
    });
    let host = w.vm.host.state();
    let mut lost = (0..PFNS as u64).map(Pfn).filter(|pfn| untold >> pfn.0 & 1 == 1);
    if let Some(pfn) = lost.find(|pfn| host.is_mapped(*pfn)) {
        w.m.violate(
            Property::Accessed,
            format_args!("pfn{} was used, and neither an SPTE nor the page says so", pfn.0),
        );
    }
}

/// No SPTE maps a frame of a slot that is deleted.
fn check_deleted<M: Machine>(w: &World<M>, l: &MmuState<M>) {
    let deleted = w.deleted.get();
    if deleted == 0 || !w.watches(Property::MemslotGone) {
        return;
    }
    w.vm.mmu.for_each_leaf(
        &l.mmu,
        |word| w.m.peek(word),
        |Leaf { frames, .. }| {
            for gfn in frames.into_iter().flat_map(GfnRange::iter) {
                let Some(slot) = slot_of(w, gfn.0).filter(|slot| deleted >> slot & 1 == 1) else {
                    continue;
                };
                w.m.violate(
                    Property::MemslotGone,
                    format_args!("slot{slot} is deleted, and an SPTE maps its gfn{}", gfn.0),
                );
            }
        },
    );
}

/// The migration's destination equals its source.
fn check_migration<M: Machine>(w: &World<M>) {
    let user = w.user.get();
    let memslots = w.vm.kvm.memslots.current(|word| w.m.peek(word));
    let logged = |i: usize| memslots.is_logged(i);
    for (_, slot) in w.vm.kvm.slots.iter().flatten().enumerate().filter(|(i, _)| logged(*i)) {
        for gfn in slot.base_gfn.0..slot.base_gfn.0 + slot.npages {
            if w.content(Gfn(gfn)) != user.copy[gfn as usize] {
                w.m.violate(
                    Property::Migration,
                    format_args!(
                        "gfn{gfn} was written after its last copy and no harvest names it: \
                         it is lost"
                    ),
                );
            }
        }
    }
}
