//! TLB maintenance, instruction by instruction.
//!
//! What Linux 5.10 does on arm64: a page that was changed is flushed by `IPAS2E1IS`, which reaches
//! entries of stage 2 alone, *then* by `VMALLE1IS`, which reaches those that combine both stages
//! (`__kvm_tlb_flush_vmid_ipa`); a whole VM by `VMALLS12E1IS` (`__kvm_tlb_flush_vmid`).

use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};

use crate::args::Tlbi;

/// Cortex-A55 erratum 2441007: a broadcast invalidation may complete before the stores of another
/// CPU that used the entry. Doing it twice is what covers for it.
static TWICE: AtomicBool = AtomicBool::new(false);
/// What a flush does.
static KIND: AtomicU8 = AtomicU8::new(Tlbi::Vm as u8);

macro_rules! tlbi {
    ($($(#[$doc:meta])* $name:ident = $($line:literal),+;)+) => {$(
        $(#[$doc])*
        #[expect(unsafe_code, reason = "TLB maintenance is an instruction")]
        fn $name() {
            // SAFETY: dropping translations of guests changes nothing for this program.
            unsafe { asm!($($line),+, options(nostack)) };
        }
    )+};
}

tlbi! {
    /// What was written to tables before is seen by walks after.
    publish = "dsb ishst";
    /// Waits for all CPUs.
    complete = "dsb ish", "isb";
    /// Stage 1 and what combines both stages, of this VMID, on all CPUs.
    vmalle1is = "tlbi vmalle1is";
    /// Everything of this VMID, on all CPUs.
    vmalls12e1is = "tlbi vmalls12e1is";
    /// Everything of this VMID, on this CPU.
    vmalls12e1 = "dsb nshst", "tlbi vmalls12e1", "dsb nsh", "isb";
}

/// Stage 2 alone, one page, on all CPUs.
#[expect(unsafe_code, reason = "TLB maintenance is an instruction")]
fn ipas2e1is(ipa: u64) {
    // SAFETY: dropping translations of guests changes nothing for this program.
    unsafe { asm!("tlbi ipas2e1is, {}", in(reg) ipa >> 12, options(nostack)) };
}

/// Sets what [`flush`] does, and returns what it did.
pub(crate) fn set_kind(kind: Tlbi) -> Tlbi {
    // ORDERING: relaxed: set while no other CPU flushes.
    Tlbi::ALL[usize::from(KIND.swap(kind as u8, Relaxed))]
}

/// Says whether there is a core that has erratum 2441007.
pub(crate) fn set_twice(twice: bool) {
    // ORDERING: relaxed: set before the other CPUs start.
    TWICE.store(twice, Relaxed);
}

/// True if every invalidation is done twice.
pub(crate) fn is_twice() -> bool {
    // ORDERING: relaxed: constant by now.
    TWICE.load(Relaxed)
}

/// The broadcast flush of a VM whose pages are at these addresses.
pub(crate) fn flush(pages: impl Iterator<Item = u64> + Clone) {
    // ORDERING: relaxed: see set_kind.
    flush_by(Tlbi::ALL[usize::from(KIND.load(Relaxed))], pages);
}

/// The same, by this kind.
pub(crate) fn flush_by(kind: Tlbi, pages: impl Iterator<Item = u64> + Clone) {
    if kind == Tlbi::None {
        return;
    }
    publish();
    once(kind, pages.clone());
    if is_twice() {
        complete();
        once(kind, pages);
    }
    complete();
}

fn once(kind: Tlbi, pages: impl Iterator<Item = u64>) {
    match kind {
        Tlbi::None => {}
        Tlbi::Vm => vmalls12e1is(),
        Tlbi::Ipa => pages.for_each(ipas2e1is),
        Tlbi::Page => {
            pages.for_each(ipas2e1is);
            complete();
            vmalle1is();
        }
    }
}

/// The flush of this CPU alone.
pub(crate) fn flush_local() {
    vmalls12e1();
}

/// Drops the translations of this program itself, after one was added.
#[expect(unsafe_code, reason = "TLB maintenance is an instruction")]
pub(crate) fn flush_el2() {
    // SAFETY: translations of EL2 are read again from tables that still have all that is in use.
    unsafe { asm!("tlbi alle2", "dsb nsh", "isb", options(nostack)) };
}
