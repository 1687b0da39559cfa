//! What the protocol costs on the native machine: the subjects of `cargo bench` and of the
//! `performance` command, which measure the same code.
//!
//! A subject is the model's own function on real threads. It is *not* a fault of a real guest: no
//! exit, no emulation of hardware, no memslot of a large guest, no `get_user_pages`, is in any
//! figure. What is compared is always measured in the same run.

pub mod bout;
pub mod chain;
pub mod contention;
pub mod cpu;
pub mod flush;
pub mod hand;
pub mod harvest;
pub mod host;
pub mod plot;
pub mod stat;
pub mod table;
pub mod track;
pub mod vm;
