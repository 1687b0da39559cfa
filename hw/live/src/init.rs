//! Being `/init`: the first process of an emulated machine.
//!
//! Mounts what is needed, does its jobs in order, sends the files that they left over the second
//! serial line, says its verdict and powers the machine off, whatever happened.
//!
//! A job is a line of `/jobs`, or an argument with commas for spaces:
//!
//! - `module NAME [PARAMETER=VALUE]...` loads `/m/NAME.ko`;
//! - `unload NAME`;
//! - `show FILE` prints a file of the machine;
//! - `steps` tells a recorder inside QEMU of this kernel;
//! - `mode N` does nothing: who reads along knows that mode N begins;
//! - anything else is a command line of kvmmu-live.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use clap::Parser;
use flate2::Compression;
use flate2::write::GzEncoder;
use kvmmu_qemu::{Exit, Failure};
use rustix::mount::MountFlags;
use rustix::system::RebootCommand;
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

use crate::cli::{Cli, Format};
use crate::command;
use crate::report::Report;
use crate::steps;

/// What is mounted where.
const MOUNTS: &[(&str, &str)] = &[
    ("devtmpfs", "/dev"),
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("debugfs", "/sys/kernel/debug"),
    ("tracefs", "/sys/kernel/tracing"),
    ("tmpfs", "/out"),
];
/// The jobs, where there are no arguments.
const JOBS: &str = "/jobs";
/// Where modules are.
const MODULES: &str = "/m";
/// Files that jobs leave here are sent out.
const OUT: &str = "/out";
/// Where they go.
const OUT_LINE: &str = "/dev/ttyS1";
/// The prefix of an argument that the kernel passes on is not a job's.
const KERNEL_WORDS: &[&str] = &["splash", "quiet", "nokaslr"];

/// Does everything and does not return: the machine is off then.
pub fn main(words: impl Iterator<Item = String>) -> ! {
    let report = Report { format: Format::Json };
    mount_all();
    // Only now there is a console; without one the jobs are done all the same.
    let _ = open_console();
    let exit = jobs(words, report);
    let sent = send_files();
    if let Err(error) = &sent {
        report.failure(&Failure::usage(format!("{OUT_LINE}: {error}"), "give QEMU two -serial"));
    }
    #[derive(serde::Serialize)]
    struct End {
        exit: u8,
    }
    report.say("end", &End { exit: exit as u8 }, "");
    let _ = io::stdout().flush();
    rustix::fs::sync();
    // The line is drained by interrupts: power off takes what is still in it.
    std::thread::sleep(Duration::from_millis(200));
    let off = rustix::system::reboot(RebootCommand::PowerOff);
    report.failure(&Failure::internal(format!("the machine does not power off: {off:?}")));
    loop {
        std::thread::park();
    }
}

fn mount_all() {
    for (kind, path) in MOUNTS {
        let _ = fs::create_dir_all(path);
        // What is missing shows by what fails later.
        let _ = rustix::mount::mount(*kind, *path, *kind, MountFlags::empty(), None);
    }
}

fn open_console() -> io::Result<()> {
    let console = OpenOptions::new().read(true).write(true).open("/dev/console")?;
    rustix::stdio::dup2_stdin(&console)?;
    rustix::stdio::dup2_stdout(&console)?;
    rustix::stdio::dup2_stderr(&console)?;
    Ok(())
}

/// Does the jobs; returns the worst that came of them.
fn jobs(words: impl Iterator<Item = String>, report: Report) -> Exit {
    let words = words.filter(|word| !KERNEL_WORDS.contains(&word.as_str()));
    let mut jobs: Vec<String> = words.map(|word| word.replace(',', " ")).collect();
    if jobs.is_empty() {
        let text = fs::read_to_string(JOBS).unwrap_or_default();
        jobs.extend(text.lines().map(str::to_owned).filter(|line| !line.trim().is_empty()));
    }
    let mut worst = if jobs.is_empty() { Exit::Nothing } else { Exit::Expected };
    for job in &jobs {
        #[derive(serde::Serialize)]
        struct JobLine<'a> {
            job: &'a str,
        }
        report.say("job", &JobLine { job }, "");
        match do_job(job) {
            Ok(Exit::Expected) => {}
            Ok(exit) => worst = exit,
            Err(failure) => {
                report.failure(&failure);
                // What this kernel does not offer says nothing against it.
                if failure.exit != Exit::Nothing {
                    worst = failure.exit;
                }
                // What hangs goes on hanging; a later run beside it would prove nothing.
                if failure.exit == Exit::Bound {
                    break;
                }
            }
        }
    }
    worst
}

fn do_job(job: &str) -> Result<Exit, Failure> {
    let words: Vec<&str> = job.split_whitespace().collect();
    match words.as_slice() {
        ["module", name, parameters @ ..] => load(name, &parameters.join(" ")),
        ["unload", name] => unload(name),
        ["steps"] => steps::begin(),
        ["mode", _] => Ok(Exit::Expected),
        ["show", path] => {
            let text = fs::read_to_string(path).unwrap_or_else(|error| error.to_string());
            let _ = writeln!(io::stdout(), "{path}:\n{text}");
            Ok(Exit::Expected)
        }
        arguments => {
            let arguments = std::iter::once("kvmmu-live").chain(arguments.iter().copied());
            let cli = Cli::try_parse_from(arguments)
                .map_err(|error| Failure::usage(error.to_string(), "see kvmmu-live --help"))?;
            // A panic of the first process takes the whole kernel down.
            std::panic::catch_unwind(|| command::run(&cli))
                .unwrap_or_else(|_| Err(Failure::internal("a job panicked")))
        }
    }
}

fn load(name: &str, parameters: &str) -> Result<Exit, Failure> {
    let path = Path::new(MODULES).join(format!("{name}.ko"));
    let loaded = || -> io::Result<()> {
        let file = File::open(&path)?;
        Ok(rustix::system::finit_module(&file, &CString::new(parameters)?, 0)?)
    };
    loaded().map_err(|error| {
        let message = format!("module {} [{parameters}]: {error}", path.display());
        Failure::usage(message, "see the kernel's messages above")
    })?;
    Ok(Exit::Expected)
}

fn unload(name: &str) -> Result<Exit, Failure> {
    let unloaded = || -> io::Result<()> {
        Ok(rustix::system::delete_module(&CString::new(name)?, libc::O_NONBLOCK)?)
    };
    unloaded()
        .map_err(|error| Failure::usage(format!("unload {name}: {error}"), "load it first"))?;
    Ok(Exit::Expected)
}

/// Sends the files in `/out` as one compressed tar stream.
fn send_files() -> io::Result<()> {
    let files: Vec<_> = fs::read_dir(OUT)?.collect::<io::Result<_>>()?;
    if files.is_empty() {
        return Ok(());
    }
    let line = OpenOptions::new().read(true).write(true).open(OUT_LINE)?;
    let mut raw = tcgetattr(&line)?;
    raw.make_raw();
    tcsetattr(&line, OptionalActions::Now, &raw)?;
    let mut archive = tar::Builder::new(GzEncoder::new(&line, Compression::fast()));
    for file in files {
        archive.append_path_with_name(file.path(), file.file_name())?;
    }
    archive.into_inner()?.finish()?;
    rustix::termios::tcdrain(&line)?;
    Ok(())
}
