//! `kvmmu steps`: every store of a real kernel to the page tables of its guests, checked against
//! the protocol.
//!
//! Nothing here knows scenarios or the simulator: a verdict on a kernel depends on neither.
//!
//! [`event`] says what is seen, [`mod@file`] has recordings, [`layout`] the bits of descriptors,
//! [`functions`] what is recorded of a kernel's functions; [`mod@judge`] shows each event to each
//! of the [`rules`], with what is known at that moment of page tables ([`trees`]), threads
//! ([`threads`]) and memslots ([`slots`]). docs/steps.md says what a clean report means and what it
//! does not.
#![forbid(unsafe_code)]

pub mod event;
pub mod file;
pub mod functions;
pub mod judge;
pub mod kernel;
pub mod layout;
pub mod report;
pub mod rules;
pub mod show;
pub mod slots;
pub mod step;
pub mod threads;
pub mod trees;

pub use kvmmu_conform::refused;
