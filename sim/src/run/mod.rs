//! A program on the machine: what it is made of, taking it step by step, and running a schedule
//! again.

pub mod engine;
pub mod program;
pub mod replay;

pub(crate) mod learned;
pub(crate) mod parts;

mod seen;
