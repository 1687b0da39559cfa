//! The file system that a kernel boots into: `/init`, its jobs, and modules.

use std::fs;
use std::io;
use std::path::Path;

use cpio::newc::{Builder, ModeFileType, trailer};

use crate::packages::Unpacked;

/// Writes it to `to`.
pub(crate) fn write(
    to: &Path,
    init: &Path,
    jobs: &str,
    scenarios: &[(String, Vec<u8>)],
    kernel: &Unpacked,
) -> io::Result<()> {
    let mut archive = Archive { bytes: Vec::new(), next: 1 };
    for directory in ["dev", "m", "s"] {
        let entry = archive.entry(directory, 0o755, ModeFileType::Directory);
        archive.add(entry, &[])?;
    }
    // What the kernel opens for /init before anything is mounted.
    let console = archive.entry("dev/console", 0o600, ModeFileType::Char);
    archive.add(console.rdev_major(5).rdev_minor(1), &[])?;
    archive.file("init", 0o755, &fs::read(init)?)?;
    archive.file("jobs", 0o644, jobs.as_bytes())?;
    for (name, file) in &kernel.modules {
        archive.file(&format!("m/{name}.ko"), 0o644, &fs::read(file)?)?;
    }
    for (name, text) in scenarios {
        archive.file(&format!("s/{name}"), 0o644, text)?;
    }
    fs::write(to, trailer(archive.bytes)?)
}

struct Archive {
    bytes: Vec<u8>,
    next: u32,
}

impl Archive {
    fn entry(&mut self, name: &str, mode: u32, kind: ModeFileType) -> Builder {
        let entry = Builder::new(name).ino(self.next).mode(mode).set_mode_file_type(kind);
        self.next += 1;
        entry
    }

    fn file(&mut self, name: &str, mode: u32, contents: &[u8]) -> io::Result<()> {
        let entry = self.entry(name, mode, ModeFileType::Regular);
        self.add(entry, contents)
    }

    fn add(&mut self, entry: Builder, contents: &[u8]) -> io::Result<()> {
        let size = u32::try_from(contents.len()).map_err(io::Error::other)?;
        let mut writer = entry.write(&mut self.bytes, size);
        io::Write::write_all(&mut writer, contents)?;
        writer.finish().map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let directory = std::env::temp_dir().join(format!("kvmmu-cpio-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let (init, to) = (directory.join("program"), directory.join("cpio"));
        fs::write(&init, "a program").unwrap();
        let kernel =
            Unpacked { vmlinuz: "none".into(), modules: vec![("kvm".into(), init.clone())] };
        let scenarios = [("a.toml".to_owned(), b"text".to_vec())];
        write(&to, &init, "info\n", &scenarios, &kernel).unwrap();
        let bytes = fs::read(&to).unwrap();
        fs::remove_dir_all(&directory).unwrap();
        let mut rest = bytes.as_slice();
        let mut names = Vec::new();
        loop {
            let reader = cpio::newc::Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            names.push(format!("{} {}", reader.entry().name(), reader.entry().file_size()));
            rest = reader.finish().unwrap();
        }
        let expected = [
            "dev 0",
            "m 0",
            "s 0",
            "dev/console 0",
            "init 9",
            "jobs 5",
            "m/kvm.ko 9",
            "s/a.toml 4",
        ];
        assert_eq!(names, expected);
    }
}
