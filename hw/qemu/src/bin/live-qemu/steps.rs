//! `--steps DIR`: boots kernels under a plugin of QEMU that records what their KVM does to its page
//! tables, one file a boot, for `kvmmu steps`.
//!
//! CPUs take turns by a count of instructions, so that the same boot gives the same file, to the
//! byte; another `--schedule` gives another interleaving. `--threads` lets them run at a time: a
//! stress, whose recordings are not exact.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use kvmmu_qemu::{End, Exit, Failure, Launch, Said, Step};

use crate::args::Args;
use crate::boot::{Scratch, unwritable};
use crate::broken::{self, Broken};
use crate::hold::{self, Hold};
use crate::kernels::Arch;
use crate::modes::Mode;
use crate::qemu10::{self, Qemu};
use crate::subject::Subject;
use crate::watch::Watch;
use crate::{build, initramfs};

/// The machine's memory, in MiB.
const MEMORY: u32 = 768;

/// Records what is selected.
///
/// # Errors
///
/// Ctrl-C, and what is broken here; a kernel that cannot be had is skipped.
pub(crate) fn run(args: &Args, directory: &Path) -> Result<Exit, Failure> {
    fs::create_dir_all(directory).map_err(|error| {
        let message = format!("cannot make {}: {error}", directory.display());
        Failure::usage(message, "name another directory")
    })?;
    let mut exit = Exit::Nothing;
    let subjects = Subject::selected(args)?;
    if subjects.is_empty() {
        return Err(args.nothing_selected());
    }
    // Before anything is booted.
    let changes = |subject: &Subject| Changes::of(args, subject.arch());
    let changes: Vec<_> = subjects.iter().map(changes).collect::<Result<_, _>>()?;
    for (subject, changes) in subjects.iter().zip(changes) {
        match record_twice(subject, args, changes, directory) {
            Ok(recorded) => {
                println!("{recorded}");
                exit = match (exit, recorded.exit()) {
                    (Exit::Nothing | Exit::Expected, one) => one,
                    (worse, _) => worse,
                };
            }
            Err(failure) if matches!(failure.exit, Exit::Interrupted | Exit::Internal) => {
                return Err(failure);
            }
            Err(failure) => {
                println!("{}: skipped: {}; {}", subject.name(), failure.message, failure.help);
                if failure.exit == Exit::Bound {
                    exit = Exit::Bound;
                }
            }
        }
    }
    Ok(exit)
}

/// What is done to a kernel.
#[derive(Clone, Copy)]
struct Changes {
    broken: Option<&'static Broken>,
    hold: Option<&'static Hold>,
}

impl Changes {
    fn of(args: &Args, arch: Arch) -> Result<Changes, Failure> {
        let broken = args.broken.as_deref().map(|name| broken::find(arch, name)).transpose()?;
        let hold = args.hold.as_deref().map(|name| hold::find(arch, name)).transpose()?;
        Ok(Changes { broken, hold })
    }

    /// A boot in words.
    fn describe(self, subject: &Subject, args: &Args) -> String {
        let mut text = match args.threads {
            true => format!("{} by threads", subject.name()),
            false => format!("{} schedule {}", subject.name(), args.schedule),
        };
        if let Some(hold) = self.hold {
            text += &format!(" held {}", hold.name);
        }
        if let Some(broken) = self.broken {
            text += &format!(" without {}", broken.name);
        }
        text
    }
}

/// What came of a boot.
struct Recorded {
    name: String,
    file: PathBuf,
    events: u64,
    /// How often a CPU was held.
    held: Option<String>,
    runs: usize,
    stores: u64,
    wrong: Vec<String>,
    seconds: u64,
}

impl Recorded {
    fn exit(&self) -> Exit {
        if self.wrong.is_empty() { Exit::Expected } else { Exit::Unexpected }
    }
}

impl std::fmt::Display for Recorded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Recorded { name, file, events, held, runs, stores, wrong, seconds } = self;
        let file = file.display();
        write!(f, "{name}: {runs} runs, {stores} stores of guests, {events} events in {file}")?;
        write!(f, ", {seconds} s")?;
        if let Some(held) = held {
            write!(f, "; {held}")?;
        }
        wrong.iter().try_for_each(|wrong| write!(f, "\n  NOT AS PROMISED: {wrong}"))
    }
}

/// Records, and once more if the machine hangs: by threads it may, for reasons of its own. By turns
/// it would do so again.
fn record_twice(
    subject: &Subject,
    args: &Args,
    changes: Changes,
    directory: &Path,
) -> Result<Recorded, Failure> {
    match record(subject, args, changes, directory) {
        Err(failure) if failure.exit == Exit::Bound && args.threads => {
            eprintln!("booting {} again: {}", subject.name(), failure.message);
            record(subject, args, changes, directory)
        }
        other => other,
    }
}

/// Boots a kernel, and records.
fn record(
    subject: &Subject,
    args: &Args,
    changes: Changes,
    directory: &Path,
) -> Result<Recorded, Failure> {
    let mode = subject.mode;
    let target = build::workspace().join("target");
    let cache = args.cache(&target)?;
    let qemu = qemu10::find(subject.arch(), &cache)?;
    let unpacked = subject.unpacked(&cache)?;
    let init = match &args.init {
        Some(init) => init.clone(),
        None => build::kvmmu_live(subject.arch(), &target)?,
    };
    let plugin = build::plugin(&target)?;
    let scratch = Scratch::new(&cache)?;
    let archive = scratch.path().join("initramfs.cpio");
    let modules: Vec<&str> = unpacked.modules.iter().map(|(name, _)| name.as_str()).collect();
    // By threads the full runs take minutes.
    let own = changes.hold.and_then(|hold| hold.job);
    let jobs = jobs(subject.arch(), &modules, mode, (args.quick || args.threads, own));
    let written = initramfs::write(&archive, &init, &jobs, &[], &unpacked);
    written.map_err(|error| unwritable(&archive, &error))?;
    let how = if args.threads { "threads".to_owned() } else { format!("s{}", args.schedule) };
    let mut name = format!("{}-{how}", subject.file_name());
    if let Some(hold) = changes.hold {
        name = format!("{name}-{}", hold.name);
    }
    if let Some(broken) = changes.broken {
        name = format!("{name}-without-{}", broken.name);
    }
    let file = directory.join(format!("{name}.steps"));
    // It gets its name when it is whole; one that was there stays until then.
    let partial = Partial(directory.join(format!("{name}.partial")));
    let memory = Memory::new()?;
    let mut command = qemu.command();
    machine(&mut command, subject.arch(), &memory.0, args);
    command.arg("-kernel").arg(&unpacked.vmlinuz).arg("-initrd").arg(&archive);
    command.arg("-plugin").arg(options(
        &plugin,
        &partial.0,
        &memory.0,
        args,
        subject.arch(),
        changes,
    ));
    let begin = Instant::now();
    let limit = Duration::from_secs(args.limit.unwrap_or(subject.limit_s()));
    let (watch, said) = boot(command, limit, (&qemu, args.verbose))?;
    let events = said
        .iter()
        .find_map(|line| line.strip_prefix("recorded ")?.strip_suffix(" events")?.parse().ok());
    let Some(events) = events.filter(|events| *events > 0) else {
        let why = said.iter().find_map(|line| line.strip_prefix("failed: "));
        let exit = if why.is_some() { Exit::Refused } else { Exit::Bound };
        let why = why.unwrap_or("QEMU ended before /init had said anything");
        let message = format!("nothing was recorded: {why}");
        let help = match changes.broken {
            Some(_) => broken::made_for(subject.arch()),
            None => "see with -v what it says",
        };
        return Err(Failure::new(exit, message, help));
    };
    fs::rename(&partial.0, &file).map_err(|error| unwritable(&file, &error))?;
    let held = said.iter().find(|line| line.starts_with("held ")).cloned();
    let mut wrong: Vec<String> = watch.failures.iter().map(|(_, text)| text.clone()).collect();
    let failed = watch.runs.iter().filter(|run| run.verdict != "ok");
    wrong.extend(failed.map(|run| match run.verdict.as_str() {
        "REACHED" => format!(
            "{}: after {} of {} rounds a guest read a page that is not its own",
            run.name, run.lost, run.rounds
        ),
        verdict => format!("{}: {verdict}", run.name),
    }));
    if watch.end.is_none() {
        let words = watch.panic.as_deref().unwrap_or("it did not say why");
        wrong.push(format!("the kernel ended before /init did: {words}"));
    }
    Ok(Recorded {
        name: changes.describe(subject, args),
        file,
        events,
        held,
        runs: watch.runs.len(),
        stores: watch.runs.iter().map(|run| run.stores).sum(),
        wrong,
        seconds: begin.elapsed().as_secs(),
    })
}

/// What is run: what a place to hold asks for; else two short runs, or each way to take the dirty
/// log that this architecture has, and each event of the host, so that every kind of step is there.
fn jobs(arch: Arch, modules: &[&str], mode: &Mode, (quick, own): (bool, Option<&str>)) -> String {
    let mut jobs = String::new();
    for module in modules {
        let parameters = match (*module, mode.parameters) {
            ("kvm", Some((kvm, _))) => kvm,
            ("kvm-amd", Some((_, vendor))) => vendor,
            _ => "",
        };
        jobs += &format!("module {module} {parameters}\n");
    }
    jobs += "steps\n";
    if let Some(own) = own {
        jobs += &format!("{own} --format json\n");
        return jobs;
    }
    let mut check = |words: &str| {
        jobs += &format!("check --format json --mode {} {words}\n", mode.guest);
    };
    if quick {
        check("--period 4 --log get --stores 12000 --pages 64");
        check("--period 4 --log get --event madvise --event-period 2 --stores 3000 --pages 32");
        return jobs;
    }
    check("--period 20 --log get --vcpus 2 --stores 40000 --pages 256");
    check("--period 20 --log chunks --event madvise --event-period 20 --stores 60000 --pages 512");
    check("--period 20 --log initially-set --stores 30000 --pages 256");
    if arch == Arch::X86 {
        check("--period 20 --log ring --stores 30000 --pages 256");
    }
    for event in ["fork", "relog", "slots", "ksm", "mprotect"] {
        let stores = if event == "fork" { 30_000 } else { 60_000 };
        // Logging begins anew after some rounds: they are short there.
        let period = if event == "relog" { 1 } else { 20 };
        let size = format!("--stores {stores} --pages 512");
        check(&format!("--log get --event {event} --event-period 20 --period {period} {size}"));
    }
    jobs
}

fn machine(command: &mut Command, arch: Arch, memory: &Path, args: &Args) {
    // Nothing moves the kernel from boot to boot: no seed in the device tree, and what the CPU
    // gives as random numbers is the same each time.
    let (board, console): (&[&str], _) = match arch {
        Arch::Arm64 => (
            &[
                "-M",
                "virt,virtualization=on,gic-version=3,dtb-randomness=off,memory-backend=m",
                "-cpu",
                "cortex-a76",
            ],
            "ttyAMA0",
        ),
        Arch::X86 => {
            (&["-M", "pc,memory-backend=m", "-cpu", "max", "-vga", "none"], "ttyS0 nokaslr")
        }
    };
    command.args(board).args(["-smp", "3", "-seed", "1", "-m", &MEMORY.to_string()]);
    let mut backend = std::ffi::OsString::from(format!(
        "memory-backend-file,id=m,size={MEMORY}M,share=on,mem-path="
    ));
    backend.push(quoted(memory));
    command.arg("-object").arg(backend);
    if args.threads {
        command.args(["-accel", "tcg,thread=multi"]);
    } else {
        command.args(["-accel", "tcg,thread=single", "-icount"]);
        command.arg(format!("shift={},sleep=off", args.schedule));
    }
    command.args(["-rtc", "base=2026-01-01,clock=vm", "-nic", "none", "-display", "none"]);
    command.args(["-monitor", "none", "-no-reboot", "-serial", "stdio", "-d", "plugin"]);
    let words = args.append.as_deref().unwrap_or_default();
    command.args(["-append", &format!("console={console} quiet panic=-1 oops=panic {words}")]);
}

/// The plugin, and what it is told.
fn options(
    plugin: &Path,
    file: &Path,
    memory: &Path,
    args: &Args,
    arch: Arch,
    changes: Changes,
) -> std::ffi::OsString {
    let mut options = std::ffi::OsString::from("file=");
    options.push(quoted(plugin));
    options.push(",out=");
    options.push(quoted(file));
    options.push(",ram=");
    options.push(quoted(memory));
    match args.threads {
        true => options.push(",threads=on"),
        false => options.push(format!(",schedule={}", args.schedule)),
    }
    if args.guest {
        options.push(",guest=on");
    }
    for patch in changes.broken.into_iter().flat_map(|broken| broken.patches) {
        options.push(format!(",patch={patch}"));
    }
    for hold in changes.hold.into_iter().flat_map(|hold| hold.options(arch)) {
        options.push(format!(",{hold}"));
    }
    options
}

/// Runs the machine until it powers itself off; returns what it said, and what the plugin said.
fn boot(
    command: Command,
    limit: Duration,
    (qemu, verbose): (&Qemu, bool),
) -> Result<(Watch, Vec<String>), Failure> {
    let (mut watch, mut said) = (Watch::default(), Vec::new());
    let end = Launch::new(command, limit).run::<()>(|line| {
        match line {
            Said::Line(line) | Said::Error(line) if line.starts_with("kvmmu: ") => {
                said.push(line["kvmmu: ".len()..].to_owned());
                if verbose {
                    eprintln!("{line}");
                }
            }
            Said::Line(line) => {
                if verbose {
                    eprintln!("{line}");
                }
                watch.take(line);
            }
            Said::Error(line) if qemu.grumbles(line) => {}
            Said::Error(line) => eprintln!("qemu: {line}"),
            Said::Prompt(_) => {}
        }
        Step::Go
    })?;
    match end {
        End::Interrupted => Err(Failure::interrupted()),
        End::TimedOut => Err(Failure::new(
            Exit::Bound,
            format!("the machine did not end within {limit:?}"),
            "see with -v how far it gets, or give it more time (--limit)",
        )),
        End::Exited(_) | End::Verdict(()) => Ok((watch, said)),
    }
}

/// A recording that is not whole yet: what is left of it goes with this value.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A path as QEMU's options have it: a comma in it is doubled.
fn quoted(path: &Path) -> std::ffi::OsString {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let bytes = path.as_os_str().as_bytes();
    let quoted = bytes.iter().flat_map(|byte| match byte {
        b',' => vec![b','; 2],
        _ => vec![*byte],
    });
    std::ffi::OsString::from_vec(quoted.collect())
}

/// The file that is the machine's memory; it goes with this value.
struct Memory(PathBuf);

impl Memory {
    fn new() -> Result<Memory, Failure> {
        // Where files are memory: a disk would be written to at each store.
        let directory = Path::new("/dev/shm");
        let directory = if directory.is_dir() { directory.into() } else { std::env::temp_dir() };
        Ok(Memory(directory.join(format!("kvmmu-{}.ram", std::process::id()))))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
