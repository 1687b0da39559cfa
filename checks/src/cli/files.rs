//! Files that the command writes: to a temporary file in the same directory, then renamed.
//!
//! Guarantee: where there is no room, the old file stays as it is, and there is no half of a new
//! one. A symbolic link stays one: what it leads to is written.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

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
    let replaced = match existing {
        Existing::Replace => target(path)?,
        Existing::Keep => path.to_owned(),
    };
    let path = replaced.as_path();
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

/// As many as Linux follows.
const LINKS_MAX: usize = 40;

/// The file that `path` leads to through symbolic links, which need not be there.
fn target(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        let Ok(link) = fs::read_link(&path) else { break };
        // An absolute link takes the place of everything before it.
        path = path.parent().unwrap_or(Path::new("")).join(link);
    }
    match fs::metadata(&path) {
        // A new file in the place of a device would take it away from all.
        Ok(there) if !there.is_file() && !there.is_dir() => {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"))
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(path),
    }
}
