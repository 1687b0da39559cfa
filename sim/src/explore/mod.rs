//! The strategies: which executions of a program to look at, in which order, and when to stop.
//! [`Explorer`] is the one interface to them.
//!
//! `stateful` looks at every state once, or at as few as are enough (`persistent`, with `futures`
//! and `predictor`; [`clause`] has what that rests on), [`dpor`] at every order of dependent steps
//! once, [`naive`] at everything; [`sample`] at some. [`Auto`] is several of them in a row.
//! [`minimise`] makes what they found short. [`graph`] and [`trace_hash`] compare strategies with
//! each other, and [`classes`] says how far the keys of states are from the best ones.

pub mod classes;
pub mod clause;
pub mod dpor;
pub mod graph;
pub mod keep;
pub mod minimise;
pub mod naive;
pub mod sample;
pub mod stateful;
pub mod trace_hash;

mod auto;
mod costs;
mod cycles;
mod exchange;
mod explorer;
mod futures;
mod persistent;
mod predictor;
mod search;
mod shared;
mod states;
mod visited;

pub use auto::Auto;
pub use explorer::{Explorer, Limits, Progress};
pub use shared::Cores;
