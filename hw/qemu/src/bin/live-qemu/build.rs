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
    let mut command = cargo("kvmmu-live", target_directory);
    command
        .args(["--target", target])
        // What is unpacked into a machine's memory has no use for it.
        .env("CARGO_PROFILE_RELEASE_STRIP", "true")
        // It runs where no time means anything: what is quick to build will do.
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
    build(command, "kvmmu-live", Some(target))?;
    Ok(target_directory.join(target).join("release/kvmmu-live"))
}

/// Builds the plugin of QEMU that records steps; returns the library.
///
/// # Errors
///
/// When the build fails.
pub(crate) fn plugin(target_directory: &Path) -> Result<PathBuf, Failure> {
    build(cargo("kvmmu-plugin", target_directory), "kvmmu-plugin", None)?;
    Ok(target_directory.join("release/libkvmmu_plugin.so"))
}

fn cargo(package: &str, target_directory: &Path) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(workspace())
        .args(["build", "--release", "--locked", "--package", package])
        .arg("--target-dir")
        .arg(target_directory);
    command
}

fn build(command: Command, package: &str, target: Option<&str>) -> Result<(), Failure> {
    let mut said = String::new();
    let end = Launch::new(command, LIMIT).run::<()>(|line| {
        if let Said::Error(line) = line {
            said.push_str(line);
            said.push('\n');
        }
        Step::Go
    })?;
    let option = target.map_or(String::new(), |target| format!(" --target {target}"));
    match (end, target) {
        (End::Exited(status), _) if status.success() => Ok(()),
        (End::Interrupted, _) => Err(Failure::interrupted()),
        (End::Exited(_), Some(target)) if said.contains("target may not be installed") => {
            Err(Failure::usage(
                format!("the target {target} is not installed"),
                format!("rustup target add {target}"),
            ))
        }
        (End::Exited(_), _) => Err(Failure::new(
            Exit::Internal,
            format!("{package} does not build:\n{}", said.trim_end()),
            format!("cargo build --release --package {package}{option}"),
        )),
        (End::TimedOut | End::Verdict(()), _) => Err(Failure::new(
            Exit::Bound,
            format!("building {package} took longer than {LIMIT:?}"),
            "run it by hand first",
        )),
    }
}
