//! The bare machine: registers and instructions, devices, the other CPUs, waiting, and the end of a
//! run. Nothing here knows of guests or of the model.

pub(crate) mod board;
pub(crate) mod boot;
pub(crate) mod console;
pub(crate) mod exit;
pub(crate) mod heap;
pub(crate) mod smp;
pub(crate) mod stage1;
pub(crate) mod sysreg;
pub(crate) mod tlbi;
pub(crate) mod wait;

mod mmio;
