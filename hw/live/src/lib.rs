//! Checks the promises of the KVM MMU on a live `/dev/kvm`.
//!
//! It makes a VM whose guests store to a sliding window of pages, harvests the dirty pages as live
//! migration does, and holds the copy against the guest's memory: no page may be lost, whatever the
//! host does meanwhile. What must lose pages (a wrong order of copying and clearing) is run as
//! well, and must be caught. It says which paths of the kernel were really taken, and can record
//! what the kernel's MMU did.

pub mod cli;
pub mod cluster;
pub mod command;
pub mod counters;
pub mod events;
pub mod guest;
pub mod harvest;
pub mod info;
pub mod init;
pub mod job;
pub mod kernel;
pub mod memory;
pub mod report;
pub mod scenario;
pub mod setting;
pub mod steps;
pub mod sys;
pub mod trace;
pub mod vm;
pub mod vma_size;
