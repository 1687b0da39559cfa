//! What is on the board, by its device tree: the console, the CPUs, how to reach the firmware, the
//! boot arguments.

use alloc::string::String;

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::standard::NodeStandard;
use dtoolkit::{Node, Property};

use super::console::Console;
use super::mmio::Registers;
use super::stage1;
use crate::args::CPUS_MAX;

/// Where the RK3588 has the UART of its serial console. Vendor device trees mark it "disabled"
/// (their kernel drives it by another name), so the board's own name decides.
const RK3588_UART2: usize = 0xfeb5_0000;

/// A board.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Board {
    /// Its name.
    pub(crate) model: &'static str,
    /// QEMU: it takes exit codes by semihosting. Elsewhere that instruction is undefined.
    pub(crate) is_qemu: bool,
    /// The cores' addresses (MPIDR), as PSCI wants them.
    pub(crate) cpus: [u64; CPUS_MAX],
    /// How many there are of them.
    pub(crate) nr_cpus: usize,
    /// The kernel command line.
    pub(crate) bootargs: &'static str,
}

/// Why a device tree is of no use. Nobody can be told before there is a console.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unusable {
    /// It is none.
    NoTree,
    /// It has no UART that this program knows.
    NoConsole,
}

/// The affinity fields of MPIDR.
pub(crate) const AFFINITY: u64 = 0xff_00ff_ffff;

/// Reads the device tree and opens the console.
pub(crate) fn open(tree: &'static [u8]) -> Result<(Board, Console), Unusable> {
    let tree = Fdt::new(tree).map_err(|_| Unusable::NoTree)?;
    let root = tree.root();
    let console = console(root).ok_or(Unusable::NoConsole)?;
    let mut board = Board {
        model: root.model().ok().flatten().unwrap_or("a board without a name"),
        is_qemu: root.is_compatible("linux,dummy-virt"),
        cpus: [0; CPUS_MAX],
        nr_cpus: 0,
        bootargs: "",
    };
    if let Some(arguments) = tree.find_node("/chosen").and_then(|node| node.property("bootargs")) {
        board.bootargs = String::from(text(arguments.value())).leak();
    }
    if let Some(cpus) = tree.find_node("/cpus") {
        for cpu in cpus.children().filter(|node| node.name_without_address() == "cpu") {
            let address = cpu.reg().ok().flatten().and_then(|mut reg| reg.next());
            let Some(Ok(mpidr)) = address.map(|reg| reg.address::<u64>()) else { continue };
            if board.nr_cpus < CPUS_MAX {
                board.cpus[board.nr_cpus] = mpidr & AFFINITY;
                board.nr_cpus += 1;
            }
        }
    }
    Ok((board, console))
}

/// A property's text, without what ends it.
fn text(value: &[u8]) -> &str {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    core::str::from_utf8(&value[..end]).unwrap_or("?not-utf-8")
}

#[expect(unsafe_code, reason = "device addresses come from the device tree")]
fn console(root: FdtNode<'static>) -> Option<Console> {
    let rk3588 = root
        .compatible()
        .is_some_and(|mut names| names.any(|name| name.starts_with("rockchip,rk3588")));
    if rk3588 {
        stage1::map_device(RK3588_UART2);
        // SAFETY: the RK3588 has its UART 2 there; it is mapped, and nothing else uses it.
        return Some(Console::Ns16550(unsafe { Registers::at(RK3588_UART2) }));
    }
    let pl011 = root.find_compatible("arm,pl011").next()?;
    let base = pl011.reg().ok()??.next()?.address::<u64>().ok()? as usize;
    stage1::map_device(base);
    // SAFETY: the device tree says that it is there; it is mapped, and nothing else uses it.
    unsafe { Console::pl011(base) }
}
