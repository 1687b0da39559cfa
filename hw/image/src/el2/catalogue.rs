//! The scenarios that the image holds: made by the build script.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use kvmmu_model::{Access, Gfn, Guard, GuardSet, Mark, Pfn};
use kvmmu_scenarios::Property;
use kvmmu_scenarios::scenario::{
    Address, Backing, Engine, Expect, Expected, Format, IndirectFastFault, InitialSpte, Moment, Op,
    Paging, Profile, Scenario, Slot, Thread, ThreadKind, Witness,
};

include!(concat!(env!("OUT_DIR"), "/scenarios.rs"));
