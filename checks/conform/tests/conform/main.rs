//! Goal: what real kernels did is explained, and what none may do is refused. Method: see each
//! file.

mod common;
mod contradictions;
mod edits;
mod files;
mod guest;
mod recorded;
mod steps;
