//! How KVM is set, what runs then, and which path the protocol says is taken.

use std::fmt::Write;

use crate::args::Args;
use crate::kernels::{Arch, Kernel};

/// What the protocol says of fast page faults.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fast {
    /// They must be seen.
    Yes,
    /// They must not be.
    Never,
    /// This architecture has none to count.
    None,
}

/// A setting of KVM, and a guest.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Mode {
    /// Its name in the table.
    pub(crate) name: &'static str,
    /// Parameters of the modules kvm and kvm-amd; `None`: KVM is built in.
    pub(crate) parameters: Option<(&'static str, &'static str)>,
    /// What it is called in the names of recordings.
    pub(crate) short: &'static str,
    /// The guest's paging.
    pub(crate) guest: &'static str,
    /// What the protocol says.
    pub(crate) fast: Fast,
    /// The host's events run here as well.
    pub(crate) events: bool,
    /// `--quick` runs it.
    pub(crate) quick: bool,
    /// Scenarios run here.
    pub(crate) scenarios: bool,
}

/// Nested paging without the TDP MMU.
pub(crate) const LEGACY: Mode = Mode {
    name: "npt=1 tdp_mmu=0",
    parameters: Some(("tdp_mmu=0", "npt=1")),
    short: "",
    guest: "paged",
    fast: Fast::Yes,
    events: true,
    quick: true,
    scenarios: true,
};

/// The first TDP MMU had no fast page fault; it has one since 5.15.
const TDP_5_10: Mode =
    Mode { name: "npt=1 tdp_mmu=1", short: "-tdp", fast: Fast::Never, parameters: TDP, ..PLAIN };
const TDP_MMU: Mode = Mode { fast: Fast::Yes, ..TDP_5_10 };
/// Shadow paging of a guest whose paging is off: every shadow page is direct.
const UNPAGED: Mode = Mode {
    name: "npt=0 unpaged guest",
    short: "-unpaged",
    guest: "unpaged",
    fast: Fast::Yes,
    parameters: SHADOW,
    ..PLAIN
};
/// Shadow paging proper.
const PAGED: Mode = Mode {
    name: "npt=0 paged guest",
    short: "-shadow",
    fast: Fast::Never,
    parameters: SHADOW,
    ..PLAIN
};

const PLAIN: Mode = Mode { events: false, quick: false, scenarios: false, ..LEGACY };
const TDP: Option<(&str, &str)> = Some(("tdp_mmu=1", "npt=1"));
const SHADOW: Option<(&str, &str)> = Some(("tdp_mmu=0", "npt=0"));

/// Those of 5.10 on x86.
pub(crate) const X86_5_10: &[Mode] = &[LEGACY, TDP_5_10, UNPAGED, PAGED];
/// Those of later kernels on x86.
pub(crate) const X86: &[Mode] = &[LEGACY, TDP_MMU, UNPAGED, PAGED];
/// The one of arm64.
pub(crate) const ARM64: &[Mode] =
    &[Mode { name: "", parameters: None, fast: Fast::None, ..LEGACY }];

/// What the first word of a job that begins a mode is; its line is not run.
pub(crate) const MARK: &str = "mode";

/// The jobs of a boot, as kvmmu-live's /init reads them.
pub(crate) fn jobs(
    kernel: &Kernel,
    modes: &[&Mode],
    args: &Args,
    scenarios: &[(String, Vec<u8>)],
) -> String {
    let mut jobs = String::new();
    let mut line = |text: &str| writeln!(jobs, "{text}").expect("text grows");
    if kernel.arch == Arch::X86 {
        line("module irqbypass");
    }
    for (i, mode) in modes.iter().enumerate() {
        line(&format!("{MARK} {i}"));
        if let Some((kvm, vendor)) = mode.parameters {
            if i > 0 {
                line("unload kvm_amd");
                line("unload kvm");
            }
            line(&format!("module kvm {kvm}"));
            line(&format!("module kvm-amd {vendor}"));
        }
        for check in checks(kernel, mode, args) {
            line(&format!("check --format json --mode {} {check}", mode.guest));
        }
        if args.trace.is_some() && kernel.arch == Arch::X86 {
            for trace in traces(kernel, mode) {
                line(&format!("check --format json --mode {} {trace}", mode.guest));
            }
        }
        if args.outcomes.is_some() && mode.scenarios {
            line(&format!("run --format json --all --times {}", args.times));
            for (name, _) in scenarios {
                line(&format!("run --format json --times {} /s/{name}", args.times));
            }
        }
    }
    jobs
}

/// The runs of a mode.
fn checks(kernel: &Kernel, mode: &Mode, args: &Args) -> Vec<String> {
    // The slower the machine, the smaller the work; the time between rounds keeps its proportion.
    let (stores, period) = match (kernel.arch, kernel.version) {
        (Arch::X86, _) => (300_000, 2),
        (Arch::Arm64, "5.10.223") => (100_000, 20),
        (Arch::Arm64, _) => (200_000, 5),
    };
    let size = format!("--stores {stores} --period {period}");
    let mut checks = vec![format!("--log get {size}")];
    if !args.quick {
        for log in ["chunks", "initially-set", "ring"] {
            checks.push(format!("--log {log} {size}"));
        }
        if mode.events {
            for event in ["madvise", "fork", "ksm", "mprotect", "slots", "relog"] {
                checks.push(format!("--event {event} --event-period 20 {size}"));
            }
        }
        checks.push(format!("--log chunks --broken clear-late {size}"));
    }
    checks.push(format!("--log get --broken copy-before-get {size}"));
    checks
}

/// The recorded runs of a mode: a small one, and a large one where there is a fast path to see, or
/// a guest's own tables.
fn traces(kernel: &Kernel, mode: &Mode) -> Vec<String> {
    let name = format!("{}-{}", kernel.version, mode.name.replace([' ', '='], "-"));
    let mut traces = vec![format!("--stores 150000 --pages 1024 --trace /out/{name}-small.jsonl")];
    if mode.fast == Fast::Yes || mode.parameters == SHADOW {
        let size = "--stores 4000000 --slide 9 --period 1";
        traces.push(format!("{size} --trace /out/{name}-large.jsonl"));
    }
    traces
}
