//! One kernel, booted: all its modes in one boot, and once more if that fails for reasons of its
//! own.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;
use kvmmu_qemu::{End, Exit, Failure, Launch, Said, Step};

use crate::args::Args;
use crate::build;
use crate::initramfs;
use crate::kernels::{Arch, Kernel};
use crate::modes::{Mode, jobs};
use crate::packages::{self, Unpacked};
use crate::qemu10::{self, Qemu};
use crate::watch::Watch;

/// Boots of one kernel, at most.
const BOOTS_MAX: u32 = 2;
/// More time where more is asked for than the table needs.
const EXTRA: Duration = Duration::from_secs(300);

/// What came of a kernel.
#[derive(Debug)]
pub(crate) struct Booted {
    /// What it said in the last boot.
    pub(crate) watch: Watch,
    /// Boots that were repeated: infrastructure.
    pub(crate) repeated: u32,
}

/// Boots it.
///
/// # Errors
///
/// [`Exit::Usage`] and [`Exit::Refused`] when something that is needed is missing (the kernel is
/// skipped then), [`Exit::Bound`] when no boot came to an end.
pub(crate) fn boot(kernel: &Kernel, modes: &[&Mode], args: &Args) -> Result<Booted, Failure> {
    let target = build::workspace().join("target");
    let cache = args.cache(&target)?;
    let qemu = qemu10::any(kernel.arch, &cache)?;
    let unpacked = packages::fetch(kernel, &cache)?;
    let init = match &args.init {
        Some(init) => init.clone(),
        None => build::kvmmu_live(kernel.arch, &target)?,
    };
    let scratch = Scratch::new(&cache)?;
    let scenarios = args.scenario_files()?;
    let jobs = jobs(kernel, modes, args, &scenarios);
    let archive = scratch.0.join("initramfs.cpio");
    let written = initramfs::write(&archive, &init, &jobs, &scenarios, &unpacked);
    written.map_err(|e| unwritable(&archive, &e))?;
    let mut repeated = 0;
    loop {
        let sent = scratch.0.join("out.tgz");
        eprintln!("booting {}: {} modes", kernel.name(), modes.len());
        let command = machine(kernel, &qemu, &unpacked, &archive, &sent);
        let begin = Instant::now();
        let (watch, timed_out) = watch(kernel, (&qemu, command), args)?;
        eprintln!("{} ended after {} s", kernel.name(), begin.elapsed().as_secs());
        let again = timed_out || watch.is_infrastructure();
        if again && repeated + 1 < BOOTS_MAX {
            let why = watch.failures.first().map_or("it did not end", |(_, text)| text.as_str());
            eprintln!("booting {} again: {why}", kernel.name());
            repeated += 1;
            continue;
        }
        if timed_out || watch.end.is_none() {
            return Err(Failure::new(
                Exit::Bound,
                format!("{} did not come to an end in {BOOTS_MAX} boots", kernel.name()),
                "see with -v how far it gets",
            ));
        }
        deliver(&watch, &sent, args)?;
        return Ok(Booted { watch, repeated });
    }
}

/// Runs a machine until it says that it is done.
fn watch(
    kernel: &Kernel,
    (qemu, command): (&Qemu, Command),
    args: &Args,
) -> Result<(Watch, bool), Failure> {
    let mut limit = Duration::from_secs(args.limit.unwrap_or(kernel.limit_s));
    if args.limit.is_none() && (args.trace.is_some() || args.outcomes.is_some()) {
        limit += EXTRA;
    }
    let mut watch = Watch::default();
    let end = Launch::new(command, limit).run::<()>(|said| {
        match said {
            Said::Line(line) => {
                if args.verbose {
                    eprintln!("{line}");
                }
                watch.take(line);
            }
            Said::Error(line) if qemu.grumbles(line) => {}
            Said::Error(line) => eprintln!("qemu: {line}"),
            Said::Prompt(_) => {}
        }
        // It powers itself off; QEMU ends then, and its files are complete.
        Step::Go
    })?;
    match end {
        End::Interrupted => Err(Failure::interrupted()),
        End::TimedOut => Ok((watch, true)),
        End::Exited(_) | End::Verdict(()) => Ok((watch, false)),
    }
}

/// The command that boots a kernel. Standard output is the console; what is sent goes to a file.
fn machine(
    kernel: &Kernel,
    qemu: &Qemu,
    unpacked: &Unpacked,
    archive: &Path,
    sent: &Path,
) -> Command {
    let mut command = qemu.command();
    let board: &[&str] = match kernel.arch {
        Arch::X86 => &["-M", "q35", "-cpu", "max", "-smp", "4", "-vga", "none"],
        Arch::Arm64 => {
            &["-M", "virt,virtualization=on,gic-version=3", "-cpu", "cortex-a76", "-smp", "3"]
        }
    };
    command.args(board);
    command.args(["-accel", "tcg,thread=multi", "-m", "768", "-nic", "none"]);
    command.args(["-display", "none", "-monitor", "none", "-no-reboot", "-serial", "stdio"]);
    let console = match kernel.arch {
        Arch::X86 => {
            let mut file = std::ffi::OsString::from("file:");
            file.push(sent);
            command.arg("-serial").arg(file);
            "ttyS0"
        }
        Arch::Arm64 => "ttyAMA0",
    };
    command.arg("-kernel").arg(&unpacked.vmlinuz).arg("-initrd").arg(archive);
    command.args(["-append", &format!("console={console} quiet panic=-1")]);
    command
}

/// Puts what a machine sent where it was asked for.
fn deliver(watch: &Watch, sent: &Path, args: &Args) -> Result<(), Failure> {
    if let Some(directory) = &args.trace
        && sent.metadata().is_ok_and(|file| file.len() > 0)
    {
        let file = fs::File::open(sent).map_err(|error| unwritable(sent, &error))?;
        // The archive is our own, but it came over a line that may cut it off.
        tar::Archive::new(GzDecoder::new(file)).unpack(directory).map_err(|error| {
            let message = format!("the traces came damaged over the serial line: {error}");
            Failure::new(Exit::Bound, message, "run it again")
        })?;
    }
    if let Some(file) = &args.outcomes {
        let append = || -> io::Result<()> {
            let mut file = fs::OpenOptions::new().append(true).open(file)?;
            watch.outcomes.iter().try_for_each(|line| writeln!(file, "{line}"))
        };
        append().map_err(|error| unwritable(file, &error))?;
    }
    Ok(())
}

/// A directory that goes with this value.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// Below the cache.
    pub(crate) fn new(cache: &Path) -> Result<Scratch, Failure> {
        let directory = cache.join(format!("boot-{}", std::process::id()));
        fs::create_dir_all(&directory).map_err(|error| unwritable(&directory, &error))?;
        Ok(Scratch(directory))
    }

    /// It.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A file that cannot be written.
pub(crate) fn unwritable(path: &Path, error: &io::Error) -> Failure {
    Failure::usage(format!("{}: {error}", path.display()), "make room, or set KVMMU_CACHE")
}
