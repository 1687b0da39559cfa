//! The scenarios that the image holds: made by the build script.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use kvmmu_model::{Gfn, Guard, GuardSet, Mark, Pfn};
use kvmmu_scenarios::ops::{Address, HostOp, SlotIndex, UserOp, VcpuOp};
use kvmmu_scenarios::program::{OffVcpu, OnVcpu, Program, Step, Steps};
use kvmmu_scenarios::scenario::{
    Backing, Engine, Expect, Expected, Format, IndirectFastFault, InitialSpte, Paging, Profile,
    Scenario, Slot, Thread, ThreadKind, Witness,
};
use kvmmu_scenarios::{Moment, Property, Story};

include!(concat!(env!("OUT_DIR"), "/scenarios.rs"));
