//! What `--steps` boots: a pinned kernel, or the user's own image.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use kvmmu_qemu::Failure;

use crate::args::Args;
use crate::kernels::{Arch, KERNELS, Kernel};
use crate::modes::{self, Mode};
use crate::packages::{self, MODULES, Unpacked};

/// How long a boot of an unknown kernel may take, in seconds.
const LIMIT_S: u64 = 300;

/// A kernel to boot.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    kernel: Which,
    /// How KVM is set.
    pub(crate) mode: &'static Mode,
}

/// Which kernel.
#[derive(Clone, Debug)]
enum Which {
    /// A pinned one.
    Pinned(&'static Kernel),
    /// The user's: the image, and where its modules are.
    Own(Arch, PathBuf, Option<PathBuf>),
}

impl Subject {
    /// Those that are selected: each in the modes that words name, and in its first one where words
    /// name the kernel alone.
    ///
    /// # Errors
    ///
    /// When the user's image is none.
    pub(crate) fn selected(args: &Args) -> Result<Vec<Subject>, Failure> {
        let mut all = Vec::new();
        let has = |words: &&String, name: &str| words.split(' ').all(|word| name.contains(word));
        // `of` are the modes that may be selected, by name.
        let mut add = |kernel: Which, name: &str, of: Vec<&'static Mode>| {
            let (plain, more): (Vec<&String>, Vec<&String>) =
                args.filter.iter().partition(|words| has(words, name));
            let first = args.filter.is_empty() || !plain.is_empty();
            let named = |i: usize, mode: &Mode| {
                let full = format!("{name} {}", mode.name);
                i == 0 && first || more.iter().any(|words| has(words, &full))
            };
            let modes = of.into_iter().enumerate().filter(|(i, mode)| named(*i, mode));
            all.extend(modes.map(|(_, mode)| Subject { kernel: kernel.clone(), mode }));
        };
        if let Some(image) = &args.kernel {
            let arch = arch_of(image)?;
            let modes = match arch {
                Arch::Arm64 => modes::ARM64,
                Arch::X86 => modes::X86,
            };
            let own = Which::Own(arch, image.clone(), args.modules.clone());
            add(own, arch.name(), modes.iter().collect());
        } else {
            for kernel in KERNELS {
                // The first of those that '--quick' leaves is the first of all, or there is none.
                let modes = args.modes_of(kernel);
                let all: Vec<_> = kernel.modes.iter().collect();
                let of = if modes.is_empty() { Vec::new() } else { all };
                add(Which::Pinned(kernel), &kernel.name(), of);
            }
        }
        Ok(all)
    }

    /// Its name in messages.
    pub(crate) fn name(&self) -> String {
        let kernel = match &self.kernel {
            Which::Pinned(kernel) => kernel.name(),
            Which::Own(arch, image, _) => format!("{} {}", arch.name(), image.display()),
        };
        match self.mode.short {
            "" => kernel,
            _ => format!("{kernel} {}", self.mode.name),
        }
    }

    /// Its name in files.
    pub(crate) fn file_name(&self) -> String {
        let kernel = match &self.kernel {
            Which::Pinned(kernel) => format!("{}-{}", kernel.arch.name(), kernel.version),
            Which::Own(arch, image, _) => {
                let name = image.file_name().unwrap_or_default().to_string_lossy();
                let plain = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
                let name: String = name.chars().map(|c| if plain(c) { c } else { '_' }).collect();
                format!("{}-{name}", arch.name())
            }
        };
        format!("{kernel}{}", self.mode.short)
    }

    /// Its architecture.
    pub(crate) fn arch(&self) -> Arch {
        match &self.kernel {
            Which::Pinned(kernel) => kernel.arch,
            Which::Own(arch, ..) => *arch,
        }
    }

    /// How long its boot may take, in seconds.
    pub(crate) fn limit_s(&self) -> u64 {
        match &self.kernel {
            Which::Pinned(kernel) => kernel.limit_s,
            Which::Own(..) => LIMIT_S,
        }
    }

    /// Its files.
    ///
    /// # Errors
    ///
    /// When they cannot be had.
    pub(crate) fn unpacked(&self, cache: &Path) -> Result<Unpacked, Failure> {
        let (arch, image, directory) = match &self.kernel {
            Which::Pinned(kernel) => return packages::fetch(kernel, cache),
            Which::Own(arch, image, directory) => (*arch, image, directory),
        };
        let mut modules = Vec::new();
        if arch == Arch::X86 {
            let directory = directory.as_ref().ok_or_else(|| {
                let message = format!("where are the modules of {}?", image.display());
                let help = "name a directory that has kvm.ko, kvm-amd.ko and what they need in it \
                            or below it: --modules DIR";
                Failure::usage(message, help)
            })?;
            for module in MODULES {
                add(&[*module], directory, &mut modules)?;
            }
        }
        Ok(Unpacked { vmlinuz: image.clone(), modules })
    }
}

/// Adds the last of these modules, each of which needs the next one, after what it needs itself.
/// Each is added once.
fn add(
    chain: &[&str],
    directory: &Path,
    modules: &mut Vec<(String, PathBuf)>,
) -> Result<(), Failure> {
    // A file may have a dash where the module's name has none.
    let plain = |name: &str| name.replace('-', "_");
    let Some((&name, before)) = chain.split_last() else { return Ok(()) };
    if before.iter().any(|other| plain(other) == plain(name)) {
        let message = format!("modules need each other: {}", chain.join(", "));
        return Err(Failure::usage(message, "name the modules of one kernel"));
    }
    if modules.iter().any(|(known, _)| plain(known) == plain(name)) {
        return Ok(());
    }
    let is = |leaf: &str| leaf.strip_suffix(".ko").is_some_and(|leaf| plain(leaf) == plain(name));
    let missing = |error: &str| {
        let message = format!("there is no {name}.ko in {}{error}", directory.display());
        Failure::usage(message, "unpack it, if it is compressed (.ko.xz, .ko.zst)")
    };
    let file = packages::find(directory, &is).ok_or_else(|| missing(""))?;
    let bytes = fs::read(&file).map_err(|error| missing(&format!(" that can be read: {error}")))?;
    for needed in needs(&bytes) {
        add(&[chain, &[needed.as_str()]].concat(), directory, modules)?;
    }
    modules.push((name.to_owned(), file));
    Ok(())
}

/// The modules that a module needs: `depends=` of its section .modinfo.
fn needs(module: &[u8]) -> Vec<String> {
    let key = b"\0depends=";
    let Some(at) = module.windows(key.len()).position(|window| window == key) else {
        return Vec::new();
    };
    let text = module[at + key.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let names = String::from_utf8_lossy(text);
    names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// The architecture of a kernel's image: that of an arm64 `Image`, or of a `bzImage`.
fn arch_of(image: &Path) -> Result<Arch, Failure> {
    let bad = |why: String| {
        let message = format!("{}: {why}", image.display());
        Failure::usage(message, "name an arm64 Image (not compressed) or an x86-64 bzImage")
    };
    let read = || -> std::io::Result<Vec<u8>> {
        let mut head = Vec::new();
        if !fs::metadata(image)?.is_file() {
            return Err(std::io::Error::other("no file"));
        }
        File::open(image)?.take(0x210).read_to_end(&mut head)?;
        Ok(head)
    };
    let head = read().map_err(|error| bad(error.to_string()))?;
    match (head.get(56..60), head.get(0x202..0x206)) {
        (Some(b"ARM\x64"), _) => Ok(Arch::Arm64),
        (_, Some(b"HdrS")) => Ok(Arch::X86),
        _ => Err(bad("it is no kernel that is known".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvmmu_qemu::Exit;

    #[test]
    fn images_are_told_by_their_heads() {
        let directory = std::env::temp_dir().join(format!("kvmmu-images-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let write = |name: &str, at: usize, magic: &[u8]| {
            let mut bytes = vec![0; 0x300];
            bytes[at..at + magic.len()].copy_from_slice(magic);
            let path = directory.join(name);
            fs::write(&path, bytes).unwrap();
            path
        };
        assert_eq!(arch_of(&write("Image", 56, b"ARM\x64")).unwrap(), Arch::Arm64);
        assert_eq!(arch_of(&write("bzImage", 0x202, b"HdrS")).unwrap(), Arch::X86);
        for bad in [write("text", 0, b"hello"), directory.join("missing"), directory.clone()] {
            let failure = arch_of(&bad).unwrap_err();
            assert_eq!(failure.exit, Exit::Usage, "{failure}");
        }
        let kernel = Which::Own(Arch::X86, directory.join("bzImage"), Some(directory.clone()));
        let own = Subject { kernel, mode: &modes::LEGACY };
        let failure = own.unpacked(&directory).unwrap_err();
        assert!(failure.message.contains("irqbypass.ko"), "{failure}");
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn words_select_how_kvm_is_set() {
        use clap::Parser;
        let names = |words: &[&str]| {
            let args = Args::parse_from([&["live-qemu", "--steps", "d"], words].concat());
            let subjects = Subject::selected(&args).unwrap();
            subjects.iter().map(Subject::file_name).collect::<Vec<_>>()
        };
        let plain = ["x86-64-5.10.223", "x86-64-6.1.176", "arm64-6.1.176", "arm64-5.10.223"];
        assert_eq!(names(&[]), plain);
        assert_eq!(names(&["x86-64"]), plain[..2]);
        assert_eq!(names(&["6.1 tdp_mmu=1"]), ["x86-64-6.1.176-tdp"]);
        let both = ["x86-64-5.10.223-unpaged", "x86-64-5.10.223-shadow"];
        assert_eq!(names(&["5.10 npt=0"]), both);
        assert_eq!(names(&["5.10.223 npt=1", "5.10.223 npt=0"]).len(), 4, "all that there are");
        assert_eq!(names(&["x86-64 6.1", "6.1 npt=0"]).len(), 3, "the first one, and two");
        assert_eq!(names(&["--quick"]), ["x86-64-5.10.223", "arm64-6.1.176"]);
        assert!(names(&["no-such"]).is_empty());
    }

    #[test]
    fn modules_say_what_they_need() {
        assert_eq!(needs(b"x\0depends=kvm,irqbypass\0y"), ["kvm", "irqbypass"]);
        assert!(needs(b"x\0depends=\0y").is_empty());
        assert!(needs(b"nothing").is_empty());
    }

    #[test]
    fn modules_come_after_what_they_need() {
        let directory = std::env::temp_dir().join(format!("kvmmu-modules-{}", std::process::id()));
        fs::create_dir_all(directory.join("deep")).unwrap();
        let write = |name: &str, needs: &str| {
            fs::write(directory.join(name), format!("\0depends={needs}\0")).unwrap();
        };
        write("irqbypass.ko", "");
        write("kvm.ko", "irqbypass");
        write("kvm-amd.ko", "kvm,ccp");
        write("deep/ccp.ko", "");
        let kernel = Which::Own(Arch::X86, directory.join("vmlinuz"), Some(directory.clone()));
        let own = Subject { kernel, mode: &modes::LEGACY };
        let unpacked = own.unpacked(&directory).unwrap();
        let names: Vec<&str> = unpacked.modules.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["irqbypass", "kvm", "ccp", "kvm-amd"]);
        write("irqbypass.ko", "kvm");
        let failure = own.unpacked(&directory).unwrap_err();
        assert!(failure.message.contains("irqbypass, kvm, irqbypass"), "{failure}");
        fs::remove_dir_all(&directory).unwrap();
    }
}
