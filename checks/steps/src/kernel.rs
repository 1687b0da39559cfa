//! Kernels whose rules are known.

use kvmmu_model::{Algorithm, SpteFormat};

use crate::event::Arch;
use crate::refused::Refused;

/// Where versions differ.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kernel {
    /// The version of its source, as it says.
    pub version: String,
    /// The architecture.
    pub arch: Arch,
    /// How a faulting CPU may give permissions back.
    pub relaxes: Relaxes,
    /// Which argument of `mark_page_dirty_in_slot` is the frame.
    pub marked_frame: usize,
    /// A fault waits for every invalidation: x86 since 5.13 only for those of its own range.
    pub waits_for_all: bool,
    /// What the model makes of its SPTEs; `None`: the model has not its MMU.
    pub model: Option<(Algorithm, SpteFormat)>,
}

/// How a CPU gives permissions back to a page that is mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Relaxes {
    /// As everything else: `mmu_lock` alone.
    Locked,
    /// As a reader of `mmu_lock`: arm64 since 5.18.
    AsReader,
    /// Without any lock: the fast page fault of x86.
    Lockless,
}

impl Kernel {
    /// The one of this version.
    ///
    /// # Errors
    ///
    /// When its rules are not known.
    pub fn of(arch: Arch, version: &str) -> Result<Kernel, Refused> {
        let mut numbers = version.split(['.', '-']).map(|number| number.parse::<u32>().ok());
        let series = numbers.next().flatten().zip(numbers.next().flatten());
        let (relaxes, marked_frame, model) = match (arch, series) {
            (Arch::Arm64, Some((5, 10))) => (Relaxes::Locked, 1, None),
            (Arch::Arm64, Some((6, 1))) => (Relaxes::AsReader, 2, None),
            (Arch::X86, Some((5, 10))) => {
                (Relaxes::Lockless, 1, Some((Algorithm::V5_10, SpteFormat::NPT)))
            }
            (Arch::X86, Some((6, 1))) => {
                (Relaxes::Lockless, 2, Some((Algorithm::V6_1, SpteFormat::NPT_V6_1)))
            }
            _ => {
                return Err(Refused::foreign(
                    format!("the rules of kernel '{version}' on {arch} are not known"),
                    "record a 5.10 or a 6.1 kernel",
                ));
            }
        };
        let waits_for_all = arch == Arch::Arm64 || series == Some((5, 10));
        let version = version.to_owned();
        Ok(Kernel { version, arch, relaxes, marked_frame, waits_for_all, model })
    }
}
