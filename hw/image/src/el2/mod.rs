//! The program itself.
//!
//! The rooms, each of which needs only those before it:
//!
//! - `cpu`: registers, TLB maintenance, devices, the other CPUs, and how a run ends.
//! - `memory`: stage 2, and guests that run under it.
//! - `record`: what happened in a run, and forcing it to happen in some order.
//! - `machine`: the model's `Platform`, the scenarios' `Machine`, and KVM_RUN.
//! - `run`: scenarios, once and all of them, and the report.
//! - `jobs`: what else can be asked for: tests, stress, benchmarks.

use alloc::string::String;

mod cpu;
mod jobs;
mod machine;
mod memory;
mod record;
mod run;

use kvmmu_model::GuardSet;

use self::cpu::boot::{enable_mmu, image_start, vectors};
use self::cpu::console::say;
use self::cpu::exit::{Exit, exit, set_qemu};
use self::cpu::{board, console, heap, smp, stage1, sysreg, tlbi};
use self::jobs::{bench, stress, tests};
use self::memory::{guest, stage2};
use self::run::all;
use self::run::report::Report;
use crate::args::{Args, Job, Mmu, Repeat};

/// No device tree is larger: the boot protocol says so.
const TREE_MAX: usize = 2 << 20;

/// The first CPU comes here, with stage 1 off: nothing but this function runs until it is on.
#[unsafe(no_mangle)]
#[expect(unsafe_code, reason = "boot.s calls it by name, and hands over an address")]
extern "C" fn rust_main(tree: usize, level: u64) -> ! {
    if level == 2 {
        stage1::map_memory(core::ptr::from_ref(&image_start) as usize);
        stage1::map_memory(tree);
        stage1::map_memory(tree + TREE_MAX);
        // SAFETY: this code, its stack and its data are in the GiB that was just mapped one to one.
        unsafe { enable_mmu() };
    }
    heap::init();
    // SAFETY: the boot protocol: x0 was the address of a device tree, which nobody changes.
    let tree = unsafe { device_tree(tree) };
    let Ok((board, uart)) = board::open(tree) else {
        // Nobody can be told.
        loop {
            core::hint::spin_loop();
        }
    };
    console::set(uart);
    set_qemu(board.is_qemu);
    if level != 2 {
        exit(
            Exit::Usage,
            format_args!("entered at EL{level}, but EL2 is needed (QEMU: virtualization=on)"),
        );
    }
    sysreg::set_vbar(core::ptr::from_ref(&vectors) as u64);
    say!("kvmmu-hw: {}, {} CPUs, arguments '{}'", board.model, board.nr_cpus, board.bootargs);
    let args = match Args::parse(board.bootargs) {
        Ok(args) => args,
        Err(unknown) => exit(Exit::Usage, format_args!("{unknown}")),
    };
    stage2::init();
    smp::init(
        &board.cpus[..board.nr_cpus],
        sysreg::mpidr() & board::AFFINITY,
        args.cpus,
        args.cluster,
        guest::set_up_cpu,
    );
    let types = || (0..smp::workers()).map(smp::worker_type);
    tlbi::set_twice(match args.repeat {
        // An emulated core has no erratum.
        Repeat::Auto => !board.is_qemu && types().any(smp::repeats_tlbi),
        Repeat::Yes => true,
        Repeat::No => false,
    });
    for (worker, core) in types().enumerate() {
        say!(
            "cpu{worker}: {}, TLBI {}",
            smp::core_name(core),
            if tlbi::is_twice() { "twice" } else { "once" }
        );
    }
    perform(&args, board.is_qemu)
}

/// Does what was asked for.
fn perform(args: &Args<'_>, is_qemu: bool) -> ! {
    let mut report = Report::new(is_qemu);
    let without = match all::set_without(args.without) {
        Ok(without) => without,
        Err(name) => exit(
            Exit::Usage,
            format_args!("without={name}: no such guard (`kvmmu guards` lists them)"),
        ),
    };
    tlbi::set_kind(args.tlbi);
    match args.job {
        Job::List => all::list(args),
        Job::Tests if args.mmu == Mmu::Arm64 => report.select_nothing(String::from(
            "the tests are of the MMU of x86; 'scenarios mmu=arm64' runs that of arm64",
        )),
        Job::Tests => tests::run(&mut report),
        Job::Stress => stress::run(args, without, &mut report),
        Job::Scenarios => all::run(args, without, &mut report),
        Job::Bench => bench::run(args, &mut report),
        Job::Suite => suite(args, without, &mut report),
        Job::All => {
            suite(args, without, &mut report);
            bench::run(args, &mut report);
        }
    }
    report.end()
}

/// Everything that has a verdict.
fn suite(args: &Args<'_>, without: GuardSet, report: &mut Report) {
    if args.mmu != Mmu::Arm64 {
        tests::run(report);
    }
    stress::run(args, without, report);
    all::run(args, without, report);
}

/// The device tree at an address.
///
/// # Safety
/// There must be one, and nothing may change it.
#[expect(unsafe_code, reason = "the boot protocol hands over an address")]
unsafe fn device_tree(address: usize) -> &'static [u8] {
    let header = address as *const [u8; 8];
    // SAFETY: the caller: every tree begins with a magic number and its size.
    let header = unsafe { header.read() };
    let size = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
    if u32::from_be_bytes([header[0], header[1], header[2], header[3]]) != 0xd00d_feed {
        return &[];
    }
    // SAFETY: the caller: so many bytes are the tree.
    unsafe { core::slice::from_raw_parts(address as *const u8, size) }
}
