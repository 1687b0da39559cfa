//! System registers, by name: the one place that reads and writes them.

use core::arch::asm;

macro_rules! read {
    ($($(#[$doc:meta])* $name:ident = $register:literal,)+) => {$(
        $(#[$doc])*
        #[expect(unsafe_code, reason = "system registers are read by an instruction")]
        #[inline]
        pub(crate) fn $name() -> u64 {
            let value: u64;
            // SAFETY: reading this register has no effect.
            unsafe { asm!(concat!("mrs {}, ", $register), out(reg) value, options(nostack)) };
            value
        }
    )+};
}

macro_rules! write {
    ($($(#[$doc:meta])* $name:ident = $register:literal,)+) => {$(
        $(#[$doc])*
        #[expect(unsafe_code, reason = "system registers are written by an instruction")]
        #[inline]
        pub(crate) fn $name(value: u64) {
            // SAFETY: it changes how *guests* run, how they translate, or a counter; stage 1 of
            // EL2, under which this program runs, is set in boot.s and nowhere else.
            unsafe { asm!(concat!("msr ", $register, ", {}"), in(reg) value, options(nostack)) };
        }
    )+};
}

read! {
    /// The core's type.
    midr = "midr_el1",
    /// The core's address.
    mpidr = "mpidr_el1",
    /// The width of physical addresses, and more.
    mmfr0 = "id_aa64mmfr0_el1",
    /// Hardware updates of AF and dirty state, and more.
    mmfr1 = "id_aa64mmfr1_el1",
    /// Debug features: whether there is a PMU.
    dfr0 = "id_aa64dfr0_el1",
    /// The exception level, from bit 2 on.
    current_el = "CurrentEL",
    /// Time.
    cntpct = "cntpct_el0",
    /// Ticks a second.
    cntfrq = "cntfrq_el0",
    /// Cycles.
    pmccntr = "pmccntr_el0",
    /// The PMU itself.
    pmcr = "pmcr_el0",
    /// Whose data this CPU uses.
    tpidr = "tpidr_el2",
}

write! {
    /// Whose data this CPU uses.
    set_tpidr = "tpidr_el2",
    /// Exceptions of EL2.
    set_vbar = "vbar_el2",
    /// How guests translate.
    set_vtcr = "vtcr_el2",
    /// The guests' tables, and their VMID.
    set_vttbr = "vttbr_el2",
    /// What traps.
    set_hcr = "hcr_el2",
    /// The guests' own control.
    set_sctlr_el1 = "sctlr_el1",
    /// What guests see as MPIDR.
    set_vmpidr = "vmpidr_el2",
    /// What guests see as MIDR.
    set_vpidr = "vpidr_el2",
    /// Debug and PMU traps.
    set_mdcr = "mdcr_el2",
    /// At which exception levels the cycle counter counts.
    set_pmccfiltr = "pmccfiltr_el0",
    /// Which counters run.
    set_pmcntenset = "pmcntenset_el0",
    /// The PMU itself.
    set_pmcr = "pmcr_el0",
}

/// `ISB`.
#[expect(unsafe_code, reason = "a barrier is an instruction")]
#[inline]
pub(crate) fn isb() {
    // SAFETY: a barrier.
    unsafe { asm!("isb", options(nostack)) };
}

/// `DSB SY`.
#[expect(unsafe_code, reason = "a barrier is an instruction")]
#[inline]
pub(crate) fn dsb() {
    // SAFETY: a barrier.
    unsafe { asm!("dsb sy", options(nostack)) };
}

/// Makes instructions that were just written to memory visible to fetches.
#[expect(unsafe_code, reason = "cache maintenance is an instruction")]
pub(crate) fn sync_code(address: usize) {
    // SAFETY: cleaning a line to the point of unification, and dropping instruction caches, changes
    // no data.
    unsafe {
        asm!("dc cvau, {}", "dsb ish", "ic ialluis", "dsb ish", "isb", in(reg) address,
             options(nostack));
    }
}

/// Ticks since some time, ordered after everything before.
#[inline]
pub(crate) fn now() -> u64 {
    isb();
    cntpct()
}

/// True if this core has a cycle counter (`ID_AA64DFR0_EL1.PMUVer`).
pub(crate) fn has_pmu() -> bool {
    !matches!(dfr0() >> 8 & 0xf, 0 | 0xf)
}

/// Starts the cycle counter of this core, at EL2 too, if there is one.
pub(crate) fn start_cycle_counter() {
    if has_pmu() {
        // No traps, EL2 counts as any other level (HPMD = 0), all event counters are EL1's (HPMN).
        set_mdcr(pmcr() >> 11 & 0x1f);
        // NSH: count at EL2.
        set_pmccfiltr(1 << 27);
        set_pmcntenset(1 << 31);
        // 64 bits, reset, enabled.
        set_pmcr(1 << 6 | 1 << 2 | 1);
        isb();
    }
}

/// Cycles of this core; ticks of the system counter where it has no PMU.
#[inline]
pub(crate) fn cycles() -> u64 {
    if has_pmu() { pmccntr() } else { cntpct() }
}
