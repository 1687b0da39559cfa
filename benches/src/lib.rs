//! The small programs of [`kvmmu_sim::mini`] on the machines that kvmmu is compared with.
//!
//! loom and shuttle run the very source that the simulator runs, on their own primitives, without
//! any layer that kvmmu needs and the peer does not. Stateright has a machine written by hand.

pub mod first_bug;
pub mod growth;
pub mod native;
pub mod on_stateright;
pub mod peer;
pub mod perf;

mod on_loom;
mod on_shuttle;
mod unchecked;

pub use on_loom::OnLoom;
pub use on_shuttle::OnShuttle;
pub use unchecked::Unchecked;
