//! A QEMU whose plugins see values and registers: what is installed, if it is 9.2 or later; else
//! 10.0 of the distribution's backports, unpacked beside it and pinned by hash. Nothing is
//! installed.

use std::fs;
use std::io;
use std::path::Path;

use kvmmu_qemu::program::{self, Need, Version};
use kvmmu_qemu::{Failure, Program};

use crate::kernels::Arch;
use crate::packages::{self, Package};
use crate::steps::Qemu;

/// The first one whose plugin interface has what is needed.
const LEAST: Version = Version(9, 2);

/// The packages of a machine; the libraries that they need are those of the QEMU that is installed.
fn packages(arch: Arch) -> [Package; 3] {
    let system = match arch {
        Arch::Arm64 => Package {
            name: "qemu-system-arm",
            sha256: "edebbab09db3882c48ef9c00049c7c6a2d76d195cb88d830baadd1fb705bbc66",
            ..BACKPORT
        },
        Arch::X86 => Package {
            name: "qemu-system-x86",
            sha256: "4a6b1856c8b0d7df4ff8e70249e12c473ccf8d516aadb4ae14d3d938faed0c65",
            ..BACKPORT
        },
    };
    [system, COMMON, DATA]
}

const COMMON: Package = Package {
    name: "qemu-system-common",
    sha256: "23a4672a138832d7173855e981aa8282c73ef5e04e080fa7ada9f82c6b34f507",
    ..BACKPORT
};
const DATA: Package = Package {
    name: "qemu-system-data",
    arch: "all",
    sha256: "2d831088187087013b3fcbd19bdfb955b182a2d5a08f6dafa0ad1c6d2007fb4e",
    ..BACKPORT
};
const BACKPORT: Package = Package {
    name: "",
    version: "1:10.0.2+ds-2+deb13u1~bpo12+1",
    suite: "bookworm-backports",
    arch: "amd64",
    sha256: "",
};

/// Finds it, or fetches it.
///
/// # Errors
///
/// When it cannot be had: what needs it is skipped, with the reason.
pub(crate) fn find(arch: Arch, cache: &Path) -> Result<Qemu, Failure> {
    let need = match arch {
        Arch::Arm64 => program::QEMU_AARCH64,
        Arch::X86 => program::QEMU_X86_64,
    };
    match (Need { least: LEAST, ..need }.find(), cfg!(target_arch = "x86_64")) {
        (Ok(program), _) => return Ok(Qemu { program, data: None }),
        // The packages below are of amd64.
        (Err(failure), false) => return Err(failure),
        (Err(_), true) => {}
    }
    let packages = packages(arch);
    let root = cache.join(&packages[0].sha256[..16]);
    let path = root.join("bin").join(need.name);
    if !path.is_file() {
        packages::unpack(&packages, cache, &root, keep)?;
    }
    let program = Program { path, version: Version(10, 0) };
    Ok(Qemu { program, data: Some(root.join("share/qemu")) })
}

fn keep(root: &Path, to: &Path) -> io::Result<()> {
    for directory in ["bin", "share"] {
        fs::rename(root.join("usr").join(directory), to.join(directory))?;
    }
    Ok(())
}
