//! Kernels whose rules are known.

use kvmmu_model::arm64::pgtable::Version;
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
    /// Which MMU it has.
    pub mmu: Mmu,
    /// How a faulting CPU may give permissions back.
    pub relaxes: Relaxes,
    /// Which argument of `mark_page_dirty_in_slot` is the frame.
    pub marked_frame: usize,
    /// A fault waits for every invalidation: x86 since 5.13 only for those of its own range.
    pub waits_for_all: bool,
    /// What the model makes of its descriptors; `None`: the model has not its MMU.
    pub model: Option<Model>,
}

/// By what a store is recomputed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Model {
    /// By the transitions of an SPTE.
    Spte(Algorithm, SpteFormat),
    /// By the descriptors of stage 2, in this version.
    Stage2(Version),
}

/// Which code stores the descriptors.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mmu {
    /// Stage 2 of arm64.
    #[serde(rename = "stage-2")]
    Stage2,
    /// The one of x86 that the model has, with nested paging.
    Legacy,
    /// The same, with shadow paging.
    Shadow,
    /// The TDP MMU of x86.
    Tdp,
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
    /// So, and readers may do everything else as well: the TDP MMU since 5.12.
    LocklessAndReaders,
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
        let mmu = match arch {
            Arch::Arm64 => Mmu::Stage2,
            Arch::X86 => Mmu::Legacy,
        };
        let (relaxes, marked_frame, model) = match (arch, series) {
            (Arch::Arm64, Some((5, 10))) => {
                (Relaxes::Locked, 1, Some(Model::Stage2(Version::V5_10)))
            }
            (Arch::Arm64, Some((6, 1))) => {
                (Relaxes::AsReader, 2, Some(Model::Stage2(Version::V6_1)))
            }
            (Arch::X86, Some((5, 10))) => {
                (Relaxes::Lockless, 1, Some(Model::Spte(Algorithm::V5_10, SpteFormat::NPT)))
            }
            (Arch::X86, Some((6, 1))) => {
                (Relaxes::Lockless, 2, Some(Model::Spte(Algorithm::V6_1, SpteFormat::NPT_V6_1)))
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
        Ok(Kernel { version, arch, mmu, relaxes, marked_frame, waits_for_all, model })
    }

    /// How KVM is set, as it says.
    pub fn set(&mut self, fields: &[(String, u64)]) {
        let is = |wanted: &str| fields.iter().any(|(name, value)| name == wanted && *value == 1);
        if self.arch != Arch::X86 {
            return;
        }
        if !is("npt") {
            self.mmu = Mmu::Shadow;
        } else if is("tdp") {
            self.mmu = Mmu::Tdp;
            self.model = None;
            // 5.10 has one lock for all, and no fast page fault there.
            self.relaxes = match self.waits_for_all {
                true => Relaxes::Locked,
                false => Relaxes::LocklessAndReaders,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(version: &str, npt: u64, tdp: u64) -> Kernel {
        let mut kernel = Kernel::of(Arch::X86, version).unwrap();
        kernel.set(&[("npt".to_owned(), npt), ("tdp".to_owned(), tdp)]);
        kernel
    }

    #[test]
    fn the_rules_follow_how_kvm_is_set() {
        let cases = [
            ("5.10.223-1", 1, 0, Mmu::Legacy, Relaxes::Lockless),
            ("6.1.176-1", 0, 0, Mmu::Shadow, Relaxes::Lockless),
            // The first TDP MMU had one lock for all, and no fast page fault.
            ("5.10.223-1", 1, 1, Mmu::Tdp, Relaxes::Locked),
            ("6.1.176-1", 1, 1, Mmu::Tdp, Relaxes::LocklessAndReaders),
            // Without nested paging there is none, whatever the parameter says.
            ("6.1.176-1", 0, 1, Mmu::Shadow, Relaxes::Lockless),
        ];
        for (version, npt, tdp, mmu, relaxes) in cases {
            let kernel = set(version, npt, tdp);
            assert_eq!((kernel.mmu, kernel.relaxes), (mmu, relaxes), "{version} {npt} {tdp}");
            assert_eq!(kernel.model.is_some(), mmu != Mmu::Tdp);
        }
    }
}
