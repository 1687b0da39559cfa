//! Programs that must be installed, and their versions.

use std::ffi::OsStr;
use std::fmt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::exit::{Exit, Failure};
use crate::launch::{End, Launch, Said, Step};

/// Emulates x86-64 with SVM and nested paging.
pub const QEMU_X86_64: Need =
    Need { name: "qemu-system-x86_64", package: "qemu-system-x86", least: Version(7, 2) };
/// Emulates arm64 with EL2.
pub const QEMU_AARCH64: Need =
    Need { name: "qemu-system-aarch64", package: "qemu-system-arm", least: Version(7, 2) };

/// How long `--version` may take.
const VERSION_LIMIT: Duration = Duration::from_secs(20);

/// A program that must be installed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Need {
    /// Its name, or its path.
    pub name: &'static str,
    /// The Debian package that has it.
    pub package: &'static str,
    /// The least version that is known to work.
    pub least: Version,
}

/// A version: major and minor.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Version(pub u16, pub u16);

/// A program that is there, of a version that will do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Program {
    /// Its path.
    pub path: PathBuf,
    /// Its version.
    pub version: Version,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

impl Program {
    /// A command that runs it.
    pub fn command(&self) -> Command {
        Command::new(&self.path)
    }
}

impl Need {
    /// Finds it in PATH and asks for its version.
    ///
    /// # Errors
    ///
    /// [`Exit::Usage`] when it is not installed or does not run, [`Exit::Refused`] when it is too
    /// old or tells no version.
    pub fn find(&self) -> Result<Program, Failure> {
        let path = which(self.name, std::env::var_os("PATH").as_deref()).ok_or_else(|| {
            Failure::usage(format!("{} is not installed", self.name), self.install())
        })?;
        let text = first_line(&path)?;
        let version = parse(&text).ok_or_else(|| {
            let message = format!("{} --version says '{text}', no version", path.display());
            Failure::new(Exit::Refused, message, self.install())
        })?;
        if version < self.least {
            let message =
                format!("{} is version {version}; {} is needed", path.display(), self.least);
            return Err(Failure::new(Exit::Refused, message, self.install()));
        }
        Ok(Program { path, version })
    }

    fn install(&self) -> String {
        format!("apt-get install {} (version {} or later)", self.package, self.least)
    }
}

/// The file that `name` stands for.
pub fn which(name: &str, path: Option<&OsStr>) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;

    let runs = |file: &PathBuf| {
        file.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    };
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(runs);
    }
    std::env::split_paths(path?).map(|directory| directory.join(name)).find(runs)
}

/// The first line of what `--version` prints.
fn first_line(path: &PathBuf) -> Result<String, Failure> {
    let mut command = Command::new(path);
    command.arg("--version");
    let mut first = String::new();
    let end = Launch::new(command, VERSION_LIMIT).run::<()>(|said| {
        if let (Said::Line(line), true) = (said, first.is_empty()) {
            line.clone_into(&mut first);
        }
        Step::Go
    })?;
    match end {
        End::Exited(status) if status.success() => Ok(first),
        End::Interrupted => Err(Failure::interrupted()),
        End::Exited(status) => Err(Failure::usage(
            format!("{} --version failed: {status}", path.display()),
            "run it by hand to see why",
        )),
        End::TimedOut | End::Verdict(()) => Err(Failure::new(
            Exit::Bound,
            format!("{} --version hung", path.display()),
            "run it by hand to see why",
        )),
    }
}

/// The first `N.N` in a text.
fn parse(text: &str) -> Option<Version> {
    text.split(|c: char| !c.is_ascii_digit() && c != '.').find_map(|word| {
        let mut numbers = word.split('.').map(str::parse::<u16>);
        Some(Version(numbers.next()?.ok()?, numbers.next()?.ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_real_programs() {
        let debian = "QEMU emulator version 7.2.17 (Debian 1:7.2+dfsg-7+deb12u13)";
        assert_eq!(parse(debian), Some(Version(7, 2)));
        assert_eq!(parse("QEMU emulator version 10.0.2"), Some(Version(10, 0)));
        assert_eq!(parse("no version here"), None);
        assert_eq!(parse("99999.1 is no version, 3.1 is"), Some(Version(3, 1)));
        assert!(Version(7, 2) < Version(10, 0));
    }

    #[test]
    fn a_program_that_is_not_there_is_named_with_its_package() {
        let need = Need { name: "qemu-system-pdp11", ..QEMU_X86_64 };
        let failure = need.find().unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.message.contains("qemu-system-pdp11 is not installed"), "{failure}");
        assert!(failure.help.contains("apt-get install qemu-system-x86"), "{failure}");
    }

    #[test]
    fn a_program_without_version_or_too_old_is_refused() {
        // `true --version` is that of coreutils, 8 or 9; `false` says the same and fails.
        let need = Need { name: "true", package: "coreutils", least: Version(1000, 0) };
        let failure = need.find().unwrap_err();
        assert_eq!(failure.exit, Exit::Refused, "{failure}");
        assert!(failure.message.contains("1000.0 is needed"), "{failure}");
        assert!(Need { name: "false", ..need }.find().is_err());
    }
}
