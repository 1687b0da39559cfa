//! A QEMU whose plugins see values and registers: what is installed, if it is 9.2 or later; else
//! 10.0 of the distribution's backports, unpacked beside it and pinned by hash. Nothing is
//! installed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use kvmmu_qemu::program::{self, Need, Version};
use kvmmu_qemu::{Failure, Program};

use crate::kernels::Arch;
use crate::packages::{self, Package};

/// A QEMU.
#[derive(Clone, Debug)]
pub(crate) struct Qemu {
    /// The program.
    pub(crate) program: Program,
    /// Where its data is, if it is not installed.
    pub(crate) data: Option<PathBuf>,
}

/// Where the firmware of a PC is: it comes in a package of its own.
const SEABIOS: &str = "/usr/share/seabios";

impl Qemu {
    /// A command that runs it.
    pub(crate) fn command(&self) -> Command {
        let mut command = self.program.command();
        if let Some(data) = &self.data {
            command.arg("-L").arg(data).args(["-L", SEABIOS]);
        }
        command
    }

    /// It says this of its modules: one that is not installed looks at those of the one that is,
    /// and will not have them.
    pub(crate) fn grumbles(&self, line: &str) -> bool {
        let of_modules = line.contains(" module: ") || line.starts_with("Only modules from");
        self.data.is_some() && of_modules
    }
}

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
    match (Need { least: LEAST, ..need(arch) }.find(), cfg!(target_arch = "x86_64")) {
        (Ok(program), _) => return Ok(Qemu { program, data: None }),
        // The packages below are of amd64.
        (Err(failure), false) => return Err(failure),
        (Err(_), true) => {}
    }
    let unpacked = unpacked(arch, cache);
    if !unpacked.program.path.is_file() {
        packages::unpack(&packages(arch), cache, &root(arch, cache), keep)?;
    }
    Ok(unpacked)
}

/// For what does not need it: the one that was fetched, if it was; else what is installed.
///
/// # Errors
///
/// When there is neither.
pub(crate) fn any(arch: Arch, cache: &Path) -> Result<Qemu, Failure> {
    let unpacked = unpacked(arch, cache);
    if unpacked.program.path.is_file() {
        return Ok(unpacked);
    }
    Ok(Qemu { program: need(arch).find()?, data: None })
}

fn need(arch: Arch) -> Need {
    match arch {
        Arch::Arm64 => program::QEMU_AARCH64,
        Arch::X86 => program::QEMU_X86_64,
    }
}

/// Where it is kept.
fn root(arch: Arch, cache: &Path) -> PathBuf {
    cache.join(&packages(arch)[0].sha256[..16])
}

/// The one that is fetched, or will be.
fn unpacked(arch: Arch, cache: &Path) -> Qemu {
    let root = root(arch, cache);
    let path = root.join("bin").join(need(arch).name);
    let program = Program { path, version: Version(10, 0) };
    Qemu { program, data: Some(root.join("share/qemu")) }
}

fn keep(root: &Path, to: &Path) -> io::Result<()> {
    for directory in ["bin", "share"] {
        fs::rename(root.join("usr").join(directory), to.join(directory))?;
    }
    Ok(())
}
