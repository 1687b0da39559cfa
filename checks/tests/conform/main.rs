//! Goal: `kvmmu conform` explains what real kernels did, and refuses what none may do. Method: see
//! each file.

mod command;
mod common;
mod contradictions;
mod edits;
mod files;
mod recorded;
mod steps;
