//! TLB maintenance, instruction by instruction, and what flushes are made of.
//!
//! What Linux 5.10 does on arm64: a page that was changed is flushed by `IPAS2E1IS`, which reaches
//! entries of stage 2 alone, *then* by `VMALLE1IS`, which reaches those that combine both stages
//! (`__kvm_tlb_flush_vmid_ipa`); a whole VM by `VMALLS12E1IS` (`__kvm_tlb_flush_vmid`).

use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};

use kvmmu_model::Gfn;
use kvmmu_model::arm64::{Dsb, Tlbi, TlbiOn, TlbiScope};

use super::{smp, sysreg};
use crate::args::{CPUS_MAX, Tlbi as Kind};
use crate::el2::memory::stage2;

/// Every broadcast is done twice: see [`smp::repeats_tlbi`].
static TWICE: AtomicBool = AtomicBool::new(false);
/// What a flush does.
static KIND: AtomicU8 = AtomicU8::new(Kind::Vm as u8);

macro_rules! instructions {
    ($($name:ident($($operand:ident)?) = $text:literal;)+) => {$(
        #[expect(unsafe_code, reason = "TLB maintenance is an instruction")]
        fn $name($($operand: u64)?) {
            // SAFETY: dropping translations of guests changes nothing for this program, and
            // barriers order it alone.
            unsafe { asm!($text, $(in(reg) $operand,)? options(nostack)) };
        }
    )+};
}

instructions! {
    vmalls12e1is() = "tlbi vmalls12e1is";
    vmalls12e1() = "tlbi vmalls12e1";
    vmalle1is() = "tlbi vmalle1is";
    vmalle1() = "tlbi vmalle1";
    alle1is() = "tlbi alle1is";
    alle1() = "tlbi alle1";
    ipas2e1is(page) = "tlbi ipas2e1is, {}";
    ipas2e1(page) = "tlbi ipas2e1, {}";
    dsb_ishst() = "dsb ishst";
    dsb_ish() = "dsb ish";
    dsb_nshst() = "dsb nshst";
    dsb_nsh() = "dsb nsh";
}

/// How often a CPU has begun each kind: what [`NAMES`] says, by broadcast and not.
#[repr(align(64))]
struct Counts([[AtomicU64; 2]; NAMES.len()]);
static COUNTS: [Counts; CPUS_MAX] =
    [const { Counts([const { [const { AtomicU64::new(0) }; 2] }; NAMES.len()]) }; CPUS_MAX];

/// The kinds, by broadcast and on one CPU.
const NAMES: [[&str; 2]; 4] = [
    ["vmalls12e1is", "vmalls12e1"],
    ["vmalle1is", "vmalle1"],
    ["ipas2e1is", "ipas2e1"],
    ["alle1is", "alle1"],
];

/// How many TLBIs of each kind there were, on all CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Tlbis([[u64; 2]; NAMES.len()]);

/// Those that were begun until now; one that is done twice is two.
pub(crate) fn count() -> Tlbis {
    let mut all = Tlbis::default();
    for counts in &COUNTS {
        for (all, counts) in all.0.iter_mut().flatten().zip(counts.0.iter().flatten()) {
            // ORDERING: relaxed: a count.
            *all += counts.load(Relaxed);
        }
    }
    all
}

impl Tlbis {
    /// Those since then.
    pub(crate) fn since(self, before: Tlbis) -> Tlbis {
        self.with(before, |now, before| now - before)
    }
    /// These as well.
    pub(crate) fn add(&mut self, more: Tlbis) {
        *self = self.with(more, |all, more| all + more);
    }
    fn with(mut self, other: Tlbis, of: impl Fn(u64, u64) -> u64) -> Tlbis {
        for (mine, other) in self.0.iter_mut().flatten().zip(other.0.iter().flatten()) {
            *mine = of(*mine, *other);
        }
        self
    }
    /// The names of those that there were, and how many.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let all = NAMES.iter().flatten().zip(self.0.iter().flatten());
        all.map(|(name, count)| (*name, *count)).filter(|(_, count)| *count != 0)
    }
}

fn counted(what: Tlbi, broadcast: bool) {
    let kind = match what {
        Tlbi::Vmalls12e1 => 0,
        Tlbi::Vmalle1 => 1,
        Tlbi::Ipas2e1 { .. } => 2,
        Tlbi::Alle1 => 3,
    };
    let count = &COUNTS[smp::this_cpu()].0[kind][usize::from(!broadcast)];
    // ORDERING: relaxed: a count of this CPU.
    count.fetch_add(1, Relaxed);
}

/// The instruction. Where a core has an erratum that asks for it a broadcast is done twice, with a
/// barrier between: the second waits for what the first does not. Level hints are left out, which
/// drops no less. There is one VM, and its VMID is loaded.
pub(crate) fn tlbi(TlbiScope { what, on, .. }: TlbiScope) {
    let broadcast = on == TlbiOn::InnerShareable;
    counted(what, broadcast);
    let instruction = || match (what, broadcast) {
        (Tlbi::Vmalls12e1, true) => vmalls12e1is(),
        (Tlbi::Vmalls12e1, false) => vmalls12e1(),
        (Tlbi::Vmalle1, true) => vmalle1is(),
        (Tlbi::Vmalle1, false) => vmalle1(),
        (Tlbi::Alle1, true) => alle1is(),
        (Tlbi::Alle1, false) => alle1(),
        (Tlbi::Ipas2e1 { ipa, .. }, true) => ipas2e1is(stage2::ipa(ipa.0) >> 12),
        (Tlbi::Ipas2e1 { ipa, .. }, false) => ipas2e1(stage2::ipa(ipa.0) >> 12),
    };
    instruction();
    if broadcast && is_twice() {
        dsb(Dsb::Ish);
        counted(what, broadcast);
        instruction();
    }
}

/// The barrier.
pub(crate) fn dsb(dsb: Dsb) {
    match dsb {
        Dsb::Ishst => dsb_ishst(),
        Dsb::Ish => dsb_ish(),
        Dsb::Nshst => dsb_nshst(),
        Dsb::Nsh => dsb_nsh(),
    }
}

/// Sets what [`flush`] does, and returns what it did.
pub(crate) fn set_kind(kind: Kind) -> Kind {
    // ORDERING: relaxed: set while no other CPU flushes.
    Kind::ALL[usize::from(KIND.swap(kind as u8, Relaxed))]
}

/// Says whether every broadcast is to be done twice.
pub(crate) fn set_twice(twice: bool) {
    // ORDERING: relaxed: set before the other CPUs start.
    TWICE.store(twice, Relaxed);
}

/// True if every broadcast is done twice.
pub(crate) fn is_twice() -> bool {
    // ORDERING: relaxed: constant by now.
    TWICE.load(Relaxed)
}

/// The broadcast flush of a VM whose pages are these.
pub(crate) fn flush(pages: impl Iterator<Item = Gfn>) {
    // ORDERING: relaxed: see set_kind.
    flush_by(Kind::ALL[usize::from(KIND.load(Relaxed))], pages);
}

/// The same, by this kind.
pub(crate) fn flush_by(kind: Kind, pages: impl Iterator<Item = Gfn>) {
    if kind == Kind::None {
        return;
    }
    dsb(Dsb::Ishst);
    match kind {
        Kind::None => {}
        Kind::Vm => tlbi(TlbiScope::broadcast(Tlbi::Vmalls12e1)),
        Kind::Ipa | Kind::Page => {
            pages.for_each(|ipa| tlbi(TlbiScope::broadcast(Tlbi::Ipas2e1 { ipa, level: None })));
        }
    }
    if kind == Kind::Page {
        dsb(Dsb::Ish);
        tlbi(TlbiScope::broadcast(Tlbi::Vmalle1));
    }
    dsb(Dsb::Ish);
    sysreg::isb();
}

/// The flush of this CPU alone.
pub(crate) fn flush_local() {
    dsb(Dsb::Nshst);
    vmalls12e1();
    dsb(Dsb::Nsh);
    sysreg::isb();
}

/// Drops the translations of this program itself, after one was added.
#[expect(unsafe_code, reason = "TLB maintenance is an instruction")]
pub(crate) fn flush_el2() {
    // SAFETY: translations of EL2 are read again from tables that still have all that is in use.
    unsafe { asm!("tlbi alle2", "dsb nsh", "isb", options(nostack)) };
}
