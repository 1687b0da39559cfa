//! The kernels that are booted: Debian packages, pinned by their hash.

use crate::modes::{ARM64, Mode, X86, X86_5_10};
use crate::packages::Package;

/// The architecture of a machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Arch {
    /// With SVM and nested paging.
    X86,
    /// With EL2.
    Arm64,
}

/// A kernel.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Kernel {
    /// Its architecture.
    pub(crate) arch: Arch,
    /// The version of its source.
    pub(crate) version: &'static str,
    /// The package.
    pub(crate) package: Package,
    /// How its KVM is set.
    pub(crate) modes: &'static [Mode],
    /// How long a boot with all modes may take, in seconds.
    pub(crate) limit_s: u64,
    /// `--quick` runs it.
    pub(crate) quick: bool,
}

/// All of them, the quickest first.
pub(crate) const KERNELS: &[Kernel] = &[
    Kernel {
        arch: Arch::X86,
        version: "5.10.223",
        package: Package {
            name: "linux-image-5.10.0-32-cloud-amd64",
            version: "5.10.223-1",
            suite: "bullseye",
            arch: "amd64",
            sha256: "fb4a1229952d892138532c1d9f40a7fd0bd408e4dcf969c12e4524b6a89fdcb8",
        },
        modes: X86_5_10,
        limit_s: 150,
        quick: true,
    },
    Kernel {
        arch: Arch::X86,
        version: "6.1.176",
        package: Package {
            name: "linux-image-6.1.0-50-cloud-amd64",
            version: "6.1.176-1",
            suite: "bookworm",
            arch: "amd64",
            sha256: "efe19f605b6f54a8352e68d85a629abb2d30b72a085faef603a9152590baa791",
        },
        modes: X86,
        limit_s: 200,
        quick: false,
    },
    Kernel {
        arch: Arch::Arm64,
        version: "6.1.176",
        package: Package {
            name: "linux-image-6.1.0-50-cloud-arm64",
            version: "6.1.176-1",
            suite: "bookworm",
            arch: "arm64",
            sha256: "9d41a53f5d687ae1a33cf546d0ed8be955f72e5f9e97b2b4e45e41dff3353b97",
        },
        modes: ARM64,
        limit_s: 150,
        quick: true,
    },
    Kernel {
        arch: Arch::Arm64,
        version: "5.10.223",
        package: Package {
            name: "linux-image-5.10.0-32-cloud-arm64",
            version: "5.10.223-1",
            suite: "bullseye",
            arch: "arm64",
            sha256: "1b79a526115ffed1262a3bcb127e9596a6849ad4acc31aacbef93db0c9cf7352",
        },
        modes: ARM64,
        limit_s: 200,
        quick: false,
    },
];

impl Arch {
    /// As kvmmu names it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Arch::X86 => "x86-64",
            Arch::Arm64 => "arm64",
        }
    }

    /// The target that kvmmu-live is built for.
    pub(crate) fn target(self) -> &'static str {
        match self {
            Arch::X86 => "x86_64-unknown-linux-musl",
            Arch::Arm64 => "aarch64-unknown-linux-musl",
        }
    }
}

impl Kernel {
    /// `x86-64 5.10.223`.
    pub(crate) fn name(&self) -> String {
        format!("{} {}", self.arch.name(), self.version)
    }

    /// `x86-64 5.10.223 npt=1 tdp_mmu=0`.
    pub(crate) fn name_with(&self, mode: &Mode) -> String {
        format!("{} {}", self.name(), mode.name).trim_end().to_owned()
    }
}
