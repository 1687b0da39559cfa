//! The fast fault, written by hand: what the generic core is held against.
//!
//! One function without a platform, a host, guards, marks or named calls, on the very words that
//! the generic core uses. It asks the same questions of SPTEs and does the same shared accesses in
//! the same order. If the generic core is slower than that, its generality costs something.
//!
//! The layout of SPTEs is a value at run time, as it is in KVM (`shadow_*_mask` are variables).
//! [`fast_fault_npt`] is the same function with one layout compiled in: what that costs.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicU64, fence};
use std::time::{Duration, Instant};

use kvmmu_model::mmu::{
    GFNS, Header, Mmu, OUTSIDE_GUEST_MODE, PG_LEVEL_4K, READING_SHADOW_PAGE_TABLES, ROOT_LEVEL,
    RetPf, index_at,
};
use kvmmu_model::{Access, CpuId, Gfn, Platform, SpId, Spte, SpteFormat, Tag};

use super::host::ResidentHost;
use super::stat;
use super::vm::{Vm, fleet};
use crate::native::word::PlainWord;
use crate::native::{Kind, Native};

/// Attempts before it gives up, as in the model.
const ATTEMPTS: usize = 5;

/// As [`crate::native::Dense`], and nobody else's: a hypervisor calls its fault handler in one
/// place, and compilers decide by that what to inline.
#[derive(Clone, Copy, Debug)]
pub struct Alone;

impl Kind for Alone {
    type Word = PlainWord;
    #[inline]
    fn word(&self, _tag: Tag, init: u64) -> PlainWord {
        PlainWord(AtomicU64::new(init))
    }
}

/// An MMU whose words are plain atomics.
type PlainMmu = Mmu<Native<Alone>, ResidentHost>;

/// Repairs the fault of a store to a write-protected frame, in any layout.
#[inline(never)]
pub fn fast_fault(mmu: &PlainMmu, cpu: CpuId, gfn: u64, access: Access, present: bool) -> RetPf {
    direct_page_fault(mmu, &mmu.format, cpu, gfn, access, present)
}

/// The same, in the legacy layout only.
#[inline(never)]
pub fn fast_fault_npt(
    mmu: &PlainMmu,
    cpu: CpuId,
    gfn: u64,
    access: Access,
    present: bool,
) -> RetPf {
    direct_page_fault(mmu, &SpteFormat::NPT, cpu, gfn, access, present)
}

#[inline(always)]
fn direct_page_fault(
    mmu: &PlainMmu,
    f: &SpteFormat,
    cpu: CpuId,
    gfn: u64,
    access: Access,
    present: bool,
) -> RetPf {
    let write = access == Access::Write;
    // ORDERING: relaxed: as in page_fault_handle_page_track.
    if present && write && mmu.gfn_track[gfn as usize].0.load(Relaxed) != 0 {
        return RetPf::Emulate;
    }
    if access == Access::Fetch && present || f.acc_track_mask == 0 && !(write && present) {
        return RetPf::Invalid;
    }
    let vcpu = &mmu.vcpus[usize::from(cpu.0)];
    mmu.p.local_irq_disable(cpu);
    // ORDERING: full barrier, as in walk_shadow_page_lockless_begin.
    vcpu.mode.0.store(READING_SHADOW_PAGE_TABLES, SeqCst);
    // ORDERING: as above.
    fence(SeqCst);
    let mut ret = RetPf::Invalid;
    for _ in 0..ATTEMPTS {
        if let Some(done) = attempt(mmu, f, vcpu.root, gfn, access) {
            ret = done;
            break;
        }
    }
    // ORDERING: release, as in walk_shadow_page_lockless_end.
    vcpu.mode.0.store(OUTSIDE_GUEST_MODE, Release);
    mmu.p.local_irq_enable(cpu);
    ret
}

/// A walk, a judgement and a compare-exchange. `None`: the SPTE changed meanwhile.
#[inline(always)]
fn attempt(mmu: &PlainMmu, f: &SpteFormat, root: SpId, gfn: u64, access: Access) -> Option<RetPf> {
    let (mut sp, mut level) = (root, ROOT_LEVEL);
    let (table, index, word, old) = loop {
        let table = &mmu.tables[usize::from(sp.0)];
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
        mark_page_dirty(mmu, header.gfn().0 + u64::from(index));
    }
    Some(RetPf::Fixed)
}

/// Sets the frame's bit, if a slot that is there has it and is logged.
#[inline(always)]
fn mark_page_dirty(mmu: &PlainMmu, gfn: u64) {
    let there = mmu.kvm_memslots();
    for (i, slot) in mmu.memslots.iter().enumerate() {
        let Some(slot) = slot else { continue };
        if gfn >= slot.base_gfn.0 && gfn < slot.base_gfn.0 + slot.npages {
            if let (true, Some(bitmap)) = (there.contains(i), &slot.dirty_bitmap) {
                // ORDERING: acq-rel: set_bit, after the cmpxchg.
                bitmap.0.fetch_or(1 << (gfn - slot.base_gfn.0), AcqRel);
            }
            return;
        }
    }
}

/// The same by the generic core.
#[inline(never)]
pub fn generic(mmu: &PlainMmu, cpu: CpuId, gfn: u64, access: Access, present: bool) -> RetPf {
    mmu.direct_page_fault(cpu, Gfn(gfn), access, present)
}

/// VMs that are faulted on between two looks at the clock: half a thousand faults, in the cache.
const VMS: usize = 64;

/// The generic core beside the hand-written function.
#[derive(Debug)]
pub struct Bout {
    vms: Vec<Vm<Alone>>,
}

/// What a bout has shown.
#[derive(Clone, Copy, Debug)]
pub struct Ratio {
    /// Generic to hand-written: the median of the ratios of turns.
    pub median: f64,
    /// A quarter of the turns is below this.
    pub low: f64,
    /// A quarter is above this.
    pub high: f64,
    /// Nanoseconds for a fault: the medians of the generic core and of the other.
    pub nanoseconds: [f64; 2],
}

impl Bout {
    /// Both on the same VMs.
    pub fn new() -> Self {
        let machine = Native::new(Alone);
        Bout { vms: fleet(&machine, SpteFormat::NPT, 1, true, VMS) }
    }

    /// Faults in a turn.
    pub const fn faults() -> u64 {
        (VMS * GFNS) as u64
    }

    /// A turn of the generic core.
    pub fn generic(&self) -> Duration {
        self.turn(|vm, gfn| generic(&vm.mmu, CpuId(0), gfn, Access::Write, true))
    }

    /// A turn of the hand-written function.
    pub fn hand_written(&self) -> Duration {
        self.turn(|vm, gfn| fast_fault(&vm.mmu, CpuId(0), gfn, Access::Write, true))
    }

    /// A turn of the hand-written function for one layout.
    pub fn one_layout(&self) -> Duration {
        self.turn(|vm, gfn| fast_fault_npt(&vm.mmu, CpuId(0), gfn, Access::Write, true))
    }

    #[inline(always)]
    fn turn(&self, fault: impl Fn(&Vm<Alone>, u64) -> RetPf) -> Duration {
        let frames = 0..GFNS as u64;
        for vm in &self.vms {
            frames.clone().for_each(|gfn| vm.protect(gfn));
        }
        let started = Instant::now();
        for vm in &self.vms {
            for gfn in frames.clone() {
                assert_eq!(fault(vm, gfn), RetPf::Fixed);
            }
        }
        started.elapsed()
    }

    /// So many turns of the generic core and of another, one after the other, each first in half
    /// of them.
    pub fn ratio(&self, turns: usize, other: impl Fn(&Bout) -> Duration) -> Ratio {
        let per_fault = |time: Duration| time.as_secs_f64() * 1e9 / Bout::faults() as f64;
        let mut times = [Vec::new(), Vec::new()];
        let mut ratios = Vec::new();
        for turn in 0..turns {
            let (generic, other) = if turn % 2 == 0 {
                let generic = self.generic();
                (generic, other(self))
            } else {
                let other = other(self);
                (self.generic(), other)
            };
            ratios.push(generic.as_secs_f64() / other.as_secs_f64());
            times[0].push(per_fault(generic));
            times[1].push(per_fault(other));
        }
        Ratio {
            median: stat::median(&ratios),
            low: stat::quantile(&ratios, 0.25),
            high: stat::quantile(&ratios, 0.75),
            nanoseconds: times.map(|times| stat::median(&times)),
        }
    }
}

impl Default for Bout {
    fn default() -> Self {
        Bout::new()
    }
}
