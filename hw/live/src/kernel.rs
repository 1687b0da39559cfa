//! Which kernel this is, and how its KVM is set.

use std::fs;

use crate::guest::Mode;

/// The kernel and its KVM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kernel {
    /// `uname -r`.
    pub release: String,
    /// The version of its source: Debian puts it into `uname -v`.
    pub version: String,
    /// Nested or extended paging is on; `None`: not x86, or not known.
    pub npt: Option<bool>,
    /// The vendor's module.
    pub vendor: Option<Vendor>,
    /// The TDP MMU is on; `None`: this KVM has none, or it is not known.
    pub tdp_mmu: Option<bool>,
}

/// Whose virtualization it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vendor {
    /// SVM.
    Amd,
    /// VMX.
    Intel,
}

impl Kernel {
    /// Looks at the running one.
    pub fn running() -> Kernel {
        let uname = rustix::system::uname();
        let release = uname.release().to_string_lossy().into_owned();
        let version = source_version(&release, &uname.version().to_string_lossy());
        let flag = |path: &str| fs::read_to_string(path).ok().and_then(|text| truth(text.trim()));
        let amd = flag("/sys/module/kvm_amd/parameters/npt");
        let intel = flag("/sys/module/kvm_intel/parameters/ept");
        let vendor = amd.map(|_| Vendor::Amd).or(intel.map(|_| Vendor::Intel));
        let tdp_mmu = flag("/sys/module/kvm/parameters/tdp_mmu");
        Kernel { release, version, npt: amd.or(intel), vendor, tdp_mmu }
    }

    /// Major and minor version.
    pub fn numbers(&self) -> (u32, u32) {
        let mut numbers = self.version.split(['.', '-']).map(|n| n.parse().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    }

    /// The layout of its SPTEs, as trace files name it.
    pub fn spte_format(&self) -> String {
        let layout = match (self.vendor, self.npt) {
            (Some(Vendor::Intel), Some(true)) => "ept",
            _ => "npt",
        };
        // The bits moved in 5.13.
        let since = if self.numbers() < (5, 13) { "v5.10" } else { "v6.1" };
        format!("{layout}-{since}")
    }

    /// Which shadow pages a guest in `mode` gets: `direct`, `none` or `guest`.
    pub fn paging(&self, mode: Mode) -> &'static str {
        match (self.npt, mode) {
            (Some(false), Mode::Unpaged) => "none",
            (Some(false), Mode::Paged) => "guest",
            _ => "direct",
        }
    }
}

/// `5.10.223-1` out of `#1 SMP Debian 5.10.223-1 (2024-08-10)`, else the release.
fn source_version(release: &str, version: &str) -> String {
    let debian = version.split_once("Debian ").map(|(_, rest)| rest);
    debian.and_then(|rest| rest.split_whitespace().next()).unwrap_or(release).to_owned()
}

/// A module parameter that is a truth value.
fn truth(text: &str) -> Option<bool> {
    match text {
        "Y" | "1" => Some(true),
        "N" | "0" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(version: &str, npt: bool) -> Kernel {
        let vendor = Some(Vendor::Amd);
        let (release, version) = (String::new(), version.to_owned());
        Kernel { release, version, npt: Some(npt), vendor, tdp_mmu: None }
    }

    #[test]
    fn versions_of_real_kernels() {
        let debian = "#1 SMP Debian 5.10.223-1 (2024-08-10)";
        assert_eq!(source_version("5.10.0-32-cloud-amd64", debian), "5.10.223-1");
        assert_eq!(source_version("6.12.4", "#1 SMP"), "6.12.4");
        assert_eq!(kernel("5.10.223-1", true).numbers(), (5, 10));
    }

    #[test]
    fn formats_and_paging() {
        assert_eq!(kernel("5.10.223-1", true).spte_format(), "npt-v5.10");
        assert_eq!(kernel("6.1.176-1", true).spte_format(), "npt-v6.1");
        assert_eq!(kernel("6.1.176-1", false).paging(Mode::Unpaged), "none");
        assert_eq!(kernel("6.1.176-1", false).paging(Mode::Paged), "guest");
        assert_eq!(kernel("6.1.176-1", true).paging(Mode::Paged), "direct");
    }
}
