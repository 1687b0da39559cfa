//! What runs and what must hold: operations, their interpreter, properties and scenario files.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(feature = "loader")]
extern crate std;

mod accesses;
pub mod builtin;
mod guest_tables;
pub mod host_mm;
pub mod interpret;
mod last_use;
#[cfg(feature = "loader")]
pub mod loader;
pub mod lockdep;
pub mod machine;
pub mod mmu;
pub mod observer;
pub mod ops;
pub mod oracle;
pub mod outcome;
mod own_lock;
pub mod program;
pub mod property;
pub mod scenario;
pub mod software_tlb;
pub mod story;
mod vmm_pause;
pub mod world;

pub use machine::Machine;
pub use observer::Observer;
pub use property::Property;
pub use scenario::Scenario;
pub use story::{Moment, Story};
pub use world::World;
