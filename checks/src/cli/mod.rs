//! The command line: its words and its exit codes, and what it reads, writes and prints.
//!
//! [`exit`], [`shown`], [`files`] and [`input`] stand below everything; [`args`] turns words into
//! what the [`lab`](crate::lab) takes, [`output`] and [`progress`] print what it gives back, as
//! [`lines`] of JSON, too, and [`command`] is above all.

pub mod args;
pub mod bounds;
pub mod command;
pub mod exit;
pub mod files;
pub mod help;
pub mod input;
pub mod interrupt;
pub mod lines;
pub mod output;
pub mod progress;
pub mod recordings;
pub mod shown;
pub mod words;
