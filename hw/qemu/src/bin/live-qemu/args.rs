//! The command line.

use std::path::{Path, PathBuf};

use clap::Parser;
use kvmmu_qemu::{Exit, Failure};

use crate::kernels::{KERNELS, Kernel};
use crate::modes::Mode;

/// What `-h` prints: examples first.
const HELP: &str = "\
Boots real Linux kernels in QEMU, runs kvmmu-live in them, and holds their KVM to its promises.

Examples:
  cargo live-qemu                            every kernel and mode
  cargo live-qemu --quick                    5.10's legacy MMU, and arm64: what CI runs
  cargo live-qemu '5.10.223 npt=0' arm64     only what has all these words in its name
  cargo live-qemu x86-64 --trace traces      and record what the kernels' MMUs did
  cargo live-qemu --outcomes seen.jsonl      and run the scenarios that fit
  cargo live-qemu --steps steps              every store to page tables, for 'kvmmu steps'

Usage: cargo live-qemu [WORDS]... [OPTIONS]

Options:
  --quick           of what is selected, only what CI runs, with one dirty log and one control;
                    with --steps: two short runs
  --trace DIR       traces of x86 kernels, small and large, for 'kvmmu conform'
  --outcomes FILE   outcomes of scenarios, for 'kvmmu outcomes --compare'
  --scenarios DIR   with --outcomes: and the scenario files in DIR
  --times N         how often each of those runs (default 100)
  --steps DIR       only record every step of kernels' MMUs, one file a boot (docs/steps.md)
  --kernel IMAGE    with --steps: boot this one, an arm64 Image or an x86-64 bzImage
  --modules DIR     and this is where its kvm.ko, kvm-amd.ko and irqbypass.ko are, on x86
  --append WORDS    with --steps: and on the kernel's command line
  --schedule N      with --steps: another interleaving, 0 to 10 (default 3)
  --threads         with --steps: CPUs run at a time; what is recorded is not exact
  --guest           with --steps: and hold each access of guests against the page tables; slow
  --hold NAME       with --steps: hold a CPU there until another one is where the story goes on
  --broken NAME     with --steps: in a kernel that is broken so (any other word: what there is)
  --limit SECONDS   for one boot (default: each kernel's own, 150 to 200)
  -v                what the kernels print
Environment: KVMMU_CACHE, where kernels are kept (default target/kernels)
Exit: 0 as promised, 1 a page was lost, or a path ran that must not, or a negative control was not
  caught; 2 bad usage; 3 time limit, twice; 4 nothing selected or all skipped; 130 Ctrl-C";

/// The whole command line.
#[derive(Parser, Clone, Debug)]
#[command(name = "live-qemu", version, override_help = HELP)]
pub(crate) struct Args {
    /// Words that a mode's name must have; several: any of them
    pub(crate) filter: Vec<String>,
    /// One dirty log, one negative control
    #[arg(long)]
    pub(crate) quick: bool,
    /// Where traces go
    #[arg(long, value_name = "DIR")]
    pub(crate) trace: Option<PathBuf>,
    /// Where outcomes of scenarios go
    #[arg(long, value_name = "FILE")]
    pub(crate) outcomes: Option<PathBuf>,
    /// A directory of scenario files, to be run as well
    #[arg(long, value_name = "DIR", requires = "outcomes")]
    pub(crate) scenarios: Option<PathBuf>,
    /// How often each scenario runs
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub(crate) times: u32,
    /// Where recordings of every step go
    #[arg(long, value_name = "DIR", conflicts_with_all = ["trace", "outcomes"])]
    pub(crate) steps: Option<PathBuf>,
    /// A kernel's image, instead of those that are known
    #[arg(long, value_name = "IMAGE", requires = "steps")]
    pub(crate) kernel: Option<PathBuf>,
    /// Where its modules are
    #[arg(long, value_name = "DIR", requires = "kernel")]
    pub(crate) modules: Option<PathBuf>,
    /// Words for the kernel's command line
    #[arg(long, value_name = "WORDS", requires = "steps")]
    pub(crate) append: Option<String>,
    /// How CPUs take turns while steps are recorded
    #[arg(long, value_name = "N", default_value_t = 3, requires = "steps")]
    #[arg(value_parser = clap::value_parser!(u8).range(0..=10))]
    pub(crate) schedule: u8,
    /// CPUs run at a time while steps are recorded
    #[arg(long, requires = "steps", conflicts_with = "schedule")]
    pub(crate) threads: bool,
    /// Accesses of guests are held against the page tables
    #[arg(long, requires = "steps")]
    pub(crate) guest: bool,
    /// A place at which CPUs are held
    #[arg(long, value_name = "NAME", requires = "steps", conflicts_with = "threads")]
    pub(crate) hold: Option<String>,
    /// A kernel that is broken on purpose
    #[arg(long, value_name = "NAME", requires = "steps")]
    pub(crate) broken: Option<String>,
    /// Show what the kernels print
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// Where kernels are kept
    #[arg(long, hide = true, env = "KVMMU_CACHE")]
    pub(crate) cache: Option<PathBuf>,
    /// A kvmmu-live that is built already
    #[arg(long, hide = true, env = "KVMMU_LIVE_INIT")]
    pub(crate) init: Option<PathBuf>,
    /// Seconds for one boot, instead of each kernel's own
    #[arg(long, value_name = "SECONDS")]
    pub(crate) limit: Option<u64>,
}

impl Args {
    /// Where kernels are kept; it is made.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub(crate) fn cache(&self, target: &Path) -> Result<PathBuf, Failure> {
        let cache = self.cache.clone().unwrap_or_else(|| target.join("kernels"));
        std::fs::create_dir_all(&cache).map_err(|error| {
            let message = format!("cannot make {}: {error}", cache.display());
            Failure::usage(message, "set KVMMU_CACHE to a directory that can be written")
        })?;
        Ok(cache)
    }

    /// No kernel and mode has the words.
    pub(crate) fn nothing_selected(&self) -> Failure {
        let quick = if self.quick { " and is quick" } else { "" };
        Failure::new(
            Exit::Nothing,
            format!(
                "no kernel and mode is called like {}{quick}; there are\n  {}",
                self.filter.join(" or "),
                names().join("\n  ")
            ),
            "give words of one of these names, or nothing for all of them",
        )
    }

    /// The modes of a kernel that are selected.
    pub(crate) fn modes_of(&self, kernel: &Kernel) -> Vec<&'static Mode> {
        let selected = |mode: &&Mode| {
            let name = kernel.name_with(mode);
            let all = |words: &String| words.split_whitespace().all(|word| name.contains(word));
            // What is named is recorded, quickly.
            let named = self.steps.is_some() && !self.filter.is_empty();
            let quick = !self.quick || named || (kernel.quick && mode.quick);
            quick && (self.filter.is_empty() || self.filter.iter().any(all))
        };
        kernel.modes.iter().filter(selected).collect()
    }

    /// The scenario files that are run beside the built-in ones, in order of their names: name and
    /// text.
    pub(crate) fn scenario_files(&self) -> Result<Vec<(String, Vec<u8>)>, Failure> {
        let Some(directory) = &self.scenarios else { return Ok(Vec::new()) };
        let read = || {
            let mut files = Vec::new();
            for entry in std::fs::read_dir(directory)? {
                let path = entry?.path();
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if name.ends_with(".toml") && !name.contains(char::is_whitespace) {
                    files.push((name, std::fs::read(path)?));
                }
            }
            files.sort();
            Ok(files)
        };
        let files = read().map_err(|error: std::io::Error| {
            let message = format!("cannot read {}: {error}", directory.display());
            Failure::usage(message, "name a directory of scenario files")
        })?;
        match files.is_empty() {
            true => Err(Failure::usage(
                format!("{} has no scenario files", directory.display()),
                "'kvmmu outcomes --random 10 --emit DIR' makes some",
            )),
            false => Ok(files),
        }
    }

    /// Makes the places for output, and looks whether there is input, before anything is booted.
    pub(crate) fn prepare_outputs(&self) -> Result<(), Failure> {
        self.scenario_files()?;
        if let Some(directory) = &self.trace {
            std::fs::create_dir_all(directory).map_err(|error| {
                let message = format!("cannot make {}: {error}", directory.display());
                Failure::usage(message, "name another directory")
            })?;
        }
        if let Some(file) = &self.outcomes {
            std::fs::write(file, "").map_err(|error| {
                let message = format!("cannot write {}: {error}", file.display());
                Failure::usage(message, "name another file")
            })?;
        }
        Ok(())
    }
}

/// The names of all kernels with their modes.
pub(crate) fn names() -> Vec<String> {
    let of = |kernel: &'static Kernel| kernel.modes.iter().map(|mode| kernel.name_with(mode));
    KERNELS.iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(args: &[&str]) -> Vec<String> {
        let args = Args::parse_from([&["live-qemu"], args].concat());
        let of = |kernel: &'static Kernel| {
            let modes = args.modes_of(kernel);
            modes.into_iter().map(|mode| kernel.name_with(mode)).collect::<Vec<_>>()
        };
        KERNELS.iter().flat_map(of).collect()
    }

    #[test]
    fn words_select() {
        use clap::CommandFactory;
        Args::command().debug_assert();
        assert_eq!(selected(&[]).len(), names().len());
        assert_eq!(selected(&["no-such"]).len(), 0);
        assert_eq!(selected(&["5.10.223 npt=0 unpaged"]), ["x86-64 5.10.223 npt=0 unpaged guest"]);
        assert_eq!(selected(&["--quick"]), ["x86-64 5.10.223 npt=1 tdp_mmu=0", "arm64 6.1.176"]);
        let tdp = ["--quick", "--steps", "d", "6.1 tdp_mmu=1"];
        assert_eq!(selected(&tdp), ["x86-64 6.1.176 npt=1 tdp_mmu=1"]);
        assert_eq!(selected(&["--quick", "x86"]), ["x86-64 5.10.223 npt=1 tdp_mmu=0"]);
    }

    #[test]
    fn a_directory_without_scenario_files_is_refused() {
        let of = |directory: &str| {
            let words = ["live-qemu", "--outcomes", "seen.jsonl", "--scenarios", directory];
            Args::parse_from(words).scenario_files()
        };
        let root = env!("CARGO_MANIFEST_DIR");
        assert!(of(&format!("{root}/no-such")).unwrap_err().to_string().contains("cannot read"));
        assert!(of(&format!("{root}/src")).unwrap_err().to_string().contains("no scenario files"));
        let files = of(&format!("{root}/../../scenarios")).unwrap();
        assert!(files.iter().any(|(name, text)| name == "canary.toml" && !text.is_empty()));
        assert!(Args::try_parse_from(["live-qemu", "--scenarios", root]).is_err());
    }
}
