//! Builds kvmmu-live, static, for the architecture of a machine.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use kvmmu_qemu::{End, Exit, Failure, Launch, Said, Step};

use crate::kernels::Arch;

/// How long a build may take.
const LIMIT: Duration = Duration::from_secs(900);

/// The workspace that this program was built from.
pub(crate) fn workspace() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.ancestors().nth(2).unwrap_or(manifest)
}

/// Builds it; returns the program.
///
/// # Errors
///
/// When the target is not installed, or the build fails.
pub(crate) fn kvmmu_live(arch: Arch, target_directory: &Path) -> Result<PathBuf, Failure> {
    let target = arch.target();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(workspace())
        .args(["build", "--release", "--locked", "--package", "kvmmu-live", "--target", target])
        .arg("--target-dir")
        .arg(target_directory)
        // What is unpacked into a machine's memory has no use for it.
        .env("CARGO_PROFILE_RELEASE_STRIP", "true");
    let mut said = String::new();
    let end = Launch::new(command, LIMIT).run::<()>(|line| {
        if let Said::Error(line) = line {
            said.push_str(line);
            said.push('\n');
        }
        Step::Go
    })?;
    match end {
        End::Exited(status) if status.success() => {
            Ok(target_directory.join(target).join("release/kvmmu-live"))
        }
        End::Interrupted => Err(Failure::interrupted()),
        End::Exited(_) if said.contains("target may not be installed") => Err(Failure::usage(
            format!("the target {target} is not installed"),
            format!("rustup target add {target}"),
        )),
        End::Exited(_) => Err(Failure::new(
            Exit::Internal,
            format!("kvmmu-live does not build for {target}:\n{}", said.trim_end()),
            format!("cargo build --release --package kvmmu-live --target {target}"),
        )),
        End::TimedOut | End::Verdict(()) => Err(Failure::new(
            Exit::Bound,
            format!("building kvmmu-live for {target} took longer than {LIMIT:?}"),
            "run it by hand first",
        )),
    }
}
