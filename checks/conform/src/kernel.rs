//! The kernels whose traces the model can judge.

use kvmmu_model::{Algorithm, SpteFormat};

use crate::event::Ret;
use crate::line::Header;

/// A kernel that the model knows, and how it used page tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kernel {
    /// Which algorithms its MMU has.
    pub algorithm: Algorithm,
    /// The layout of its SPTEs.
    pub format: SpteFormat,
    /// KVM shadows the guest's own page tables: `paging` is `guest`.
    pub guest_tables: bool,
}

/// What is wrong, and what to try.
type Refusal = (String, String);

impl Kernel {
    /// The kernel that a header names.
    ///
    /// # Errors
    ///
    /// Kernels and layouts that the model does not know.
    pub fn of(header: &Header) -> Result<Kernel, Refusal> {
        if header.arch != "x86-64" {
            let message = format!("a trace of {}, but only x86-64 is known", header.arch);
            return Err((message, "arm64's KVM has no fast page fault to check".to_owned()));
        }
        let (algorithm, format, name) = match series(&header.kernel) {
            Some((5, 10)) => (Algorithm::V5_10, SpteFormat::NPT, "npt-v5.10"),
            Some((6, 1)) => (Algorithm::V6_1, SpteFormat::NPT_V6_1, "npt-v6.1"),
            _ => {
                let message =
                    format!("a trace of kernel '{}', which the model does not know", header.kernel);
                return Err((message, "record a 5.10 or a 6.1 kernel".to_owned()));
            }
        };
        if header.format != name {
            let message = format!(
                "SPTE format '{}', but kernel {} has '{name}' on AMD",
                header.format, header.kernel
            );
            return Err((message, "only NPT and legacy layouts are known so far".to_owned()));
        }
        Ok(Kernel { algorithm, format, guest_tables: header.mode.paging == "guest" })
    }

    /// What a value of `RET_PF_*` means, of those that a fast fault returns.
    pub fn ret(self, ret: i64) -> Option<Ret> {
        // 6.1 has RET_PF_CONTINUE in front of the others.
        let first = match self.algorithm {
            Algorithm::V5_10 => 2,
            Algorithm::V6_1 => 3,
        };
        match ret.checked_sub(first)? {
            0 => Some(Ret::Refused),
            1 => Some(Ret::Fixed),
            2 => Some(Ret::Spurious),
            _ => None,
        }
    }
}

/// Refuses modes that the checker does not follow.
///
/// # Errors
///
/// Says which mode it is.
pub fn mode(header: &Header) -> Result<(), Refusal> {
    let mode = &header.mode;
    let npt = mode.npt == Some(1);
    if mode.tdp_mmu == Some(1) && npt {
        let message = "a trace of the TDP MMU, which the model does not have".to_owned();
        return Err((message, "record with kvm.tdp_mmu=0".to_owned()));
    }
    match (npt, mode.paging.as_str()) {
        (true, "direct") | (false, "none" | "guest") => Ok(()),
        (npt, paging) => {
            let message = format!("no mode has npt={} and paging '{paging}'", u8::from(npt));
            Err((message, "docs/conformance.md lists the modes".to_owned()))
        }
    }
}

/// The first two numbers of a kernel's release.
pub fn series(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(['.', '-']).map(|part| part.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}
