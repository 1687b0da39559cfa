//! What can be asked for apart from scenarios: tests, stress, benchmarks.

pub(crate) mod bench;
pub(crate) mod stress;
pub(crate) mod tests;

mod own;
