//! Booting the image: by QEMU itself, or by a real U-Boot in it, as a board does.

use std::io::Write;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use kvmmu_qemu::{End, Exit, Failure, Launch, Program, Said, Step, program};

use crate::args::Args;
use crate::image::Image;
use crate::serial::Serial;

/// Where QEMU puts the image for U-Boot.
const LOAD_AT: u64 = 0x4200_0000;
/// What U-Boot asks for.
const AUTOBOOT: &str = "Hit any key to stop autoboot";
const PROMPT: &str = "=> ";

/// A file that is gone when it is dropped.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn write(bytes: &[u8]) -> Result<Scratch, Failure> {
        let name = format!("kvmmu-hw-{}.img", std::process::id());
        let scratch = Scratch(std::env::temp_dir().join(name));
        std::fs::write(&scratch.0, bytes).map_err(|error| {
            let help = "set TMPDIR to a directory that can be written";
            Failure::usage(format!("cannot write {}: {error}", scratch.0.display()), help)
        })?;
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // It is in the directory of temporary files: nobody misses it.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Finds what the machine is made of.
pub(crate) fn find(args: &Args) -> Result<Program, Failure> {
    let qemu = program::QEMU_AARCH64.find()?;
    if args.u_boot && !args.u_boot_bin.is_file() {
        let message = format!("there is no U-Boot at {}", args.u_boot_bin.display());
        let help = "apt-get install u-boot-qemu, or name one: --u-boot-bin";
        return Err(Failure::usage(message, help));
    }
    Ok(qemu)
}

/// Boots it and returns what it found.
pub(crate) fn boot(args: &Args, qemu: &Program, image: &Image) -> Result<Exit, Failure> {
    let mut serial = Serial::new(args.outcomes.as_deref(), args.figures.as_deref())?;
    let file = Scratch::write(&image.bytes)?;
    let command = command(args, qemu, &file);
    let mut u_boot = UBoot::new(args);
    let mut errors = Vec::new();
    let mut failure = None;
    let end = Launch::new(command, Duration::from_secs(args.limit)).run(|said| {
        match said {
            Said::Line(line) => match serial.line(line) {
                Ok(true) => show(line),
                Ok(false) => {}
                Err(error) => {
                    failure = Some(error);
                    return Step::End(());
                }
            },
            Said::Prompt(text) if args.u_boot => return u_boot.asks(text),
            Said::Prompt(_) => {}
            Said::Error(line) => errors.push(line.to_owned()),
        }
        Step::Go
    })?;
    serial.end()?;
    match (failure, end) {
        (Some(failure), _) => Err(failure),
        (None, End::Exited(status)) => verdict(&serial, status, &errors),
        (None, End::TimedOut) => Err(timed_out(args, &serial)),
        (None, End::Interrupted | End::Verdict(())) => Err(Failure::interrupted()),
    }
}

/// Shows a line of the image. A reader that has gone is no reason to stop.
fn show(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn command(args: &Args, qemu: &Program, image: &Scratch) -> Command {
    let mut command = qemu.command();
    command
        .args(["-machine", "virt,virtualization=on,gic-version=3", "-cpu", &args.cpu])
        .args(["-smp", &args.cores.to_string(), "-m", "512"])
        .args(["-accel", "tcg,thread=multi", "-nic", "none", "-display", "none"])
        .args(["-serial", "stdio", "-monitor", "none"])
        // An exit code: PSCI has none.
        .args(["-semihosting-config", "enable=on,target=native"]);
    let path = image.0.display();
    if args.u_boot {
        let loader = format!("loader,file={path},addr={LOAD_AT:#x},force-raw=on");
        command.arg("-bios").arg(&args.u_boot_bin).args(["-device", &loader]);
    } else {
        command.args(["-append", &args.boot_arguments()]).arg("-kernel").arg(&image.0);
    }
    command
}

/// What is said to U-Boot.
struct UBoot {
    commands: std::vec::IntoIter<String>,
    stopped: bool,
}

impl UBoot {
    fn new(args: &Args) -> UBoot {
        let commands = vec![
            format!("setenv bootargs '{}'", args.boot_arguments()),
            format!("booti {LOAD_AT:#x} - ${{fdtcontroladdr}}"),
        ];
        UBoot { commands: commands.into_iter(), stopped: false }
    }

    fn asks(&mut self, text: &str) -> Step<()> {
        if !self.stopped && text.contains(AUTOBOOT) {
            self.stopped = true;
            return Step::Send(b" ".to_vec());
        }
        if text.ends_with(PROMPT)
            && let Some(command) = self.commands.next()
        {
            return Step::Send(format!("{command}\n").into_bytes());
        }
        Step::Go
    }
}

/// The verdict, said twice: in the last line, and by the exit code.
fn verdict(serial: &Serial, status: ExitStatus, errors: &[String]) -> Result<Exit, Failure> {
    let code = status.code();
    let Some(verdict) = serial.verdict else {
        let mut message = format!("the image ended without a verdict ({status})");
        for line in errors.iter().chain(&serial.last) {
            message.push_str("\n  ");
            message.push_str(line);
        }
        let help = "if QEMU says why, see --cpu and --cores; else this is a bug in the image";
        return Err(Failure::new(Exit::Usage, message, help));
    };
    if code != Some(i32::from(verdict)) {
        let message = format!("the image's verdict is {verdict}, and QEMU ended with {status}");
        return Err(Failure::new(Exit::Internal, message, "run it again; if it stays, report it"));
    }
    if let Some(line) = serial.garbled.first() {
        let count = serial.garbled.len();
        let message = format!("{count} lines of results were garbled, the first one: {line}");
        return Err(Failure::new(Exit::Internal, message, "run it again; if it stays, report it"));
    }
    exit_of(verdict)
}

fn exit_of(verdict: u8) -> Result<Exit, Failure> {
    let known =
        [Exit::Expected, Exit::Unexpected, Exit::Usage, Exit::Bound, Exit::Nothing, Exit::Internal];
    known.into_iter().find(|exit| *exit as u8 == verdict).ok_or_else(|| {
        Failure::internal(format!("the image's verdict is {verdict}, which means nothing"))
    })
}

fn timed_out(args: &Args, serial: &Serial) -> Failure {
    let mut message = format!("no verdict within {} s; the last lines:", args.limit);
    for line in &serial.last {
        message.push_str("\n  ");
        message.push_str(line);
    }
    Failure::new(Exit::Bound, message, "raise --limit, or run less: tests, --runs, --stores")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn u_boot_is_stopped_and_told_what_to_boot() {
        let args = Args::parse_from(["hw", "tests", "--u-boot", "--without", "a,b"]);
        let mut u_boot = UBoot::new(&args);
        assert_eq!(u_boot.asks("U-Boot 2023.01"), Step::Go);
        assert_eq!(u_boot.asks("Hit any key to stop autoboot:  2 "), Step::Send(b" ".to_vec()));
        assert_eq!(u_boot.asks("Hit any key to stop autoboot:  1 "), Step::Go);
        let Step::Send(bytes) = u_boot.asks("=> ") else { panic!("no command") };
        assert_eq!(bytes, b"setenv bootargs 'tests without=a,b'\n");
        let Step::Send(bytes) = u_boot.asks("=> ") else { panic!("no command") };
        assert_eq!(bytes, b"booti 0x42000000 - ${fdtcontroladdr}\n");
        assert_eq!(u_boot.asks("=> "), Step::Go);
    }
}
