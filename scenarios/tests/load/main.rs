//! What the loader accepts, what it refuses, and what it says: file, line, column, the offending
//! token, and a hint.
#![cfg(feature = "loader")]

mod arm64;
mod common;
mod errors;
mod huge;
mod locks;
mod manual;
mod memory;
mod operations;
mod own_locks;
mod robust;
mod together;
mod vms;
