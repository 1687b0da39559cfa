//! Files that the command writes: beside their place first, and then put there as a whole.
//!
//! Guarantee: where there is no room, the old file stays as it is, and there is no half of a new
//! one.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

/// What happens to a file that is there already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Existing {
    /// The new one takes its place.
    Replace,
    /// It stays, and that is an error.
    Keep,
}

/// Writes a file, and the directories that lead to it.
///
/// # Errors
///
/// Those of the system, and [`io::ErrorKind::AlreadyExists`].
pub fn write(path: &Path, text: &str, existing: Existing) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    let mut beside = tempfile::Builder::new();
    beside.prefix(".kvmmu-");
    // As of any new file, but for what umask takes.
    #[cfg(unix)]
    beside.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = beside.tempfile_in(directory)?;
    file.as_file_mut().write_all(text.as_bytes())?;
    match file.as_file().sync_all() {
        // Not everything that looks like a disk is one.
        Err(error) if error.kind() != io::ErrorKind::InvalidInput => return Err(error),
        _ => {}
    }
    let put = match existing {
        Existing::Replace => file.persist(path),
        Existing::Keep => file.persist_noclobber(path),
    };
    put.map(|_| ()).map_err(|error| error.error)
}
