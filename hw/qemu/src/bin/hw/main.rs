//! `cargo hw`: builds the EL2 image, boots it in QEMU, and returns its verdict.
//!
//! The exit code is the image's own, said in the last line that it prints and by semihosting; what
//! keeps the image from running has codes of its own ([`kvmmu_qemu::Exit`]).

mod args;
mod boot;
mod image;
mod serial;

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use kvmmu_qemu::{Exit, Failure, interrupt};

use args::{Args, Job};

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("{failure}");
            failure.exit.into()
        }
    }
}

fn run(args: &Args) -> Result<ExitCode, Failure> {
    interrupt::catch()?;
    if args.job == Job::Image {
        return write(&image::build()?.bytes, args.output.as_deref());
    }
    // What is missing is told before anything is built.
    let machine = boot::find(args)?;
    let image = image::build()?;
    boot::boot(args, &machine, &image).map(ExitCode::from)
}

fn write(image: &[u8], path: Option<&Path>) -> Result<ExitCode, Failure> {
    let path = path.unwrap_or_else(|| Path::new("kvmmu-hw.img"));
    std::fs::write(path, image).map_err(|error| {
        Failure::usage(format!("cannot write {}: {error}", path.display()), "name another file")
    })?;
    println!("{}: {} bytes", path.display(), image.len());
    Ok(Exit::Expected.into())
}
