//! Packages of kernels, and of a later QEMU: by apt-get and dpkg, from where this system gets its
//! own packages, checked by hash and kept.
//!
//! Nothing of this system's package state is touched: the lists are private. The address of the
//! archive is the one that apt is configured with; the archive's own keyring vouches for the lists,
//! and the hash for the package.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use kvmmu_qemu::{End, Exit, Failure, Launch, Said, Step};
use sha2::{Digest, Sha256};

use crate::kernels::{Arch, Kernel};

/// The keyring that vouches for Debian's archive.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// How long one call of a package tool may take.
const LIMIT: Duration = Duration::from_secs(180);
/// The modules that are loaded, in this order.
pub(crate) const MODULES: &[&str] = &["irqbypass", "kvm", "kvm-amd"];

/// A package of Debian, pinned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Package {
    /// Its name.
    pub(crate) name: &'static str,
    /// Its version.
    pub(crate) version: &'static str,
    /// The release of Debian that has it.
    pub(crate) suite: &'static str,
    /// The architecture, as Debian names it.
    pub(crate) arch: &'static str,
    /// Its hash.
    pub(crate) sha256: &'static str,
}

/// A kernel, unpacked.
#[derive(Debug)]
pub(crate) struct Unpacked {
    /// What QEMU boots.
    pub(crate) vmlinuz: PathBuf,
    /// Modules: name and file, in the order in which they are loaded. None on arm64, where KVM is
    /// built in.
    pub(crate) modules: Vec<(String, PathBuf)>,
}

/// The kernel from the cache, or fetched.
///
/// # Errors
///
/// When it cannot be had: the caller skips it and says why.
pub(crate) fn fetch(kernel: &Kernel, cache: &Path) -> Result<Unpacked, Failure> {
    let directory = cache.join(&kernel.package.sha256[..16]);
    if let Some(unpacked) = look(kernel, &directory) {
        return Ok(unpacked);
    }
    unpack(&[kernel.package], cache, &directory, |root, to| keep(kernel, root, to))?;
    look(kernel, &directory).ok_or_else(|| {
        Failure::usage(format!("{} has no kernel in it", kernel.package.name), "report this")
    })
}

/// Fetches packages of one release, all of which are needed, and unpacks them; `keep` puts what is
/// needed of them into a directory, which is then `to`.
///
/// # Errors
///
/// When they cannot be had.
pub(crate) fn unpack(
    packages: &[Package],
    cache: &Path,
    to: &Path,
    keep: impl FnOnce(&Path, &Path) -> io::Result<()>,
) -> Result<(), Failure> {
    // Others may fetch the same: each in a place of its own, and the last step is one rename.
    let work = cache.join(format!("fetch-{}", std::process::id()));
    let unpacked = unpack_into(packages, &work).and_then(|root| {
        let kept = work.join("kept");
        let moved = || {
            fs::create_dir_all(&kept)?;
            keep(&root, &kept)?;
            match fs::rename(&kept, to) {
                // Somebody else was faster.
                Err(_) if to.is_dir() => Ok(()),
                other => other,
            }
        };
        moved().map_err(|error| unreadable(to, &error))
    });
    let _ = fs::remove_dir_all(&work);
    unpacked
}

/// What an unpacked kernel's directory has; `None`: not all of it.
fn look(kernel: &Kernel, directory: &Path) -> Option<Unpacked> {
    let vmlinuz = Some(directory.join("vmlinuz")).filter(|file| file.is_file())?;
    let names = if kernel.arch == Arch::X86 { MODULES } else { &[] };
    let module = |name: &&'static str| {
        let file = directory.join(format!("{name}.ko"));
        file.is_file().then_some(((*name).to_owned(), file))
    };
    Some(Unpacked { vmlinuz, modules: names.iter().map(module).collect::<Option<_>>()? })
}

/// Fetches them; returns where they are unpacked.
fn unpack_into(packages: &[Package], work: &Path) -> Result<PathBuf, Failure> {
    let root = work.join("root");
    let Some(first) = packages.first() else { return Ok(root) };
    let site = site()?;
    let lists = Lists::new(*first, work, &site)?;
    lists.apt(&["-qq", "update"])?;
    for package in packages {
        let Package { name, version, arch, sha256: pinned, .. } = package;
        eprintln!("fetching {name} {version}");
        lists.apt(&["-qq", "download", &format!("{name}:{arch}={version}")])?;
        let prefix = format!("{name}_");
        let is_it = |leaf: &str| leaf.starts_with(&prefix) && leaf.ends_with(".deb");
        let file = find(work, &is_it).ok_or_else(|| {
            let message = format!("apt-get did not leave {name}");
            Failure::usage(message, "run 'apt-get update' and try again")
        })?;
        let hash = sha256(&file).map_err(|error| unreadable(&file, &error))?;
        if hash != *pinned {
            return Err(Failure::new(
                Exit::Refused,
                format!("{name} has the hash {hash}, not the pinned {pinned}"),
                "the archive has another package by this name: pin the new hash after a look at it",
            ));
        }
        let mut dpkg = Command::new("dpkg");
        dpkg.arg("-x").arg(&file).arg(&root);
        tool(dpkg, "dpkg")?;
    }
    Ok(root)
}

/// Keeps what is booted.
fn keep(kernel: &Kernel, root: &Path, to: &Path) -> io::Result<()> {
    let missing = || io::Error::new(io::ErrorKind::NotFound, "the package has no such file");
    let vmlinuz = find(&root.join("boot"), &|name| name.starts_with("vmlinuz-"));
    fs::copy(vmlinuz.ok_or_else(missing)?, to.join("vmlinuz"))?;
    if kernel.arch == Arch::X86 {
        for module in MODULES {
            let name = format!("{module}.ko");
            let file = find(&root.join("lib"), &|leaf| leaf == name).ok_or_else(missing)?;
            fs::copy(file, to.join(name))?;
        }
    }
    Ok(())
}

/// Private package lists.
struct Lists {
    package: Package,
    work: PathBuf,
}

impl Lists {
    /// Those of the release and the architecture of a package.
    fn new(package: Package, work: &Path, site: &str) -> Result<Lists, Failure> {
        // apt wants absolute paths.
        let make = || {
            for directory in ["lists/partial", "archives/partial"] {
                fs::create_dir_all(work.join(directory))?;
            }
            let work = fs::canonicalize(work)?;
            let Package { arch, suite, .. } = package;
            let source = format!("deb [arch={arch} signed-by={KEYRING}] {site} {suite} main\n");
            fs::write(work.join("sources.list"), source)?;
            Ok(work)
        };
        let work = make().map_err(|error| unreadable(work, &error))?;
        Ok(Lists { package, work })
    }

    /// Runs apt-get with them.
    fn apt(&self, arguments: &[&str]) -> Result<(), Failure> {
        let Package { name, version, suite, arch, .. } = self.package;
        let path = |leaf: &str| self.work.join(leaf).display().to_string();
        let options = [
            format!("Dir::Etc::sourcelist={}", path("sources.list")),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            format!("Dir::State::lists={}", path("lists")),
            "Dir::State::status=/dev/null".to_owned(),
            format!("Dir::Cache={}", path("")),
            format!("Dir::Cache::archives={}", path("archives")),
            format!("APT::Architecture={arch}"),
            format!("APT::Architectures={arch}"),
            "APT::Sandbox::User=".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            "Acquire::Retries=3".to_owned(),
            "Acquire::http::Timeout=30".to_owned(),
        ];
        let mut command = Command::new("apt-get");
        command.current_dir(&self.work);
        for option in options {
            command.args(["-o", &option]);
        }
        command.args(arguments);
        tool(command, "apt-get").map_err(|failure| {
            if failure.exit != Exit::Usage {
                return failure;
            }
            let message = format!("{name} {version} of {suite} cannot be had: {}", failure.message);
            Failure::usage(message, "see whether this machine reaches its package archive")
        })
    }
}

/// Where this system gets Debian's packages from.
fn site() -> Result<String, Failure> {
    if !Path::new(KEYRING).is_file() {
        let message = format!("there is no {KEYRING}: this is no Debian");
        return Err(Failure::usage(message, "apt-get install debian-archive-keyring"));
    }
    let mut command = Command::new("apt-get");
    // LABEL tells the archive itself from the security updates.
    command.args(["indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(SITE)"]);
    command.arg("Created-By: Packages");
    let mut found = None;
    output(command, "apt-get", |line| {
        if let Some(site) = line.strip_prefix("Debian|Debian|") {
            found.get_or_insert_with(|| site.to_owned());
        }
    })?;
    found.ok_or_else(|| {
        let message = "apt has no lists of a Debian archive";
        Failure::usage(message, "apt-get update, on a Debian system")
    })
}

/// Runs a tool that must succeed.
fn tool(command: Command, name: &str) -> Result<(), Failure> {
    output(command, name, |_| ())
}

/// The same, with the lines of its output.
fn output(mut command: Command, name: &str, mut on: impl FnMut(&str)) -> Result<(), Failure> {
    command.env("LC_ALL", "C");
    let mut complaint = String::new();
    let end = Launch::new(command, LIMIT).run::<()>(|said| {
        match said {
            Said::Line(line) => on(line),
            Said::Error(line) if !line.starts_with("W:") => line.clone_into(&mut complaint),
            _ => {}
        }
        Step::Go
    })?;
    match end {
        End::Exited(status) if status.success() => Ok(()),
        End::Exited(_) => {
            let complaint = complaint.trim_start_matches("E: ").to_owned();
            Err(Failure::usage(complaint, format!("run {name} by hand")))
        }
        End::Interrupted => Err(Failure::interrupted()),
        End::TimedOut | End::Verdict(()) => {
            let message = format!("{name} took longer than {LIMIT:?}");
            Err(Failure::usage(message, "see whether this machine reaches its package archive"))
        }
    }
}

/// The first file below `directory` whose name will do.
pub(crate) fn find(directory: &Path, wanted: &dyn Fn(&str) -> bool) -> Option<PathBuf> {
    let mut entries: Vec<_> = fs::read_dir(directory).ok()?.flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    entries.into_iter().find_map(|entry| {
        let kind = entry.file_type().ok()?;
        if kind.is_dir() {
            return find(&entry.path(), wanted);
        }
        (kind.is_file() && wanted(&entry.file_name().to_string_lossy())).then(|| entry.path())
    })
}

fn sha256(file: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut file = fs::File::open(file)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::usage(format!("{}: {error}", path.display()), "make room, or set KVMMU_CACHE")
}
