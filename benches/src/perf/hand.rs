//! The fast fault, written by hand: what the generic core is measured against.
//!
//! One function without a platform, a host, guards, marks or named calls, on the very words that
//! the generic core uses. It asks the same questions of SPTEs and does the same shared accesses in
//! the same order. If the generic core is slower than that, its generality costs something.
//!
//! The layout of SPTEs is a value at run time, as it is in KVM (`shadow_*_mask` are variables).
//! [`fast_fault_npt`] is the same function with one layout compiled in: what that costs.

use std::hint::black_box;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::fence;

use kvmmu_model::RetPf;
use kvmmu_model::Tables;
use kvmmu_model::virt::{OUTSIDE_GUEST_MODE, READING_SHADOW_PAGE_TABLES};
use kvmmu_model::x86::mmu::Header;
use kvmmu_model::x86::mmu::paging::{PG_LEVEL_4K, ROOT_LEVEL, index_at};
use kvmmu_model::{Access, CpuId, Gfn, Platform, SpId, Spte, SpteFormat};

use super::host::EmptyHost;
use super::vm::Shadowed;
use crate::native::Kind;
use crate::native::word::PlainWord;

/// Attempts before it gives up, as in the model.
const ATTEMPTS: usize = 5;

/// A VM whose words are plain atomics.
type PlainVm<K> = Shadowed<K, EmptyHost>;

/// Repairs the fault of a store to a write-protected frame, in any layout.
#[inline(always)]
pub fn fast_fault<K: Kind<Word = PlainWord>>(
    vm: &PlainVm<K>,
    cpu: CpuId,
    gfn: u64,
    access: Access,
    present: bool,
) -> RetPf {
    direct_page_fault(vm, vm.mmu.format(), cpu, gfn, access, present)
}

/// The same, in the legacy layout only.
#[inline(always)]
pub fn fast_fault_npt<K: Kind<Word = PlainWord>>(
    vm: &PlainVm<K>,
    cpu: CpuId,
    gfn: u64,
    access: Access,
    present: bool,
) -> RetPf {
    direct_page_fault(vm, &SpteFormat::NPT, cpu, gfn, access, present)
}

#[inline(always)]
fn direct_page_fault<K: Kind<Word = PlainWord>>(
    vm: &PlainVm<K>,
    f: &SpteFormat,
    cpu: CpuId,
    gfn: u64,
    access: Access,
    present: bool,
) -> RetPf {
    let write = access == Access::Write;
    // ORDERING: relaxed: as in page_fault_handle_page_track.
    if present && write && vm.mmu.gfn_track[gfn as usize].0.load(Relaxed) != 0 {
        return RetPf::Emulate;
    }
    if access == Access::Fetch && present || f.acc_track_mask == 0 && !(write && present) {
        return locked(vm, cpu, Gfn(gfn), access, present);
    }
    let vcpu = &vm.kvm.vcpus[usize::from(cpu.0)];
    vm.p.local_irq_disable(cpu);
    // ORDERING: full barrier, as in walk_shadow_page_lockless_begin.
    vcpu.mode.0.store(READING_SHADOW_PAGE_TABLES, SeqCst);
    // ORDERING: as above.
    fence(SeqCst);
    let mut ret = RetPf::Invalid;
    for _ in 0..ATTEMPTS {
        if let Some(done) = attempt(vm, f, vm.mmu.root(cpu), gfn, access) {
            ret = done;
            break;
        }
    }
    // ORDERING: release, as in walk_shadow_page_lockless_end.
    vcpu.mode.0.store(OUTSIDE_GUEST_MODE, Release);
    vm.p.local_irq_enable(cpu);
    if ret == RetPf::Invalid {
        ret = locked(vm, cpu, Gfn(gfn), access, present);
    }
    ret
}

/// The slow path: the host has no page. It is never taken here, but what it needs of the fault has
/// to be kept for it, as a fault handler keeps it.
#[cold]
#[inline(never)]
fn locked<K: Kind<Word = PlainWord>>(
    vm: &PlainVm<K>,
    cpu: CpuId,
    gfn: Gfn,
    access: Access,
    present: bool,
) -> RetPf {
    black_box((cpu, access, present));
    if vm.gfn_to_memslot(gfn).is_some() { RetPf::BreakCow(gfn) } else { RetPf::Mmio { ram: false } }
}

/// A walk, a judgement and a compare-exchange. `None`: the SPTE changed meanwhile.
#[inline(always)]
fn attempt<K: Kind<Word = PlainWord>>(
    vm: &PlainVm<K>,
    f: &SpteFormat,
    root: SpId,
    gfn: u64,
    access: Access,
) -> Option<RetPf> {
    let (mut sp, mut level) = (root, ROOT_LEVEL);
    let (table, index, word, old) = loop {
        let table = &vm.mmu.tables[usize::from(sp.0)];
        let index = index_at(level, gfn);
        let word = &table.spt[usize::from(index)].0;
        // ORDERING: acquire pairs with the link of the table.
        let spte = Spte(word.load(Acquire));
        if !f.is_shadow_present(spte) || f.is_last(spte, level) {
            break (table, index, word, spte);
        }
        (sp, level) = (f.child(spte), level - 1);
    };
    // ORDERING: relaxed: constant while the table is in use.
    let header = Header(table.header.0.load(Relaxed));
    if !f.is_last(old, header.level()) {
        return Some(RetPf::Invalid);
    }
    if f.allows(old, access) {
        return Some(RetPf::Spurious);
    }
    let mut new = old;
    if f.is_access_track(old) {
        new = f.restore_acc_track(new);
    }
    if access == Access::Write && f.can_locklessly_be_made_writable(old) {
        if header.level() > PG_LEVEL_4K {
            return Some(RetPf::Invalid);
        }
        new = new.with(f.writable_mask);
    }
    if new == old || !f.allows(new, access) || !header.is_direct() {
        return Some(RetPf::Invalid);
    }
    // ORDERING: acq-rel, as in fast_pf_fix_direct_spte.
    word.compare_exchange(old.0, new.0, AcqRel, Acquire).ok()?;
    if f.is_writable(new) && !f.is_writable(old) {
        mark_page_dirty(vm, header.gfn().0 + u64::from(index));
    }
    Some(RetPf::Fixed)
}

/// Sets the frame's bit, if a slot that is there has it and is logged.
fn mark_page_dirty<K: Kind<Word = PlainWord>>(vm: &PlainVm<K>, gfn: u64) {
    let there = vm.kvm_memslots();
    for (i, slot) in vm.kvm.slots.iter().enumerate() {
        let Some(slot) = slot else { continue };
        if gfn >= slot.base_gfn.0 && gfn < slot.base_gfn.0 + slot.npages {
            if there.is_logged(i) {
                // ORDERING: acq-rel: set_bit, after the cmpxchg.
                slot.dirty_bitmap.0.fetch_or(1 << (gfn - slot.base_gfn.0), AcqRel);
            }
            return;
        }
    }
}
