//! Kernels whose rules are known.

use crate::event::Arch;
use crate::refused::Refused;

/// Where versions differ.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kernel {
    /// The version of its source, as it says.
    pub version: String,
    /// A faulting CPU that only gives permissions back holds `mmu_lock` as a reader: since 5.18.
    pub relaxes_as_reader: bool,
    /// Which argument of `mark_page_dirty_in_slot` is the frame.
    pub marked_frame: usize,
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
        let (relaxes_as_reader, marked_frame) = match (arch, series) {
            (Arch::Arm64, Some((5, 10))) => (false, 1),
            (Arch::Arm64, Some((6, 1))) => (true, 2),
            _ => {
                return Err(Refused::foreign(
                    format!("the rules of kernel '{version}' on {arch} are not known"),
                    "record a 5.10 or a 6.1 kernel of arm64",
                ));
            }
        };
        let version = version.to_owned();
        Ok(Kernel { version, relaxes_as_reader, marked_frame })
    }
}
