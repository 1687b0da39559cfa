//! Building the image: `cargo build` for the bare target, and the flat file out of its ELF file.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kvmmu_qemu::{Exit, Failure};
use object::{Object, ObjectSegment};

/// The target of the image.
const TARGET: &str = "aarch64-unknown-none-softfloat";
const PACKAGE: &str = "kvmmu-hw";
/// Where an arm64 image has its size, and the word that tells that it is one.
const SIZE_AT: usize = 16;
const MAGIC_AT: usize = 56;
const MAGIC: &[u8] = b"ARM\x64";

/// An arm64 `Image`.
pub(crate) struct Image {
    /// The file.
    pub(crate) bytes: Vec<u8>,
}

/// Builds it.
pub(crate) fn build() -> Result<Image, Failure> {
    check_target()?;
    let elf = cargo_build()?;
    let bytes = std::fs::read(&elf).map_err(|error| {
        Failure::internal(format!("cannot read what cargo built, {}: {error}", elf.display()))
    })?;
    flatten(&bytes).map(|bytes| Image { bytes })
}

/// Says how to get the target, if it is not there: cargo's own message does not.
fn check_target() -> Result<(), Failure> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .args(["--print", "target-libdir", "--target", TARGET])
        .stderr(Stdio::null())
        .output()
        .map_err(|error| {
            let help = "install Rust by rustup, and see that rustc is in PATH";
            Failure::usage(format!("cannot run rustc: {error}"), help)
        })?;
    let directory = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    let has_core = std::fs::read_dir(&directory).is_ok_and(|mut files| {
        files.any(|file| file.is_ok_and(|f| f.file_name().to_string_lossy().starts_with("libcore")))
    });
    if has_core {
        return Ok(());
    }
    let help = format!("rustup target add {TARGET}");
    Err(Failure::usage(format!("the target {TARGET} is not installed"), help))
}

/// Runs cargo; returns the ELF file that it made.
fn cargo_build() -> Result<PathBuf, Failure> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let output = Command::new(cargo)
        .args(["build", "--quiet", "--release", "--package", PACKAGE, "--target", TARGET])
        .arg("--message-format=json-render-diagnostics")
        .current_dir(workspace)
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| Failure::usage(format!("cannot run cargo: {error}"), "see PATH"))?;
    if !output.status.success() {
        let help = "the compiler's messages are above";
        return Err(Failure::new(Exit::Usage, "the image does not build", help));
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let executable = messages.lines().rev().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(PathBuf::from(message.get("executable")?.as_str()?))
    });
    executable.ok_or_else(|| Failure::internal("cargo built the image and does not say where"))
}

/// The segments of an ELF file, each at its address: what objcopy calls binary.
fn flatten(elf: &[u8]) -> Result<Vec<u8>, Failure> {
    let broken = |what: String| Failure::internal(format!("the image's ELF file: {what}"));
    let file = object::File::parse(elf).map_err(|error| broken(error.to_string()))?;
    let mut flat = Vec::new();
    for segment in file.segments() {
        let data = segment.data().map_err(|error| broken(error.to_string()))?;
        let at = usize::try_from(segment.address()).map_err(|error| broken(error.to_string()))?;
        if data.is_empty() {
            continue;
        }
        if at > 1 << 26 {
            return Err(broken(format!("a segment at {at:#x}, and the image begins at 0")));
        }
        if flat.len() < at + data.len() {
            flat.resize(at + data.len(), 0);
        }
        flat[at..at + data.len()].copy_from_slice(data);
    }
    check_header(&flat).map_err(broken)?;
    Ok(flat)
}

/// Boot loaders look for these.
fn check_header(flat: &[u8]) -> Result<(), String> {
    if flat.get(MAGIC_AT..MAGIC_AT + MAGIC.len()) != Some(MAGIC) {
        return Err("it does not begin with the header of an arm64 image".to_owned());
    }
    let size = flat[SIZE_AT..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    if size < flat.len() as u64 {
        return Err(format!("its header says {size} bytes, and the file has {}", flat.len()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_image_is_refused() {
        assert!(flatten(b"no ELF file").is_err());
        let mut header = vec![0; 64];
        assert!(check_header(&header).unwrap_err().contains("header"));
        header[MAGIC_AT..MAGIC_AT + 4].copy_from_slice(MAGIC);
        assert!(check_header(&header).unwrap_err().contains("says 0 bytes"));
        header[SIZE_AT] = 64;
        assert_eq!(check_header(&header), Ok(()));
    }
}
