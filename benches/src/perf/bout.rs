//! The generic core compared with the hand-written function of [`super::hand`].
//!
//! Compilers and linkers put two copies of one function at places that suit the CPU better or
//! worse: a few percent, as much as is asked for here. So there are several copies of both, each
//! compiled for a machine of its own, and what counts is the median of theirs. A copy is called
//! from one place only, as a hypervisor calls its fault handler: compilers decide by that, too.

use std::fmt::Debug;
use std::hint::black_box;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use kvmmu_model::RetPf;
use kvmmu_model::virt::GFNS;
use kvmmu_model::{Access, CpuId, Gfn, SpteFormat, Tag};

use super::hand;
use super::host::EmptyHost;
use super::stat;
use super::vm::{Vm, fleet};
use crate::native::word::PlainWord;
use crate::native::{Kind, Native};

/// VMs that are faulted on between two looks at the clock: half a thousand faults, in the cache.
const VMS: usize = 64;
/// Faults in a turn.
pub const FAULTS: u64 = (VMS * GFNS) as u64;

/// Who handles a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Who {
    /// The model.
    Generic,
    /// The same by hand.
    Hand,
    /// The same by hand, for one layout of SPTEs.
    OneLayout,
}

/// A copy of all that is measured.
pub trait Bout: Debug {
    /// A turn: every page is write-protected, and then written once. The time is that of the
    /// faults.
    fn turn(&self, who: Who) -> Duration;
}

/// Every copy.
pub fn copies() -> Vec<Box<dyn Bout>> {
    vec![
        Box::new(Copied::<0>::new()),
        Box::new(Copied::<1>::new()),
        Box::new(Copied::<2>::new()),
        Box::new(Copied::<3>::new()),
        Box::new(Copied::<4>::new()),
        Box::new(Copied::<5>::new()),
        Box::new(Copied::<6>::new()),
    ]
}

/// As [`crate::native::Dense`].
#[derive(Clone, Copy, Debug)]
struct Plain<const N: usize>;

impl<const N: usize> Kind for Plain<N> {
    type Word = PlainWord;
    #[inline]
    fn word(&self, _tag: Tag, init: u64) -> PlainWord {
        PlainWord(AtomicU64::new(init))
    }
}

type CopiedVm<const N: usize> = Vm<Plain<N>, EmptyHost>;

/// One copy: compilers fold functions that do not differ.
#[derive(Debug)]
struct Copied<const N: usize> {
    vms: Vec<CopiedVm<N>>,
}

#[inline(never)]
fn generic<const N: usize>(vm: &CopiedVm<N>, gfn: u64, access: Access, present: bool) -> RetPf {
    black_box(N);
    vm.vm.kvm_tdp_page_fault(CpuId(0), Gfn(gfn), access, present)
}

#[inline(never)]
fn by_hand<const N: usize>(vm: &CopiedVm<N>, gfn: u64, access: Access, present: bool) -> RetPf {
    black_box(N);
    hand::fast_fault(&vm.vm, CpuId(0), gfn, access, present)
}

#[inline(never)]
fn one_layout<const N: usize>(vm: &CopiedVm<N>, gfn: u64, access: Access, present: bool) -> RetPf {
    black_box(N);
    hand::fast_fault_npt(&vm.vm, CpuId(0), gfn, access, present)
}

impl<const N: usize> Copied<N> {
    fn new() -> Self {
        Copied { vms: fleet(&Native::new(Plain), SpteFormat::NPT, 1, true, VMS) }
    }

    #[inline(always)]
    fn turn_of(&self, fault: fn(&CopiedVm<N>, u64, Access, bool) -> RetPf) -> Duration {
        let frames = 0..GFNS as u64;
        for vm in &self.vms {
            frames.clone().for_each(|gfn| vm.protect(gfn));
        }
        // Nothing is known of what faults.
        let (access, present) = black_box((Access::Write, true));
        let started = Instant::now();
        for vm in &self.vms {
            for gfn in frames.clone() {
                assert_eq!(fault(vm, gfn, access, present), RetPf::Fixed);
            }
        }
        started.elapsed()
    }
}

impl<const N: usize> Bout for Copied<N> {
    fn turn(&self, who: Who) -> Duration {
        match who {
            Who::Generic => self.turn_of(generic::<N>),
            Who::Hand => self.turn_of(by_hand::<N>),
            Who::OneLayout => self.turn_of(one_layout::<N>),
        }
    }
}

/// What bouts have shown.
#[derive(Clone, Debug)]
pub struct Ratio {
    /// Generic to other, by copy: the medians of the ratios of turns. In order.
    pub copies: Vec<f64>,
    /// Nanoseconds for a fault: the medians of the generic core and of the other.
    pub nanoseconds: [f64; 2],
}

impl Ratio {
    /// The copy in the middle.
    pub fn median(&self) -> f64 {
        stat::median(&self.copies)
    }
}

/// So many turns of the generic core and of another in each copy, one after the other, each first
/// in half of them.
pub fn ratio(bouts: &[Box<dyn Bout>], turns: usize, other: Who) -> Ratio {
    let mut times = [Vec::new(), Vec::new()];
    let mut copies: Vec<f64> =
        bouts.iter().map(|bout| ratio_of(bout.as_ref(), turns, other, &mut times)).collect();
    copies.sort_by(f64::total_cmp);
    Ratio { copies, nanoseconds: times.map(|times| stat::median(&times)) }
}

fn ratio_of(bout: &dyn Bout, turns: usize, other: Who, times: &mut [Vec<f64>; 2]) -> f64 {
    let mut ratios = Vec::new();
    for turn in 0..turns {
        let order = if turn % 2 == 0 { [Who::Generic, other] } else { [other, Who::Generic] };
        let mut both = order.map(|who| bout.turn(who).as_secs_f64() * 1e9 / FAULTS as f64);
        if order[0] == other {
            both.reverse();
        }
        ratios.push(both[0] / both[1]);
        times[0].push(both[0]);
        times[1].push(both[1]);
    }
    stat::median(&ratios)
}
